"""Training speed while other programs keep the processors busy, by how OpenMP's threads wait.

    python tests/bench_busy.py [--rounds 3] [--busy 4] [--write]

`brief` is what the scripts set where the environment says nothing: a waiting thread spins for a
moment, then sleeps. With `passive` it sleeps at once, with `active` it spins. Each script runs
alone and next to so many processes that compute without end; every round takes each case once, in
turn, and ratios are taken within a round.
"""

import statistics
import subprocess
import sys
from functools import partial

from bench import Table, command, in_turn, result_of, spread
from lineage import machine

WAITS = {
    "brief": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "active": {"OMP_WAIT_POLICY": "active"},
}
STEPS = {"v0": 1500, "v2": 100}


def main(rounds: int = 3, busy: int = 4, write: bool = False):
    table = Table("busy", write)
    table.say(f"{machine()}, {busy} other processes\n")
    for version, steps in STEPS.items():
        cases = [(n, policy) for n in (0, busy) for policy in WAITS]
        speeds = in_turn({case: partial(speed, version, steps, *case) for case in cases}, rounds)
        for n, policy in cases:
            own = speeds[n, policy]
            table.say(
                f"{version}, {'busy' if n else 'alone':5} {policy:8}"
                f" {statistics.median(own):9,.0f} tokens/s   x {spread(own, speeds[n, 'active'])}"
            )
    table.say(
        "\nx: compared with active waiting in the same load; alone, it is what the waiting costs"
    )


def speed(version, steps, busy, policy):
    """Tokens per second of training, next to `busy` processes that do nothing but compute."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    args = ["--steps", steps, "--eval-every", steps, "--max-new-tokens", 1]
    try:
        return result_of(version, args, **WAITS[policy])["tokens_per_second"]
    finally:
        for process in others:
            process.kill()
            process.wait()


if __name__ == "__main__":
    command(main, __doc__)

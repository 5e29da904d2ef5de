"""How long each version takes to its --help and to its first step, compared with `import torch`.

    python -m results.benchmarks.startup [--rounds 5]

Vocabulary and token files are there already, as from the second run on. Before the first step a
version evaluates its fresh model, samples from it and saves a checkpoint; "to the loop" is the time
until then, and the rest is those and the first step. Every round takes each of them once, in turn;
ratios are taken within a round.
"""

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from results.benchmarks.measure import command, in_turn, machine, python, spread
from results.store import ROOT, versions

# Runs a script until its first step is logged and prints how long that took from Run.start on.
TO_THE_FIRST_STEP = """
import os, runpy, sys, time
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
from common.training import Run
start = Run.start
def started(self, *args):
    start(self, *args)
    Run.began = time.perf_counter()
def stop(self, *args):
    print(time.perf_counter() - Run.began, flush=True)
    os._exit(0)
Run.start, Run.log_step = started, stop
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main(rounds: int = 5):
    print(f"{machine()}, the sample\n")
    names = ["import torch", *(f"{version} --help" for version in versions())]
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: partial(run, name, folder) for name in [*names, *versions()]}
        in_turn(runs, 1)  # fills the caches
        times = in_turn(runs, rounds)
    rows = {name: [whole for whole, _ in times[name]] for name in names}
    for version in versions():
        rows[f"{version}, to the loop"] = [whole - loop for whole, loop in times[version]]
        rows[f"{version}, 1st step"] = [whole for whole, _ in times[version]]
    print(f"{'':17}   seconds   in those of import torch")
    for name, own in rows.items():
        print(f"{name:17} {statistics.median(own):9.2f}   x {spread(own, rows['import torch'])}")


def run(name, folder):
    """Run one of them: the seconds it took, and those of a version from Run.start on, else 0."""
    version, _, option = name.partition(" ")
    script = ROOT / f"{version}.py"
    args = ["-c", TO_THE_FIRST_STEP, script, "--out-dir", Path(folder, version)]
    if option:
        args = ["-c", name] if version == "import" else [script, option]
    before = time.perf_counter()
    done = python(*args)
    whole = time.perf_counter() - before
    done.check_returncode()
    return whole, 0.0 if option else float(done.stdout.split()[-1])


if __name__ == "__main__":
    command(main, __doc__)

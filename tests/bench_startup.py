"""How long each version takes to its --help and to its first step, beside `import torch` alone.

    python tests/bench_startup.py [--rounds 5]

Vocabulary and token files are there already, as from the second run on. Before the first step a
version judges its fresh model on the whole validation split, samples from it and saves a
checkpoint; "without" is the time less those, and less the first pass. Every round takes each of
them once, in turn; ratios are taken within a round.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_training import spread  # noqa: E402
from lineage import ORDER, ROOT, machine  # noqa: E402

# Runs a script up to its first update and says how long that took from its first evaluation on.
TO_THE_FIRST_STEP = """
import os, runpy, sys, time
import torch
script = sys.argv[1]
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(script))
from common.training.run import Run
due, took = Run.due, []
def noted(self, step):
    took.append(time.perf_counter())
    return due(self, step)
def stop(self, *args, **more):
    print(time.perf_counter() - took[0], flush=True)
    os._exit(0)
Run.due = noted
torch.optim.AdamW.step = stop
runpy.run_path(script, run_name="__main__")
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{machine()}, the sample\n")
    whole = {"import torch": [], **{f"{v} --help": [] for v in ORDER}, **{v: [] for v in ORDER}}
    without = {version: [] for version in ORDER}
    with tempfile.TemporaryDirectory() as folder:
        for counted in [False, *[True] * options.rounds]:  # the first round fills the caches
            for name, times in whole.items():
                before = time.perf_counter()
                judged = run(name, folder)
                if counted:
                    times.append(time.perf_counter() - before)
                    if name in without:
                        without[name].append(times[-1] - judged)
    print(f"{'':14}   seconds   in those of import torch")
    for name, times in whole.items():
        row(name if name not in ORDER else f"{name}, 1st step", times, whole["import torch"])
        if name in ORDER:
            row("     without", without[name], whole["import torch"])


def row(name, times, torch_alone):
    ratio = spread([a / b for a, b in zip(times, torch_alone, strict=True)])
    print(f"{name:14} {statistics.median(times):9.2f}   x {ratio}")


def run(name, folder):
    """Run one of them; the seconds that a version's first evaluation took, else 0."""
    version, _, option = name.partition(" ")
    if version == "import":
        command = ["-c", name]
    elif option:
        command = [str(ROOT / f"{version}.py"), option]
    else:
        script = str(ROOT / f"{version}.py")
        command = ["-c", TO_THE_FIRST_STEP, script, "--out-dir", str(Path(folder, version))]
    command = [sys.executable, *command]
    said = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
    return float(said.stdout.split()[-1]) if version in ORDER and not option else 0.0


if __name__ == "__main__":
    main()

"""What the benchmarks share: calls in turn, ratios per round, the result of a run.

A benchmark prints its table. `python -m results.benchmarks.NAME > results/bench-NAME.txt` publishes
it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from common.cli import run_main
from common.errors import UserError
from common.files import read_json
from common.training.summary import processor
from results.commands import run_command
from results.store import ROOT

import torch


def command(main, description):
    """Run a benchmark with the arguments of the command line; each line is out when it is made."""
    sys.stdout.reconfigure(line_buffering=True)
    run_main(partial(run_command, main, description))


def machine(device="cpu"):
    """What a benchmark's numbers belong to."""
    n = torch.get_num_threads()
    on = f"{processor()}, {n} thread{'s' * (n > 1)}, torch {torch.__version__}"
    if device != "cuda":
        return on
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(ask, capture_output=True, encoding="utf-8", check=True).stdout.split()
    on = f"{torch.cuda.get_device_name()}, driver {driver[0]}, CUDA {torch.version.cuda}, {on}"
    pinned = f"torch=={torch.__version__.partition('+')[0]}\n"
    other = pinned not in (ROOT / "requirements.txt").read_text(encoding="utf-8")
    return on + "\n(another torch than that of requirements.txt)" * other


def python(*args, **environment):
    """The finished process of `python ARGS` in the project's folder, its output as text."""
    env = {**os.environ, **environment}
    args = [sys.executable, *map(str, args)]
    return subprocess.run(args, capture_output=True, encoding="utf-8", cwd=ROOT, env=env)


def in_turn(runs, rounds):
    """{name: its results, one per round}: every round calls each of `runs` once, in turn."""
    results = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            results[name].append(run())
    return results


def seconds(run):
    """What a call takes."""
    before = time.perf_counter()
    run()
    return time.perf_counter() - before


def spread(a, b):
    """The ratios a / b of each round: their median, the lowest and the highest."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def result_of(version, args, launch=(), **env):
    """The result.json of a run of a version in a folder of its own, which goes afterwards.

    launch: what Python is given before the script; env: more variables. Raises UserError where the
    run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = python(*launch, ROOT / f"{version}.py", *args, "--out-dir", folder, **env)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise UserError(f"{version}.py failed: {reason}")
        return read_json(Path(folder, "result.json"), "a run's result")

"""The peak of each version's resident memory against its own estimate, and with a longer corpus.

    python tests/bench_memory.py [--data sample]

Each version trains a few steps (on Linux: it says what a process holds). What that adds at most to
what the process held before, with the parameters, less what it adds for a model of next to nothing
(threads, libraries), is set against what its run said that a step needs: parameters, gradients,
optimizer, activations. Of the vocabulary's ids those are counted that the text needs (fewer, where
each of its words is one token by then).
Each is measured in three ways: where memory is plentiful; there, but started without the C
library's caches of small blocks ("tuned"); and where memory is short, when every block above 1 MB
goes back to the system at once (`common/memory.py` has the reasons). In the first table each figure
is the median of three runs, beside the ratio the lowest and the highest.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lineage import ORDER, ROOT, UNCACHED, load, machine  # noqa: E402

LARGE = {"vocab_size": 8192, "context_length": 256, "batch_size": 16, "n_embd": 256, "n_layer": 4}
LARGE |= {"grad_accum": 2}  # micro-batches one after the other: memory for one of them
NOTHING = {"vocab_size": 300, "context_length": 8, "batch_size": 1, "n_embd": 8, "n_layer": 1}
NOTHING |= {"grad_accum": 1}
WAYS = {"plentiful": {}, "tuned": {"GLIBC_TUNABLES": UNCACHED}, "short": {}}  # what each sets

# Runs a script so that its "peak" is what training added at most to what the process held before:
# neither the text nor what judging and drawing take; "short" as where no memory is free.
WATCHED = f"""
import ctypes, platform, runpy, sys
sys.path.insert(0, {str(ROOT)!r})
from common.evaluation import evaluate as judge
from common.training import memory, run
judge.beyond_the_context = lambda *args: None  # long, and after the training
done, due, before = run.Run.done, run.Run.due, []
def trained(self, step):
    if before and step == self.config.steps:
        self.note_peak()
        self.peak -= before[0]
        run.Run.note_peak = lambda self: None
    return due(self, step)
def watched(self, *args):
    ended = done(self, *args)
    if not before:  # the first step comes next
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)  # what is free by now is no part of it
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
        before.append(run.peak_rss_mb())
    return ended
run.Run.done, run.Run.due = watched, trained
if sys.argv.pop(1) == "short":
    memory.free_memory = lambda: 0.0
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="sample")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count())  # the tests make do with one
    sizes = ", ".join(f"{name} {value:,}" for name, value in LARGE.items())
    print(f"{machine()}, {' '.join(platform.libc_ver())}, MB (10^6 bytes)")
    print(f"{options.data}: {sizes}\n")
    for version in ORDER:
        config, nothing = (make_config(load(version), chosen) for chosen in (LARGE, NOTHING))
        lines = []
        with tempfile.TemporaryDirectory() as folder:
            for each in (config, nothing):  # which makes vocabulary and token files, too
                peak_of(version, each, options.data, folder)
            for way in WAYS:
                bases, peaks = [], []
                for _ in range(3):
                    bases.append(peak_of(version, nothing, options.data, folder, way)[0])
                    peak, estimate = peak_of(version, config, options.data, folder, way)
                    peaks.append(peak + estimate["parameters"])  # there before training
                took = sorted(peak - statistics.median(bases) for peak in peaks)
                low, ratio, high = (each / sum(estimate.values()) for each in took)
                ratio = f"x {ratio:.2f} ({low:.2f} to {high:.2f})"
                lines.append(f"  {way:14} {took[1]:5.0f}   {ratio}")
        parts = " + ".join(f"{name} {value:.0f}" for name, value in estimate.items())
        print(f"{version + ', estimate':16} {sum(estimate.values()):5.0f}   {parts}")
        print(*lines, sep="\n", flush=True)
    longer_corpus()


def longer_corpus():
    """v1_1, and v1 beside it, with the sample's text once and 20 times over."""
    print("\nversion   peak with the sample's text once   20 times   ratio")
    text = (ROOT / "data" / "input.txt").read_bytes()
    for version in ("v1", "v1_1"):
        config, peaks = make_config(load(version), {}), []
        for times in (1, 20):
            with tempfile.TemporaryDirectory() as folder:
                data = Path(folder, "text.txt")
                data.write_bytes(text * times)
                peaks.append(peak_of(version, config, str(data), str(Path(folder, "run")))[0])
        print(f"{version:8} {peaks[0]:34.0f} {peaks[1]:10.0f} {peaks[1] / peaks[0]:7.2f}")


def make_config(module, sizes):
    fields = module.Config.__dataclass_fields__
    fixed = {"batch_size"} if module.__name__ == "v0" else set()  # one sequence a step, always
    return module.Config(**{k: v for k, v in sizes.items() if k in fields and k not in fixed})


def peak_of(version, config, data, folder, way=None):
    """Of a run of four steps: the peak of its resident memory, in one of the WAYS what its training
    adds; and its own estimate.
    """
    command = [sys.executable, *(["-c", WATCHED, way] if way else [])]
    command += [str(ROOT / f"{version}.py"), "--data", data, "--out-dir", folder]
    command += "--steps 4 --eval-every 4 --max-new-tokens 1".split()
    for name in LARGE:
        if hasattr(config, name):
            command += ["--" + name.replace("_", "-"), str(getattr(config, name))]
    unset = ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env |= WAYS.get(way, {})
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", env=env)
    assert ("memory is short" in done.stdout + done.stderr) == (way == "short")
    result = json.loads(Path(folder, "result.json").read_text(encoding="utf-8"))
    return result["peak_rss_mb"], result["memory_estimate_mb"]


if __name__ == "__main__":
    main()

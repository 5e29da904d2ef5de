"""The whole lineage on WikiText-2 on a GPU: bits per byte beside the CPU's, speed and memory.

    python tests/bench_gpu.py [--only NAME] [--seeds 3] [--out results/bench-gpu.txt]

The published runs' own command lines, one run after the other; each row is printed when its run
has ended, and kept in --out. "training" is the loop alone, without evaluations; "in all" begins
with the process and ends with it. The first run of a tokenizer trains it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from results.plan import planned
from results.store import load_results

import torch  # noqa: E402
from lineage import ROOT, VERSIONS, machine  # noqa: E402

torch.set_num_threads(os.cpu_count())  # as the scripts have it; the tests make do with one
RUNS = {name: planned(name).arguments() for name in (f"{v}-wikitext-2" for v in VERSIONS)}
RUNS["v4-wikitext-2-long"] = planned("v4-wikitext-2-long").arguments()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="runs with this in their names alone")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, help="that many, to try this program out")
    parser.add_argument("--out", type=Path, help="a file to keep the table in")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA GPU here")
    if options.out:
        options.out.write_text("", encoding="utf-8")

    def say(text):
        print(text, flush=True)
        if options.out:
            with open(options.out, "a", encoding="utf-8", newline="\n") as file:
                file.write(text + "\n")

    say(f"{machine(options.device)}\n")
    say(f"{'run on WikiText-2':22} bits per byte  on a CPU  training  in all  tokens/s    GPU MB")
    for name in RUNS:
        if options.only in name:
            say(row(name, options))


def row(name, options):
    """A line of the table: the mean of the seeds."""
    made, times = [], []
    for seed in range(1, options.seeds + 1):
        before = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            args = ["--device", options.device, "--seed", str(seed), "--out-dir", f"{folder}/run"]
            if options.steps is not None:
                args += ["--steps", str(options.steps)]
            script = str(ROOT / f"{name.partition('-')[0]}.py")
            done = subprocess.run(
                [sys.executable, script, *RUNS[name], *args], capture_output=True, encoding="utf-8"
            )
            times.append(time.perf_counter() - before)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
                return f"{name:22} failed: {lines[-1]}"
            path = Path(folder, "run", "result.json")
            made.append(json.loads(path.read_text(encoding="utf-8")))

    def mean(key):
        return statistics.fmean(result[key] or 0 for result in made)

    found = load_results(name).items()
    published = [r["val_bits_per_byte"] for seed, r in found if seed <= options.seeds]
    there = f"{statistics.fmean(published):8.3f}" if published else f"{'':8}"
    return (
        f"{name.replace('-wikitext-2', ''):22} {mean('val_bits_per_byte'):13.3f}  {there}"
        f"  {mean('seconds'):6.1f} s  {statistics.fmean(times):4.0f} s"
        f"  {mean('tokens_per_second'):9,.0f}  {mean('peak_gpu_mb'):8,.0f}"
    )


if __name__ == "__main__":
    main()

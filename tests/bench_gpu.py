"""The whole lineage on WikiText-2 on a GPU: bits per byte next to the CPU's, speed and memory.

    python tests/bench_gpu.py [--only NAME] [--seeds 3] [--write]

The published runs' own command lines, one run after the other; each row is printed when its run
has ended. "training" is the loop alone, without evaluations; "in all" is the whole process. The
first run of a tokenizer trains it.
"""

import statistics
import time
from typing import Literal

from results.plan import planned
from results.store import load_results

import torch
from bench import VERSIONS, Table, UserError, command, result_of
from lineage import machine

NAMES = [*(f"{version}-wikitext-2" for version in VERSIONS), "v4-wikitext-2-long"]


def main(
    only: str = "",
    seeds: int = 1,
    device: Literal["cuda", "cpu"] = "cuda",
    steps: int | None = None,
    write: bool = False,
):
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no CUDA GPU here")
    table = Table("gpu", write)
    table.say(f"{machine(device)}\n")
    table.say(
        f"{'run on WikiText-2':22} bits per byte  on a CPU  training  in all  tokens/s  GPU MB"
    )
    for name in NAMES:
        if only in name:
            args = [*planned(name).arguments(), "--device", device]
            table.say(row(name, args + ["--steps", str(steps)] * (steps is not None), seeds))


def row(name, args, seeds):
    """A line of the table: the mean of the seeds."""
    made, times = [], []
    for seed in range(1, seeds + 1):
        before = time.perf_counter()
        try:
            made.append(result_of(name.partition("-")[0], [*args, "--seed", seed]))
        except UserError as error:
            return f"{name:22} {error}"
        times.append(time.perf_counter() - before)

    def mean(key):
        return statistics.fmean(result[key] or 0 for result in made)

    found = load_results(name).items()
    published = [r.val_bits_per_byte for seed, r in found if seed <= seeds]
    on_cpu = f"{statistics.fmean(published):8.3f}" if published else f"{'':8}"
    return (
        f"{name.replace('-wikitext-2', ''):22} {mean('val_bits_per_byte'):13.3f}  {on_cpu}"
        f"  {mean('seconds'):6.1f} s  {statistics.fmean(times):4.0f} s"
        f"  {mean('tokens_per_second'):8,.0f}  {mean('peak_gpu_mb'):6,.0f}"
    )


if __name__ == "__main__":
    command(main, __doc__)

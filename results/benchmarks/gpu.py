"""The whole lineage on WikiText-2 on a GPU: bits per byte next to the CPU's, speed and memory.

    python -m results.benchmarks.gpu [--only NAME]

The published runs' own command lines, one run after the other; each row is printed when its run
has ended. "training" is the loop alone, without evaluations; "in all" is the whole process. The
first run of a tokenizer trains it.
"""

import time

from common.errors import UserError
from results.benchmarks.measure import command, machine, result_of
from results.plan import planned
from results.store import load_results, versions

import torch

NAMES = [f"{version}-wikitext-2" for version in versions()]
NAMES += ["v4-wikitext-2-long", "v6-wikitext-2-long"]


def main(only: str = ""):
    if not torch.cuda.is_available():
        raise UserError("torch sees no CUDA GPU here")
    print(f"{machine('cuda')}\n")
    print(f"{'run on WikiText-2':22} bits per byte  on a CPU  training  in all  tokens/s  GPU MB")
    for name in NAMES:
        if only in name:
            print(f"{name.replace('-wikitext-2', ''):22} {row(name)}")


def row(name):
    """A line of the table, of seed 1."""
    args = [*planned(name).arguments(), "--device", "cuda", "--seed", 1]
    before = time.perf_counter()
    try:
        made = result_of(name.partition("-")[0], args)
    except UserError as error:
        return error
    took, published = time.perf_counter() - before, load_results(name)
    on_cpu = f"{published[1].val_bits_per_byte:8.3f}" if 1 in published else f"{'':8}"
    return (
        f"{made['val_bits_per_byte']:13.3f}  {on_cpu}  {made['seconds']:6.1f} s  {took:4.0f} s"
        f"  {made['tokens_per_second']:8,.0f}  {made['peak_gpu_mb']:6,.0f}"
    )


if __name__ == "__main__":
    command(main, __doc__)

"""What two processes on one machine bring v3, and what it costs them to average their gradients.

    python -m results.benchmarks.scaleout [--rounds 3] [--steps 60]

In each round v3 trains on the sample in one process and in two that share its batch, each process
with one thread, so that two have twice the processors of one. Then the two exchange a buffer as
long as v3's gradients, and nothing else: the cost of an all-reduce.
"""

import os
import statistics
import sys
from functools import partial

from results.benchmarks.measure import command, in_turn, machine, python, result_of, seconds, spread

import torch
import torch.distributed as dist


def main(rounds: int = 3, steps: int = 60):
    runs = in_turn({n: partial(train, n, steps) for n in (1, 2)}, rounds)
    torch.set_num_threads(1)
    print(f"v3, {steps} steps; each process: {machine()}")
    speeds = {n: [result["tokens_per_second"] for result in runs[n]] for n in runs}
    for n, own in speeds.items():
        loss = f"validation loss {runs[n][0]['val_loss']:.6f}"
        print(f"{n} process{'es' * (n > 1)}: {statistics.median(own):,.0f} tokens/s, {loss}")
    print(f"two compared with one: x {spread(speeds[2], speeds[1])}")
    one = runs[1][0]
    done = python(
        *torchrun(2), "-m", "results.benchmarks.scaleout", one["params"], OMP_NUM_THREADS="1"
    )
    done.check_returncode()
    print(f"an all-reduce of {one['params']:,} gradients: {done.stdout.strip()} ms")
    print(f"a step of one process: {1000 * one['seconds'] / one['steps']:.1f} ms")


def train(n, steps):
    """v3's result in n processes."""
    args = ["--steps", steps, "--eval-every", steps, "--warmup-steps", 0, "--max-new-tokens", 1]
    return result_of("v3", args, torchrun(n), OMP_NUM_THREADS="1")


def torchrun(n):
    """What Python is given to start a script in n processes."""
    return f"-m torch.distributed.run --standalone --nproc-per-node {n}".split()


def all_reduce(size):
    """Print the median milliseconds in which the processes add up a buffer of `size` numbers."""
    dist.init_process_group("gloo")
    buffer, took = torch.ones(size), []
    for _ in range(30):
        dist.barrier()
        took.append(seconds(partial(dist.all_reduce, buffer)))
    if dist.get_rank() == 0:
        print(f"{1000 * statistics.median(took):.1f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:  # one of torchrun's
        all_reduce(int(sys.argv[1]))
    else:
        command(main, __doc__)

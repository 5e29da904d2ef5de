"""What two processes on one machine bring v3, and what it costs them to average their gradients.

    python tests/bench_scaleout.py [--rounds 3] [--steps 60]

In each round v3 trains on the sample in one process and in two that share its batch, each process
with one thread, so that two have twice the processors of one. Then the two exchange a buffer as
long as v3's gradients, and nothing else: the cost of an all-reduce.
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

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_training import spread  # noqa: E402
from lineage import ROOT, machine  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--all-reduce", type=int, help=argparse.SUPPRESS)  # numbers in the buffer
    options = parser.parse_args()
    if options.all_reduce:
        return all_reduce(options.all_reduce)
    runs = {1: [], 2: []}
    for _ in range(options.rounds):
        for n in runs:
            runs[n].append(train(n, options.steps))
    torch.set_num_threads(1)
    print(f"v3, {options.steps} steps; each process: {machine()}")
    for n, results in runs.items():
        speed = statistics.median(result["tokens_per_second"] for result in results)
        loss = results[0]["val_loss"]
        print(f"{n} process{'es' * (n > 1)}: {speed:,.0f} tokens/s, validation loss {loss:.6f}")
    pairs = zip(runs[1], runs[2], strict=True)
    ratios = [b["tokens_per_second"] / a["tokens_per_second"] for a, b in pairs]
    print(f"two against one: x {spread(ratios)}")
    said = launch(2, [__file__, "--all-reduce", str(runs[1][0]["params"])])
    seconds = json.loads(said.splitlines()[-1])
    one = runs[1][0]
    step = one["seconds"] / one["steps"]
    print(
        f"an all-reduce of {one['params']:,} gradients: {1000 * seconds:.1f} ms, beside"
        f" {1000 * step:.1f} ms for a step of one process"
    )


def train(n, steps):
    """v3's result in n processes."""
    with tempfile.TemporaryDirectory() as folder:
        args = [str(ROOT / "v3.py"), "--steps", str(steps), "--eval-every", str(steps)]
        launch(n, [*args, "--warmup-steps", "0", "--max-new-tokens", "1", "--out-dir", folder])
        return json.loads(Path(folder, "result.json").read_text(encoding="utf-8"))


def launch(n, command):
    """Run a script by torchrun in n processes; what it printed."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, f"--nproc-per-node={n}", *command],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return done.stdout


def all_reduce(size):
    """The median seconds that the processes take to add up a buffer of so many numbers."""
    dist.init_process_group("gloo")
    buffer, seconds = torch.ones(size), []
    for _ in range(30):
        dist.barrier()
        before = time.perf_counter()
        dist.all_reduce(buffer)
        seconds.append(time.perf_counter() - before)
    if dist.get_rank() == 0:
        print(json.dumps(statistics.median(seconds)))
    dist.destroy_process_group()
    time.sleep(0.1)


if __name__ == "__main__":
    main()

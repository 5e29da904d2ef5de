"""How fast v3 and v4 train, beside transformers' GPT-2 of the same size, as ratios of one run.

    python tests/bench_training.py [--rounds 5] [--compile] [--size small|large]

Same tokens, batch, context, number format and optimizer (fused AdamW, clipped gradients). Each
model has a process of its own. In each round every one of them trains a few steps in turn, so that
what slows the machine down slows all of them; ratios are taken within a round. v3 and v4 train as
their scripts do, with `keep_freed_memory()`; GPT-2 as it comes, and once with that as well. "share"
is the rate of the step's matrix products, counted from the sizes, in the machine's own rate for the
same format, measured in the same round.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lineage import load, machine  # noqa: E402

from common.memory import keep_freed_memory  # noqa: E402

torch.set_num_threads(os.cpu_count())  # the tests make do with one
B = 8
SIZES = {  # layers, width, heads, context, vocabulary
    "small": (4, 128, 4, 128, 4096),
    "large": (6, 384, 6, 256, 8192),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compiled models in place of eager")
    parser.add_argument("--size", choices=SIZES, help="one of the sizes alone")
    options = parser.parse_args()
    print(f"{machine()}, batch {B}")
    print("compiled" if options.compile else "eager", end="\n\n")
    for name in [options.size] if options.size else SIZES:
        for dtype in DTYPES:
            compare(name, dtype, options)


def compare(size, dtype, options):
    L, C, H, T, V = SIZES[size]
    print(f"{size}: {L} layers x {C} wide, context {T}, vocabulary {V:,}, {dtype}")
    spawn = multiprocessing.get_context("spawn")
    pipes = {}
    for name in MODELS:
        pipes[name], end = spawn.Pipe()
        args = (name, size, dtype, options.compile, end)
        spawn.Process(target=serve, args=args, daemon=True).start()
        end.close()
        pipes[name].recv()  # it is warm
    seconds, rates = {name: [] for name in MODELS}, []
    for _ in range(options.rounds):
        rates.append(matmul_rate(DTYPES[dtype]))
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    # A product of (n, a) and (a, b) is 2nab operations; backward does it twice more. Attention
    # needs its two products for the half of the pairs that lie in the past.
    operations = B * T * (6 * (12 * L * C * C + V * C) + 6 * L * T * C)
    theirs = seconds["GPT-2, transformers"]
    for name, own in seconds.items():
        speed = statistics.median(B * T / s for s in own)
        ratio = spread([b / a for a, b in zip(own, theirs, strict=True)])
        share = spread([operations / s / r for s, r in zip(own, rates, strict=True)])
        print(f"  {name:26} {speed:9,.0f} tokens/s   x {ratio}   share {share}")
    print(f"  matrix products alone: {statistics.median(rates) / 1e9:.0f} GFLOP/s\n", flush=True)


def serve(name, size, dtype, compiled, pipe):
    """In a process of its own: for each message the seconds that a step took."""
    make, kept = MODELS[name]
    if kept:
        keep_freed_memory()
    model = make(SIZES[size])
    if compiled:
        model.compile()
    step = Step(model, SIZES[size][-1], SIZES[size][3], dtype)
    for _ in range(5):
        step()
    pipe.send(True)
    n = 3 if size == "large" else 20
    while pipe.recv():
        before = time.perf_counter()
        for _ in range(n):
            step()
        pipe.send((time.perf_counter() - before) / n)


def ours(version, size, **changes):
    L, C, H, T, V = size
    module = load(version)
    torch.manual_seed(1)
    config = module.Config(context_length=T, n_layer=L, n_embd=C, n_head=H, **changes)
    return module.LanguageModel(config, V)


def gpt2(size):
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    L, C, H, T, V = size
    config = GPT2Config(
        vocab_size=V, n_positions=T, n_embd=C, n_layer=L, n_head=H, use_cache=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    model.train()
    return model


MODELS = {  # how it is made, and whether its process keeps what is freed
    "v3": (partial(ours, "v3"), True),
    "v4, ALiBi": (partial(ours, "v4", position="alibi"), True),
    "v4, RoPE": (partial(ours, "v4", position="rope"), True),
    "GPT-2, transformers": (gpt2, False),
    "GPT-2, keeps freed memory": (gpt2, True),
}


class Step:
    """One training step on a fixed random batch."""

    def __init__(self, model, V, T, dtype):
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
        generator = torch.Generator().manual_seed(1)
        self.x, self.y = torch.randint(V, (2, B, T), generator=generator)

    def __call__(self):
        self.optimizer.zero_grad()
        with self.autocast:
            logits = self.model(self.x)
            logits = getattr(logits, "logits", logits)  # transformers wraps them
            loss = F.cross_entropy(logits.flatten(0, -2), self.y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def matmul_rate(dtype):
    """Operations a second of large matrix products: the best of three sizes."""
    rates = []
    for n in (512, 1024, 2048):
        a, b = torch.randn(n, n, dtype=dtype), torch.randn(n, n, dtype=dtype)
        a @ b
        repeats = max(2, 2 * 2048**3 // (4 * n**3))
        before = time.perf_counter()
        for _ in range(repeats):
            a @ b
        rates.append(2 * n**3 * repeats / (time.perf_counter() - before))
    return max(rates)


def spread(values):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()

"""How fast v3 and v4 train, beside transformers' GPT-2 of the same size, as ratios of one run.

    python tests/bench_training.py [--rounds 5] [--compile] [--size small|large]
    python tests/bench_training.py --device cuda [--size gpt2] [--compile] [--dtype bfloat16]

Same tokens, batch, context, number format and optimizer (fused AdamW, clipped gradients). Each
model has a process of its own. In each round every one of them trains a few steps in turn, so that
what slows the machine down slows all of them; ratios are taken within a round. v3 and v4 train as
their scripts do, with `keep_freed_memory()`; GPT-2 as it comes, and on CPUs once with that. "share"
is the rate of the step's matrix products, counted from the sizes, in the machine's own rate for the
same format, measured in the same round. On a GPU the batches are larger and GPT-2's own size comes
first; beside each model stand its rate, the kernel its attention runs in, and the most memory that
its tensors took, with the scripts' own estimate. With --compile all of them warm up there at once,
so its memory has to hold them together.
"""

import argparse
import gc
import math
import multiprocessing
import os
import re
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.training.memory import estimate_memory, keep_freed_memory  # noqa: E402

from common.training.distributed import to_device  # noqa: E402
from lineage import load, machine  # noqa: E402

torch.set_num_threads(os.cpu_count())  # the tests make do with one
SIZES = {  # layers, width, heads, context, vocabulary
    "small": (4, 128, 4, 128, 4096),
    "large": (6, 384, 6, 256, 8192),
    "gpt2": (12, 768, 12, 1024, 50304),  # a GPU's alone
}
B = 8
BATCH = {"cpu": dict.fromkeys(SIZES, B), "cuda": {"small": 256, "large": 128, "gpt2": 8}}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compiled models in place of eager")
    parser.add_argument("--size", choices=SIZES, help="one of the sizes alone")
    parser.add_argument("--dtype", choices=DTYPES, help="one of the number formats alone")
    parser.add_argument("--device", choices=BATCH, default="cpu")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA GPU here")
    on_gpu = options.device == "cuda"
    print(machine(options.device))
    print("compiled" if options.compile else "eager", end="\n\n", flush=True)
    lasting = start(options.device) if on_gpu else None  # to begin with a GPU takes seconds
    sizes = list(SIZES)[::-1] if on_gpu else list(SIZES)[:2]
    for size in [options.size] if options.size else sizes:
        for dtype in [options.dtype] if options.dtype else DTYPES:
            compare(size, dtype, options, lasting or start(options.device))
    for pipe in (lasting or {}).values():
        pipe.send(None)


def start(device):
    """A process for each model: {name: its pipe}."""
    spawn, pipes = multiprocessing.get_context("spawn"), {}
    for name, (_, _, there) in MODELS.items():
        if device in there:
            pipes[name], end = spawn.Pipe()
            spawn.Process(target=serve, args=(name, device, end), daemon=True).start()
            end.close()
    return pipes


def compare(size, dtype, options, pipes):
    (L, C, _, T, V), B, on_gpu = SIZES[size], BATCH[options.device][size], options.device == "cuda"
    print(f"{size}: {L} layers x {C} wide, context {T}, vocabulary {V:,}, batch {B}, {dtype}")
    notes, at_once = {}, on_gpu and options.compile  # a GPU's machine has processors to compile on
    for name, pipe in pipes.items():
        pipe.send((size, dtype, options.compile))
        notes[name] = None if at_once else pipe.recv()
    if at_once:
        notes = {name: pipe.recv() for name, pipe in pipes.items()}
    able = {name: pipe for name, pipe in pipes.items() if not notes[name].startswith("failed")}
    seconds, rates = {name: [] for name in able}, []
    for _ in range(options.rounds):
        rates.append(matmul_rate(DTYPES[dtype], options.device))
        for name, pipe in able.items():
            pipe.send("step")
            seconds[name].append(pipe.recv())
    for pipe in pipes.values() if not on_gpu else ():
        pipe.send(None)
    # A product of (n, a) and (a, b) is 2nab operations; backward does it twice more. Attention
    # needs its two products for the half of the pairs that lie in the past.
    operations = B * T * (6 * (12 * L * C * C + V * C) + 6 * L * T * C)
    theirs = seconds.get("GPT-2, transformers", [math.nan] * options.rounds)
    for name, note in notes.items():
        if name not in able:
            print(f"  {name:26} {note}")
            continue
        own = seconds[name]
        speed = statistics.median(B * T / s for s in own)
        ratio = spread([b / a for a, b in zip(own, theirs, strict=True)])
        share = spread([operations / s / r for s, r in zip(own, rates, strict=True)])
        if on_gpu:
            note = f"   {operations / statistics.median(own) / 1e12:.0f} TFLOP/s, {note}"
        print(f"  {name:26} {speed:9,.0f} tokens/s   x {ratio}   share {share}{note}")
    print(f"  matrix products alone: {statistics.median(rates) / 1e9:,.0f} GFLOP/s\n", flush=True)


def serve(name, device, pipe):
    """In a process of its own: for a model's description what is to note of it, for each "step"
    the seconds that one took."""
    make, kept, _ = MODELS[name]
    if kept:
        keep_freed_memory()
    step, n = None, 0
    while job := pipe.recv():
        if job == "step":
            pipe.send(step.seconds(n))
            continue
        step = None  # the one before makes room: it hangs in cycles, and in what is compiled
        torch._dynamo.reset()  # whose sizes would make the next one's shapes dynamic, too
        gc.collect()
        torch.cuda.empty_cache()
        try:
            size, dtype, compiled = job
            step = Step(make, size, dtype, compiled, device)
            note, n = "", 3 if size == "large" else 20
            if device == "cuda":
                note, n = step.note(), max(3, int(0.3 / step.seconds(3)))
            pipe.send(note)
        except Exception as error:  # too large for this GPU: the others go on
            pipe.send("failed: " + (str(error).splitlines() or [type(error).__name__])[0])
            step = None  # the error holds it until here: its memory is for the others
        torch.cuda.empty_cache()


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
        vocab_size=V,
        n_positions=T,
        n_embd=C,
        n_layer=L,
        n_head=H,
        use_cache=False,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    model.train()
    return model


MODELS = {  # how it is made, whether its process keeps what is freed, and where it is asked
    "v3": (partial(ours, "v3"), True, "cpu cuda"),
    "v4, ALiBi": (partial(ours, "v4", position="alibi"), True, "cpu cuda"),
    "v4, RoPE": (partial(ours, "v4", position="rope"), True, "cpu cuda"),
    "GPT-2, transformers": (gpt2, False, "cpu cuda"),
    "GPT-2, keeps freed memory": (gpt2, True, "cpu"),
}


class Step:
    """One training step, on batches drawn from random tokens as the scripts draw them."""

    def __init__(self, make, size, dtype, compiled, device):
        _, _, _, T, V = SIZES[size]
        self.device = torch.device(device)
        self.config = SimpleNamespace(batch_size=BATCH[device][size], context_length=T, dtype=dtype)
        self.tokens = np.random.default_rng(1).integers(V, size=2**20, dtype=np.uint16)
        self.generator = torch.Generator().manual_seed(1)
        self.get_batch = load("v3").get_batch
        self.model = make(SIZES[size]).to(self.device)
        if compiled:
            self.model.compile()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")
        for _ in range(5):
            self()

    def __call__(self):
        self.optimizer.zero_grad()
        x, y = to_device(*self.get_batch(self.tokens, self.config, self.generator), self.device)
        with self.autocast:
            logits = self.model(x)
            logits = getattr(logits, "logits", logits)  # transformers wraps them
            loss = F.cross_entropy(logits.flatten(0, -2), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def seconds(self, n):
        """What one of n steps takes. On a GPU what they need is given back for the others' turn."""
        finish = torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
        for _ in range(2 if self.device.type == "cuda" else 0):  # takes the memory again
            self()
        finish()
        before = time.perf_counter()
        for _ in range(n):
            self()
        finish()
        took = (time.perf_counter() - before) / n
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return took

    def note(self):
        """The kernel of the attention, and the most memory that tensors took."""
        torch.cuda.reset_peak_memory_stats()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            self()
        torch.cuda.synchronize()
        peak = f"{torch.cuda.max_memory_allocated() / 1e6:,.0f} MB"
        names = " ".join(event.key for event in profile.key_averages())
        kinds = re.findall(r"::_scaled_dot_product_(?:attention_)?([a-z]+)", names)
        if type(self.model).__name__ == "LanguageModel":
            estimate = sum(estimate_memory(self.model, self.config, self.device).values())
            peak += f" (estimate {estimate:,.0f})"
        return f"{' and '.join(sorted(set(kinds)))}, {peak}"


def matmul_rate(dtype, device):
    """Operations a second of large matrix products: the best of three sizes.

    On a GPU one size fills it: the median of ten.
    """
    if device == "cuda":
        a, b = torch.randn(2, 8192, 8192, dtype=dtype, device=device)
        seconds = []
        for _ in range(12):
            torch.cuda.synchronize()
            before = time.perf_counter()
            a @ b
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - before)
        return 2 * 8192**3 / statistics.median(seconds[2:])
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

"""How fast v3 and v4 train, compared with a minimal GPT and with transformers' GPT-2 of their size.

    python tests/bench_training.py [--rounds 5] [--compile] [--size small|large] [--write]
    python tests/bench_training.py --device cuda [--size gpt2] [--compile] [--dtype bfloat16]

Same tokens, batch, context, number format and optimizer (fused AdamW, clipped gradients). Each
model has a process of its own. In each round every one of them trains a few steps in turn, so that
what slows the machine down slows all of them; ratios are taken within a round. v3 and v4 train as
their scripts do, with `keep_freed_memory()`; the others as they come, and on CPUs also with that.
"share" is the rate of the step's matrix products, counted from the sizes, divided by the machine's
own rate for the same format, measured in the same round. On a GPU the batches are larger and
GPT-2's own size comes first; after each model stand its rate, the kernel that its attention runs
in, and the most memory that its tensors took, with the scripts' own estimate. All models compile
there at the same time, so its memory has to hold them together.
"""

import gc
import multiprocessing
import re
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.errors import UserError
from common.training.machine import prepare, to_device
from common.training.memory import estimate_memory, keep_freed_memory

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from bench import Table, command, spread
from lineage import load, machine
from minimal_gpt import MinimalGPT, optimizer_of

SIZES = {  # layers, width, heads, context, vocabulary
    "small": (4, 128, 4, 128, 4096),
    "large": (6, 384, 6, 256, 8192),
    "gpt2": (12, 768, 12, 1024, 50304),  # for GPUs only
}
BATCH = {"cpu": dict.fromkeys(SIZES, 8), "cuda": {"small": 256, "large": 128, "gpt2": 8}}


def main(
    rounds: int = 5,
    compile: bool = False,
    size: Literal["all", "small", "large", "gpt2"] = "all",
    dtype: Literal["both", "float32", "bfloat16"] = "both",
    device: Literal["cpu", "cuda"] = "cpu",
    write: bool = False,
):
    on_gpu = device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise UserError("torch sees no CUDA GPU here")
    table = Table("gpu-" * on_gpu + "training" + "-compiled" * compile, write)
    table.say(f"{machine(device)}\n{'compiled' if compile else 'eager'}\n")
    pipes = start(device)
    sizes = list(SIZES)[::-1] if on_gpu else list(SIZES)[:2]
    for one in sizes if size == "all" else [size]:
        for number_format in ("float32", "bfloat16") if dtype == "both" else [dtype]:
            compare(table, pipes, one, number_format, compile, device, rounds)
    for pipe in pipes.values():
        pipe.send(None)


def start(device):
    """A process for each model: {name: its pipe}."""
    spawn, pipes = multiprocessing.get_context("spawn"), {}
    for name, (_, _, devices) in MODELS.items():
        if device in devices:
            pipes[name], end = spawn.Pipe()
            spawn.Process(target=serve, args=(name, end), daemon=True).start()
            end.close()
    return pipes


def compare(table, pipes, size, dtype, compiled, device, rounds):
    (L, C, _, T, V), B, on_gpu = SIZES[size], BATCH[device][size], device == "cuda"
    table.say(f"{size}: {L} layers x {C} wide, context {T}, vocabulary {V:,}, batch {B}, {dtype}")
    notes, seconds, rates = {}, {}, []
    for name, pipe in pipes.items():
        pipe.send((size, dtype, compiled, device))
        notes[name] = None if on_gpu else pipe.recv()  # a GPU's machine has processors for all
    for name, pipe in pipes.items() if on_gpu else ():
        notes[name] = pipe.recv()
    able = {name: pipe for name, pipe in pipes.items() if not notes[name].startswith("failed")}
    for _ in range(rounds):
        rates.append(matmul_rate(getattr(torch, dtype), device))
        for name, pipe in able.items():
            pipe.send("step")
            seconds.setdefault(name, []).append(pipe.recv())
    # A product of (n, a) and (a, b) is 2nab operations; backward does it twice more. Attention
    # needs its two products for the half of the pairs that lie in the past.
    operations = B * T * (6 * (12 * L * C * C + V * C) + 6 * L * T * C)
    table.say(f"  {'':26} {'tokens/s':>9}   of the minimal GPT's     of GPT-2's")
    for name, note in notes.items():
        if name not in able:
            table.say(f"  {name:26} {note}")
            continue
        own = seconds[name]
        ratios = [
            "x " + spread(seconds[other], own) if other in seconds else f"{'':22}"
            for other in ("minimal GPT", "GPT-2, transformers")
        ]
        share = spread([operations / s for s in own], rates)
        if on_gpu:
            note = f"   {operations / statistics.median(own) / 1e12:.0f} TFLOP/s, {note}"
        speed = f"{B * T / statistics.median(own):9,.0f}"
        table.say(f"  {name:26} {speed}   {'   '.join(ratios)}   share {share}{note}")
    table.say(f"  matrix products alone: {statistics.median(rates) / 1e9:,.0f} GFLOP/s\n")


def serve(name, pipe):
    """In a process of its own: for a model's description reply what is to note of it, and for each
    "step" the seconds that one took."""
    make, keeps, _ = MODELS[name]
    if keeps:
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
        size, dtype, compiled, device = job
        try:
            step = Step(make, size, dtype, compiled, device)
            note, n = "", 3 if size == "large" else 20
            if device == "cuda":
                note, n = step.note(), max(3, int(0.3 / step.seconds(3)))
            pipe.send(note)
        except Exception as error:  # too large for this GPU: the others go on
            pipe.send("failed: " + (str(error).splitlines() or [type(error).__name__])[0])
            step = None  # the error holds it until here: its memory is for the others
        torch.cuda.empty_cache()


def ours(version, size, device="cpu", **changes):
    """A version's module, and its model of that size, prepared as its script does, and config."""
    L, C, H, T, V = size
    module = load(version)
    torch.manual_seed(1)
    sizes = {"context_length": T, "n_layer": L, "n_embd": C, "n_head": H} | changes
    fields = module.Config.__dataclass_fields__
    config = module.Config(**{name: sizes[name] for name in sizes if name in fields})
    return module, prepare(module.LanguageModel(config, V), config, torch.device(device)), config


def our_loss(version, size, batch_size, dtype, compiled, device, **changes):
    settings = {"batch_size": batch_size, "dtype": dtype, "compile": compiled, **changes}
    _, model, config = ours(version, size, device, **settings)
    return model, lambda x, y: F.cross_entropy(model(x).flatten(0, 1), y.flatten()), config


def gpt2(size):
    """transformers' GPT-2 without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    L, C, H, T, V = size
    sizes = {"vocab_size": V, "n_positions": T, "n_embd": C, "n_layer": L, "n_head": H}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    tokens = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **dropout, **tokens, use_cache=False)).train()


def their_loss(make, size, batch_size, dtype, compiled, device):
    model = make(size).to(device)

    def loss(x, y):
        logits = model(x)
        logits = getattr(logits, "logits", logits)  # transformers wraps them
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())

    fast = torch.compile(loss) if compiled else loss

    def cast(x, y):
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            return fast(x, y)

    return model, cast, None


MODELS = {  # how it is made, whether its process keeps what is freed, and on which devices it runs
    "v3": (partial(our_loss, "v3"), True, "cpu cuda"),
    "v4, ALiBi": (partial(our_loss, "v4", position="alibi"), True, "cpu cuda"),
    "v4, RoPE": (partial(our_loss, "v4", position="rope"), True, "cpu cuda"),
    "minimal GPT": (partial(their_loss, MinimalGPT), False, "cpu cuda"),
    "  keeps freed memory": (partial(their_loss, MinimalGPT), True, "cpu"),
    "GPT-2, transformers": (partial(their_loss, gpt2), False, "cpu cuda"),
    "  keeps its freed memory": (partial(their_loss, gpt2), True, "cpu"),
}


class Step:
    """One training step, on batches drawn from random tokens as the scripts draw them."""

    def __init__(self, make, size, dtype, compiled, device):
        _, _, _, self.T, V = SIZES[size]
        self.B, self.device = BATCH[device][size], torch.device(device)
        self.tokens = np.random.default_rng(1).integers(V, size=2**20, dtype=np.uint16)
        self.model, self.loss, self.config = make(SIZES[size], self.B, dtype, compiled, device)
        self.optimizer = optimizer_of(self.model, 1e-3)
        self.get_batch = windows(self.tokens, self.B, self.T)
        for _ in range(5):
            self()

    def __call__(self):
        self.optimizer.zero_grad()
        self.loss(*to_device(*self.get_batch(), self.device)).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def seconds(self, n):
        """What one of n steps takes. On a GPU what they need is given back for the others' turn."""
        on_gpu = self.device.type == "cuda"
        finish = torch.cuda.synchronize if on_gpu else lambda: None
        for _ in range(2 if on_gpu else 0):  # takes the memory again
            self()
        finish()
        before = time.perf_counter()
        for _ in range(n):
            self()
        finish()
        took = (time.perf_counter() - before) / n
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
        if self.config is not None:  # one of ours
            estimate = sum(estimate_memory(self.model, self.config, self.device).values())
            peak += f" (estimate {estimate:,.0f})"
        return f"{' and '.join(sorted(set(kinds)))}, {peak}"


def windows(tokens, B, T, seed=1):
    """A function that draws a batch of random windows of the tokens: inputs and targets, (B, T)."""
    generator = torch.Generator().manual_seed(seed)

    def get_batch():
        starts = torch.randint(len(tokens) - T, (B,), generator=generator)
        rows = np.stack([tokens[i : i + T + 1] for i in starts]).astype(np.int64)
        rows = torch.from_numpy(rows)
        return rows[:, :-1], rows[:, 1:]

    return get_batch


def matmul_rate(dtype, device):
    """Operations per second of large matrix products: the best of three sizes.

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


if __name__ == "__main__":
    command(main, __doc__)

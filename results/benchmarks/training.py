"""How fast v3 to v6 train, compared with a minimal GPT and with transformers' GPT-2 of their size.

    python -m results.benchmarks.training [--rounds 5] [--compile] [--size small|large]
    python -m results.benchmarks.training --device cuda [--size gpt2] [--compile] [--dtype bfloat16]

Same tokens, batch, context and number format, fused AdamW and clipped gradients (v5 and v6 with
their own optimizers), in one process that keeps the memory that a step frees for the next one: the
others gain by that as well.
In each round every model trains a few steps in turn, so that what slows the machine down slows all
of them; ratios are taken within a round. "share" is the rate of a model's matrix products, counted
from its layers, divided by the machine's own rate for the same format, measured in the same round.
On a GPU the batches are larger and GPT-2's own size comes first; after each model stand its rate,
the kernel that its attention runs in and the most memory that it took, with our own estimate.
"""

import gc
import re
import statistics
from functools import partial
from typing import Literal

from common.errors import UserError
from common.training.machine import estimate_memory, keep_freed_memory, prepare, to_device
from results.benchmarks.measure import command, in_turn, machine, seconds, spread
from results.benchmarks.minimal_gpt import MinimalGPT, optimizer_of
from results.saved import load_script
from results.store import ROOT

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

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
):
    on_gpu = device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise UserError("torch sees no CUDA GPU here")
    keep_freed_memory()
    print(f"{machine(device)}\n{'compiled' if compile else 'eager'}\n")
    sizes = list(SIZES)[::-1] if on_gpu else list(SIZES)[:2]
    for each in sizes if size == "all" else [size]:
        for number_format in ("float32", "bfloat16") if dtype == "both" else [dtype]:
            torch._dynamo.reset()  # or the next size's shapes would be compiled as dynamic ones
            gc.collect()
            compare(each, number_format, compile, device, rounds)


def compare(size, dtype, compiled, device, rounds):
    (L, C, _, T, V), B = SIZES[size], BATCH[device][size]
    print(f"{size}: {L} layers x {C} wide, context {T}, vocabulary {V:,}, batch {B}, {dtype}")
    tokens = np.random.default_rng(1).integers(V, size=2**20, dtype=np.uint16)
    get_batch = windows(tokens, B, T)
    steps = {name: Step(name, size, dtype, compiled, device) for name in (*OURS, *THEIRS)}
    runs = {name: partial(step.seconds, get_batch) for name, step in steps.items()}
    notes = {name: step.note(get_batch) for name, step in steps.items()}
    took = in_turn({"products": partial(matmul_rate, dtype, device), **runs}, rounds)
    rates = took.pop("products")
    print(f"  {'':20} tokens/s   x the minimal GPT's     x GPT-2's")
    for name, own in took.items():
        minimal, theirs = (spread(took[other], own) for other in list(took)[-2:])
        # A product of (n, a) and (a, b) is 2nab operations; backward does it twice more. Attention
        # needs its two products for the half of the pairs that lie in the past.
        operations = B * T * 6 * (steps[name].weights + L * T * C)
        share, middle = spread([operations / s for s in own], rates), statistics.median(own)
        rate = f"   {operations / middle / 1e12:.0f} TFLOP/s, " * (device == "cuda")
        line = f"{B * T / middle:9,.0f}   {minimal}   {theirs}   share {share}{rate}{notes[name]}"
        print(f"  {name:19} {line}")
    print(f"  matrix products alone: {statistics.median(rates) / 1e9:,.0f} GFLOP/s\n")


def ours(version, size, device="cpu", **changes):
    """A version's module, its model of that size, prepared as its script does, and the Config."""
    L, C, H, T, V = size
    module = load_script(ROOT / f"{version}.py")
    torch.manual_seed(1)
    values = {"context_length": T, "n_layer": L, "n_embd": C, "n_head": H} | changes
    fields = module.Config.__dataclass_fields__
    config = module.Config(**{name: values[name] for name in values if name in fields})
    return module, prepare(module.LanguageModel(config, V), config, torch.device(device)), config


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


def logits_of(output):
    return getattr(output, "logits", output)  # transformers wraps them


OURS = {
    "v3": ("v3", {}),
    "v4, ALiBi": ("v4", {"position": "alibi"}),
    "v4, RoPE": ("v4", {"position": "rope"}),
    "v5": ("v5", {}),
    "v6": ("v6", {}),
}
THEIRS = {"minimal GPT": MinimalGPT, "GPT-2, transformers": gpt2}


class Step:
    """A model and its training steps."""

    def __init__(self, name, size, dtype, compiled, device):
        self.device, self.config, own = torch.device(device), None, None
        if name in OURS:
            version, changes = OURS[name]
            changes = {"batch_size": BATCH[device][size], "dtype": dtype, **changes}
            made = ours(version, SIZES[size], device, compile=compiled, **changes)
            module, self.model, self.config = made
            self.logits, own = self.model, getattr(module, "new_optimizers", None)
        else:
            self.model = THEIRS[name](SIZES[size]).to(device)
            forward = torch.compile(self.model) if compiled else self.model
            mixed = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")
            self.logits = mixed(lambda x: logits_of(forward(x)).float())
        if own is None:
            self.optimizers = [optimizer_of(self.model, 1e-3)]
        else:
            self.optimizers = list(own(self.model, self.config, getattr(torch, dtype)))
        layers = (m for m in self.model.modules() if type(m).__name__ in ("Linear", "Conv1D"))
        self.weights = sum(layer.weight.numel() for layer in layers)  # transformers has Conv1D

    def __call__(self, get_batch):
        self.model.zero_grad()
        x, y = to_device(*get_batch(), self.device)
        F.cross_entropy(self.logits(x).flatten(0, 1), y.flatten()).backward()
        dense = [p for p in self.model.parameters() if not p.grad.is_sparse]
        nn.utils.clip_grad_norm_(dense, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()

    def seconds(self, get_batch):
        """What one step takes: the mean of half a second's steps, of three at least."""
        self(get_batch)
        n = max(3, int(0.5 / self.several(1, get_batch)))
        return self.several(n, get_batch) / n

    def several(self, n, get_batch):
        finish = torch.get_device_module(self.device).synchronize  # on CPUs it does nothing
        finish()
        return seconds(lambda: ([self(get_batch) for _ in range(n)], finish()))

    def note(self, get_batch):
        """On a GPU: the kernel that attention runs in, and the most memory that steps took."""
        if self.device.type != "cuda":
            return ""
        own = sum(p.nbytes for p in self.model.parameters())
        others = torch.cuda.memory_allocated() - own
        torch.cuda.reset_peak_memory_stats()
        self.several(3, get_batch)
        peak = f"{(torch.cuda.max_memory_allocated() - others) / 1e6:,.0f} MB"
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            self(get_batch)
        names = " ".join(event.key for event in profile.key_averages())
        kinds = set(re.findall(r"::_scaled_dot_product_(?:attention_)?([a-z]+)", names))
        if self.config is not None:  # one of ours
            parts = estimate_memory(self.model, self.config, self.device, self.optimizers)
            peak += f" (estimate {sum(parts.values()):,.0f})"
        return f"{' and '.join(sorted(kinds))}, {peak}"


def windows(tokens, B, T):
    """A function that draws random windows of the tokens: inputs and targets, (B, T) each."""
    generator = torch.Generator().manual_seed(1)

    def get_batch():
        starts = torch.randint(len(tokens) - T, (B,), generator=generator)
        rows = torch.from_numpy(np.stack([tokens[i : i + T + 1] for i in starts]).astype(np.int64))
        return rows[:, :-1], rows[:, 1:]

    return get_batch


def matmul_rate(dtype, device):
    """Operations per second of large matrix products: the fastest of several."""
    finish, rates = torch.get_device_module(device).synchronize, []
    for n in (8192,) if device == "cuda" else (512, 1024, 2048):
        a, b = torch.randn(2, n, n, dtype=getattr(torch, dtype), device=device)
        for _ in range(8):
            finish()
            rates.append(2 * n**3 / seconds(lambda a=a, b=b: (a @ b, finish())))
    return max(rates)


if __name__ == "__main__":
    command(main, __doc__)

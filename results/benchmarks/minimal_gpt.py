"""The opponent of the benchmarks: a GPT-2 as small trainers have it, made from its description.

After Radford et al. 2019 and Brown et al. 2020: pre-norm blocks, learned positions, biases in all
layers, the output head tied to the token embedding, weights drawn with a standard deviation of
0.02, those that write to the residual stream divided by the square root of their number. Queries,
keys and values come from one matrix product, attention from torch's fused kernel; AdamW decays
matrices only. Steps compute in bfloat16 where the processor multiplies in it, and all of a step but
the optimizer is compiled where that is quicker.
"""

import math
import time
from functools import partial

from common.training.machine import pick_dtype
from results.benchmarks.measure import in_turn, seconds

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, C, H):
        super().__init__()
        self.H = H
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x):  # (B, T, C)
        B, T, C = x.shape
        qkv = self.qkv(self.norm1(x)).view(B, T, 3, self.H, C // self.H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class MinimalGPT(nn.Module):
    """Token ids (B, T) -> logits (B, T, V). `size`: layers, width, heads, context, vocabulary."""

    def __init__(self, size):
        super().__init__()
        L, C, H, self.context_length, V = size
        self.tokens, self.positions = nn.Embedding(V, C), nn.Embedding(self.context_length, C)
        self.blocks, self.norm = nn.ModuleList(Block(C, H) for _ in range(L)), nn.LayerNorm(C)
        self.head = nn.Linear(C, V, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                depth = 2 * L if name.endswith(("proj.weight", "down.weight")) else 1
                nn.init.normal_(parameter, std=0.02 / math.sqrt(depth))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, idx, last_only=False):
        x = self.tokens(idx) + self.positions(torch.arange(idx.shape[1], device=idx.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, -1:] if last_only else x))

    @torch.no_grad()
    def generate(self, idx, n, temperature=1.0):
        """Continue idx (1, T) by n tokens: the whole context goes through the model for each."""
        for _ in range(n):
            logits = self(idx[:, -self.context_length :], last_only=True)[:, -1] / temperature
            idx = torch.cat((idx, torch.multinomial(F.softmax(logits, dim=-1), 1)), dim=1)
        return idx


def optimizer_of(model, rate):
    """Fused AdamW with weight decay on the matrices alone."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}
    groups = [{"params": matrices, "weight_decay": 0.1}, vectors]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)


def train(model, get_batch, steps, peak=2e-3):
    """Train for so many steps, compiled where that is quicker; returns the seconds that they took,
    compiling not counted, and whether it was.

    get_batch() gives x and y, (B, T) each. After 100 steps of warm-up the learning rate falls along
    a cosine to a tenth.
    """
    optimizer = optimizer_of(model, peak)
    dtype = pick_dtype("auto", torch.device("cpu"))  # as the versions have it

    def loss_of(x, y):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    def passes(loss_of, x, y):
        for _ in range(20):
            loss_of(x, y).backward()

    ways, batch = {False: loss_of, True: torch.compile(loss_of)}, get_batch()
    passes(ways[True], *batch)  # compiles
    took = in_turn({c: partial(seconds, partial(passes, ways[c], *batch)) for c in ways}, 3)
    compiled = min(took[True]) < min(took[False])
    loss_of = ways[compiled]
    began = time.perf_counter()
    for step in range(steps):
        decay = 0.55 + 0.45 * math.cos(math.pi * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1, (step + 1) / 100) * decay
        optimizer.zero_grad()
        loss_of(*get_batch()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return time.perf_counter() - began, compiled

"""How long v4 takes to the loss at which transformers' GPT-2 ends, on WikiText-2, in one run.

    python tests/bench_time_to_loss.py [--seconds 240] [--steps 700]

The reference: 4 layers x 128 wide, 4 heads, context 128, batch 8, AdamW at 2e-3 (betas 0.9 and
0.95, weight decay 0.1 on matrices) with warm-up and cosine decay, clipped, bfloat16, for so many
seconds of training. Then v4 as the README runs it on WikiText-2, but for --steps; its time is the
whole process', from the start of Python to the last line. Both are judged by the same judge, on
the whole validation split, each with windows of its own context.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.data import load_corpus, token_file  # noqa: E402
from common.evaluation.evaluate import judge  # noqa: E402
from common.tokenizers import END_OF_TEXT, load_tokenizer  # noqa: E402
from results.plan import planned

from bench_training import SIZES, B, gpt2  # noqa: E402
from lineage import ROOT, machine  # noqa: E402

torch.set_num_threads(os.cpu_count())  # the tests make do with one


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=240, help="the reference's training")
    parser.add_argument("--steps", type=int, default=700, help="v4's")
    options = parser.parse_args()
    corpus = load_corpus("wikitext-2", os.environ.get("WIKITEXT_DIR"))
    tokenizer = load_tokenizer("bpe", corpus, SIZES["small"][-1], "gpt4", (END_OF_TEXT,))
    tokens, validation = (
        token_file(corpus, split, tokenizer).memmap() for split in ("train", "validation")
    )
    print(machine(), flush=True)
    model, steps = reference(tokens, options.seconds)
    scores = judge(Logits(model), validation, SIZES["small"][3], corpus)
    goal = scores["bits_per_byte"]
    print(f"transformers' GPT-2: {goal:.3f} after {options.seconds:.0f} s, {steps} steps")
    bits, seconds = ours(options.steps)
    print(f"v4: {bits:.3f} after {seconds:.0f} s, {seconds / options.seconds:.2f} of that time")
    print("reached" if bits <= goal else "not reached")


def reference(tokens, seconds):
    """The trained model and its number of steps; the schedule follows the clock."""
    _, _, _, T, _ = SIZES["small"]
    torch.manual_seed(1)
    model = gpt2(SIZES["small"])
    groups = [
        {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.95), fused=True)
    generator = torch.Generator().manual_seed(1)
    steps, began = 0, time.perf_counter()
    while (share := (time.perf_counter() - began) / seconds) < 1:
        rate = min(1, (steps + 1) / 100) * (0.55 + 0.45 * math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * rate
        starts = torch.randint(len(tokens) - T, (B,), generator=generator)
        rows = torch.from_numpy(np.stack([tokens[i : i + T + 1] for i in starts]).astype(np.int64))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(rows[:, :-1]).logits
            loss = F.cross_entropy(logits.flatten(0, -2), rows[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
    return model, steps


class Logits(nn.Module):
    """transformers' model as the judge calls ours: ids in, logits out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, idx):
        return self.model(idx).logits


def ours(steps):
    """v4's bits per byte, and the seconds of its whole process."""
    args = planned("v4-wikitext-2").arguments()
    args[args.index("--steps") + 1] = str(steps)
    args += ["--eval-every", str(steps)]
    with tempfile.TemporaryDirectory() as folder:
        before = time.perf_counter()
        command = [sys.executable, str(ROOT / "v4.py"), *args, "--out-dir", folder]
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - before
        result = json.loads(Path(folder, "result.json").read_text(encoding="utf-8"))
    return result["val_bits_per_byte"], seconds


if __name__ == "__main__":
    main()

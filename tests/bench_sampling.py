"""How fast v2 to v4 continue a prompt, beside transformers' `generate`, as ratios of one run.

    python tests/bench_sampling.py [--rounds 5] [--tokens 200]

One text at a time, from models of each version's own default size with fresh weights; GPT-2 of the
same width, depth and context, with its cache of keys and values and without. Greedy: nothing is
drawn. Every round runs each of them once, in turn; a ratio is taken within its round.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_training import spread  # noqa: E402
from lineage import load, machine  # noqa: E402

torch.set_num_threads(os.cpu_count())  # the tests make do with one
V = 2048
PROMPT = list(range(10))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    options = parser.parse_args()
    n = options.tokens
    print(f"{machine()}, {n} tokens\n")
    for version in ("v2", "v3", "v4"):
        runs = {version: ours(version, n), **gpt2(version, n)}
        for run in runs.values():
            run()
        seconds = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                before = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - before)
        for name, own in seconds.items():
            ratio = spread([a / b for a, b in zip(seconds[version], own, strict=True)])
            print(f"{name:24} {n / statistics.median(own):7,.0f} tokens/s   x {ratio}")
        print(flush=True)


def ours(version, n):
    module = load(version)
    torch.manual_seed(1)
    config = module.Config(temperature=0.0, max_new_tokens=n)
    model = module.LanguageModel(config, V)
    tokenizer = SimpleNamespace(encode=lambda text: PROMPT, decode=len, end_of_text=None)

    def run():
        made = module.generate(model, config, tokenizer, torch.device("cpu"))
        assert made == len(PROMPT) + n

    return run


def gpt2(version, n):
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    config = load(version).Config()
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=V,
            n_positions=config.context_length,
            n_embd=config.n_embd,
            n_layer=getattr(config, "n_layer", 1),
            n_head=config.n_head,
            bos_token_id=0,
            eos_token_id=None,
            pad_token_id=0,
        )
    ).eval()
    idx = torch.tensor([PROMPT])

    def run(use_cache):
        made = model.generate(
            idx,
            attention_mask=torch.ones_like(idx),
            max_new_tokens=n,
            min_new_tokens=n,
            do_sample=False,
            use_cache=use_cache,
        )
        assert made.shape[1] == len(PROMPT) + n

    return {"transformers, cache": lambda: run(True), "transformers, no cache": lambda: run(False)}


if __name__ == "__main__":
    main()

"""How fast v2 to v6 continue a prompt, compared with a minimal GPT and with transformers' GPT-2.

    python -m results.benchmarks.sampling [--rounds 5] [--tokens 250]

One text at a time, at temperature 0.8 without top-k, from fresh weights: 128 channels, 4 heads, a
vocabulary of 4,096. v2 has its one block, all others have 4. The minimal GPT passes its whole
context through the model for each token; transformers does so without a cache. Every round runs
each of them once, in turn; a ratio is taken within its round.
"""

import statistics
from functools import partial
from types import SimpleNamespace

from results.benchmarks.measure import command, in_turn, machine, seconds, spread
from results.benchmarks.minimal_gpt import MinimalGPT
from results.benchmarks.training import gpt2, ours

import torch

L, C, H, T, V = 4, 128, 4, 256, 4096  # layers, width, heads, context, vocabulary
PROMPT = list(range(10))


def main(rounds: int = 5, tokens: int = 250):
    print(f"{machine()}, {tokens} tokens, context {T}\n")
    idx, minimal = torch.tensor([PROMPT]), MinimalGPT((L, C, H, T, V)).eval()
    theirs = gpt2((L, C, H, len(PROMPT) + tokens, V)).eval()  # its longest text
    settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": True}
    settings |= {"temperature": 0.8, "top_k": 0, "attention_mask": torch.ones_like(idx)}
    generate = partial(theirs.generate, idx, **settings)
    runs = {
        "minimal GPT": lambda: minimal.generate(idx, tokens, temperature=0.8).shape[1],
        "v2": sampler("v2", tokens),
        "v3": sampler("v3", tokens),
        "v4, ALiBi": sampler("v4", tokens),
        "v4, RoPE": sampler("v4", tokens, position="rope"),
        "v5": sampler("v5", tokens),
        "v6": sampler("v6", tokens),
        "transformers, cache": lambda: generate(use_cache=True).shape[1],
        "transformers, no cache": lambda: generate(use_cache=False).shape[1],
    }
    for name, run in runs.items():
        if run() != len(PROMPT) + tokens:
            raise AssertionError(f"{name} made another number of tokens")
    took = in_turn({name: partial(seconds, run) for name, run in runs.items()}, rounds)
    for name, own in took.items():
        speed = f"{tokens / statistics.median(own):7,.0f} tokens/s"
        print(f"{name:24} {speed}   x {spread(took['minimal GPT'], own)}")


def sampler(version, tokens, **changes):
    """A function that has a version continue the prompt; it returns the text's length in tokens."""
    settings = {"temperature": 0.8, "max_new_tokens": tokens, "dtype": "float32", **changes}
    module, model, config = ours(version, (L, C, H, T, V), **settings)
    tokenizer = SimpleNamespace(encode=lambda text: PROMPT.copy(), decode=len, end_of_text=None)
    return lambda: module.generate(model, config, tokenizer, torch.device("cpu"))


if __name__ == "__main__":
    command(main, __doc__)

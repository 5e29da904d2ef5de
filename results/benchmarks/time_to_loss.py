"""How long v4 and v6 train until they predict WikiText-2 as well as a minimal GPT, as counted
5-grams, and what v6 reaches in the minimal GPT's time.

    python -m results.benchmarks.time_to_loss [--steps 5200]

The minimal GPT has 4 layers x 128 channels, a context of 128 and batches of 8, and trains for so
many steps: AdamW at 2e-3, warm-up and cosine decay, bfloat16 where the processor multiplies in it,
compiled where that is quicker. The versions differ from their defaults in settings alone. All have
the same vocabulary of 4,096 tokens, and the same evaluation on the whole validation split, each
with windows of its own context. Seconds are of training alone: compiling, evaluating and starting
do not count. What has to be compared are the shares of the minimal GPT's time, which depend on the
machine much less than seconds do.
"""

from common.data import load_corpus, token_file
from common.evaluation import evaluate
from common.files import read_json
from common.tokenizers import END_OF_TEXT, load_tokenizer
from results.benchmarks.measure import command, machine, result_of
from results.benchmarks.minimal_gpt import MinimalGPT, train
from results.benchmarks.training import SIZES, windows
from results.plan import TUNED
from results.store import ROOT

import torch

MINIMAL, COUNTED, BEST = "minimal GPT", "5-grams, counted", "1.45 bits per byte"
# Settings with which v4 learns soonest, and those with which v6 does.
SHORT = "--batch-size 12 --context-length 128 --warmup-steps 60 --learning-rate 0.004"
RATES = "--batch-size 8 --learning-rate 0.008"
SOON = f"{RATES} --muon-learning-rate 0.015 --ngram-learning-rate 0.004 --warmup-steps 50"
SOON += " --mlp gelu --no-qk-norm"
GOALS = [  # what is to be reached, the version, its settings, the share of the minimal GPT's time
    (MINIMAL, "v4", f"{SHORT} --steps 1380", 35 / 240),
    (MINIMAL, "v6", f"{SOON} --steps 450", 25 / 240),
    (COUNTED, "v6", f"{SOON} --steps 1200", 60 / 240),
    (BEST, "v6", TUNED, 1),
    (COUNTED, "v4", "--batch-size 8 --n-layer 3 --learning-rate 0.004 --steps 2900", 140 / 240),
]


def main(steps: int = 5200):
    *_, T, V = SIZES["small"]
    corpus = load_corpus("wikitext-2")
    tokenizer = load_tokenizer("bpe", corpus, V, "gpt4", (END_OF_TEXT,))
    tokens, validation = (
        token_file(corpus, split, tokenizer).memmap() for split in ("train", "validation")
    )
    print(f"{machine()}, WikiText-2, bits per byte of the validation split\n")
    torch.manual_seed(1)
    model = MinimalGPT(SIZES["small"])
    seconds, compiled = train(model, windows(tokens, 8, T), steps)
    counted = read_json(ROOT / "results" / "reference-wikitext-2.json", "reference rows")["rows"]
    goals = {row["name"]: row["val_bits_per_byte"] for row in counted}
    goals[MINIMAL], goals[BEST] = evaluate(model, validation, T, corpus)["bits_per_byte"], 1.45
    print(f"{MINIMAL}: {goals[MINIMAL]:.3f} after {seconds:.0f} s, {steps:,} steps", end="")
    print(f", {'compiled' if compiled else 'not compiled, which is quicker here'}")
    for name, version, settings, limit in GOALS:
        args = f"--data wikitext-2 --no-long-contexts --eval-every 100000 {settings}".split()
        result = result_of(version, args)
        bits, took = result["val_bits_per_byte"], result["seconds"]
        reached = "reached" if bits <= goals[name] else "not reached"
        print(f"\n{name}, {goals[name]:.3f}: {reached} by {version} {settings}")
        share = f"{took / seconds:.2f} of the minimal GPT's time (goal: {limit:.2f})"
        print(f"  {bits:.3f} after {took:.0f} s of training: {share}")


if __name__ == "__main__":
    command(main, __doc__)

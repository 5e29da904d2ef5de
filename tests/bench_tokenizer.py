"""How fast the tokenizer is, beside other libraries, as ratios measured in one run.

    python tests/bench_tokenizer.py [--rounds 5] [--data text.txt]

On WikiText-2's training split (WIKITEXT_DIR, or the hub) or on a text file. Each round runs every
library once, in turn, so that what slows the machine down slows all of them; a ratio is taken
within its round. Vocabularies have 4,096 ids and GPT-4's pattern; our tokenizer is a new one in
each round, with nothing remembered. "cpu" adds up the time of all threads.
"""

import argparse
import os
import random
import statistics
import string
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bpe_tokenizer import GPT4_PATTERN, BPETokenizer  # noqa: E402

N_IDS = 4096


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", help="a text file instead of WikiText-2")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)  # see peak_memory
    options = parser.parse_args()
    if options.memory:
        return peak_memory_of_a_stream(options.memory)
    documents = read(options.data)
    text = "".join(documents)
    size = len(text.encode("utf-8")) / 1e6
    print(f"{size:.1f} MB, {len(documents)} documents, {os.cpu_count()} CPUs\n")
    tokenizer = train(documents, options.rounds)
    encode(tokenizer, text, documents, options.rounds)
    long_chunks(tokenizer)
    linear(tokenizer, text, options.rounds)
    memory()


def read(path):
    if path:
        return [Path(path).read_text(encoding="utf-8")]
    from common.data import load_corpus

    return list(load_corpus("wikitext-2", os.environ.get("WIKITEXT_DIR")).pieces("train"))


def compare(title, runs, rounds):
    """Run each of {name: function} in turn, `rounds` times, and print its times and the ratio of
    the first one's time to its own: median, smallest and largest."""
    names = list(runs)
    wall, cpu = {name: [] for name in names}, {name: [] for name in names}
    for round_ in range(rounds):
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            before, cpu_before = time.perf_counter(), time.process_time()
            runs[name]()
            cpu[name].append(time.process_time() - cpu_before)
            wall[name].append(time.perf_counter() - before)
    print(f"{title}: {rounds} rounds, medians (smallest to largest)")
    print(f"{'':28}{'seconds':>22}{'cpu':>8}{'ours / theirs':>24}")
    for name in names:
        ratios = [ours / theirs for ours, theirs in zip(wall[names[0]], wall[name], strict=True)]
        ratio = "" if name == names[0] else spread(ratios)
        print(f"{name:28}{spread(wall[name]):>22}{statistics.median(cpu[name]):8.2f}{ratio:>24}")
    print(flush=True)


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def train(documents, rounds):
    import rustbpe
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    made = []

    def huggingface():
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(GPT4_PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=N_IDS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(documents, trainer)

    runs = {
        "bpe_tokenizer": lambda: made.append(
            BPETokenizer.train(documents, N_IDS, special_tokens=())
        ),
        "Hugging Face tokenizers": huggingface,
        "rustbpe": lambda: rustbpe.Tokenizer().train_from_iterator(
            documents, N_IDS, pattern=GPT4_PATTERN
        ),
    }
    compare(f"Training, {N_IDS:,} ids", runs, rounds)
    return made[0]


def encode(tokenizer, text, documents, rounds):
    tiktoken, huggingface = tokenizer.to_tiktoken(), tokenizer.to_huggingface()
    ids = tokenizer.encode_corpus(text)
    assert ids.tolist() == tiktoken.encode_ordinary(text), "the libraries disagree"
    runs = {
        "bpe_tokenizer": lambda: BPETokenizer(tokenizer.merges).encode_corpus(text),
        "tiktoken encode_ordinary": lambda: tiktoken.encode_ordinary(text),
        "Hugging Face encode_batch": lambda: huggingface.encode_batch(documents),
    }
    compare(f"Encoding, {len(ids):,} tokens", runs, rounds)


def long_chunks(tokenizer):
    letters = random.Random(0).choices(string.ascii_lowercase, k=1_000_000)
    for name, text in (('"a" * 1,000,000', "a" * 1_000_000), ("10^6 letters", "".join(letters))):
        fresh = BPETokenizer(tokenizer.merges)
        before = time.perf_counter()
        n = len(fresh.encode(text))
        print(f"one chunk, {name:18}{time.perf_counter() - before:6.2f} s, {n:,} tokens")
    print(flush=True)


def linear(tokenizer, text, rounds):
    times = {1: [], 2: [], 4: []}
    for _ in range(rounds):
        for n in times:
            longer = text * n
            fresh = BPETokenizer(tokenizer.merges)
            before = time.perf_counter()
            fresh.encode_corpus(longer)
            times[n].append(time.perf_counter() - before)
    print("Encoding a corpus of 1, 2 and 4 times the length: time per character, against once")
    for n in times:
        ratios = [t / n / once for t, once in zip(times[n], times[1], strict=True)]
        print(f"  {n} x  {spread(ratios)}")
    print(flush=True)


def memory():
    print("Peak memory of encode_stream over words that never come again, beside its idle process")
    for n in (1, 3, 10):
        run = [sys.executable, __file__, "--memory", str(n)]
        said = subprocess.check_output(run, text=True, encoding="utf-8")
        print(f"  {n:2} x  {said.strip()}", flush=True)


def peak_memory_of_a_stream(n):
    import psutil

    random_letters = random.Random(0)

    def documents():
        for _ in range(n * 150):
            yield " ".join(f"{random_letters.getrandbits(40):x}" for _ in range(1000))

    tokenizer = BPETokenizer([(97, 98), (99, 100), (256, 257)])
    process = psutil.Process()
    idle = peak = process.memory_info().rss
    tokens = 0
    for ids in tokenizer.encode_stream(documents(), end_of_text=True):
        tokens += len(ids)
        peak = max(peak, process.memory_info().rss)
    print(f"{(peak - idle) / 1e6:6.0f} MB for {tokens:,} tokens")


if __name__ == "__main__":
    main()

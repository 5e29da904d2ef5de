"""How fast the tokenizer is on five kinds of text, as ratios measured within one run.

    python tests/bench_tokenizer.py --out results/bench-tokenizer.txt

The kinds: WikiText-2's training split (from WIKITEXT_DIR, or the hub), the standard library's
Python source, and three texts from a seeded generator: a CSV of numbers, lines in Russian, Arabic,
Chinese and Japanese letters, and a document in Chinese letters without spaces. Their words are
made up, as frequent as Zipf's law has it. Each kind has its own vocabulary of 4,096 ids, with
GPT-4's split pattern. Ours is a new tokenizer in each round, with nothing remembered. Each round
runs everything once, in turn, so that what slows the machine down slows all of it; a ratio is
taken within its round.
"""

import argparse
import itertools
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

N_IDS = 4096
SMALL = 5_000_000  # bytes of each made-up kind
GOALS = {"WikiText-2": 1.0, "Python": 1.5, "CSV": 1.5, "mixed scripts": 2.5, "Chinese": 4.0}

# Letters, characters per word, what separates words, commas and full stops.
SCRIPTS = {
    "Russian": ("абвгдежзийклмнопрстуфхцчшщъыьэюя", (2, 11), " ", ", ", ". "),
    "Arabic": ("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", (2, 8), " ", "، ", ". "),
    "Chinese": ("".join(map(chr, range(0x4E00, 0x4E00 + 3000))), (1, 3), "", "，", "。"),
    "Japanese": (
        "".join(map(chr, [*range(0x3042, 0x3094), *range(0x30A2, 0x30F4), *range(0x5000, 0x55DC)])),
        *((1, 5), "", "、", "。"),
    ),
}


def wikitext(size):
    from common.data import load_corpus

    documents = list(load_corpus("wikitext-2", os.environ.get("WIKITEXT_DIR")).pieces("train"))
    return documents * max(1, round(size / n_bytes(documents)))


def python_source(size):
    documents, total = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if total < size and "site-packages" not in path.parts:
            documents.append(path.read_text(encoding="utf-8", errors="replace"))
            total += len(documents[-1].encode("utf-8"))
    return documents * max(1, round(size / total))


def csv(size):
    rng = random.Random(0)

    def rows():
        for i in itertools.count():
            yield (
                f"{i},{rng.gauss(0, 1):.4f},{rng.randrange(10**6)},{rng.uniform(-180, 180):.6f},"
                f"{rng.randrange(100)},{rng.expovariate(1e-3):.2f}\n"
            )

    return [up_to(size, rows())]


def mixed(size):
    rng = random.Random(1)
    scripts = [sentences(script) for script in SCRIPTS]
    return [up_to(size, (next(rng.choice(scripts)).strip() + "\n" for _ in itertools.count()))]


def chinese(size):
    return [up_to(size, sentences("Chinese"))]


def sentences(script):
    """Sentences without end, of 20,000 made-up words."""
    rng = random.Random(script)
    letters, (shortest, longest), space, comma, stop = SCRIPTS[script]
    letters = rng.sample(letters, len(letters))
    zipf = list(itertools.accumulate(1 / (i + 3) for i in range(20_000)))
    words = [
        "".join(rng.choices(letters, cum_weights=zipf[: len(letters)], k=length))
        for length in (rng.randint(shortest, longest) for _ in range(20_000))
    ]
    while True:
        parts = [rng.choices(words, cum_weights=zipf, k=rng.randint(3, 9)) for _ in range(3)]
        yield comma.join(space.join(part) for part in parts) + stop


def up_to(size, strings):
    parts, total = [], 0
    while total < size:
        parts.append(next(strings))
        total += len(parts[-1].encode("utf-8"))
    return "".join(parts)


def n_bytes(documents):
    return sum(len(document.encode("utf-8")) for document in documents)


KINDS = dict(zip(GOALS, (wikitext, python_source, csv, mixed, chinese), strict=True))


def seconds(function):
    before = time.perf_counter()
    function()
    return time.perf_counter() - before


def ratios(ours, theirs, rounds):
    """(median seconds of ours, of theirs, text with the median ratio and its range)."""
    times = []
    for i in range(rounds):
        if i % 2:
            their_time = seconds(theirs)
            times.append((seconds(ours), their_time))
        else:
            times.append((seconds(ours), seconds(theirs)))
    each = sorted(a / b for a, b in times)
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    return a, b, statistics.median(each), f"({each[0]:.2f} to {each[-1]:.2f})"


def compare(say, rounds):
    """Training beside rustbpe, encoding beside tiktoken."""
    from bpe_tokenizer import GPT4_PATTERN, BPETokenizer

    import rustbpe

    rows, vocabularies = [], {}
    say(f"Training {N_IDS:,} ids: seconds, and ours over rustbpe's (goal: at most 1.0)")
    for kind, make in KINDS.items():
        documents = make(SMALL)

        def train(documents=documents, kind=kind):
            vocabularies[kind] = BPETokenizer.train(documents, N_IDS, special_tokens=())

        def their_train(documents=documents):
            trainer = rustbpe.Tokenizer()
            trainer.train_from_iterator(documents, N_IDS, pattern=GPT4_PATTERN)

        a, b, ratio, span = ratios(train, their_train, rounds)
        size = n_bytes(documents) / 1e6
        say(f"  {kind:14}{size:6.1f} MB {a:8.2f} {b:8.2f} {ratio:8.2f} {span}")
        rows.append((kind, documents))

    say("\nEncoding, one process: seconds, and ours over tiktoken's encode_ordinary")
    for kind, documents in rows:
        text, tokenizer = "".join(documents), vocabularies[kind]
        tiktoken, ids = tokenizer.to_tiktoken(), []

        def encode(text=text, tokenizer=tokenizer, ids=ids):
            ids[:] = [BPETokenizer(tokenizer.merges).encode_corpus(text)]

        a, b, ratio, span = ratios(
            encode, lambda text=text, other=tiktoken: other.encode_ordinary(text), rounds
        )
        assert ids[0].tolist() == tiktoken.encode_ordinary(text), "the libraries disagree"
        goal = GOALS[kind]
        say(f"  {kind:14}{a:8.2f} {b:8.2f} {ratio:8.2f} {span:18} goal {goal}")
    return vocabularies


def processes(say, rounds, size, vocabularies):
    from bpe_tokenizer import BPETokenizer

    say(
        f"\nEncoding {size / 1e6:.0f} MB: seconds of one process and of two, and one over two"
        " (goal: at least 1.5)"
    )
    for kind, make in KINDS.items():
        documents, merges = make(size), vocabularies[kind].merges

        def encode(n, documents=documents, merges=merges):
            for _ in BPETokenizer(merges).encode_stream(documents, processes=n):
                pass

        a, b, ratio, span = ratios(
            lambda encode=encode: encode(1), lambda encode=encode: encode(2), rounds
        )
        say(f"  {kind:14}{n_bytes(documents) / 1e6:6.1f} MB {a:8.2f} {b:8.2f} {ratio:8.2f} {span}")


USES = {
    "training, Chinese without spaces": 10_000_000,
    "encoding one text of Chinese without spaces": 30_000_000,
    "encoding one word of random letters": 10_000_000,
    "encoding a stream of words that never come again": 30_000_000,
}


def memory(say):
    say("\nPeak memory beside the idle process and the text itself: MB, and bytes per byte of text")
    for number, (use, size) in enumerate(USES.items()):
        run = [sys.executable, __file__, "--use", str(number)]
        peak = float(subprocess.check_output(run, text=True, encoding="utf-8"))
        say(f"  {use:50}{size / 1e6:4.0f} MB {peak / 1e6:8.0f} {peak / size:8.1f}")


def peak_memory(number):
    """Print how many bytes the process grows by while it does one of USES."""
    import threading

    from bpe_tokenizer import BPETokenizer

    import psutil

    size, rng = list(USES.values())[number], random.Random(0)
    if number < 2:
        texts = chinese(size)
    elif number == 2:
        texts = ["".join(rng.choices("abcdefghijklmnop", k=size))]
    else:
        texts = (
            " ".join(f"{rng.getrandbits(40):x}" for _ in range(100)) for _ in range(size // 1100)
        )
    tokenizer = BPETokenizer.train(chinese(300_000)[0] + " abcabdab" * 9, 1500)
    process, done, peaks = psutil.Process(), threading.Event(), []
    idle = process.memory_info().rss

    def watch():
        while not done.wait(0.005):
            peaks.append(process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    if number == 0:
        BPETokenizer.train(texts, 4096)
    else:
        for _ in tokenizer.encode_stream(texts):
            pass
    done.set()
    thread.join()
    print(max(peaks) - idle)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--megabytes", type=int, default=50, help="for one and two processes; 0: no"
    )
    parser.add_argument("--out", help="write what is printed into this file as well")
    parser.add_argument("--use", type=int, help=argparse.SUPPRESS)  # see peak_memory
    options = parser.parse_args()
    if options.use is not None:
        return peak_memory(options.use)
    lines = []

    def say(line):
        print(line, flush=True)
        lines.append(line)

    say(f"tests/bench_tokenizer.py: medians of {options.rounds} rounds (smallest to largest ratio)")
    vocabularies = compare(say, options.rounds)
    if options.megabytes:
        processes(say, min(3, options.rounds), options.megabytes * 10**6, vocabularies)
    memory(say)
    if options.out:
        Path(options.out).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

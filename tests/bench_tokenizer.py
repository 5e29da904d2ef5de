"""How fast the tokenizer is on five kinds of text, compared with rustbpe and tiktoken.

    python tests/bench_tokenizer.py [--rounds 5] [--megabytes 50] [--write]

The kinds: WikiText-2's training split (from WIKITEXT_DIR, or the hub), the standard library's
Python source, and three texts from a seeded generator: a CSV of numbers, lines in Russian, Arabic,
Chinese and Japanese letters, and a document in Chinese letters without spaces. Their words are
made up, as frequent as Zipf's law has it. Each kind has its own vocabulary of 4,096 ids, with
GPT-4's split pattern. Ours is a new tokenizer in each round, with nothing remembered. Every round
runs ours and theirs once, in turn; ratios are taken within a round.
"""

import itertools
import os
import random
import statistics
import sys
import sysconfig
import threading
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bpe_tokenizer import GPT4_PATTERN, BPETokenizer

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


def compared(table, name, runs, rounds, note=""):
    """A line of the table: the median seconds of two functions, and the first over the second."""
    from bench import in_turn, seconds, spread

    took = in_turn({run: partial(seconds, run) for run in runs}, rounds)
    first, second = (took[run] for run in runs)
    a, b = statistics.median(first), statistics.median(second)
    table.say(f"  {name:22} {a:8.2f} {b:8.2f}   x {spread(first, second)} {note}")


def train(documents):
    return BPETokenizer.train(documents, N_IDS, special_tokens=())


def their_train(documents):
    import rustbpe

    rustbpe.Tokenizer().train_from_iterator(documents, N_IDS, pattern=GPT4_PATTERN)


def encode(documents, merges, processes=1):
    """All ids, from a tokenizer with nothing remembered."""
    return [ids for ids in BPETokenizer(merges).encode_stream(documents, processes)]


USES = {  # bytes of text
    "training, Chinese without spaces": 10_000_000,
    "encoding one text of Chinese without spaces": 30_000_000,
    "encoding one word of random letters": 10_000_000,
    "encoding a stream of words that never come again": 30_000_000,
}


def peak_memory(use):
    """Print how many bytes the process grows by while it does one of USES."""
    import psutil

    size, rng = USES[use], random.Random(0)
    if "Chinese" in use:
        texts = chinese(size)
    elif "letters" in use:
        texts = ["".join(rng.choices("abcdefghijklmnop", k=size))]
    else:
        words = (f"{rng.getrandbits(40):x}" for _ in itertools.count())
        texts = (" ".join(itertools.islice(words, 100)) for _ in range(size // 1100))
    tokenizer = BPETokenizer.train(chinese(300_000)[0] + " abcabdab" * 9, 1500)
    process, done, peaks = psutil.Process(), threading.Event(), []
    idle = process.memory_info().rss

    def watch():
        while not done.wait(0.005):
            peaks.append(process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    train(texts) if use.startswith("training") else sum(map(len, tokenizer.encode_stream(texts)))
    done.set()
    thread.join()
    print(max(peaks) - idle)


def main(rounds: int = 5, megabytes: int = 50, write: bool = False):
    from bench import Table
    from lineage import machine, python

    table, merges = Table("tokenizer", write), {}
    texts = {kind: make(SMALL) for kind, make in KINDS.items()}
    table.say(f"{machine()}, medians of {rounds} rounds (smallest to largest ratio)")
    table.say(f"\ntraining {N_IDS:,} ids: seconds, ours and rustbpe's (goal: at most 1.0)")
    for kind, documents in texts.items():
        runs = [partial(function, documents) for function in (train, their_train)]
        compared(table, f"{kind}, {n_bytes(documents) / 1e6:.1f} MB", runs, rounds)
        merges[kind] = train(documents).merges
    table.say("\nencoding, one process: seconds, ours and tiktoken's encode_ordinary")
    for kind, documents in texts.items():
        text, theirs = "".join(documents), BPETokenizer(merges[kind]).to_tiktoken()
        if BPETokenizer(merges[kind]).encode(text) != theirs.encode_ordinary(text):
            raise AssertionError(f"the libraries disagree on {kind}")
        runs = [partial(encode, text, merges[kind]), partial(theirs.encode_ordinary, text)]
        compared(table, kind, runs, rounds, f"goal {GOALS[kind]}")
    table.say("\nencoding: seconds of one process, of two, and one over two (goal: at least 1.5)")
    for kind, make in KINDS.items() if megabytes else ():
        documents = make(megabytes * 10**6)
        runs = [partial(encode, documents, merges[kind], n) for n in (1, 2)]
        compared(table, f"{kind}, {n_bytes(documents) / 1e6:.0f} MB", runs, min(3, rounds))
    table.say("\npeak memory without the text itself: MB, and bytes per byte of text")
    for use, size in USES.items():
        peak = float(python(__file__, "--use", use).stdout)
        table.say(f"  {use:50}{size / 1e6:4.0f} MB {peak / 1e6:8.0f} {peak / size:8.1f}")


# Nothing heavy is imported above: the processes that share the encoding import this file as well.
if __name__ == "__main__":
    if sys.argv[1:2] == ["--use"]:  # a process of its own for each
        peak_memory(sys.argv[2])
    else:
        from bench import command

        command(main, __doc__)

"""How fast the tokenizer is on five kinds of text, compared with rustbpe and tiktoken.

    python -m results.benchmarks.tokenizer [--rounds 5] [--megabytes 50]

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
from functools import partial
from pathlib import Path

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

    corpus = load_corpus("wikitext-2", os.environ.get("WIKITEXT_DIR"))
    return repeated(size, list(corpus.pieces("train")))


def python_source(size):
    paths = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    paths = [path for path in paths if "site-packages" not in path.parts]
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in paths)
    return repeated(size, up_to(size, texts))


def csv(size):
    rng = random.Random(0)
    rows = (
        f"{i},{rng.gauss(0, 1):.4f},{rng.randrange(10**6)},{rng.uniform(-180, 180):.6f},"
        f"{rng.randrange(100)},{rng.expovariate(1e-3):.2f}\n"
        for i in itertools.count()
    )
    return ["".join(up_to(size, rows))]


def mixed(size):
    rng, scripts = random.Random(1), [sentences(script) for script in SCRIPTS]
    lines = (next(rng.choice(scripts)).strip() + "\n" for _ in itertools.count())
    return ["".join(up_to(size, lines))]


def chinese(size):
    return ["".join(up_to(size, sentences("Chinese")))]


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


def up_to(size, texts):
    """The first of the texts: as many as hold so many bytes."""
    found, total = [], 0
    for text in texts:
        found.append(text)
        total += n_bytes([text])
        if total >= size:
            break
    return found


def repeated(size, texts):
    return texts * max(1, round(size / n_bytes(texts)))


def n_bytes(texts):
    return sum(len(text.encode("utf-8")) for text in texts)


KINDS = dict(zip(GOALS, (wikitext, python_source, csv, mixed, chinese), strict=True))


def compared(name, ours, theirs, rounds, note=""):
    """Print the median seconds of two functions, and the ratio of the first to the second."""
    from results.benchmarks.measure import in_turn, seconds, spread

    runs = {"ours": partial(seconds, ours), "theirs": partial(seconds, theirs)}
    a, b = in_turn(runs, rounds).values()
    medians = f"{statistics.median(a):8.2f} {statistics.median(b):8.2f}"
    print(f"  {name:22} {medians}   x {spread(a, b)} {note}")


def train(documents):
    return BPETokenizer.train(documents, N_IDS, special_tokens=())


def their_train(documents):
    import rustbpe

    rustbpe.Tokenizer().train_from_iterator(documents, N_IDS, pattern=GPT4_PATTERN)


def encode(documents, merges, processes=1):
    """All ids, from a tokenizer with nothing remembered."""
    return [ids for ids in BPETokenizer(merges).encode_stream(documents, processes)]


def one_word(size):
    return ["".join(random.Random(0).choices("abcdefghijklmnop", k=size))]


def new_words(size):
    rng = random.Random(0)
    words = (f"{rng.getrandbits(40):x}" for _ in itertools.count())
    return (" ".join(itertools.islice(words, 100)) for _ in range(size // 1100))


USES = {  # bytes of text, and the function that makes it
    "training, Chinese without spaces": (10_000_000, chinese),
    "encoding one text of Chinese without spaces": (30_000_000, chinese),
    "encoding one word of random letters": (10_000_000, one_word),
    "encoding a stream of words that never come again": (30_000_000, new_words),
}


def peak_memory(use):
    """Print how many MB the process grows by while it does one of USES (on Linux)."""
    from common.training.summary import peak_rss_mb

    size, make = USES[use]
    texts = make(size)
    tokenizer = BPETokenizer.train(chinese(300_000)[0] + " abcabdab" * 9, 1500)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is reset
    idle = peak_rss_mb()
    train(texts) if use.startswith("training") else sum(map(len, tokenizer.encode_stream(texts)))
    print(peak_rss_mb() - idle)


def main(rounds: int = 5, megabytes: int = 50):
    from results.benchmarks.measure import machine, python

    print(f"{machine()}, medians of {rounds} rounds (smallest to largest ratio)")
    texts, merges = {kind: make(SMALL) for kind, make in KINDS.items()}, {}
    print(f"\ntraining {N_IDS:,} ids: seconds, ours and rustbpe's (goal: at most 1.0)")
    for kind, documents in texts.items():
        name = f"{kind}, {n_bytes(documents) / 1e6:.1f} MB"
        compared(name, partial(train, documents), partial(their_train, documents), rounds)
        merges[kind] = train(documents).merges
    print("\nencoding, one process: seconds, ours and tiktoken's encode_ordinary")
    for kind, documents in texts.items():
        text, theirs = "".join(documents), BPETokenizer(merges[kind]).to_tiktoken()
        if BPETokenizer(merges[kind]).encode(text) != theirs.encode_ordinary(text):
            raise AssertionError(f"the libraries disagree on {kind}")
        ours = partial(encode, text, merges[kind])
        goal = f"goal {GOALS[kind]}"
        compared(kind, ours, partial(theirs.encode_ordinary, text), rounds, goal)
    print("\nencoding: seconds of one process, of two, and one over two (goal: at least 1.5)")
    for kind, make in KINDS.items() if megabytes else ():
        documents = make(megabytes * 10**6)
        one, two = (partial(encode, documents, merges[kind], n) for n in (1, 2))
        compared(f"{kind}, {n_bytes(documents) / 1e6:.0f} MB", one, two, min(3, rounds))
    print("\npeak memory without the text itself: MB, and bytes per byte of text")
    for use, (size, _) in USES.items():
        peak = float(python("-m", "results.benchmarks.tokenizer", "--use", use).stdout)
        print(f"  {use:50}{size / 1e6:4.0f} MB {peak:8.0f} {1e6 * peak / size:8.1f}")


# Nothing heavy is imported above: the processes that share the encoding import this file as well.
if __name__ == "__main__":
    if sys.argv[1:2] == ["--use"]:  # a process of its own for each
        peak_memory(sys.argv[2])
    else:
        from results.benchmarks.measure import command

        command(main, __doc__)

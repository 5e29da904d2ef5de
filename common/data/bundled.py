"""The two corpora that need no file of the user's: the bundled sample and the copying task."""

import hashlib
import math
import random
import re

from common.data.cache import REPOSITORY
from common.data.corpus import SPLITS, Corpus
from common.errors import UserError

import msgspec

LINES = 1000  # of the copying task, read at once


class _SampleSplit(msgspec.Struct):
    offset: int
    bytes: int
    sha256: str
    floor_bits_per_byte: float


class _SampleInfo(msgspec.Struct):
    splits: dict[str, _SampleSplit]


def sample(folder=REPOSITORY / "data") -> Corpus:
    """The bundled stories. Their generator knows what every choice cost, hence the entropy."""
    again = "run python data/world.py to make it again"
    try:
        info = msgspec.json.decode((folder / "input.json").read_bytes(), type=_SampleInfo)
        text = (folder / "input.txt").read_bytes()
        places = {split: info.splits[split] for split in SPLITS}
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise UserError(f"cannot read the sample corpus, {reason}; {again}") from None
    except (msgspec.MsgspecError, KeyError) as error:
        raise UserError(f"{folder / 'input.json'} is damaged ({error}); {again}") from None
    parts = {split: text[one.offset : one.offset + one.bytes] for split, one in places.items()}
    for split in SPLITS:
        if hashlib.sha256(parts[split]).hexdigest() != places[split].sha256:
            raise UserError(
                f"{folder / 'input.txt'}: the {split} split is not the text that input.json"
                f" describes (edited, or line ends converted?); {again}"
            )

    def read(split):  # stories, each with the blank line after it
        return iter(re.findall(r".+?(?:\n\n|$)", parts[split].decode("utf-8"), re.DOTALL))

    floor = {split: one.floor_bits_per_byte for split, one in places.items()}
    return Corpus("sample", documents=True, read=read, floor=floor, prompt="One morning")


def copying_task() -> Corpus:
    """Lines `kqbzt|kqbzt`: 4 to 32 random letters, a bar, and the same letters again.

    A model that looks back predicts what follows the bar with certainty, so the entropy is known:
    log2(29) bits for a line's length and log2(26) for each letter before the bar.
    """
    letters, shortest, longest = "abcdefghijklmnopqrstuvwxyz", 4, 32
    sizes = {"train": 1_000_000, "validation": 50_000, "test": 50_000}
    texts, floor = {}, {}
    for seed, split in enumerate(SPLITS):
        draw = random.Random(seed).random  # of all of `random`, only this stream is promised
        lines, n_bytes, bits = [], 0, 0.0
        while n_bytes < sizes[split]:
            length = shortest + int(draw() * (longest - shortest + 1))
            word = "".join(letters[int(draw() * len(letters))] for _ in range(length))
            lines.append(f"{word}|{word}\n")
            n_bytes += 2 * length + 2
            bits += math.log2(longest - shortest + 1) + length * math.log2(len(letters))
        texts[split], floor[split] = lines, bits / n_bytes

    def read(split):
        for first in range(0, len(texts[split]), LINES):
            yield "".join(texts[split][first : first + LINES])

    about = "the copying task; --tokenizer char shows it best"
    prompt = texts["validation"][0].partition("|")[0] + "|"
    return Corpus("copy", documents=False, read=read, floor=floor, about=about, prompt=prompt)

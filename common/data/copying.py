"""The copying task: a text of which it is known how well it can be predicted."""

import math
import random

from common.data.corpus import SPLITS, Corpus

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHORTEST, LONGEST = 4, 32  # letters before the bar
SIZES = {"train": 1_000_000, "validation": 50_000, "test": 50_000}  # bytes, at least


def copying_task() -> Corpus:
    """Lines `kqbzt|kqbzt`: 4 to 32 random letters, a bar, and the same letters again.

    A model that looks back predicts what follows the bar with certainty, so the entropy is known:
    log2(29) bits for a line's length and log2(26) for each letter before the bar.
    """
    texts, entropy = {}, {}  # texts: split -> pieces, of which there is one
    for seed, split in enumerate(SPLITS):
        draw = random.Random(seed).random  # of all of `random`, only this stream is promised
        lines, n_bytes, bits = [], 0, 0.0
        while n_bytes < SIZES[split]:
            length = SHORTEST + int(draw() * (LONGEST - SHORTEST + 1))
            word = "".join(LETTERS[int(draw() * len(LETTERS))] for _ in range(length))
            lines.append(f"{word}|{word}\n")
            n_bytes += 2 * length + 2
            bits += math.log2(LONGEST - SHORTEST + 1) + length * math.log2(len(LETTERS))
        texts[split], entropy[split] = ["".join(lines)], bits / n_bytes
    about = "the copying task; --tokenizer char shows it best"
    prompt = texts["validation"][0].partition("|")[0] + "|"
    read = texts.__getitem__
    return Corpus("copy", documents=False, read=read, entropy=entropy, about=about, prompt=prompt)

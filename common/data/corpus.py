"""A text in three splits, with what one pass over it tells.

A corpus is never held in memory: each pass reads it from the disk, piece by piece.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated

from common.data.cache import forget, progress_bar, remembered
from common.errors import UserError

import msgspec

SPLITS = ("train", "validation", "test")


class _SplitFacts(msgspec.Struct):
    """What one pass over a split tells."""

    n_bytes: int
    n_characters: int
    n_words: int
    n_skipped: int  # rows without text
    sha256: str
    borders: str  # hash of the documents' lengths


class _Facts(msgspec.Struct):
    splits: Annotated[dict[str, _SplitFacts], msgspec.Meta(min_length=3)]
    sha256: str


class _Counter:
    """Counts and hashes the pieces of a split as they go by."""

    def __init__(self, words=False):
        self.text, self.borders, self.words = hashlib.sha256(), hashlib.sha256(), words
        self.n_bytes = self.n_characters = self.n_words = self.n_skipped = 0

    def add(self, piece) -> bytes:
        """Count a piece, or None for a row without text; its bytes."""
        data = (piece or "").encode("utf-8")
        if not data:
            self.n_skipped += 1
            return data
        self.text.update(data)
        self.borders.update(len(data).to_bytes(8, "little"))
        self.n_bytes += len(data)
        self.n_characters += len(piece)
        if self.words:
            self.n_words += len(piece.split()) + piece.count("\n")
        return data

    def facts(self) -> _SplitFacts:
        counts = self.n_bytes, self.n_characters, self.n_words, self.n_skipped
        return _SplitFacts(*counts, self.text.hexdigest(), self.borders.hexdigest())


@dataclass
class Corpus:
    """A text in three splits. The pieces of a split, joined, are exactly its text."""

    name: str
    documents: bool  # True: each piece is a document, to be followed by <|endoftext|>
    read: Callable[[str], Iterator[str | None]] = field(repr=False)  # split -> a new iterator
    about: str = ""  # for people: what was read, where the splits come from
    floor: dict | None = None  # split -> entropy of the source in bits per byte, where known
    counts_words: bool = False  # True where word perplexity is defined
    memo: str = ""  # names the content without reading it; "" where nothing does
    prompt: str = ""  # what samples begin with; "": the validation split's first words
    cache_dir: str | os.PathLike | None = None

    def __post_init__(self):
        self._facts = None

    def pieces(self, split: str) -> Iterator[str]:
        """A new pass over a split: documents, or chunks of one long text."""
        if split not in SPLITS:
            raise UserError(f"no split {split!r}: a corpus has {', '.join(SPLITS)}")
        return filter(None, self.read(split))

    def checked_pieces(self, split, advance=lambda n_bytes: None) -> Iterator[str]:
        """`pieces`; at the end UserError where it was not the text that was hashed before."""
        counter, known = _Counter(), self.facts.splits[split]
        for piece in self.pieces(split):
            advance(len(counter.add(piece)))
            yield piece
        now = counter.facts()
        if (now.sha256, now.borders) != (known.sha256, known.borders):
            forget(self.memo, self.cache_dir)
            raise UserError(
                f"{self.name}: the {split} split changed while it was read: start again"
            )

    @property
    def facts(self) -> _Facts:
        """Hashes and lengths, from one pass over the text; the cache keeps those of big corpora."""
        if self._facts is None:
            self._facts = remembered(self.memo, _Facts, self._count, self.cache_dir)
        return self._facts

    def _count(self) -> _Facts:
        splits, whole = {}, hashlib.sha256()
        with progress_bar(f"reading {self.name}") as bar:
            for split in SPLITS:
                counter = _Counter(words=self.counts_words)
                for piece in self.read(split):
                    data = counter.add(piece)
                    whole.update(data)
                    bar.update(len(data))
                splits[split] = counter.facts()
        return _Facts(splits, whole.hexdigest())

    @property
    def sha256(self) -> str:
        """Hash of the bytes of the three splits, one after the other."""
        return self.facts.sha256

    @property
    def n_bytes(self) -> dict:
        """split -> its length in UTF-8 bytes."""
        return {split: facts.n_bytes for split, facts in self.facts.splits.items()}

    @property
    def note(self) -> str:
        """One line for people: what was read and what was not, where the splits come from."""
        n_skipped = sum(facts.n_skipped for facts in self.facts.splits.values())
        skipped = [f"rows without text, skipped: {n_skipped:,}"] if n_skipped else []
        return "; ".join([self.about] * bool(self.about) + skipped)

    def words(self, split: str) -> int | None:
        """Words for word perplexity: split at white space, and one <eos> a line. Or None."""
        return self.facts.splits[split].n_words if self.counts_words else None

    def key(self, split: str) -> str:
        """Hash of a split's bytes and of where its documents end: all that tokens depend on."""
        facts = self.facts.splits[split]
        borders = facts.borders if self.documents else ""
        return hashlib.sha256(f"{facts.sha256} {self.documents} {borders}".encode()).hexdigest()

    @property
    def default_prompt(self) -> str:
        """What a sample begins with: a few words, at most 12 characters, all of them in training.

        The first words of the validation split that begin a line with a letter, where there are
        such; a character vocabulary has them all.
        """
        if self.prompt:
            return self.prompt
        known = set().union(*itertools.islice(self.pieces("train"), 20))
        lines = [
            re.match(r"\S+(?: \S+){0,2}|", line.strip(" "))[0]
            for split in ("validation", "train")
            for piece in itertools.islice(self.pieces(split), 20)
            for line in piece[:100_000].split("\n")
        ]
        lines = [line for line in lines if line and known.issuperset(line)]
        line = next((line for line in lines if line[0].isalpha()), (lines + [min(known)])[0])
        words = line[:13].rpartition(" ")[0] if len(line) > 12 else line
        return words or line[:12]

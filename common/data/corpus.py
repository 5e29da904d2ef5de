"""A text in three splits, with what one pass over it tells.

A corpus is never held in memory: each pass reads it from the disk, piece by piece.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from common.data.cache import cache_folder, made_once, progress_bar
from common.errors import UserError
from common.files import read_json, write_json

import msgspec

SPLITS = ("train", "validation", "test")


class _SplitFacts(msgspec.Struct):
    """What one pass over a split tells."""

    n_bytes: int = 0
    n_characters: int = 0
    n_words: int = 0
    n_skipped: int = 0  # rows without text
    sha256: str = ""
    borders: str = ""  # hash of the documents' lengths


class _Facts(msgspec.Struct):
    """What the cache keeps of a corpus that is too long to be read at each start."""

    splits: dict[str, _SplitFacts]
    sha256: str
    prompt: str  # what samples begin with: a few words, at most 12 characters, all in training


@dataclass
class Corpus:
    """A text in three splits. The pieces of a split, joined, are exactly its text."""

    name: str
    documents: bool  # True: each piece is a document, to be followed by <|endoftext|>
    read: Callable[[str], Iterator[str | None]] = field(repr=False)  # split -> a new iterator
    about: str = ""  # for people: what was read, where the splits come from
    entropy: dict = field(default_factory=dict)  # of the source, split -> bits per byte, if known
    counts_words: bool = False  # True where word perplexity is defined
    memo: str = ""  # names the content without reading it; "" where nothing does
    prompt: str = ""  # what samples begin with; "": the validation split's first words

    def pieces(self, split: str) -> Iterator[str]:
        """A new pass over a split: documents, or chunks of one long text."""
        if split not in SPLITS:
            raise UserError(f"no split {split!r}: a corpus has {', '.join(SPLITS)}")
        return filter(None, self.read(split))

    def checked_pieces(self, split, advance) -> Iterator[str]:
        """`pieces`; at the end UserError where it was not the text that was hashed before.

        advance: a function that is called with each piece's length in bytes, such as a bar's.
        """
        known, now = self.facts.splits[split], _SplitFacts()
        for piece, data in self._counted(split, now):
            advance(len(data))
            yield piece
        if (now.sha256, now.borders) != (known.sha256, known.borders):
            changed = f"the {split} split changed while it was read"
            raise UserError(f"{self.name}: {changed}: start again")

    def _counted(self, split, facts):
        """Read a split again: yields each document and its bytes, and fills `facts` on the way."""
        text, borders = sha256(), sha256()
        for piece in self.read(split):
            data = (piece or "").encode("utf-8")
            if not data:
                facts.n_skipped += 1
                continue
            text.update(data)
            borders.update(len(data).to_bytes(8, "little"))
            facts.n_bytes += len(data)
            facts.n_characters += len(piece)
            yield piece, data
        facts.sha256, facts.borders = text.hexdigest(), borders.hexdigest()

    @functools.cached_property
    def facts(self) -> _Facts:
        """Hashes, lengths and the prompt, from one pass; the cache keeps those of big corpora."""
        if not self.memo:
            return self._count()
        name = f"facts-{sha256(self.memo.encode()).hexdigest()[:24]}.json"

        def count(path):
            facts = self._count()
            write_json(path, facts)
            return facts

        read = functools.partial(read_json, what="facts of a corpus", schema=_Facts)
        return made_once(cache_folder() / name, read, count)

    def _count(self) -> _Facts:
        facts, whole = {split: _SplitFacts() for split in SPLITS}, sha256()
        with progress_bar(f"reading {self.name}") as bar:
            for split in SPLITS:
                for piece, data in self._counted(split, facts[split]):
                    if self.counts_words:
                        facts[split].n_words += len(piece.split()) + piece.count("\n")
                    whole.update(data)
                    bar.update(len(data))
        return _Facts(facts, whole.hexdigest(), self.prompt or self._first_words())

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
        skipped = f"rows without text, skipped: {n_skipped:,}" if n_skipped else ""
        return "; ".join(filter(None, [self.about, skipped]))

    def words(self, split: str) -> int | None:
        """Words for word perplexity: split at white space, and one <eos> a line. Or None."""
        return self.facts.splits[split].n_words if self.counts_words else None

    def key(self, split: str) -> str:
        """Hash of a split's bytes and of where its documents end: all that tokens depend on."""
        facts = self.facts.splits[split]
        borders = facts.borders if self.documents else ""
        return sha256(f"{facts.sha256} {self.documents} {borders}".encode()).hexdigest()

    def _first_words(self):
        """The first words of the validation split that begin a line with a letter, where there are
        such, and whose characters are all in training, so that a character vocabulary has them."""
        known = set(itertools.chain.from_iterable(itertools.islice(self.pieces("train"), 20)))
        lines = (
            line
            for split in ("validation", "train")
            for piece in itertools.islice(self.pieces(split), 20)
            for line in re.findall(r"(?m)^ *(\S+(?: \S+){0,2})", piece[:100_000])
            if known.issuperset(line)
        )
        # The first one that begins with a letter, else the first one.
        line = min(lines, key=lambda line: not line[0].isalpha(), default=min(known, default=""))
        words = line[:13].rpartition(" ")[0] if len(line) > 12 else line
        return words or line[:12]

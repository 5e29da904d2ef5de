"""Corpora by name or by path: a text in three splits.

    corpus = load_corpus("wikitext-2")
    for piece in corpus.pieces("train"): ...

A corpus is never held in memory: each pass reads it from the disk, piece by piece.
"""

import difflib
import hashlib
import itertools
import math
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from common.data import hub, tables
from common.data.cache import REPOSITORY, forget, progress_bar, remembered
from common.data.own_text import SPLIT_NAMES, SPLITS, Rows, all_splits, find_text, open_text
from common.data.readable import detokenize
from common.errors import UserError

import msgspec


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
    readable: Callable[[str], str] = field(default=lambda text: text, repr=False)
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


def load_corpus(name, data_dir=None, cache_dir=None) -> Corpus:
    """A corpus by its name, or by the path of a text file, a table of texts or a folder of them.

    data_dir: a folder in the hub's own layout, read instead of the hub. For WikiText its
    default is the environment variable WIKITEXT_DIR, where that is set.
    cache_dir: where token files and trained vocabularies are kept (see `cache_folder`).
    Raises UserError for whatever cannot be found, reached or read.
    """
    name = str(name)
    if data_dir is not None and (name in ("sample", "copy") or find_text(name)):
        raise UserError(
            f"--data-dir is read for WikiText and hf:OWNER/NAME only, not for {name}: leave it out,"
            " or give the folder itself as --data"
        )
    if name in CORPORA:
        corpus = CORPORA[name](name, data_dir)
    elif name.startswith("hf:"):
        corpus = _hub_corpus(name, data_dir)
    elif found := find_text(name):
        corpus = Corpus(**open_text(*found, cache_dir))
    else:
        raise UserError(_not_found(name))
    corpus.cache_dir = cache_dir
    for split, n_bytes in corpus.n_bytes.items():
        if not n_bytes:
            raise UserError(
                f"{corpus.name}: there is no text in the {split} split; three splits are needed, so"
                " use a longer text"
            )
    return corpus


def _not_found(name):
    if page := re.match(r"https?://huggingface\.co/datasets/([\w.-]+/[\w.-]+)", name):
        return f"--data {name}: a dataset of the hub is called hf:{page[1]} here"
    if re.match(r"\w+://", name):
        return f"--data {name}: download it first, `curl -O {name}`, and give the file's name"
    if name == "-":
        return "--data -: no text is read from a pipe: write it to a file first, and give that"
    if re.search(r"[/\\]|\.\w{1,8}$", name):
        return f"no such file or folder: {name}"
    near = difflib.get_close_matches(name, CORPORA, n=1)
    guess = f"did you mean {near[0]}? Known are" if near else "known are"
    listed = ", ".join(CORPORA)
    return f"unknown corpus {name!r}: {guess} {listed}, hf:OWNER/NAME, and paths of text files"


# ---- the bundled sample and the copying task -----------------------------------------------------


class _SampleSplit(msgspec.Struct):
    offset: int
    bytes: int
    sha256: str
    floor_bits_per_byte: float


class _SampleInfo(msgspec.Struct):
    splits: dict[str, _SampleSplit]


def _sample(name, data_dir, folder=REPOSITORY / "data") -> Corpus:
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
    return Corpus(name, documents=True, read=read, floor=floor, prompt="One morning")


def _copying_task(name, data_dir) -> Corpus:
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
        for first in range(0, len(texts[split]), tables.ROWS):
            yield "".join(texts[split][first : first + tables.ROWS])

    about = "the copying task; --tokenizer char shows it best"
    prompt = texts["validation"][0].partition("|")[0] + "|"
    return Corpus(name, documents=False, read=read, floor=floor, about=about, prompt=prompt)


# ---- WikiText and the hub ------------------------------------------------------------------------


def _wikitext(name, data_dir) -> Corpus:
    """WikiText-2 or -103 (Merity et al. 2016): articles of Wikipedia, with its own splits.

    On the hub a blank line is the row '', in the official files it is " \\n". The line is put
    back, so that lengths and word counts are those of the published tables.
    """
    config = name + "-v1"
    default = os.path.expanduser(os.environ.get("WIKITEXT_DIR", ""))
    # A default, not an order: a folder without this configuration leaves it to the hub.
    if data_dir is None and default and Path(default, config).is_dir():
        data_dir = default
    splits = hub.load_dataset("Salesforce/wikitext", config, data_dir)
    for split in SPLITS:
        if split not in splits or "text" not in splits[split].column_names:
            raise UserError(
                f"{name}: the {split} split or its text column is missing; use a complete copy of"
                " Salesforce/wikitext"
            )

    def read(split):
        rows = _rows(splits[split], 0, len(splits[split]), "text", name)
        return articles(row or " \n" for row in rows)

    prints = " ".join(splits[split]._fingerprint for split in SPLITS)
    options = {"readable": detokenize, "counts_words": True, "memo": f"wikitext {prints}"}
    return Corpus(name, documents=True, read=read, **options)


def articles(lines) -> Iterator[str]:
    """Join WikiText's lines into articles. An article begins with " \\n", " = Title = \\n", " \\n".

    The blank lines matter: a table's legend may look like a title, but stands between others.
    """
    article, blank, title = [], False, False  # of the last two lines: is it blank, a title?
    for line in lines:
        if title and not line.strip() and len(article) > 2:
            yield "".join(article[:-2])
            article = article[-2:]
        title = blank and re.fullmatch(r" = (?!= ).+(?<! =) = \n", line) is not None
        blank = not line.strip()
        article.append(line)
    if article:
        yield "".join(article)


def _hub_corpus(name, data_dir) -> Corpus:
    """hf:OWNER/NAME[:CONFIG][:COLUMN], any dataset on the hub that has a column of text."""
    repository, *rest = name[len("hf:") :].split(":")
    parts = [*repository.split("/"), *rest]  # a path upwards would leave the hub's or data_dir
    escapes = any(part in (".", "..") or re.search(r"[/\\]", part) for part in parts)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or len(rest) > 2 or escapes:
        raise UserError(
            f"{name!r} is not hf:OWNER/NAME[:CONFIG][:COLUMN], for instance"
            " hf:roneneldan/TinyStories"
        )
    config, column = (rest + ["", ""])[:2]
    if config and not column and not hub.has_config(repository, config, data_dir):
        config, column = "", config  # one word after the name may be either
    splits = hub.load_dataset(repository, config or None, data_dir)
    found = {split: key for split in SPLITS for key in splits if key.lower() in SPLIT_NAMES[split]}
    if "train" not in found:
        if len(splits) > 1:
            raise UserError(f"{name} has no split called train, only {', '.join(splits)}")
        found = {"train": next(iter(splits))}
    data = {split: splits[key] for split, key in found.items()}
    sample = list(itertools.islice(_rows(data["train"], 0, tables.SAMPLE), tables.SAMPLE))
    column, note = tables.choose_column(sample, column, name)
    if any(column not in table.column_names for table in data.values()):
        raise UserError(f"{name}: not every split has the column {column!r}")
    parts = {split: [(split, 0, len(table))] for split, table in data.items()}
    ranges, cut = all_splits(parts, Rows(), name)

    def read(split):
        for source, start, end in ranges[split]:
            yield from _rows(data[source], start, end, column, name)

    prints = " ".join(data[split]._fingerprint for split in sorted(data))
    about, memo = "; ".join(filter(None, [note, cut])), f"hub {prints} {column} {ranges}"
    return Corpus(name, documents=True, read=read, about=about, memo=memo)


def _rows(table, start, end, column="", name=""):
    """Rows start to end of a dataset: the texts of a column, None where there is none; without a
    column the whole rows."""
    table = (table.select_columns([column]) if column else table).with_format("arrow")
    for first in range(start, min(end, len(table)), tables.ROWS):
        try:
            rows = table[first : min(first + tables.ROWS, end)].to_pylist()
        except ValueError:
            raise UserError(f"{name}: a text in column {column!r} is not UTF-8") from None
        for row in rows:
            yield tables.text_of(row, column, name) if column else row


CORPORA = {
    "sample": _sample,
    "wikitext-2": _wikitext,
    "wikitext-2-raw": _wikitext,
    "wikitext-103": _wikitext,
    "wikitext-103-raw": _wikitext,
    "copy": _copying_task,
}

"""Corpora by name or by path, their token files, and text made readable again.

    corpus = load_corpus("wikitext-2")
    for piece in corpus.pieces("train"): ...
    tokens = token_file(corpus, "train", tokenizer).memmap()

A corpus is never held in memory: it is read piece by piece, each time anew.
"""

import contextlib
import difflib
import hashlib
import json
import math
import os
import random
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from common.data.cache import REPOSITORY, cache_folder, locked, progress_bar, slug
from common.errors import UserError
from common.files import atomic_write, read_json, write_json
from common.data.hub import SPLITS, has_config, load_dataset
from common.data.own_text import ROWS, SPLIT_NAMES, find_text, open_text, text_column

SEVERAL_FROM = 50_000_000  # bytes of a split from which on several processes encode it


@dataclass
class Corpus:
    """A text in three splits. The pieces of a split, put together, are exactly its text."""

    name: str
    documents: bool  # True: each piece is a document, to be followed by <|endoftext|>
    read: Callable[[str], Iterator[str]] = field(repr=False)  # split -> a fresh iterator
    note: str = ""  # one line for people: where the splits came from, say
    floor: dict | None = None  # split -> entropy of the source in bits per byte, where known
    readable: Callable[[str], str] = field(default=lambda text: text, repr=False)
    counts_words: bool = False  # True where word perplexity is defined
    memo: str = ""  # names the content without reading it; "" where nothing does
    cache_dir: str | os.PathLike | None = None

    def __post_init__(self):
        self._facts = None

    def pieces(self, split: str) -> Iterator[str]:
        """A new pass over a split: documents, or stretches of one long text."""
        if split not in SPLITS:
            raise UserError(f"no split {split!r}: a corpus has {', '.join(SPLITS)}")
        return self.read(split)

    @property
    def sha256(self) -> str:
        """Hash of the bytes of the three splits, one after the other."""
        return self._all_facts()["sha256"]

    @property
    def n_bytes(self) -> dict:
        """split -> its length in UTF-8 bytes."""
        return {split: self._all_facts()[split]["bytes"] for split in SPLITS}

    def words(self, split: str) -> int | None:
        """Words for word perplexity: split at white space, and one <eos> a line. Or None."""
        return self._all_facts()[split]["words"] if self.counts_words else None

    def key(self, split: str) -> str:
        """Hash of a split's bytes and of where its documents end: all that tokens depend on."""
        facts = self._all_facts()[split]
        text = f"{facts['sha256']} {self.documents} {facts['borders']}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _all_facts(self) -> dict:
        """Hashes and lengths, from one pass over the text; big corpora keep them on disk."""
        if self._facts is None and self.memo:
            name = hashlib.sha256(f"2 {self.memo}".encode()).hexdigest()[:24]
            memo = cache_folder(self.cache_dir) / f"facts-{name}.json"
            with contextlib.suppress(UserError, KeyError):
                saved = read_json(memo, "a corpus' hashes")
                if saved["memo"] == self.memo:
                    self._facts = saved["facts"]
            if self._facts is None:
                self._facts = self._count()
                with locked(memo):
                    write_json(memo, {"memo": self.memo, "facts": self._facts})
        if self._facts is None:
            self._facts = self._count()
        return self._facts

    def _count(self) -> dict:
        facts, whole = {}, hashlib.sha256()
        with progress_bar(f"reading {self.name}") as bar:
            for split in SPLITS:
                digest, borders = hashlib.sha256(), hashlib.sha256()
                n_bytes = n_words = 0
                for piece in self.pieces(split):
                    data = piece.encode("utf-8")
                    whole.update(data)
                    digest.update(data)
                    n_bytes += len(data)
                    if self.documents:
                        borders.update(len(data).to_bytes(8, "little"))
                    if self.counts_words:
                        n_words += len(piece.split()) + piece.count("\n")
                    bar.update(len(data))
                facts[split] = {
                    "bytes": n_bytes,
                    "words": n_words if self.counts_words else None,
                    "sha256": digest.hexdigest(),
                    "borders": borders.hexdigest(),
                }
        facts["sha256"] = whole.hexdigest()
        return facts


def load_corpus(name, data_dir=None, cache_dir=None) -> Corpus:
    """A corpus by its name, or by the path of a .txt, .jsonl or .parquet file or a folder.

    data_dir: a folder in the hub's own layout, read instead of the hub. For WikiText its
    default is the environment variable WIKITEXT_DIR, where that is set.
    cache_dir: where token files and trained vocabularies are kept (see `cache_folder`).
    Raises UserError for whatever cannot be found, reached or read.
    """
    name = str(name)
    if data_dir is not None and (name in ("sample", "copy") or find_text(name)):
        raise UserError(
            f"--data-dir is read for WikiText and hf:OWNER/NAME only, not for {name}: "
            "leave it out, or give the folder itself as --data"
        )
    if name in CORPORA:
        corpus = CORPORA[name](name, data_dir)
    elif name.startswith("hf:"):
        corpus = _hub_corpus(name, data_dir)
    else:
        corpus = _own_text(name)
    corpus.cache_dir = cache_dir
    for split in SPLITS:
        if next((piece for piece in corpus.pieces(split) if piece), None) is None:
            raise UserError(
                f"{corpus.name}: there is no text in the {split} split; "
                "three splits are needed, so use a longer text"
            )
    return corpus


# ------------------------------------------------------- the bundled sample and the copying task


def _sample(name, data_dir, folder=REPOSITORY / "data") -> Corpus:
    """The bundled stories. Their generator knows what every choice cost, hence the floor."""
    remake = "run python data/world.py to make it again"
    try:
        info = json.loads((folder / "input.json").read_text(encoding="utf-8"))
        text = (folder / "input.txt").read_bytes()
        splits = {split: info["splits"][split] for split in SPLITS}
        floor = {split: float(splits[split]["floor_bits_per_byte"]) for split in SPLITS}
        parts = {
            split: text[int(part["offset"]) : int(part["offset"]) + int(part["bytes"])]
            for split, part in splits.items()
        }
    except OSError as error:
        raise UserError(
            f"cannot read the sample corpus, {error.filename}: {error.strerror}; {remake}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'input.json'} is damaged ({error!r}); {remake}") from None
    for split in SPLITS:
        if hashlib.sha256(parts[split]).hexdigest() != splits[split]["sha256"]:
            raise UserError(
                f"{folder / 'input.txt'}: the {split} split is not the text that "
                f"input.json describes (edited, or line ends converted?); {remake}"
            )

    def read(split):
        text, start = parts[split].decode("utf-8"), 0
        while start < len(text):
            end = text.find("\n\n", start)  # a story owns the blank line after it
            end = len(text) if end < 0 else end + 2
            yield text[start:end]
            start = end

    return Corpus(name, documents=True, read=read, floor=floor)


def _copying_task(name, data_dir) -> Corpus:
    """Lines `kqbzt|kqbzt`: 4 to 32 random letters, a bar, and the same letters again.

    What comes after the bar costs nothing to whoever looks back, so the floor is known:
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
        for first in range(0, len(texts[split]), ROWS):
            yield "".join(texts[split][first : first + ROWS])

    return Corpus(
        name,
        documents=False,
        read=read,
        floor=floor,
        note="the copying task; --tokenizer char shows it best",
    )


# --------------------------------------------------------------------- WikiText and the hub


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
    splits = load_dataset("Salesforce/wikitext", config, data_dir)
    for split in SPLITS:
        if split not in splits or "text" not in splits[split].column_names:
            raise UserError(
                f"{name}: the {split} split or its text column is missing; "
                "use a complete copy of Salesforce/wikitext"
            )

    def read(split):
        rows = splits[split]
        return articles(row if row else " \n" for row in _rows(rows, 0, len(rows), "text"))

    return Corpus(
        name,
        documents=True,
        read=read,
        readable=detokenize,
        counts_words=True,
        memo="wikitext " + " ".join(splits[split]._fingerprint for split in SPLITS),
    )


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
            f"{name!r} is not hf:OWNER/NAME[:CONFIG][:COLUMN], "
            "for instance hf:roneneldan/TinyStories"
        )
    config, column = (rest + ["", ""])[:2]
    if config and not column:  # one word behind the name may be either
        if not has_config(repository, config, data_dir):
            config, column = "", config
    splits = load_dataset(repository, config or None, data_dir)
    found = {split: key for split in SPLITS for key in splits if key in SPLIT_NAMES[split]}
    if "train" not in found:
        if len(splits) > 1:
            raise UserError(f"{name} has no split called train, only {', '.join(splits)}")
        found = {"train": next(iter(splits))}
    tables = {split: splits[key] for split, key in found.items()}
    features = tables["train"].features
    column = text_column(
        {
            key: getattr(kind, "dtype", "") in ("string", "large_string")
            for key, kind in features.items()
        },
        column,
        name,
    )
    if any(column not in table.column_names for table in tables.values()):
        raise UserError(f"{name}: not every split has the column {column!r}")
    sizes = {split: len(table) for split, table in tables.items()}
    ranges, note = _cut_rows(sizes, name)

    def read(split):
        source, start, end = ranges[split]
        return (text for text in _rows(tables[source], start, end, column) if text)

    prints = " ".join(tables[split]._fingerprint for split in sorted(tables))
    return Corpus(
        name, documents=True, read=read, note=note, memo=f"hub {prints} {column} {ranges}"
    )


def _cut_rows(sizes, name):
    """split -> (source split, first row, row after the last), and a line that says so.

    A dataset's own splits stay; each missing one is the last 5 % of what remains of train.
    """
    ranges = {split: (split, 0, size) for split, size in sizes.items()}
    missing = [split for split in SPLITS if split not in sizes]
    end, share = sizes["train"], max(1, round(sizes["train"] * 0.05))
    if end <= len(missing):
        raise UserError(f"{name}: {end} documents are too few to cut {' and '.join(missing)} from")
    for split in reversed(missing):
        ranges[split] = ("train", end - share, end)
        end -= share
    ranges["train"] = ("train", 0, end)
    note = ""
    if missing:
        note = f"no {' or '.join(missing)} split: the last documents of train, 5 % each"
    return ranges, note


def _rows(table, start, end, column) -> Iterator[str]:
    """One column of rows start to end; None where a row has no text."""
    table = table.select_columns([column])
    for first in range(start, end, ROWS):
        yield from table[first : min(first + ROWS, end)][column]


def _own_text(name) -> Corpus:
    """A file or a folder of the user's."""
    found = find_text(name)
    if found:
        return Corpus(**open_text(*found))
    if re.search(r"[/\\]|\.\w{1,8}$", name):
        raise UserError(f"no such file or folder: {name}")
    near = difflib.get_close_matches(name, CORPORA, n=1)
    guess = f"did you mean {near[0]}? Known are" if near else "known are"
    raise UserError(
        f"unknown corpus {name!r}: {guess} {', '.join(CORPORA)}, "
        "hf:OWNER/NAME, and paths of text files"
    )


CORPORA = {
    "sample": _sample,
    "wikitext-2": _wikitext,
    "wikitext-2-raw": _wikitext,
    "wikitext-103": _wikitext,
    "wikitext-103-raw": _wikitext,
    "copy": _copying_task,
}


# ------------------------------------------------------------------------------- token files


@dataclass
class TokenFile:
    """A split as token ids on disk: raw, little-endian, nothing else in the file."""

    path: Path
    dtype: np.dtype
    n_tokens: int

    def memmap(self) -> np.memmap:
        """The ids as a read-only array (n_tokens,) that stays on disk until it is touched."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.n_tokens,))

    def load(self) -> np.ndarray:
        """The ids as an array (n_tokens,) in memory."""
        return np.fromfile(self.path, dtype=self.dtype, count=self.n_tokens)


def token_file(corpus, split, tokenizer, cache_dir=None, progress=True) -> TokenFile:
    """Encode a split once; later calls find the file.

    The name holds a hash of the split and of the tokenizer, so that another text or another
    vocabulary is another file. A file that was cut short or changed is made again. Processes
    that want the same file at once wait for the first. Memory stays bounded.
    """
    folder = cache_folder(cache_dir if cache_dir is not None else corpus.cache_dir)
    key = hashlib.sha256(f"1 {corpus.key(split)} {tokenizer.sha256}".encode()).hexdigest()[:24]
    path = folder / f"{slug(corpus.name)}-{split}-{tokenizer.kind}-{key}.bin"
    with locked(path, progress):
        found = _checked(path)
        if found is None:
            _encode(corpus, split, tokenizer, path, progress)
            found = _checked(path)
            if found is None:
                raise UserError(f"{path} was not written as intended: check the disk")
    return found


def _encode(corpus, split, tokenizer, path, progress):
    dtype = np.dtype(tokenizer.dtype).newbyteorder("<")
    crc = n_tokens = 0

    def pieces():
        for piece in corpus.pieces(split):
            yield piece
            bar.update(len(piece.encode("utf-8")))

    with (
        atomic_write(path) as stream,
        progress_bar(f"encoding {corpus.name} {split}", corpus.n_bytes[split], progress) as bar,
    ):
        several = corpus.n_bytes[split] > SEVERAL_FROM
        processes = os.cpu_count() if several else 1
        for ids in tokenizer.encode_stream(pieces(), processes, end_of_text=corpus.documents):
            data = np.ascontiguousarray(ids, dtype=dtype).tobytes()
            stream.write(data)
            crc = zlib.crc32(data, crc)
            n_tokens += len(data) // dtype.itemsize
    # The description comes last: without it, or where it does not fit, there is no file.
    about = {
        "format": 1,
        "n_tokens": n_tokens,
        "dtype": dtype.str,
        "crc32": crc,
        "corpus": corpus.name,
        "split": split,
        "tokenizer": {"kind": tokenizer.kind, "sha256": tokenizer.sha256},
    }
    write_json(path.with_suffix(".json"), about)


def _checked(path) -> TokenFile | None:
    """The token file, if it and its description are there, whole and unchanged."""
    try:
        about = read_json(path.with_suffix(".json"), "a description of tokens")
        found = TokenFile(path, np.dtype(about["dtype"]), int(about["n_tokens"]))
        size = found.n_tokens * found.dtype.itemsize
        if found.dtype.kind != "u" or os.path.getsize(path) != size:
            return None
        crc = 0
        with open(path, "rb") as stream:
            while data := stream.read(1 << 22):
                crc = zlib.crc32(data, crc)
        return found if crc == about["crc32"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


# ----------------------------------------------------------------------- text made readable


def detokenize(text: str) -> str:
    """WikiText for reading: undo the spaces that it puts around punctuation.

    Training and evaluation use the official text; only what is shown to people passes here.
    """
    return "\n".join(_detokenize_line(line) for line in text.split("\n"))


def _detokenize_line(line):
    line = line.strip(" ")
    heading = re.fullmatch(r"((?:= )+)(.*?)((?: =)+)", line)
    if heading:
        marks = "=" * heading[1].count("=")
        return f"{marks} {_detokenize_line(heading[2])} {'=' * heading[3].count('=')}"
    line = re.sub(r" @([-,.])@(?: |$)", r"\1", line)  # well @-@ known, 1 @,@ 000, 0 @.@ 5
    line = re.sub(r" (n't|'(?:s|m|d|re|ve|ll))(?!\S)", r"\1", line)
    line = _pair(line, '"')
    line = _pair(line, "'")
    line = re.sub(r" ([,.;:!?%)\]”…]|\.\.\.)(?=\W|$)", r"\1", line)
    line = re.sub(r"([(\[“]) ", r"\1", line)
    line = re.sub(r"\b(US|AU|NZ|HK|C|A) (?=\$ ?\d)", r"\1", line)
    line = re.sub(r"([$£€¥₤#]) (?=\d)", r"\1", line)
    line = re.sub(r"(?<=\d) ([°′″])", r"\1", line)
    line = re.sub(r"° (?=[CF]\b)", "°", line)
    line = re.sub(r"(?<=\d) ([–/]) (?=\d)", r"\1", line)  # 2013 – 14
    return re.sub(r"(?<=\w) / (?=\w)", "/", line)


def _pair(line, quote):
    """Lone quotation marks open and close by turns, and lean on what they enclose.

    After an s one may be a genitive, the players ' kit: it is when the others pair up without it.
    """
    text, *parts = re.split(rf"(?:(?<= )|^){quote}(?= |$)", line)
    opened = False
    after_s = [part.endswith("s ") and quote == "'" for part in [text, *parts[:-1]]]
    for i, part in enumerate(parts):
        others = after_s[i + 1 :].count(False)
        if opened or not part or (after_s[i] and others % 2 == 0):
            text = text.removesuffix(" ") + quote + part
            opened = False
        else:
            text += quote + part.removeprefix(" ")
            opened = True
    return text

"""Corpora by name or by path, their token files, and text made readable again.

    corpus = load_corpus("wikitext-2")
    for piece in corpus.pieces("train"): ...
    tokens = token_file(corpus, "train", tokenizer).memmap()

A corpus is never held in memory: it is read piece by piece, each time anew.
"""

import bisect
import codecs
import contextlib
import difflib
import hashlib
import itertools
import json
import math
import os
import random
import re
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from common.errors import UserError

SPLITS = ("train", "validation", "test")
REPOSITORY = Path(__file__).resolve().parent.parent

BLOCK = 1 << 20          # bytes read at once; the usual length of a stretch of a long text
LONGEST_BLOCK = 16 << 20  # a stretch grows to this where no good place to cut is found
ROWS = 1000              # rows read at once from a table


# ---------------------------------------------------------------------------- the corpus


@dataclass
class Corpus:
    """A text in three splits. The pieces of a split, put together, are exactly its text."""

    name: str
    documents: bool              # True: each piece is a document, to be followed by <|endoftext|>
    read: Callable[[str], Iterator[str]] = field(repr=False)  # split -> a fresh iterator
    note: str = ""               # one line for people: where the splits came from, say
    floor: dict | None = None    # split -> entropy of the source in bits per byte, where known
    readable: Callable[[str], str] = field(default=lambda text: text, repr=False)
    counts_words: bool = False   # True where word perplexity is defined
    memo: str = ""               # names the content without reading it; "" where nothing does
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
            name = hashlib.sha256(f"1 {self.memo}".encode()).hexdigest()[:24]
            memo = cache_folder(self.cache_dir) / f"facts-{name}.json"
            with contextlib.suppress(OSError, ValueError):
                facts = json.loads(memo.read_text(encoding="utf-8"))
                if facts.get("memo") == self.memo:
                    self._facts = facts
            if self._facts is None:
                self._facts = self._count()
                write_atomic(memo, json.dumps({"memo": self.memo, **self._facts}, indent=1))
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
                facts[split] = {"bytes": n_bytes, "words": n_words if self.counts_words else None,
                                "sha256": digest.hexdigest(), "borders": borders.hexdigest()}
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
    if name in CORPORA:
        corpus = CORPORA[name](name, data_dir)
    elif name.startswith("hf:"):
        corpus = _hub_corpus(name, data_dir)
    else:
        corpus = _own_corpus(name)
    corpus.cache_dir = cache_dir
    for split in SPLITS:
        if next((piece for piece in corpus.pieces(split) if piece), None) is None:
            raise UserError(f"{corpus.name}: there is no text in the {split} split; "
                            "three splits are needed, so use a longer text")
    return corpus


# ------------------------------------------------------- the bundled sample and the copying task


def _sample(name, data_dir, folder=REPOSITORY / "data") -> Corpus:
    """The bundled stories. Their generator knows what every choice cost, hence the floor."""
    remake = "run python data/make_input.py to make it again"
    try:
        info = json.loads((folder / "input.json").read_text(encoding="utf-8"))
        text = (folder / "input.txt").read_bytes()
        splits = {split: info["splits"][split] for split in SPLITS}
        floor = {split: float(splits[split]["floor_bits_per_byte"]) for split in SPLITS}
        parts = {split: text[int(part["offset"]):int(part["offset"]) + int(part["bytes"])]
                 for split, part in splits.items()}
    except OSError as error:
        raise UserError(f"cannot read the sample corpus, {error.filename}: "
                        f"{error.strerror}; {remake}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'input.json'} is damaged ({error!r}); {remake}") from None
    for split in SPLITS:
        if hashlib.sha256(parts[split]).hexdigest() != splits[split]["sha256"]:
            raise UserError(f"{folder / 'input.txt'}: the {split} split is not the text that "
                            f"input.json describes (edited, or line ends converted?); {remake}")

    def read(split):
        text, start = parts[split].decode("utf-8"), 0
        while start < len(text):
            end = text.find("\n\n", start)       # a story owns the blank line after it
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
        draw = random.Random(seed).random    # of all of `random`, only this stream is promised
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
            yield "".join(texts[split][first:first + ROWS])

    return Corpus(name, documents=False, read=read, floor=floor,
                  note="the copying task; --tokenizer char shows it best")


# --------------------------------------------------------------------- WikiText and the hub


def _wikitext(name, data_dir) -> Corpus:
    """WikiText-2 or -103 (Merity et al. 2016): articles of Wikipedia, with its own splits.

    On the hub a blank line is the row '', in the official files it is " \\n". The line is put
    back, so that lengths and word counts are those of the published tables.
    """
    config = name + "-v1"
    if data_dir is None and os.environ.get("WIKITEXT_DIR"):
        # A default, not an order: a folder without this configuration leaves it to the hub.
        if Path(os.environ["WIKITEXT_DIR"], config).is_dir():
            data_dir = os.environ["WIKITEXT_DIR"]
    splits = _load_dataset("Salesforce/wikitext", config, data_dir)
    for split in SPLITS:
        if split not in splits or "text" not in splits[split].column_names:
            raise UserError(f"{name}: the {split} split or its text column is missing; "
                            "use a complete copy of Salesforce/wikitext")

    def read(split):
        rows = splits[split]
        return articles(row if row else " \n" for row in _rows(rows, 0, len(rows), "text"))

    return Corpus(name, documents=True, read=read, readable=detokenize, counts_words=True,
                  memo="wikitext " + " ".join(splits[split]._fingerprint for split in SPLITS))


def articles(lines) -> Iterator[str]:
    """Join WikiText's lines into articles. An article begins with " \\n", " = Title = \\n", " \\n".

    The blank lines matter: a table's legend may look like a title, but stands between others.
    """
    article, blank, title = [], False, False    # of the last two lines: is it blank, a title?
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
    repository, *rest = name[len("hf:"):].split(":")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or len(rest) > 2:
        raise UserError(f"{name!r} is not hf:OWNER/NAME[:CONFIG][:COLUMN], "
                        "for instance hf:roneneldan/TinyStories")
    config, column = (rest + ["", ""])[:2]
    if config and not column:   # one word behind the name may be either
        if config not in _config_names(repository, data_dir):
            config, column = "", config
    splits = _load_dataset(repository, config or None, data_dir)
    found = {split: key for split in SPLITS for key in splits if key in SPLIT_NAMES[split]}
    if "train" not in found:
        if len(splits) > 1:
            raise UserError(f"{name} has no split called train, only {', '.join(splits)}")
        found = {"train": next(iter(splits))}
    tables = {split: splits[key] for split, key in found.items()}
    features = tables["train"].features
    column = _text_column({key: getattr(kind, "dtype", "") in ("string", "large_string")
                           for key, kind in features.items()}, column, name)
    if any(column not in table.column_names for table in tables.values()):
        raise UserError(f"{name}: not every split has the column {column!r}")
    sizes = {split: len(table) for split, table in tables.items()}
    ranges, note = _cut_rows(sizes, name)

    def read(split):
        source, start, end = ranges[split]
        return (text for text in _rows(tables[source], start, end, column) if text)

    prints = " ".join(tables[split]._fingerprint for split in sorted(tables))
    return Corpus(name, documents=True, read=read, note=note,
                  memo=f"hub {prints} {column} {ranges}")


SPLIT_NAMES = {"train": ("train", "training"),
               "validation": ("validation", "valid", "val", "dev"),
               "test": ("test",)}


def _cut_rows(sizes, name):
    """split -> (source split, first row, row after the last), and a line that says so.

    A dataset's own splits stay; each missing one is the last 5 % of what remains of train.
    """
    ranges = {split: (split, 0, size) for split, size in sizes.items()}
    missing = [split for split in SPLITS if split not in sizes]
    end, share = sizes["train"], max(1, round(sizes["train"] * 0.05))
    if end <= len(missing):
        raise UserError(f"{name}: {end} documents are too few to cut "
                        f"{' and '.join(missing)} from")
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
        yield from table[first:min(first + ROWS, end)][column]


def _load_dataset(repository, config, data_dir):
    """`datasets.load_dataset`, with its many kinds of failure told in one line."""
    with _quiet_datasets(local=data_dir is not None) as datasets:
        if data_dir is not None:
            return _load_local(datasets, repository, config, Path(data_dir))
        try:
            with _offline_unless(_hub_answers(), datasets):
                return datasets.load_dataset(repository, config)
        except Exception as error:       # the hub's client raises dozens of kinds
            raise _hub_error(error, repository, config) from None


def _load_local(datasets, repository, config, folder):
    if not folder.is_dir():
        raise UserError(f"--data-dir {folder}: no such folder; it should hold a copy of "
                        f"{repository} as the hub lays it out")
    try:
        # The folder's own files decide, so that a copy without its README will do.
        files = {split: sorted(map(str, (folder / (config or ".")).glob(f"{split}-*.parquet")))
                 for split in SPLITS}
        if any(files.values()):
            files = {split: paths for split, paths in files.items() if paths}
            return datasets.load_dataset("parquet", data_files=files)
        return datasets.load_dataset(str(folder), config)
    except Exception as error:
        reason = _first_line(error.__cause__ or error)
        raise UserError(f"--data-dir {folder}: cannot load {config or repository} from it "
                        f"({reason})") from None


def _config_names(repository, data_dir):
    with _quiet_datasets(local=data_dir is not None) as datasets:
        try:
            with _offline_unless(data_dir is not None or _hub_answers(), datasets):
                names = datasets.get_dataset_config_names(str(data_dir or repository))
        except Exception as error:
            if data_dir is not None:
                raise UserError(f"--data-dir {data_dir}: {_first_line(error)}") from None
            raise _hub_error(error, repository, None) from None
    folders = [path.name for path in Path(data_dir).iterdir() if path.is_dir()] if data_dir else []
    return [*names, *folders]


def _hub_error(error, repository, config):
    kind, reason = type(error).__name__, _first_line(error)
    if kind == "DatasetNotFoundError":
        return UserError(f"the hub has no public dataset {repository}: check the spelling, or "
                         "log in with `hf auth login` where it is private")
    if isinstance(error, ConnectionError) or "Offline" in kind or "LocalEntry" in kind:
        return UserError(f"the hub cannot be reached for {repository}: check the network, give "
                         "--data-dir a local copy in the hub's layout, or use --data sample")
    what = f"{repository}, configuration {config}" if config else repository
    return UserError(f"cannot load {what} from the hub: {reason}")


def _first_line(error) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


@contextlib.contextmanager
def _quiet_datasets(local):
    """Import `datasets` (seconds, so only where it is needed) and keep it to errors.

    A download is slow and keeps its progress bars, a local copy is not.
    """
    import logging

    import datasets

    datasets.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    bars = datasets.utils.is_progress_bar_enabled()
    if local:
        datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        if bars:
            datasets.enable_progress_bars()


def _hub_answers() -> bool:
    """Does the hub answer at all? Asked first, for its client retries for half a minute."""
    import ssl
    import urllib.error
    import urllib.request

    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(hub, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True                                     # a refusal is an answer
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)   # the client may know the certificate
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _offline_unless(online, datasets):
    """Without the hub, let its client look into its own cache at once and give up."""
    import huggingface_hub.constants

    places = [datasets.config, huggingface_hub.constants]
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = place.HF_HUB_OFFLINE or not online
        yield
    finally:
        for place, value in zip(places, before):
            place.HF_HUB_OFFLINE = value


# ------------------------------------------------------------------------ the user's own text


def _own_corpus(name) -> Corpus:
    """A file or a folder. FILE:COLUMN names the column of a .jsonl or .parquet file."""
    path, column = Path(name), ""
    if not os.path.exists(path) and ":" in name:
        before, _, after = name.rpartition(":")
        if os.path.exists(before):
            path, column = Path(before), after
    if not os.path.exists(path):
        raise _unknown(name)
    ignored = ""
    if path.is_dir():
        kind, files, ignored = _text_files(path)
    else:
        kind, files = KINDS.get(path.suffix.lower(), "txt"), [path]
    reader = {"txt": TextFiles, "jsonl": JsonLines, "parquet": ParquetFiles}[kind](column)
    sizes = [reader.size(file) for file in files]
    if sum(sizes) == 0:
        raise UserError(f"{path} is empty: there is no text to train on")
    own = _own_splits(path, files) if path.is_dir() else None
    if own:
        ranges = {split: [(file, 0, reader.size(file)) for file in own[split]] for split in own}
        missing = [split for split in SPLITS if split not in own]
        note = "the folder's own splits"
    else:
        ranges, missing = {"train": list(zip(files, [0] * len(files), sizes))}, SPLITS[1:]
        note = "split 90/5/5 at " + ("line ends" if kind == "txt" else "documents")
    if missing:
        ranges |= _cut(ranges["train"], missing, reader, path)
        if own:
            note += f"; {' and '.join(missing)} cut from the end of train, 5 % each"
    documents = kind != "txt" or len(files) > 1
    reader.check(files)
    notes = [note, *reader.notes, ignored]
    # A corpus too big to be hashed at each start is known by its files' sizes and times.
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    big = sum(size for _, size, _ in stats) > 1 << 28
    memo = f"files {kind} {reader.column} {documents} {stats} {ranges}" if big else ""

    def read(split):
        for file, start, end in ranges[split]:
            yield from reader.read(file, start, end, documents)

    return Corpus(path.name or str(path), documents, read,
                  note="; ".join(filter(None, notes)), memo=memo)


KINDS = {".txt": "txt", ".jsonl": "jsonl", ".parquet": "parquet"}


def _unknown(name) -> UserError:
    if re.search(r"[/\\]|\.\w{1,8}$", name):
        return UserError(f"no such file or folder: {name}")
    near = difflib.get_close_matches(name, CORPORA, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return UserError(f"unknown corpus {name!r}: {guess}Known are {', '.join(CORPORA)}, "
                     "hf:OWNER/NAME, and paths of text files")


def _text_files(folder):
    """The folder's files of the one kind that has the most bytes, in a fixed order."""
    found = {}
    try:
        for root, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(root, name)
                kind = KINDS.get(path.suffix.lower())
                if kind and not name.startswith(".") and path.is_file():
                    found.setdefault(kind, []).append(path)
        if not found:
            raise UserError(f"{folder}: no .txt, .jsonl or .parquet file in this folder")
        kind = max(found, key=lambda kind: sum(path.stat().st_size for path in found[kind]))
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    files = sorted(found[kind], key=lambda path: path.relative_to(folder).as_posix())
    others = [f"the folder's .{other} files are not read" for other in found if other != kind]
    return kind, files, "; ".join(others)


def _raise(error):
    raise error


def _own_splits(folder, files):
    """split -> files, where every file's name or folder names its split; otherwise None."""
    names = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    own = {}
    for file in files:
        parts = [re.match(r"[a-z]*", part.lower())[0] for part in file.relative_to(folder).parts]
        split = next((names[part] for part in parts if part in names), None)
        if split is None:
            return None
        own.setdefault(split, []).append(file)
    return own if "train" in own and len(own) > 1 else None


def _cut(parts, missing, reader, path):
    """Take 5 % for each missing split from the end of the parts (file, start, end).

    Sizes are bytes or rows, whatever the reader counts in. A cut falls between two lines or
    rows, and before a file rather than inside it where the file is small.
    """
    starts = [0, *itertools.accumulate(end - start for _, start, end in parts)]
    total, limit, cuts = starts[-1], starts[-1], []
    for k in range(len(missing)):                       # from the last split backwards
        target = min(total - (k + 1) * total // 20, limit - 1)
        i = bisect.bisect_right(starts, target) - 1
        file, start, end = parts[i]
        cut = 0
        if len(parts) > 1 and starts[i] and (end - start) * 50 < total:
            cut = starts[i]
        elif target > starts[i]:
            cut = starts[i] + reader.cut(file, start, start + target - starts[i]) - start
        cut = cut or starts[i]
        if cut <= 0:
            raise UserError(f"{path} is too short to be split in three: use a longer text")
        cuts.append(cut)
        limit = cut
    borders, ranges = [0, *reversed(cuts), total], {}
    for split, low, high in zip(["train", *missing], borders, borders[1:]):
        ranges[split] = [(file, start + max(low - at, 0), start + min(high - at, end - start))
                         for (file, start, end), at in zip(parts, starts)
                         if at < high and at + end - start > low]
    return ranges


class TextFiles:
    """Plain UTF-8. One file is one long text; each of several files is a document."""

    def __init__(self, column=""):
        self.column, self.notes = column, []

    def size(self, file):
        return _file_size(file)

    def check(self, files):
        """Fail now, not after an hour, where the first block of a file is no text."""
        for file in files[:100]:
            for text in _decoded(file, 0, _file_size(file), keep_crlf=True):
                if "\r\n" in text and not self.notes:
                    self.notes.append(r"line ends \r\n read as \n")
                break

    def cut(self, file, start, target):
        return _cut_at_line(file, start, target)

    def read(self, file, start, end, documents):
        if documents and end - start <= LONGEST_BLOCK:
            text = "".join(_decoded(file, start, end))
            if text:
                yield text
        else:
            yield from stretches(_decoded(file, start, end))


class JsonLines:
    """One JSON object a line, with its text in one column, or one JSON string a line."""

    def __init__(self, column=""):
        self.column, self.notes = column, []

    def size(self, file):
        return _file_size(file)

    def cut(self, file, start, target):
        return _cut_at_line(file, start, target, anywhere=False)

    def check(self, files):
        for file in files:
            for place, row in self.rows(file, 0, _file_size(file)):
                if isinstance(row, dict):
                    self.column = _text_column({key: isinstance(value, str)
                                                for key, value in row.items()}, self.column, file)
                return

    def rows(self, file, start, end):
        with _opened(file) as stream:
            stream.seek(start)
            place = start
            while place < end:
                line = stream.readline()
                if not line:
                    break
                data = line[3:] if place == 0 and line.startswith(codecs.BOM_UTF8) else line
                if data.strip():
                    try:
                        yield place, json.loads(data.decode("utf-8"))
                    except (ValueError, RecursionError):
                        raise UserError(f"{file}: the line at byte {place} is not JSON "
                                        "in UTF-8") from None
                place += len(line)

    def read(self, file, start, end, documents):
        for place, row in self.rows(file, start, end):
            text = row
            if isinstance(row, dict):
                if self.column not in row:
                    raise UserError(f"{file}: the line at byte {place} has no column "
                                    f"{self.column!r}; it has {', '.join(row) or 'none'}")
                text = row[self.column]
            if text is None or text == "":
                continue
            if not isinstance(text, str):
                raise UserError(f"{file}: the line at byte {place} holds "
                                f"{type(text).__name__}, not text, in column {self.column!r}")
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:      # half a surrogate pair, which only JSON can spell
                text = re.sub("[\ud800-\udfff]", "\ufffd", text)
            yield text


class ParquetFiles:
    """One document a row, in one column. Sizes are rows."""

    def __init__(self, column=""):
        self.column, self.notes = column, []

    @contextlib.contextmanager
    def opened(self, file):
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(file) as table:
                yield table
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"cannot read {file}: {_first_line(error)}") from None

    def size(self, file):
        with self.opened(file) as table:
            return table.metadata.num_rows

    def check(self, files):
        import pyarrow.types as types

        for file in files:
            with self.opened(file) as table:
                columns = {one.name: types.is_string(one.type) or types.is_large_string(one.type)
                           for one in table.schema_arrow}
                self.column = _text_column(columns, self.column, file)

    def cut(self, file, start, target):
        return target

    def read(self, file, start, end, documents):
        with self.opened(file) as table:
            first = 0
            for group in range(table.num_row_groups):
                last = first + table.metadata.row_group(group).num_rows
                if first < end and last > start:
                    yield from self._group(table, group, start - first, end - first)
                first = last

    def _group(self, table, group, start, end):
        at = 0
        for batch in table.iter_batches(ROWS, row_groups=[group], columns=[self.column]):
            rows = batch.column(0).slice(max(start - at, 0), max(end - max(at, start), 0))
            at += len(batch)
            yield from filter(None, rows.to_pylist())


def _text_column(columns, wanted, where) -> str:
    """The column to read, of columns: name -> whether it holds text."""
    listed = ", ".join(columns) or "none"
    texts = [name for name, is_text in columns.items() if is_text]
    if wanted:
        if wanted not in columns:
            raise UserError(f"{where} has no column {wanted!r}; its columns are {listed}")
        if wanted not in texts:
            raise UserError(f"{where}: the column {wanted!r} does not hold text")
        return wanted
    if "text" in texts:
        return "text"
    if len(texts) == 1:
        return texts[0]
    raise UserError(f"{where}: which column is the text? Its columns are {listed}; "
                    f"name one behind a colon, {where}:COLUMN")


# --------------------------------------------------------------------------- bytes into pieces


@contextlib.contextmanager
def _opened(file):
    try:
        with open(file, "rb") as stream:
            yield stream
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None


def _file_size(file) -> int:
    """Length in bytes, 0 for a file that is nothing but a byte-order mark."""
    with _opened(file) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        return 0 if size == 3 and stream.read(3) == codecs.BOM_UTF8 else size


def _decoded(file, start, end, keep_crlf=False) -> Iterator[str]:
    """Bytes start to end of a UTF-8 file, as text, a block at a time.

    A byte-order mark is dropped and \\r\\n becomes \\n. Raises UserError with the position of
    the first byte that is no UTF-8, or of a NUL, which no text file holds.
    """
    decoder, place, held = codecs.getincrementaldecoder("utf-8")(), start, ""
    with _opened(file) as stream:
        stream.seek(start)
        while place < end:
            data = stream.read(min(BLOCK, end - place))
            if not data:
                raise UserError(f"{file} became shorter while it was read: start again")
            if b"\0" in data:
                raise UserError(f"{file} is not plain text: NUL byte at position "
                                f"{place + data.index(0)}; save it as UTF-8 text")
            try:
                text = held + decoder.decode(data, final=place + len(data) >= end)
            except UnicodeDecodeError as error:
                at = place + len(data) - len(error.object) + error.start
                raise UserError(f"{file} is not UTF-8: byte 0x{error.object[error.start]:02x} "
                                f"at position {at}; save it as UTF-8 text") from None
            if place == 0:
                text = text.removeprefix("\ufeff")
            place += len(data)
            held = "\r" if text.endswith("\r") and place < end else ""    # its \n may follow
            text = text[:len(text) - len(held)]
            yield text if keep_crlf else text.replace("\r\n", "\n")


def stretches(blocks) -> Iterator[str]:
    """Cut one long text, given in blocks, into stretches that are tokenized like the whole."""
    text = ""
    for block in blocks:
        text += block
        while len(text) >= BLOCK:
            cut = _safe_cut(text)
            if cut == 0:
                if len(text) < LONGEST_BLOCK:
                    break
                cut = len(text)
            yield text[:cut]
            text = text[cut:]
    if text:
        yield text


def _safe_cut(text) -> int:
    """A place in the last block of the text where every built-in split pattern cuts as well.

    That is after a line end between two characters that are no white space, or else before
    a single space between two letters. 0 where there is none.
    """
    lowest = max(1, len(text) - BLOCK)
    at = len(text) - 1
    while (at := text.rfind("\n", lowest, at)) > 0:
        if not text[at - 1].isspace() and not text[at + 1].isspace():
            return at + 1
    at = len(text) - 1
    while (at := text.rfind(" ", lowest, at)) > 0:
        around = text[at - 1] + text[at + 1]
        if around.isascii() and around.isalpha():
            return at
    return 0


def _cut_at_line(file, start, target, anywhere=True) -> int:
    """The last line end in start < place <= target; a space or any character if need be."""
    reach = max(1 << 16, (target - start) // 20)     # how far back the cut may move
    with _opened(file) as stream:
        end = target
        while end > start and target - end < (reach if anywhere else target):
            begin = max(start, end - (1 << 16))
            stream.seek(begin)
            at = stream.read(end - begin).rfind(b"\n")
            if at >= 0:
                return begin + at + 1
            end = begin
        if not anywhere:
            return start
        begin = max(start, target - (1 << 16))
        stream.seek(begin)
        data = stream.read(target - begin + 1)
        if (at := data.rfind(b" ")) > 0:
            return begin + at
        at = len(data) - 1
        while at > 0 and data[at] & 0xC0 == 0x80:    # inside a character
            at -= 1
        return begin + at


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

    with (_whole_or_nothing(path) as stream,
          progress_bar(f"encoding {corpus.name} {split}", corpus.n_bytes[split], progress) as bar):
        for ids in tokenizer.encode_stream(pieces(), end_of_text=corpus.documents):
            data = np.ascontiguousarray(ids, dtype=dtype).tobytes()
            stream.write(data)
            crc = zlib.crc32(data, crc)
            n_tokens += len(data) // dtype.itemsize
    # The description comes last: without it, or where it does not fit, there is no file.
    write_atomic(path.with_suffix(".json"), json.dumps({
        "format": 1, "n_tokens": n_tokens, "dtype": dtype.str, "crc32": crc,
        "corpus": corpus.name, "split": split,
        "tokenizer": {"kind": tokenizer.kind, "sha256": tokenizer.sha256}}, indent=1))


def _checked(path) -> TokenFile | None:
    """The token file, if it and its description are there, whole and unchanged."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        found = TokenFile(path, np.dtype(about["dtype"]), int(about["n_tokens"]))
        if os.path.getsize(path) != found.n_tokens * found.dtype.itemsize:
            return None
        crc = 0
        with open(path, "rb") as stream:
            while data := stream.read(1 << 22):
                crc = zlib.crc32(data, crc)
        return found if crc == about["crc32"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


# ------------------------------------------------------------------------ the cache on disk


def cache_folder(cache_dir=None) -> Path:
    """The cache: the argument, or the environment's LINEAGE_CACHE, or data/cache."""
    folder = Path(cache_dir or os.environ.get("LINEAGE_CACHE") or REPOSITORY / "data" / "cache")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the cache folder {folder}: {error.strerror}; "
                        "set LINEAGE_CACHE to a folder that can be written") from None
    return folder


def slug(name) -> str:
    """A name as a part of a file name."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:60] or "text"


@contextlib.contextmanager
def locked(path, progress=True):
    """Hold the lock of a file. The operating system frees it when its holder dies, however
    that happens, so a lock never outlives its process; the empty .lock file that stays
    behind locks nobody out."""
    import filelock

    lock = filelock.FileLock(f"{path}.lock")
    try:
        try:
            lock.acquire(timeout=2)
        except filelock.Timeout:
            if progress:
                print(f"waiting for another process to finish {Path(path).name}", file=sys.stderr)
            lock.acquire()
    except OSError as error:
        raise UserError(f"cannot write in {Path(path).parent}: {error.strerror or error}; "
                        "set LINEAGE_CACHE to a folder that can be written") from None
    try:
        # Whoever holds the lock is alone here: unfinished files are a dead process's.
        for left in Path(path).parent.glob(f"{Path(path).stem}.*.tmp"):
            with contextlib.suppress(OSError):
                left.unlink()
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _whole_or_nothing(path):
    """A binary file that comes into being when it is complete and on the disk, or not at all."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; free some space, or "
                        "set LINEAGE_CACHE to another folder") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_atomic(path, text):
    """Write a small text file so that a reader sees the old one or the new one."""
    with _whole_or_nothing(path) as stream:
        stream.write(text.encode("utf-8"))


def progress_bar(title, total=None, progress=True):
    """A bar in bytes on stderr, after a moment, and only where a person watches."""
    from tqdm import tqdm

    return tqdm(desc=title, total=total, unit="B", unit_scale=True, delay=1,
                leave=False, disable=None if progress else True)


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
    line = re.sub(r" @([-,.])@ ", r"\1", line)            # well @-@ known, 1 @,@ 000, 0 @.@ 5
    line = re.sub(r" (n't|'(?:s|m|d|re|ve|ll))(?!\S)", r"\1", line)
    line = _pair(line, '"')
    line = re.sub(r"(?<=s) '(?= )(?!.* ' )", "'", line)   # the players ' kit
    line = _pair(line, "'")
    line = re.sub(r" ([,.;:!?%)\]”…]|\.\.\.)(?=\W|$)", r"\1", line)
    line = re.sub(r"([(\[“]) ", r"\1", line)
    line = re.sub(r"\b(US|AU|NZ|HK|C|A) (?=\$ ?\d)", r"\1", line)
    line = re.sub(r"([$£€¥₤#]) (?=\d)", r"\1", line)
    line = re.sub(r"(?<=\d) ([°′″])", r"\1", line)
    line = re.sub(r"° (?=[CF]\b)", "°", line)
    line = re.sub(r"(?<=\d) ([–/]) (?=\d)", r"\1", line)   # 2013 – 14
    return re.sub(r"(?<=\w) / (?=\w)", "/", line)


def _pair(line, quote):
    """Lone quotation marks open and close by turns, and lean on what they enclose."""
    parts = re.split(rf"(?:(?<= )|^){quote}(?= |$)", line)
    text = parts[0]
    for turn, part in enumerate(parts[1:]):
        if turn % 2 == 0:
            text += quote + part.removeprefix(" ")
        else:
            text = text.removesuffix(" ") + quote + part
    return text


CORPORA = {
    "sample": _sample,
    "wikitext-2": _wikitext,
    "wikitext-2-raw": _wikitext,
    "wikitext-103": _wikitext,
    "wikitext-103-raw": _wikitext,
    "copy": _copying_task,
}

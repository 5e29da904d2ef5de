"""The user's own text: files and folders, read a block or a row at a time."""

import bisect
import contextlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from common.data import tables
from common.data.cache import cache_folder, progress_bar, remembered
from common.data.corpus import SPLITS, Corpus
from common.data.reading import BLOCK, NotText, decoded, kind_of, opened, size_of
from common.errors import UserError
from common.files import read_json

import msgspec

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
LONGEST_CHUNK = 16 << 20  # characters; a chunk grows to this where no good place to cut is found
LOOK_BACK = 1 << 20  # bytes in which a line end is looked for, before a cut
BIG = 1 << 24  # bytes from which on a corpus is known by its files' sizes and times


def split_named(name) -> str:
    """The split that a name speaks of, "" where it is none or more than one."""
    words = re.findall(r"[a-z]+", name.lower())
    found = {split for split, names in SPLIT_NAMES.items() for word in words if word in names}
    return found.pop() if len(found) == 1 else ""


def open_text(path, column="", cache_dir=None) -> Corpus:
    """Look at a file or folder and settle its splits.

    A folder whose files name their split keeps them. Otherwise the last 5 % are for the test,
    the 5 % before for validation; a cut falls between two lines or two documents. A single text
    file is one long text; each of several, and each row of a table, is a document.
    """
    own, notes = {}, []
    if path.is_dir():
        kind, files, notes = _files_of(path, cache_dir)
        own, others = _own_splits(path, files)
        if own:
            files = [file for split in own for file in own[split]]
            notes += [f"{split}: {_some(own[split], path)}" for split in own]
            notes += [f"left out, since no split names it: {_some(others, path)}"] * bool(others)
    elif path.is_file():
        kind, files = kind_of(path), [path]
    else:
        raise UserError(
            f"{path} is neither a file nor a folder: save the text in a file, and give that"
        )
    if column and kind == "text":
        raise UserError(f"{path} is plain text and has no column {column!r}: leave that out")
    stats = [file.stat() for file in files]
    known = ""  # a text too long to be read at each start is known by what changes with it
    if sum(stat.st_size for stat in stats) > BIG:
        marks = [(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats]
        places = [str(file.resolve()) for file in files], [(name, len(own[name])) for name in own]
        known = f"1 {kind} {column} {places!a} {marks}"  # another number where the cut changes
    reader = TextFiles() if kind == "text" else Tables(kind, column)

    def measure():
        with progress_bar(f"reading {path.name}", len(files), unit="files") as bar:
            return [reader.size(file) for file in files if bar.update() or True]

    key = known and f"sizes {known}"
    length = msgspec.Meta(min_length=len(files), max_length=len(files))
    sizes = remembered(key, Annotated[list[int], length], measure, cache_dir)
    sizes = dict(zip(files, sizes, strict=True))
    if not any(sizes.values()):
        raise UserError(f"{path} is empty: there is no text to train on")
    notes += reader.check(files)  # before the cut: a wrong column is no lack of text
    parts = own or {"train": files}
    ranges = {split: [(file, 0, sizes[file]) for file in parts[split]] for split in parts}
    ranges, cut = all_splits(ranges, reader, path)
    documents = kind != "text" or len(files) > 1

    def read(split):
        for file, start, end in ranges[split]:
            yield from reader.read(file, start, end, documents)

    about = "; ".join(filter(None, [*notes, cut]))
    # Names of files may hold bytes that are no UTF-8.
    name, about = (t.encode("utf-8", "replace").decode() for t in (path.resolve().name, about))
    return Corpus(name, documents, read, about=about, memo=known)


# ---- folders -------------------------------------------------------------------------------------


def _files_of(folder, cache_dir):
    """The folder's files of the kind that has the most bytes, in a fixed order, and what to say.

    Returns (kind, files, notes). Hidden files and folders, symbolic links to folders, folders of
    runs, the cache and files that hold no text are left out.
    """
    found, left, cache = {}, {}, cache_folder(cache_dir).resolve()
    if _is_run(folder):
        raise UserError(f"{folder} is a run's folder: give the text a folder of its own")

    def look(path):
        """(the kind of a file, why a file or folder is left out)"""
        if path.name.startswith("."):
            return "", "hidden"
        if path.is_dir():
            run = "a run's folder" if _is_run(path) else ""
            return "", "a link" if path.is_symlink() else "the cache" if path == cache else run
        if not path.is_file():
            return "", "not a regular file"
        if not path.stat().st_size:
            return "", "empty"
        try:
            return kind_of(path), ""
        except NotText:
            return "", "not UTF-8 text"

    try:
        for root, folders, names in os.walk(folder.resolve(), onerror=_raise):
            folders.sort()
            for name in sorted([*folders, *names]):
                path = Path(root, name)
                kind, why = look(path)
                if kind:
                    found.setdefault(kind, []).append(path)
                if why:
                    left.setdefault(why, []).append(path)
                if why and name in folders:  # not entered
                    folders.remove(name)
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    if not found:
        raise UserError(f"{folder}: no file in this folder holds text in UTF-8 or a table of texts")
    kind = max(found, key=lambda kind: sum(path.stat().st_size for path in found[kind]))
    for other in sorted(found.keys() - {kind}):
        left["other kinds"] = left.get("other kinds", []) + found[other]
    files = sorted(found[kind], key=lambda path: path.as_posix())
    endings = Counter(path.suffix or path.name for path in files)
    notes = ["read: " + ", ".join(f"{n} {ending}" for ending, n in endings.most_common(8))]
    if left:
        listed = (f"{_some(paths, folder)} ({why})" for why, paths in left.items())
        notes.append("not read: " + ", ".join(listed))
    return kind, files, notes


def _raise(error):
    raise error


def _is_run(folder):
    """Is it the folder of a run of this project? Its settings name their version."""
    with contextlib.suppress(UserError):
        return {"version", "config"} <= read_json(folder / "config.json", "settings").keys()
    return False


def _some(paths, folder):
    """Names for a line: two, and how many more."""
    names = [path.relative_to(folder.resolve()).as_posix() for path in paths[:2]]
    more = f" and {len(paths) - 2:,} more" if len(paths) > 2 else ""
    return ", ".join(names) + more


def _own_splits(folder, files):
    """split -> files, of files whose name or folder names a split; and the other files.

    They are splits only if there are several, train is one of them, and they hold most of the
    text: one test.py among the files of a program makes no split of it.
    """
    own, folder = {}, folder.resolve()
    for file in files:
        parts = reversed(file.relative_to(folder).parts)
        own.setdefault(next(filter(None, map(split_named, parts)), ""), []).append(file)
    others = own.pop("", [])
    total, left = (sum(file.stat().st_size for file in some) for some in (files, others))
    if "train" not in own or len(own) < 2 or left * 2 > total:
        return {}, []
    return {split: own[split] for split in SPLITS if split in own}, others


# ---- splits --------------------------------------------------------------------------------------


def all_splits(ranges, reader, name):
    """Three splits of what may be fewer: split -> its parts; and a line that says so, or "".

    A part is (source, start, end), counted in bytes or in rows. What is missing is cut from the
    end of train, 5 % of it each.
    """
    missing = [split for split in SPLITS if split not in ranges]
    if not missing:
        return ranges, ""
    ranges = ranges | _cut(ranges["train"], missing, reader, name)
    cut = f"cut from the end of train, 5 % each, between {reader.units}"
    return ranges, f"{' and '.join(missing)} {cut}"


def _cut(parts, missing, reader, name):
    """Take 5 % for each missing split from the end of the parts.

    A cut falls between two lines or rows, and before a file rather than inside it where the file
    is small.
    """
    starts = [0, *itertools.accumulate(end - start for _, start, end in parts)]
    total, borders = starts[-1], [starts[-1]]
    for k in range(len(missing)):  # from the last split backwards
        target = min(total - (k + 1) * total // 20, borders[0] - 1)
        i = bisect.bisect_right(starts, target) - 1
        source, start, end = parts[i]
        cut = 0
        if len(parts) > 1 and starts[i] and (end - start) * 50 < total:
            cut = starts[i]
        elif target > starts[i]:
            cut = starts[i] + reader.cut(source, start, start + target - starts[i]) - start
        borders.insert(0, cut or starts[i])
        if borders[0] <= 0:
            raise UserError(f"{name} is too short to be split in three: use a longer text")
    ranges = {}
    for split, (low, high) in zip(
        ["train", *missing], itertools.pairwise([0, *borders]), strict=True
    ):
        ranges[split] = [
            (source, start + max(low - at, 0), start + min(high - at, end - start))
            for (source, start, end), at in zip(parts, starts, strict=False)
            if at < high and at + end - start > low
        ]
    return ranges


# ---- files ---------------------------------------------------------------------------------------


class TextFiles:
    """Plain UTF-8, measured in bytes. One file is one long text; each of several is a document."""

    units = "lines"

    def size(self, file):
        return size_of(file)

    def check(self, files):
        """Fail now, not after an hour, where the first block of a file is no text."""
        firsts = (
            next(decoded(file, 0, min(size_of(file), BLOCK), True, True)) for file in files[:100]
        )
        return [r"line ends \r\n are read as \n"] if any("\r\n" in text for text in firsts) else []

    def cut(self, file, start, target):
        """The last line end in start < place <= target; a space or any character if need be."""
        # A line end in the second half will do, so that three lines give three splits.
        begin = max(start, target - (target - start) // 2 - 1, target - LOOK_BACK)
        with opened(file, begin) as stream:
            data = b""
            while len(data) <= target - begin and (
                more := stream.read(target - begin + 1 - len(data))
            ):
                data += more
        at = data.rfind(b"\n", 0, target - begin)
        if at >= 0:
            return begin + at + 1
        if (at := data.rfind(b" ")) > 0:
            return begin + at
        at = len(data) - 1
        while at > 0 and data[at] & 0xC0 == 0x80:  # inside a character
            at -= 1
        return begin + at

    def read(self, file, start, end, documents):
        texts = decoded(file, start, end)
        if documents and end - start <= LONGEST_CHUNK:
            yield "".join(texts)
        else:
            yield from chunks(texts)


class Rows:
    """Something measured in rows, which can be cut anywhere."""

    units = "rows"

    def cut(self, source, start, target):
        return target


class Tables(Rows):
    """Files of tables: a document a row, in one column."""

    def __init__(self, kind, column):
        self.kind, self.column = kind, column
        self.stopped = {}  # (file, row) -> rows from there on, so that splits are read in one pass

    def size(self, file):
        return tables.count_rows(self.kind, file)

    def check(self, files):
        """Settle the column by the first rows: in some of them it may be null."""
        for file in files:
            rows = tables.read_rows(self.kind, file)
            sample = list(itertools.islice(rows, tables.SAMPLE))
            if sample:
                self.column, note = tables.choose_column(sample, self.column, file)
                return [note] if note else []

    def read(self, file, start, end, documents):
        rows = self.stopped.pop((file, start), None)
        rows = rows or tables.read_rows(self.kind, file, self.column, start)
        for number, row in enumerate(itertools.islice(rows, end - start), start + 1):
            yield tables.text_of(row, self.column, f"{file}: row {number}")
        self.stopped = {(file, end): rows}


def chunks(blocks) -> Iterator[str]:
    """Cut one long text, given in blocks, into chunks that are tokenized like the whole."""
    text = ""
    for block in blocks:
        text += block
        while len(text) >= BLOCK:
            cut = _safe_cut(text)
            if cut == 0:
                if len(text) < LONGEST_CHUNK:
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

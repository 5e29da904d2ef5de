"""The user's own text: files and folders, read a block, a line or a row at a time."""

import bisect
import codecs
import contextlib
import itertools
import json
import os
import re
from pathlib import Path
from typing import Iterator

from common.errors import UserError
from common.data.hub import SPLITS, first_line

BLOCK = 1 << 20  # bytes read at once; the usual length of a stretch of a long text
LONGEST_BLOCK = 16 << 20  # a stretch grows to this where no good place to cut is found
ROWS = 1000  # rows read at once from a table
KINDS = {".txt": "txt", ".jsonl": "jsonl", ".parquet": "parquet"}
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


def find_text(name):
    """(path, column) of a file or folder, or None. FILE:COLUMN names a table's column."""
    if os.path.exists(name):
        return Path(name), ""
    before, _, column = name.rpartition(":")
    return (Path(before), column) if before and os.path.exists(before) else None


def open_text(path, column="") -> dict:
    """Look at a file or folder and settle its splits: the fields of its Corpus.

    A folder whose files all name their split keeps them. Otherwise the last 5 % are for the test,
    the 5 % before for validation; a cut falls between two lines or two documents. A single text
    file is one long text; each of several, and each row of a table, is a document.
    """
    ignored = ""
    if path.is_dir():
        kind, files, ignored = _text_files(path)
    elif path.is_file():
        kind, files = KINDS.get(path.suffix.lower(), "txt"), [path]
    else:
        raise UserError(f"{path} is neither a file nor a folder")
    if column and kind == "txt":
        raise UserError(f"{path} is plain text and has no column {column!r}: leave that out")
    reader = {"txt": TextFiles, "jsonl": JsonLines, "parquet": ParquetFiles}[kind](column)
    sizes = [reader.size(file) for file in files]
    if sum(sizes) == 0:
        raise UserError(f"{path} is empty: there is no text to train on")
    reader.check(files)  # before the cut: a wrong column is no lack of text
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
    notes = [note, *reader.notes, ignored]
    # A corpus too big to be hashed at each start is known by its files' sizes and times.
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    big = sum(size for _, size, _ in stats) > 1 << 28
    memo = f"files {kind} {reader.column} {documents} {stats} {ranges}" if big else ""

    def read(split):
        for file, start, end in ranges[split]:
            yield from reader.read(file, start, end, documents)

    return dict(
        name=path.resolve().name,
        documents=documents,
        read=read,
        note="; ".join(filter(None, notes)),
        memo=memo,
    )


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
    for k in range(len(missing)):  # from the last split backwards
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
        ranges[split] = [
            (file, start + max(low - at, 0), start + min(high - at, end - start))
            for (file, start, end), at in zip(parts, starts)
            if at < high and at + end - start > low
        ]
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
        """Settle the column, by the first hundred lines: in some of them it may be null."""
        for file in files:
            columns, kinds = {}, set()
            for place, row in itertools.islice(self.rows(file, 0, _file_size(file)), 100):
                kinds.add(type(row))
                if not isinstance(row, dict):
                    self.text(file, place, row)
                    continue
                for key, value in row.items():
                    columns[key] = columns.get(key, False) or isinstance(value, str)
            if dict in kinds:
                self.column = text_column(columns, self.column, file)
            if kinds:
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
                        raise UserError(
                            f"{file}: the line at byte {place} is not JSON in UTF-8"
                        ) from None
                place += len(line)

    def read(self, file, start, end, documents):
        for place, row in self.rows(file, start, end):
            text = self.text(file, place, row)
            if text is None or text == "":
                continue
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:  # half a surrogate pair, which only JSON can spell
                text = re.sub("[\ud800-\udfff]", "\ufffd", text)
            yield text

    def text(self, file, place, row):
        """A line's text, or None. Raises UserError where it holds something else."""
        text = row
        if isinstance(row, dict):
            if self.column not in row:
                raise UserError(
                    f"{file}: the line at byte {place} has no column "
                    f"{self.column!r}; it has {', '.join(row) or 'none'}"
                )
            text = row[self.column]
        if text is not None and not isinstance(text, str):
            column = f", in column {self.column!r}" if isinstance(row, dict) else ""
            raise UserError(
                f"{file}: the line at byte {place} holds {type(text).__name__}, not text{column}"
            )
        return text


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
            raise UserError(f"cannot read {file}: {first_line(error)}") from None

    def size(self, file):
        with self.opened(file) as table:
            return table.metadata.num_rows

    def check(self, files):
        import pyarrow.types as types

        for file in files:
            with self.opened(file) as table:
                columns = {
                    one.name: types.is_string(one.type) or types.is_large_string(one.type)
                    for one in table.schema_arrow
                }
                self.column = text_column(columns, self.column, file)

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


def text_column(columns, wanted, where) -> str:
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
    asked = f"{where}: which column is the text? Its columns are {listed}"
    if not texts:
        raise UserError(f"{asked}, and none of them holds text")
    raise UserError(
        f"{asked}; of them {', '.join(texts)} hold text: "
        f"name one behind a colon, {where}:{texts[0]}"
    )


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
                raise UserError(
                    f"{file} is not plain text: NUL byte at position "
                    f"{place + data.index(0)}; save it as UTF-8 text"
                )
            try:
                text = held + decoder.decode(data, final=place + len(data) >= end)
            except UnicodeDecodeError as error:
                at = place + len(data) - len(error.object) + error.start
                raise UserError(
                    f"{file} is not UTF-8: byte 0x{error.object[error.start]:02x} "
                    f"at position {at}; save it as UTF-8 text"
                ) from None
            if place == 0:
                text = text.removeprefix("\ufeff")
            place += len(data)
            held = "\r" if text.endswith("\r") and place < end else ""  # its \n may follow
            text = text[: len(text) - len(held)]
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
    # A line end in the second half will do, so that three lines give three splits.
    lowest = max(start, target - (target - start) // 2 - 1) if anywhere else start
    with _opened(file) as stream:
        end = target
        while end > lowest:
            begin = max(lowest, end - (1 << 16))
            stream.seek(begin)
            at = stream.read(end - begin).rfind(b"\n")
            if at >= 0:
                return begin + at + 1
            end = begin
        if not anywhere:
            return start
        begin = max(start, min(target - 4, max(lowest, target - (1 << 16))))
        stream.seek(begin)
        data = stream.read(target - begin + 1)
        if (at := data.rfind(b" ")) > 0:
            return begin + at
        at = len(data) - 1
        while at > 0 and data[at] & 0xC0 == 0x80:  # inside a character
            at -= 1
        return begin + at

"""The bytes of a file, compressed or not, and what kind of text they are."""

import bz2
import codecs
import contextlib
import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Iterator

from common.errors import UserError, reason_of
from common.files import open_regular

BLOCK = 1 << 20  # bytes read at once
PEEK = 1 << 16  # bytes that tell a file's kind
TABLES = {".csv": "csv", ".tsv": "csv", ".tab": "csv", ".jsonl": "json", ".ndjson": "json"}
TABLES |= {".json": "json", ".parquet": "parquet", ".pq": "parquet"}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
FOREIGN = {  # the first bytes of files that are often taken for text
    b"%PDF": "a PDF: save its text as a .txt file",
    b"PK\x03\x04": "a zip archive (.zip, .docx, .epub …): unpack it, or save it as a .txt file",
    b"\xff\xfe\0\0": "UTF-32: save it as UTF-8, `iconv -f utf-32 -t utf-8` does it",
    b"\xff\xfe": "UTF-16: save it as UTF-8, `iconv -f utf-16 -t utf-8` does it",
    b"\xfe\xff": "UTF-16: save it as UTF-8, `iconv -f utf-16 -t utf-8` does it",
    b"SQLite format 3": "a database: export a table as a .csv file",
}


# What damaged files lead to. The last three are pyarrow's: its NotImplementedError is a
# RuntimeError, and it may hold dates that Python does not have.
FAILURES = (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, RuntimeError, OverflowError)


class NotText(UserError):
    """The file holds something else than text in UTF-8. A folder leaves such a file out."""


def _open_zstandard(file, mode):
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"))


OPENERS = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x28\xb5\x2f\xfd": _open_zstandard,
}


@contextlib.contextmanager
def opened(file, start=0):
    """A binary stream of what the file holds, decompressed, from position `start` on.

    It is the file's own first bytes, not its name, that say how it is compressed. Whatever goes
    wrong while it is read becomes a UserError that names the file.
    """
    try:
        with open_regular(file) as stream:
            head = stream.read(8)
        opener = next((way for magic, way in OPENERS.items() if head.startswith(magic)), open)
        with opener(file, "rb") as stream:
            if stream.seekable():
                stream.seek(start)
            while not stream.seekable() and start > 0:
                start -= len(stream.read(min(BLOCK, start))) or start
            yield stream
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise NotText(f"{file} is not UTF-8: {error.reason}; save it as UTF-8 text") from None
    except FAILURES as error:
        raise UserError(f"cannot read {file}: {reason_of(error)}") from None


def size_of(file) -> int:
    """Length in bytes of what the file holds."""
    with opened(file) as stream:
        if stream.seekable():
            return stream.seek(0, os.SEEK_END)
        return sum(map(len, iter(lambda: stream.read(BLOCK), b"")))


def start_of(file, length) -> bytes:
    """The first bytes of what the file holds."""
    with opened(file) as stream:
        return stream.read(length)


def kind_of(file) -> str:
    """ "text", "csv", "json" or "parquet", by the file's name and its first bytes.

    Raises NotText where it is none of them: for a PDF, say, or for bytes that are no UTF-8.
    """
    endings = [ending.lower() for ending in file.suffixes if ending.lower() not in COMPRESSED]
    named = TABLES.get(endings[-1]) if endings else None
    head = start_of(file, PEEK)
    if named == "parquet" or head.startswith(b"PAR1"):
        return "parquet"
    for magic, what in FOREIGN.items():
        if head.startswith(magic):
            raise NotText(f"{file} is {what}")
    next(decoded(file, 0, len(head), cut=True), None)
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    first_two = [_is_object(line) for line in text.split(b"\n") if line.strip()][:2]
    # JSON lines may have another name.
    return named or ("json" if first_two == [True, True] else "text")


def _is_object(line):
    with contextlib.suppress(ValueError, RecursionError):
        return isinstance(json.loads(line), dict)
    return False


def decoded(file, start, end, cut=False) -> Iterator[str]:
    """Bytes start to end of a UTF-8 file, as text, a block at a time.

    A byte-order mark is dropped and \\r\\n becomes \\n. `cut`: the end may be inside a character.
    Raises NotText with the position of the first byte that is no UTF-8, or of a NUL, which no text
    file holds.
    """
    place, encoding = start, "utf-8" if start else "utf-8-sig"
    # The outer decoder keeps a \r until it is known whether its \n follows.
    characters = codecs.getincrementaldecoder(encoding)()
    decoder = io.IncrementalNewlineDecoder(characters, translate=False)
    with opened(file, start) as stream:
        while data := stream.read(min(BLOCK, end - place)):  # a changed text is noticed later
            if b"\0" in data:
                nul = f"NUL byte at position {place + data.index(0)}"
                hint = "one in every second place is UTF-16, it seems: save it as UTF-8 text"
                raise NotText(f"{file} is not plain text: {nul}; {hint}")
            place += len(data)
            try:
                text = decoder.decode(data, final=place >= end and not cut)
            except UnicodeDecodeError as error:
                at = place - len(error.object) + error.start
                byte = f"byte 0x{error.object[error.start]:02x} at position {at}"
                raise NotText(f"{file} is not UTF-8: {byte}; save it as UTF-8 text") from None
            yield text.replace("\r\n", "\n")

"""What users bring: texts and tables of every usual kind, and files that only claim to be some.

An input is a text, bytes, a function that makes it at a path, or a folder of inputs.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random

import pyarrow as pa
import pyarrow.parquet as parquet

LINE = "The baker carried a lantern near the orchard, and sold it again.\n"
ROWS = [{"id": f"q{i}", "stars": i % 5, "text": f'{LINE}"{i}", é said.'} for i in range(200)]
TEXT = "".join(f"{row['text']}\n" for row in ROWS)
CHINESE = "".join(f"面包师在果园附近提着灯笼，第{i}次又把它卖掉了。\n" for i in range(300))


def put(path, content):
    """Make a file or a folder of them: the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        for name, one in content.items():
            put(path / name, one)
    elif callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def link(target):
    return lambda path: os.symlink(target, path)


def sparse(path):
    """Eight gigabytes that take no room."""
    with open(path, "wb") as file:
        file.truncate(1 << 33)


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def separated(mark=","):
    """The rows as a table whose fields are separated by this mark."""
    file = io.StringIO()
    writer = csv.DictWriter(file, ROWS[0], delimiter=mark, lineterminator="\n")
    writer.writeheader()
    writer.writerows(ROWS)
    return file.getvalue()


def table(names=None, **columns):
    """A Parquet file's bytes with these columns of values or arrays. names: other ones."""
    file = io.BytesIO()
    renamed = pa.table(columns).rename_columns(names or list(columns))
    parquet.write_table(renamed, file, row_group_size=13)
    return file.getvalue()


def columns(kind):
    """The rows as a Parquet file whose text is an Arrow array of this kind."""
    values = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    return table(**{**values, "text": pa.array(values["text"]).cast(kind)})


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
PACK["zst"] = lambda data: pa.compress(data, "zstd", asbytes=True)

# Files that all hold the rows, and files that all hold the text.
TABLES = {
    **dict.fromkeys(["rows.jsonl", "rows.ndjson", "rows.txt", "lines.json"], lines(ROWS)),
    "spaced.txt": lines(ROWS).replace("\n", "\r\n\r\n"),
    "rows.json": json.dumps(ROWS, indent=2),
    "rows.csv": separated(),
    "SEMICOLONS.CSV": separated(";"),
    "rows.tsv": b"\xef\xbb\xbf" + separated("\t").encode(),
    **{f"rows.csv.{kind}": pack(separated().encode()) for kind, pack in PACK.items()},
    "rows.jsonl.gz": gzip.compress(lines(ROWS).encode()),
    "strings.parquet": columns(pa.string()),
    "view.parquet": columns(pa.string_view()),
    "dictionary.parquet": columns(pa.dictionary(pa.int32(), pa.string())),
}
TEXTS = {
    "plain.txt": TEXT,
    "marked.txt": b"\xef\xbb\xbf" + TEXT.encode(),
    "windows.txt": TEXT.replace("\n", "\r\n"),
    **{f"book.{kind}": pack(TEXT.encode()) for kind, pack in PACK.items()},
}

# ---- Files that are refused ----------------------------------------------------------------------


def label(value):
    """A short name of an input that is the same in every process: no address of a function, and of
    bytes the first, because an archive's others hold the time."""
    start = value[:4] if isinstance(value, bytes) else value
    return getattr(value, "__name__", repr(start)[:30])


NOISE = random.Random(1).randbytes(9000)  # what no archive makes shorter
NO_UTF8 = pa.array([LINE.encode() + b"\xff"] * 100).view(pa.string())
JSONL, CSV = lines(ROWS), separated()
BAD_TEXTS = [  # a file's name, what it holds, what is said of it
    ("t.txt", "", "is empty"),
    ("t.txt", b"\xef\xbb\xbf", "is empty"),
    ("t.txt", "x", "too short"),
    ("t.txt", b"plain\n" * 100 + b"caf\xe9\n", "not UTF-8: byte 0xe9 at position 603"),
    ("t.txt", b"ends in a character \n" * 40 + b"\xc3", "at position 840"),
    ("t.txt", b"a line of text\n" * 200_000 + b"\xff\n", "position 3000000"),
    ("t.txt", b"ab\0cd\n" * 100, "not plain text: NUL byte at position 2"),
    ("t.txt", sparse, "NUL byte"),
    ("t.txt", TEXT.encode("utf-16"), "is UTF-16: save it as UTF-8"),
    ("t.txt", TEXT.encode("utf-32"), "is UTF-32: save it as UTF-8"),
    ("t.txt", TEXT.encode("utf-16-be"), "is UTF-16, it seems"),
    ("t.txt", b"%PDF-1.7\n" + TEXT.encode(), "is a PDF"),
    ("book.zip", b"PK\x03\x04" + TEXT.encode(), "a zip archive"),
    ("book.tar.gz", gzip.compress(b"book.txt\0" + TEXT.encode()), "NUL byte"),
    ("texts.db", b"SQLite format 3\0" + TEXT.encode(), "a database"),
    ("empty.gz", gzip.compress(b""), "is empty"),
    *[(f"cut.{kind}", pack(NOISE)[:-2000], "cannot read") for kind, pack in PACK.items()],
    ("pipe.txt", os.mkfifo, "cannot read .*pipe.txt: it is not a regular file"),
    ("x", {"picture.png": b"\x89PNG\0", "empty.txt": ""}, "no file in this folder holds text"),
    # Rows of JSON.
    ("d.jsonl", JSONL + "{oops\n" + JSONL, "row 201 is not JSON: {oops"),
    ("d.jsonl", JSONL + "[" * 100_000 + "\n", "row 201 is not JSON"),
    ("d.jsonl", JSONL + '{"text": 5}\n', "row 201 holds int, not text, in column 'text'"),
    ("d.jsonl", JSONL + "[1, 2]\n" + JSONL, "row 201 holds list, not text"),
    ("d.jsonl", "5\n" * 60, "holds int, not text"),
    ("d.jsonl", "{}\n" * 60, "no text|too short"),
    ("d.jsonl", lines([{"a": LINE, "b": LINE}] * 60), "columns are a, b.* hold text.*d.jsonl:a"),
    ("d.json", json.dumps(ROWS)[:-9], "is not JSON"),
    # Separated fields.
    ("d.csv", CSV + "201,1,a,b,c\n" + CSV, "line 402 is no row .*5 fields, the header 3"),
    ("d.csv", CSV + '201,1,"never closed\n', "is no row of a table .*quotation marks"),
    ("d", {"train.csv": CSV, "test.csv": "n\n1\n2\n"}, "no text is in the test .* skipped: 2"),
    ("d.csv", "text,text\n" + CSV, "has to name the columns"),
    ("d.csv", "5,1,a b\n" + CSV, "has to name the columns"),
    # Parquet.
    ("d.parquet", columns(pa.string())[:-30], "cannot read"),
    ("d.parquet", table(text=NO_UTF8), "is not UTF-8"),
    ("d.parquet", table(n=[*range(60)]), "none of them reads as text"),
    ("d.parquet", table(a=[LINE] * 60, b=[LINE] * 60), "which column is the text"),
    ("d.parquet:n", table(n=[1]), "does not hold text"),
    ("d.parquet", table(["t", "t"], a=[LINE] * 60, b=[LINE] * 60), "two .* have the same name"),
    ("d.parquet", table(t=[LINE] * 60, d=pa.array([2**31 - 1] * 60, pa.date32())), "cannot read"),
]
HUB = ["", "name", "../x/y", "o/n/x", "o/n:a:b:c", "o o/n", "o/n:a:b/.."]
BAD_NAMES = {  # what is no file, and what is said of it
    **dict.fromkeys([f"hf:{name}" for name in HUB], "hf:OWNER/NAME"),
    "wikitxt-2": "did you mean wikitext-2?",
    "qqq": "unknown corpus 'qqq'",
    "": "unknown corpus ''",
    "a\0b": "unknown corpus",
    "no/such/folder": "no such file or folder",
    "x.txt": "no such file or folder",
    os.devnull: f"cannot read {os.devnull}: it is not a regular file",
    "https://x.org/a.txt": "download it first",
    "https://huggingface.co/datasets/o/n": "is called hf:o/n",
}

# ---- Files in place of JSON ----------------------------------------------------------------------

BAD_JSON = {
    "empty": b"",
    "list": b"[]",
    "cut": b'{"version": "v3", "con',
    "deep objects": b'{"config":' * 3000,
    "no UTF-8": b'{"version": "\xff"}',
    "lone surrogate": b'{"version": "\\ud800"}',
    "NaN": b'{"version": "v3", "config": {"seed": NaN}}',
    "infinity": b'{"version": "v3", "config": {"seed": 1e999}}',
    "long number": b'{"version": "v3", "config": {"seed": 1' + b"0" * 5000 + b"}}",
    "wrong checksum": b'{"version": "v3", "checksum": 1}',
    "large": sparse,
    "folder": os.mkdir,
    "pipe": os.mkfifo,
    "circle": lambda path: os.symlink(path.name, path),
    "device": link("/dev/zero"),
}

"""What users bring and what befalls their files: the inputs of situations.py.

An input is a text, bytes, a function that makes it at a path, or a folder of inputs.
"""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import sqlite3
import sys
import tarfile
import zipfile

from bpe_tokenizer import BPETokenizer
from common.training.checkpoint import digest

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from filelock import FileLock

# ---- Inputs --------------------------------------------------------------------------------------

LINE = "The baker carried a lantern near the orchard, and sold it again."
ROWS = [{"id": f"q{i}", "author": "ann", "text": f"{LINE} {i}"} for i in range(200)]
TEXT = "".join(f"{row['text']}\n" for row in ROWS)
CHINESE = "".join(f"面包师在果园附近提着灯笼，第{i}次又把它卖掉了。\n" for i in range(300))


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(*columns, name="text"):
    """A Parquet file's bytes with these columns of values or arrays."""
    file = io.BytesIO()
    parquet.write_table(pa.table({name * (i + 1): c for i, c in enumerate(columns)}), file)
    return file.getvalue()


def packed(kind):
    """An archive's bytes that holds the text."""
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("book.txt", TEXT)
    else:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            entry = tarfile.TarInfo("book.txt")
            entry.size = len(TEXT)
            archive.addfile(entry, io.BytesIO(TEXT.encode()))
    return file.getvalue()


def database(path):
    with sqlite3.connect(path) as connection:
        connection.execute("create table texts (text)")
    connection.close()


def link(target):
    return lambda path: os.symlink(target, path)


def replaced(content):
    """A function that puts something else in the place of a file."""

    def replace(path):
        path.unlink()
        put(path, content)

    return replace


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(1 << 33)


NO_UTF8 = pa.array([LINE.encode() + b"\xff"] * 100).view(pa.string())
CSV = "id,stars,review\n" + "".join(f'{i},{i % 5},"{LINE} ""{i}"", he said."\n' for i in range(200))
CHATS = [
    {
        "id": f"q{i}",
        "messages": [{"role": "user", "content": LINE}, {"role": "ai", "content": "Yes"}],
    }
    for i in range(200)
]
INPUTS = {
    "plain.txt": TEXT,
    "chinese.txt": CHINESE,
    "rows.jsonl": lines(ROWS),
    "rows.ndjson": lines(ROWS),
    "rows.txt": lines(ROWS),
    "rows.json": json.dumps(ROWS, indent=2),
    "strings.json": json.dumps([row["text"] for row in ROWS]),
    "chats.jsonl": lines(CHATS),
    "ids.jsonl": lines({"id": row["id"]} for row in ROWS),
    "dates.jsonl": lines({"id": i, "date": f"2024-01-{i % 30:02}"} for i in range(200)),
    "links.jsonl": lines({"url": f"https://example.org/{i}"} for i in range(200)),
    "two.jsonl": lines({"question": LINE, "answer": f"{LINE} {i}"} for i in range(200)),
    "lacking.jsonl": lines([*ROWS, {"id": "q"}, {"id": "r", "text": None}]),
    "numbers.jsonl": lines({"text": i} for i in range(200)),
    "late.jsonl": lines([*ROWS, {"text": 5}]),
    "broken.jsonl": lines(ROWS) + '{"text": \n',
    "deep.jsonl": lines(ROWS) + "[" * 100_000 + "\n",
    "cut.json": json.dumps(ROWS)[:-9],
    "after.json": json.dumps(ROWS) + "more",
    "object.json": json.dumps({"rows": ROWS}, indent=1),
    "reviews.csv": CSV,
    "reviews.tsv": CSV.replace(",", "\t"),
    "semicolons.csv": CSV.replace(",", ";"),
    "quotes.csv": CSV + '201,1,"never closed\n',
    "wide.csv": CSV + "201,1,a,b,c\n",
    "headless.csv": CSV.partition("\n")[2],
    "nul.csv": CSV + "\0",
    "book.txt.gz": gzip.compress(TEXT.encode()),
    "book.bz2": bz2.compress(TEXT.encode()),
    "book.xz": lzma.compress(TEXT.encode()),
    "book.zst": pa.compress(TEXT.encode(), "zstd", asbytes=True),
    "reviews.csv.gz": gzip.compress(CSV.encode()),
    "cut.gz": gzip.compress(TEXT.encode())[:-20],
    "empty.gz": gzip.compress(b""),
    "book.tar.gz": packed("tar"),
    "book.zip": packed("zip"),
    "rows.parquet": table([row["text"] for row in ROWS]),
    "dictionary.parquet": table(pa.array([LINE] * 500).dictionary_encode()),
    "view.parquet": table(pa.array([LINE] * 500, pa.string_view())),
    "large.parquet": table(pa.array([LINE] * 500, pa.large_string())),
    "nulls.parquet": table([LINE, None] * 200),
    "numbers.parquet": table(list(range(200))),
    "two.parquet": table([LINE] * 200, [LINE] * 200, name="story"),
    "no-utf8.parquet": table(NO_UTF8),
    "cut.parquet": table([LINE] * 500)[:-30],
    "not.parquet": "no table",
    "utf-16.txt": TEXT.encode("utf-16"),
    "utf-16le.txt": TEXT.encode("utf-16-le"),
    "latin-1.txt": (TEXT + "café\n").encode("latin-1"),
    "paper.pdf": b"%PDF-1.7\n%\xe2\xe3" + TEXT.encode(),
    "texts.db": database,
    "noise.bin": bytes(range(256)) * 40,
    "empty.txt": "",
    "mark.txt": b"\xef\xbb\xbf",
    "one.txt": "a",
    "line.txt": LINE,
    "ends.txt": "\n" * 2000,
    "spaces.txt": " " * 2000,
    "same.txt": "a" * 5000,
    "long.txt": "word " * 4000,
    "marked.txt": b"\xef\xbb\xbf" + TEXT.encode(),
    "windows.txt": TEXT.replace("\n", "\r\n"),
    "faces.txt": "👩‍👩‍👧 🇩🇪 é ñ שלום مرحبا\n" * 300,
    "sparse.txt": sparse,
    "ptb": {f"ptb.{s}.txt": TEXT for s in ("train", "valid", "test")},
    "splits": {"train.txt": TEXT, "val.txt": TEXT, "test.txt": TEXT, "LICENSE": "Free."},
    "folders": {f"{s}/a.txt": TEXT for s in ("train", "validation", "test")},
    "vault": {f"notes/{i}.md": TEXT[: 500 + i] for i in range(30)} | {"todo.txt": "Buy milk."},
    "mixed": {
        "a.txt": TEXT,
        "b.csv": CSV[:400],
        "c.png": b"\x89PNG\0",
        ".hidden": "x",
        "e.txt": "",
    },
    "tiny-validation": {"train.txt": TEXT, "val.txt": "n", "test.txt": "y"},
    "nothing": {"picture.png": b"\x89PNG\0", "empty.txt": ""},
    "odd": {"a.txt": TEXT, "loop": link("."), "gone.txt": link("nowhere"), "pipe.txt": os.mkfifo},
    "names": {os.fsdecode(b"caf\xe9.txt"): TEXT, "b.txt": TEXT},
    "wiki/wikitext-2-v1": {
        f"{s}-00000.parquet": table(list(range(99))) for s in ("train", "validation", "test")
    },
    "bytes/wikitext-2-v1": {
        f"{s}-00000.parquet": table(NO_UTF8) for s in ("train", "validation", "test")
    },
    "half/wikitext-2-v1": {"train-00000.parquet": table([LINE] * 9)},
}


def at(path, contents):
    """Each of these contents at the path, in turn."""
    return [{path: content} for content in contents]


def put(path, content):
    """Make a file or a folder of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        for name, one in content.items():
            put(path / name, one)
    elif callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


# ---- Damage --------------------------------------------------------------------------------------


def of_other(name):
    """Put the other run's file of this name into the run."""
    return {f"run/{name}": lambda path: shutil.copy(path.parents[1] / "other" / name, path)}


def learned(path):
    """A vocabulary of another text."""
    BPETokenizer.train(CHINESE, 300).save(path)


def held(folder):
    """Hold the lock of a run's folder."""
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / ".lock")
    lock.acquire()
    HELD.append(lock)


HELD = []


def cache_of(content):
    """A function that makes a cache in which every description has this content."""

    def make(path):
        shutil.copytree(path.parents[2] / "cache", path)
        for description in path.glob("plain*.json"):
            description.unlink()
            put(description, content)

    return make


def edited(**changes):
    """A function that changes a JSON file's values, without its checksum."""

    def edit(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("checksum")
        for key, value in changes.items():
            own = content.get(key)
            both = isinstance(value, dict) and isinstance(own, dict)
            content[key] = {**own, **value} if both else value
        path.write_text(json.dumps(content), encoding="utf-8")

    return edit


BAD_JSON = {
    "empty": b"",
    "list": b"[]",
    "number": b"7",
    "word": b"nonsense",
    "cut": b'{"version": "v3", "con',
    "deep": b"[" * 100_000,
    "deep objects": b'{"config":' * 3000,
    "no UTF-8": b'{"version": "\xff"}',
    "NaN": b'{"version": "v3", "config": {"seed": NaN}}',
    "long number": b'{"version": "v3", "config": {"seed": 1' + b"0" * 5000 + b"}}",
    "zeros": bytes(4096),
    "large": sparse,
    "folder": os.mkdir,
    "pipe": os.mkfifo,
    "circle": lambda path: os.symlink(path.name, path),
    "device": link("/dev/zero"),
}


def changed(change):
    """A function that changes a checkpoint, whose checksum fits afterwards."""

    def edit(path):
        content = torch.load(path, weights_only=True)
        change(content)
        content.pop("sha256")
        content["sha256"] = digest(content)
        torch.save(content, path)

    return edit


def other_shapes(content):
    for state in content["state"]["optimizer"]["state"].values():
        state["exp_avg"] = torch.zeros(3)


def no_moments(content):
    content["state"]["optimizer"]["state"][0] = {"step": torch.tensor(1.0)}


def whole_numbers(content):
    state = content["state"]["optimizer"]["state"][0]
    state["exp_avg"] = state["exp_avg"].long()


def other_weights(content):
    model = content["state"]["model"]
    model[next(iter(model))] = torch.zeros(2, 2)


def infinite(content):
    for value in content["state"]["model"].values():
        value.fill_(float("inf"))


def nested(path):
    content = torch.load(path, weights_only=True)
    for _ in range(3000):
        content = {"state": content}
    with recursion(50_000):
        torch.save(content, path)


def in_itself(path):
    content = torch.load(path, weights_only=True)
    content["state"]["again"] = content
    torch.save(content, path)


def claims_much(path):
    """A tensor of 3 GB that is one number, as often as it takes."""
    content = torch.load(path, weights_only=True)
    content["state"]["model"]["more"] = torch.zeros(1).expand(800_000_000)
    torch.save(content, path)


class Evil:
    """Pickled, it makes a file where it is read."""

    def __reduce__(self):
        return os.mkdir, ("trap",)


def evil(path):
    torch.save({**torch.load(path, weights_only=True), "extra": Evil()}, path)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@contextlib.contextmanager
def recursion(limit):
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    yield
    sys.setrecursionlimit(before)


CHECKPOINTS = [
    *map(changed, (other_shapes, no_moments, whole_numbers, other_weights, infinite)),
    changed(lambda content: content.update(step="4")),
    changed(lambda content: content.update(state=[])),
    changed(lambda content: content["run"].update(metrics=[{"step": "x"}])),
    changed(lambda content: content["run"].update(best=None, tokens=-1)),
    changed(lambda content: content.update(generators=[])),
    changed(lambda content: content["generators"][0].update(torch=torch.zeros(3))),
    changed(lambda content: content["config"].update(seed=torch.zeros(3))),
    changed(lambda content: content["config"].update({1: 2})),
    changed(lambda content: content.pop("config")),
    *(nested, in_itself, claims_much, evil, cut_in_half, flipped),
    *map(
        replaced,
        (b"", b"weights", packed("zip"), pickle.dumps(Evil()), sparse, os.mkfifo, os.mkdir),
    ),
]
SCRIPTS = [b"def f(:\n", b"\0", b"\xff", b"(" * 5000, b"x = " + b"-" * 100_000 + b"1"]
SCRIPTS += [os.mkfifo, os.mkdir]


def array(header, data=bytes(64), version=b"\1\0"):
    """A .npy file's bytes with this header."""
    header = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


def npy(value, **options):
    file = io.BytesIO()
    np.save(file, value, **options)
    return file.getvalue()


def npz(value):
    file = io.BytesIO()
    np.savez(file, value)
    return file.getvalue()


ARRAYS = [
    *(b"", b"nonsense", npy(np.zeros(3)), npy(np.zeros((2, 2), "u2")), npy(np.array(3)), npz([1])),
    *(npy(np.array(["a"])), npy(np.array([1, None]), allow_pickle=True), npy(np.array([-1]))),
    *(npy(np.array([10**6])), npy(np.zeros(9, [("a", "i4")])), npy(np.arange(9))[:-5]),
    array("{'descr': '<u2', 'fortran_order': False, 'shape': (999999999999,), }"),
    array("{'descr': '<u2', 'fortran_order': False, 'shape': (-1,), }"),
    array("{'descr': '<u2', 'fortran_order': False, 'shape': ('a',), }"),
    array("{'descr': '<u2', 'fortran_order': False, "),
    array("{'descr': '<u2\\x00', 'fortran_order': 1, 'shape': (1,)}"),
    array("(" * 5000),
    array("-" * 9000 + "1"),
    array("[" * 300 + "]" * 300),
    array("{}", version=b"\3\0"),
    array("{}", version=b"\7\0"),
    *(os.mkfifo, os.mkdir, sparse, link("ids.npy"), link("/dev/zero")),
]
IDS = [b"", b"1 2 x", b"\xff", b"1.5", b"9" * 6000, b"-1", b"999999", os.mkfifo, os.mkdir]


def vocabulary(**changes):
    """A vocabulary file's bytes in which something has been changed."""
    content = {"format": "bpe_tokenizer vocabulary", "version": 1, "sha256": "0" * 64}
    content |= {"vocab_size": 257, "pattern": "a", "special_tokens": {}, "merges": [[97, 97, "aa"]]}
    return json.dumps({**content, **changes})


MODEL = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
BYTES = {"type": "ByteLevel", "add_prefix_space": False}


def huggingface(pre_tokenizer=BYTES, more=None, **changes):
    """A tokenizer.json's text in which something has been changed."""
    model = {**MODEL, **changes}
    return json.dumps({"model": model, "pre_tokenizer": pre_tokenizer, **(more or {})})


LISTED = {"format": "lineage tokenizer", "version": 1, "kind": "char", "sha256": ""}
VOCABULARIES = [
    *BAD_JSON.values(),
    *(vocabulary(), vocabulary(merges=7), vocabulary(merges=[[1, 2]]), vocabulary(merges=[5])),
    *(vocabulary(pattern=7), vocabulary(pattern="("), vocabulary(special_tokens=[1])),
    *(vocabulary(version=9), vocabulary(merges=[[300, 1, "x"]]), vocabulary(vocab_size=2**70)),
    *(huggingface(merges=7), huggingface(merges=[1, 2]), huggingface(vocab=[1]), huggingface({})),
    *(huggingface(merges=["a b c"]), huggingface(merges=[["a"]]), huggingface(vocab={"zz": 0})),
    *(huggingface(more={"added_tokens": 7}), huggingface(more={"added_tokens": [{"id": "x"}]})),
    *(huggingface(more={"normalizer": {"type": "NFC"}}), huggingface(type="WordPiece")),
    huggingface({"type": "Sequence", "pretokenizers": [{"type": "Sequence"}] * 3}),
    json.dumps(
        {"format": "lineage tokenizer", "version": 1, "kind": "char", "sha256": "", "vocab": 1}
    ),
    json.dumps({"format": "lineage tokenizer", "version": 1, "kind": "char", "sha256": ""}),
    json.dumps({"kind": "sentences"}),
    json.dumps({"model": {}}),
]
WRONG = [
    {"version": 4},
    {"version": "../v3"},
    {"version": "v77"},
    {"config": []},
    {"config": {"seed": -1}},
    {"config": {"seed": 2**64}},
    {"config": {"seed": "1"}},
    {"config": {"steps": "x"}},
    {"config": {"temperature": 1e-320}},
    {"config": {"n_head": 0}},
    {"config": {"n_embd": 1e300}},
    {"config": {"data": ["a"]}},
    {"config": {"prompt": None}},
    {"config": {"device": {"deep": {}}}},
]
RESULTS = [
    {"version": 3},
    {"seed": 1.5},
    {"val_loss": "1"},
    {"val_accuracy": 7},
    {"data": {"name": None}},
    {"config": {"steps": []}},
    {"environment": []},
    {"extrapolation": [{}]},
    {"tokenizer": {"lossless": 1}},
]

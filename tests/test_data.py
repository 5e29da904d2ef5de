"""Corpora, the user's own text, token files and detokenization: what versions train on."""

import bz2
import gzip
import hashlib
import json
import lzma
import math
import os
import re
import tracemalloc

from bpe_tokenizer import PATTERNS, BPETokenizer
from common.data import SPLITS, bundled, cache, load_corpus, own_text, reading, token_file
from common.data import corpus as corpora
from common.data import tokens as token_files
from common.data.readable import detokenize
from common.data.wikitext import articles
from common.errors import UserError
from common.tokenizers.classes import CharTokenizer, WordTokenizer

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import regex
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lineage import ROOT, edit_json, refused

LINE = "The baker carried a lantern near the orchard.\n"


class Bytes:
    """A tokenizer whose ids are the text's bytes, and 256 after each document."""

    kind, sha256, dtype, end_of_text = "bytes", "b" * 64, np.dtype("uint16"), 256

    def encode_stream(self, chunks, processes=None, end_of_text=False):
        for chunk in chunks:
            ids = np.frombuffer(chunk.encode(), dtype=np.uint8).astype(self.dtype)
            yield np.append(ids, self.dtype.type(256)) if end_of_text else ids


def text_of(corpus):
    return {split: "".join(corpus.pieces(split)) for split in SPLITS}


def documents_of(corpus):
    return [piece for split in SPLITS for piece in corpus.pieces(split)]


def refusal(*args, **kwargs):
    """The one line with which a corpus is refused."""
    with refused() as caught:
        text_of(load_corpus(*args, **kwargs))
    return str(caught.value)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_parquet(path, columns, row_group_size=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=row_group_size)
    return path


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# ---- the sample and the copying task -------------------------------------------------------------


def test_the_sample_is_the_bundled_file():
    corpus = load_corpus("sample")
    raw = (ROOT / "data" / "input.txt").read_bytes()
    assert "".join(text_of(corpus).values()).encode() == raw
    assert corpus.sha256 == hashlib.sha256(raw).hexdigest()
    assert sum(corpus.n_bytes.values()) == len(raw)
    assert corpus.documents and corpus.words("validation") is None
    assert corpus.default_prompt == "One morning" and corpus.note == ""
    for split in SPLITS:
        assert 0.1 < corpus.floor[split] < 1
        stories = list(corpus.pieces(split))
        assert len(stories) > 50
        assert all(story.endswith("\n\n") and "\n\n" not in story[:-2] for story in stories)


@pytest.mark.parametrize(
    "name, damage, wanted",
    [
        ("input.txt", b"Anna ran!" + b"x" * 60, "train split"),
        ("input.txt", b"Anna", "train split"),
        ("input.json", b'{"splits": {"train": {"offset": "0"}}}', "input.json is damaged"),
        ("input.json", b'{"splits": {}}', "input.json is damaged"),
        ("input.txt", None, "cannot read the sample"),
    ],
)
def test_a_changed_sample_is_refused(tmp_path, name, damage, wanted):
    for file in ("input.txt", "input.json"):
        write(tmp_path / file, (ROOT / "data" / file).read_bytes())
    (tmp_path / name).unlink() if damage is None else write(tmp_path / name, damage)
    with refused(f"{wanted}.*python data/world.py"):
        bundled.sample(tmp_path)


def test_copying_task_and_its_entropy():
    corpus = load_corpus("copy")
    assert 1_000_000 <= corpus.n_bytes["train"] < 1_000_100
    for split, text in text_of(corpus).items():
        halves = [line.split("|") for line in text.splitlines()]
        assert all(first == second for first, second in halves)
        assert {len(first) for first, _ in halves} == set(range(4, 33))
        bits = sum(math.log2(29) + len(first) * math.log2(26) for first, _ in halves)
        assert corpus.floor[split] == pytest.approx(bits / len(text), rel=1e-9)
    assert re.fullmatch("[a-z]+[|]", corpus.default_prompt)
    assert corpus.sha256 == "7f158729091c023c349ea83564c377e303d969eb3cb443de630da0bf40c371b2"


# ---- WikiText and datasets of the hub, from local folders ----------------------------------------


def test_wikitext_2_has_its_official_sizes(wikitext_dir, tmp_path, monkeypatch):
    corpus = load_corpus("wikitext-2", data_dir=wikitext_dir, cache_dir=tmp_path)
    assert corpus.n_bytes == {"train": 10_797_148, "validation": 1_121_681, "test": 1_256_449}
    assert (corpus.words("validation"), corpus.words("test")) == (217_646, 245_569)
    for split, number in {"train": 600, "validation": 60, "test": 60}.items():
        pieces = list(corpus.pieces(split))
        assert len(pieces) == number
        assert all(re.match(r" \n = [^=\n].* = \n \n", piece) for piece in pieces)
    text = detokenize("".join(pieces))
    assert not re.search(r"@[-,.]@| n't\b| [,.] ", text)
    assert not re.findall(r'(?<!\S)"(?!\S)', text)
    # The hashes are remembered.
    monkeypatch.setattr(corpora.Corpus, "_count", lambda self: pytest.fail("read again"))
    again = load_corpus("wikitext-2", data_dir=wikitext_dir, cache_dir=tmp_path)
    assert (again.sha256, again.key("test")) == (corpus.sha256, corpus.key("test"))


WIKI = ["", " = One = \n", "", " a \n", " = = Part = = \n", " = Won , Lost = \n", " b \n", ""]
WIKI += [" = Two = 2 = \n", "", " c \n"]


def test_articles_begin_at_titles_between_blank_lines():
    lines = [row or " \n" for row in WIKI]
    pieces = list(articles(lines))
    assert "".join(pieces) == "".join(lines)
    assert [piece.split(" \n")[1] for piece in pieces] == [" = One =", " = Two = 2 ="]
    assert list(articles([])) == []


@pytest.mark.parametrize("by_environment", [False, True])
def test_wikitext_from_a_folder_without_a_readme(tmp_path, monkeypatch, by_environment):
    for split in SPLITS:
        write_parquet(tmp_path / "wikitext-103-v1" / f"{split}-0.parquet", {"text": WIKI})
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WIKITEXT_DIR", "~")
    corpus = load_corpus("wikitext-103", data_dir=None if by_environment else tmp_path)
    assert text_of(corpus)["test"] == "".join(row or " \n" for row in WIKI)
    assert corpus.words("test") == sum(len(row.split()) + 1 for row in WIKI)


def test_an_incomplete_copy_of_wikitext_is_refused(tmp_path):
    assert "no such folder" in refusal("wikitext-2", data_dir=tmp_path / "none")
    assert "--data-dir" in refusal("wikitext-2", data_dir=tmp_path)
    write_parquet(tmp_path / "wikitext-2-v1" / "train-0.parquet", {"text": WIKI})
    assert "validation split" in refusal("wikitext-2", data_dir=tmp_path)
    for split in SPLITS:
        write_parquet(tmp_path / "wikitext-2-raw-v1" / f"{split}-0.parquet", {"text": [1, 2]})
    assert "holds int, not text" in refusal("wikitext-2-raw", data_dir=tmp_path)


def make_hub_folder(folder, splits=("train",), **columns):
    for split in splits:
        columns_of_split = columns or {"text": [f"{split} {i}" for i in range(100)]}
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        write_parquet(path, {**columns_of_split, "id": list(range(100))})
    return folder


def test_a_hub_dataset_keeps_its_splits_and_the_others_are_cut(tmp_path):
    corpus = load_corpus("hf:some-one/some.thing", data_dir=make_hub_folder(tmp_path / "a"))
    assert list(corpus.pieces("train")) == [f"train {i}" for i in range(90)]
    assert list(corpus.pieces("test")) == [f"train {i}" for i in range(95, 100)]
    assert corpus.documents and "validation and test cut from the end of train" in corpus.note
    folder = make_hub_folder(tmp_path / "b", splits=("train", "validation"))
    corpus = load_corpus("hf:o/n", data_dir=folder)
    assert len(list(corpus.pieces("train"))) == 95
    assert list(corpus.pieces("validation"))[-1] == "validation 99"


def test_columns_and_configurations_of_a_hub_dataset(tmp_path):
    rows = [f"row {i} of prose" for i in range(100)]
    folder = make_hub_folder(tmp_path, prose=rows, title=[row.upper() for row in rows])
    assert next(load_corpus("hf:o/n:prose", data_dir=folder).pieces("train")) == rows[0]
    assert next(load_corpus("hf:o/n::title", data_dir=folder).pieces("train")) == "ROW 0 OF PROSE"
    assert "of them prose, title hold text" in refusal("hf:o/n", data_dir=folder)
    assert "no column 'nope'; its columns are prose" in refusal("hf:o/n:nope", data_dir=folder)
    assert "'id' does not hold text" in refusal("hf:o/n:id", data_dir=folder)
    for config in ("small", "large"):
        columns = {"text": [config] * 40, "b": ["x"] * 40}
        write_parquet(tmp_path / config / "train-0.parquet", columns)
    assert next(load_corpus("hf:o/n:small", data_dir=tmp_path).pieces("test")) == "small"
    assert next(load_corpus("hf:o/n:large:b", data_dir=tmp_path).pieces("test")) == "x"


# ---- plain text ----------------------------------------------------------------------------------


def test_text_file_is_split_90_5_5_at_line_ends(tmp_path):
    lines = [f"line number {i} of the text\n" for i in range(1000)]
    corpus = load_corpus(write(tmp_path / "my.txt", "".join(lines)))
    texts = text_of(corpus)
    assert "".join(texts.values()) == "".join(lines)
    assert all(text.endswith("\n") for text in texts.values())
    shares = [corpus.n_bytes[split] / sum(corpus.n_bytes.values()) for split in SPLITS]
    assert shares == pytest.approx([0.90, 0.05, 0.05], abs=0.002)
    assert not corpus.documents and "5 % each, between lines" in corpus.note
    assert corpus.name == "my.txt"
    with refused("train, validation, test"):
        corpus.pieces("valid")
    windows = b"\xef\xbb\xbf" + b"one two\r\nthree\rx\r\n" * 50
    corpus = load_corpus(write(tmp_path / "windows.txt", windows))
    assert "".join(text_of(corpus).values()) == "one two\nthree\rx\n" * 50
    assert r"\r\n" in corpus.note


PACK = [gzip.compress, bz2.compress, lzma.compress]
PACK += [lambda data: pyarrow.Codec("zstd").compress(data).to_pybytes()]


@pytest.mark.parametrize("pack", PACK)
def test_compressed_files_are_read_as_what_they_hold(tmp_path, pack):
    text, table = LINE * 3000, jsonl({"text": f"row {i} of it"} for i in range(100))
    for name, content in (("t.txt", text), ("t.jsonl", table), ("t.csv", "text,n\na b,1\n" * 50)):
        plain = load_corpus(write(tmp_path / name, content))
        packed = load_corpus(write(tmp_path / f"{name}.gz", pack(content.encode())))
        assert text_of(packed) == text_of(plain) and packed.sha256 == plain.sha256
    cut = write(tmp_path / "cut.txt.gz", pack(os.urandom(20_000).hex().encode())[:-2000])
    assert "cannot read" in refusal(cut)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.text(alphabet="ab \n\r\té字\u2028\U0001f600", min_size=1, max_size=200),
    block=st.integers(2, 40),
)
@example(text="\r\n\r\n\r\n", block=2)
@example(text="first line\n" + "x" * 300_000, block=reading.BLOCK)
@example(text="x" * 300_000 + "\nlast line\n", block=reading.BLOCK)
@example(text="paragraph one.\n\nparagraph two.\n\n" * 30, block=reading.BLOCK)
@example(text="字" * 1000, block=reading.BLOCK)
def test_any_text_file_comes_back_or_is_refused(tmp_path, monkeypatch, text, block):
    for module in (reading, own_text):
        monkeypatch.setattr(module, "BLOCK", block)
    monkeypatch.setattr(own_text, "LONGEST_CHUNK", 4 * block)
    path = write(tmp_path / "t.txt", text)
    try:
        corpus = load_corpus(path)
    except UserError:
        assert len(text) < 7  # too short for three splits
        return
    # A cut may fall between \r and \n where there is no better place; nothing is lost by it.
    texts = text_of(corpus)
    assert "".join(texts.values()).replace("\r", "") == text.replace("\r", "")
    assert all(texts.values())
    if len(text) > 300:  # the shares are about right, whatever the lines are
        assert 0.8 < corpus.n_bytes["train"] / len(text.encode()) < 0.99
    prompt = corpus.default_prompt
    assert 1 <= len(prompt) <= 12 and prompt in text and set(prompt) <= set(texts["train"])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_chunks_are_tokenized_like_the_whole_text(data):
    words = ["the", "don't", "x1", " ", "  ", "\n", "\n\n", " \n", "\n ", "\t", "é", "12345", "..."]
    words += ["\u00a0", "\u2028", "'s", '"', "!\n", "字", "\u0301", "-", "\r", "A b"]
    text = data.draw(st.lists(st.sampled_from(words), min_size=40, max_size=200).map("".join))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(own_text, "BLOCK", 64)
        monkeypatch.setattr(own_text, "LONGEST_CHUNK", 10**6)
        pieces = list(own_text.chunks([text[:100], text[100:]]))
    assert "".join(pieces) == text
    for name, pattern in PATTERNS.items():
        parts = [part for piece in pieces for part in regex.findall(pattern, piece)]
        assert parts == regex.findall(pattern, text), name


def test_a_line_without_end_is_read_in_bounded_chunks():
    pieces = list(own_text.chunks("x" * (1 << 20) for _ in range(20)))
    assert "".join(pieces) == "x" * (20 << 20)
    assert max(map(len, pieces)) <= own_text.LONGEST_CHUNK + own_text.BLOCK


PLAIN, ROWS_300 = b"plain\n" * 100, b'{"text": "a b"}\n' * 300
HEADER, CSV_300 = b"text,n\n", b"a b,c\n" * 300
REFUSED = [  # a file's name, or another; what it holds, where it is a file; what is wrong with it
    ("t.txt", b"", "is empty"),
    ("t.txt", b"\xef\xbb\xbf", "is empty"),
    ("t.txt", b"x", "too short"),
    ("t.txt", PLAIN + b"caf\xe9\n" + PLAIN, "byte 0xe9 at position 603"),
    ("t.txt", b"ab\0cd\n" * 100, "not plain text: NUL byte at position 2"),
    ("t.txt", "Grüße\n".encode("utf-16") * 50, "is UTF-16: save it as UTF-8"),
    ("t.txt", "Hello\n".encode("utf-16-be") * 50, "is UTF-16, it seems"),
    ("t.txt", b"%PDF-1.7\n" + b"x" * 100, "is a PDF"),
    ("t.txt", b"PK\x03\x04" + b"x" * 100, "is a zip archive"),
    ("t.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "t.txt is not"),
    ("t.txt", b"ends inside a character \n" * 40 + b"\xc3", "at position 1000"),
    ("t.txt", b"a line of text\n" * 200_000 + b"\xff\n" + PLAIN, "position 3000000"),
    ("wikitxt-2", None, "did you mean wikitext-2?"),
    ("qqq", None, "unknown corpus 'qqq'"),
    ("", None, "unknown corpus ''"),
    ("no/such/folder", None, "no such file or folder"),
    ("nothing.txt", None, "no such file or folder"),
    ("a\0b", None, "unknown corpus"),
    ("-", None, "write it to a file first"),
    (os.devnull, None, "neither a file nor a folder"),
    ("https://x.org/a.txt", None, "download it first"),
    ("https://huggingface.co/datasets/o/n", None, "is called hf:o/n"),
    *[(f"hf:{n}", None, "hf:OWNER/NAME") for n in "|name|../x/y|o/n/x|o/n:a:b:c|o o/n".split("|")],
    ("hf:o/n:a:b/..", None, "hf:OWNER/NAME"),
    ("d.jsonl", ROWS_300 + b"{oops\n" + ROWS_300, "row 301 is not JSON: {oops"),
    ("d.jsonl", ROWS_300 + b'{"text": 5}\n', "row 301 holds int, not text, in column 'text'"),
    ("d.jsonl", ROWS_300 + b"[1, 2]\n" + ROWS_300, "row 301 holds list, not text"),
    ("d.csv", HEADER + CSV_300 + b"a, b, c\n" + CSV_300, "line 302 has 3 fields, the header 2"),
    ("d.csv", HEADER + CSV_300 + b'"a" b,c\n' + CSV_300, "line 302 is no row"),
    ("d.csv", HEADER + b'"a b,c\n' + CSV_300, "is no row of a table .*quotation marks"),
    ("d.csv", b"text,text\n" + CSV_300, "has to name the columns"),
    ("d.csv", b"5,a b\n" + CSV_300, "has to name the columns"),
    ("d.csv", HEADER + CSV_300 + b"\xff\n", "is not UTF-8"),
    ("x.parquet", b"PAR1 no table" * 10, "cannot read"),
]


@pytest.mark.parametrize("name, content, wanted", REFUSED, ids=lambda value: repr(value)[:20])
def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch, name, content, wanted):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        write(tmp_path / name, content)
    assert re.search(wanted, refusal(name))


NO_TEXT = {  # the only kind of line, and what is wrong where there are one or many of them
    '{"id": 1}': "columns are id, and none of them reads as text",
    '{"a": "a b", "b": "c d"}': "columns are a, b, and of them a, b hold text: .* t.jsonl:a",
    "{}": "no text|too short",
    '[{"text": "a b"}]': "not JSON|too short",
    '{"text": ': "row 1 is not JSON",
    '{"text": 5}': "columns are text, and none",
    "[" * 50_000: "not JSON",
    "5": "holds int, not text",
}


def test_a_table_without_a_column_of_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line, wanted in NO_TEXT.items():
        for times in (1, 60):
            write(tmp_path / "t.jsonl", f"{line}\n" * times)
            assert re.search(wanted, refusal("t.jsonl")), line[:40]
    raw = pyarrow.array([b"\xff b"] * 40).view(pyarrow.string())
    assert "is not UTF-8" in refusal(write_parquet(tmp_path / "latin.parquet", {"text": raw}))
    assert "does not hold text" in refusal(f"{write_parquet(tmp_path / 'n.parquet', {'n': [1]})}:n")


# ---- tables --------------------------------------------------------------------------------------

ROWS = [f'row {i}: "quoted", and\nover two lines é' for i in range(100)]


def csv(rows, separator=","):
    quoted = ('"' + row.replace('"', '""') + '"' for row in rows)
    return f"n{separator}review\n" + "".join(f"{i}{separator}{q}\n" for i, q in enumerate(quoted))


def table_files(folder):
    objects = [{"n": i, "review": row} for i, row in enumerate(ROWS)]
    yield write(folder / "d.csv", csv(ROWS))
    yield write(folder / "semicolons.csv", csv(ROWS, ";"))
    yield write(folder / "d.tsv", b"\xef\xbb\xbf" + csv(ROWS, "\t").encode())
    for name in ("d.jsonl", "d.ndjson", "lines.json", "d.log"):
        yield write(folder / name, jsonl(objects))
    yield write(folder / "array.json", json.dumps(objects, indent=2))
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        columns = {"n": list(range(100)), "review": pyarrow.array(ROWS, kind)}
        yield write_parquet(folder / f"{kind}.parquet", columns, row_group_size=13)
    columns["review"] = pyarrow.array(ROWS).dictionary_encode()
    yield write_parquet(folder / "dictionary.parquet", columns)


def test_tables_of_every_kind_are_read_row_by_row(tmp_path):
    strings = write(tmp_path / "strings.json", json.dumps(ROWS))
    assert documents_of(load_corpus(strings)) == ROWS
    for path in table_files(tmp_path):
        for name in (path, f"{path}:review"):
            corpus = load_corpus(name)
            assert documents_of(corpus) == ROWS, path
            assert [len(list(corpus.pieces(split))) for split in SPLITS] == [90, 5, 5], path
        assert corpus.documents and "column 'review' is read, typically 38 char" in corpus.note
        assert "no column 'nope'; its columns are n, review" in refusal(f"{path}:nope")


def test_conversations_are_read_as_chats(tmp_path):
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": "What is it?"}, {"role": "tool", "content": None}]
    messages += [{"from": "gpt", "value": "A lamp."}, {"role": "user", "content": parts}]
    rows = [{"id": f"q{i}", "messages": messages} for i in range(50)]
    corpus = load_corpus(write(tmp_path / "c.jsonl", jsonl(rows)))
    assert next(corpus.pieces("train")) == "user: What is it?\ngpt: A lamp.\nuser: a b"
    assert "column 'messages' is read" in corpus.note
    path = write_parquet(tmp_path / "c.parquet", {"id": ["q"] * 50, "m": [messages[:1]] * 50})
    assert next(load_corpus(path).pieces("train")) == "user: What is it?"
    rows = [{"id": f"q{i}", "t": "黄花落日雨河闻觉落春流"} for i in range(50)]  # no spaces: text
    assert next(load_corpus(write(tmp_path / "t.jsonl", jsonl(rows))).pieces("train"))[0] == "黄"


@pytest.mark.parametrize(
    "values",
    [
        [f"q{i}" for i in range(50)],
        [f"2024-01-{i + 1:02} 10:00:00" for i in range(28)],
        [f"https://x.org/page/{i}" for i in range(50)],
        ["positive", "negative"] * 25,
    ],
)
def test_a_column_that_is_no_text_is_read_only_by_its_name(tmp_path, values):
    path = write(tmp_path / "c.jsonl", jsonl({"a": value, "n": 1} for value in values))
    assert f"none of them reads as text: name one after a colon, {path}:a" in refusal(path)
    assert documents_of(load_corpus(f"{path}:a")) == values


def test_rows_without_text_are_skipped_and_counted(tmp_path):
    full, odd = '{"text": "a b"}', '{"text": "\\ud800!"}'
    empty = ["", '{"text": null}', '{"text": ""}', '{"id": 1}', "null"]
    corpus = load_corpus(write(tmp_path / "d.jsonl", "\r\n".join([*empty, full, odd] * 40)))
    assert set(documents_of(corpus)) == {"a b", "\ufffd!"}
    assert "rows without text, skipped: 160" in corpus.note


# ---- folders -------------------------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    for i in range(40):
        write(tmp_path / "deep" / f"{i:02}.md", f"text {i:02}\nsecond line\n")
    corpus = load_corpus(tmp_path)
    pieces = documents_of(corpus)
    assert [len(list(corpus.pieces(split))) for split in SPLITS] == [36, 2, 2]
    assert corpus.documents and pieces[0] == "text 00\nsecond line\n" and pieces == sorted(pieces)


def test_a_folder_says_what_is_read_and_what_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("LINEAGE_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "cache" / "vocabulary.json", "{}")
    for name in ("a.txt", "b.md", "c.py", "LICENSE"):
        write(tmp_path / name, LINE * 20)
    write(tmp_path / ".hidden.txt", "HIDDEN")
    write(tmp_path / ".git" / "x.txt", "HIDDEN")
    write(tmp_path / "table.csv", "text\nTABLE\n")
    write(tmp_path / "picture.png", b"\x89PNG\r\n\x1a\n\0\0")
    write(tmp_path / "latin.txt", b"caf\xe9\n")
    write(tmp_path / "none.txt", b"")
    (tmp_path / "linked").symlink_to(ROOT, target_is_directory=True)
    run = tmp_path / "runs" / "v2"
    write(run / "config.json", json.dumps({"version": "v2", "config": {}}))
    write(run / "samples.txt", "SAMPLES")
    corpus = load_corpus(tmp_path)
    assert set("".join(documents_of(corpus)).splitlines(True)) == {LINE}
    wanted = ["read: 1 LICENSE, 1 .txt, 1 .md, 1 .py; ", ".git, .hidden.txt (hidden)"]
    wanted += ["linked (a link)", "runs/v2 (a run's folder)", "table.csv (other kinds)"]
    wanted += ["latin.txt, picture.png (not UTF-8 text)", "none.txt (empty)", "cache (the cache)"]
    for words in wanted:
        assert words in corpus.note, corpus.note
    assert "is a run's folder" in refusal(run)
    assert "no file in this folder" in refusal(write(tmp_path / "e" / "x.bin", b"\0").parent)


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "valid.txt", "test.txt"),
        ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
        ("wiki_TRAINING.md", "wiki_dev.md", "my-test-1.md"),
        ("train/a.txt", "validation/a.txt", "test/a.txt"),
    ],
)
def test_a_folder_keeps_its_own_splits_and_leaves_the_rest_out(tmp_path, names):
    for name, text in zip(names, ("to learn\n" * 30, "to choose\n", "to evaluate\n"), strict=True):
        write(tmp_path / name, text)
    write(tmp_path / "LICENSE.txt", "do what you want\n")
    corpus = load_corpus(tmp_path)
    assert list(text_of(corpus).values()) == ["to learn\n" * 30, "to choose\n", "to evaluate\n"]
    assert f"train: {names[0]}; validation: {names[1]}; test: {names[2]}" in corpus.note
    assert "left out, since no split names it: LICENSE.txt" in corpus.note
    (tmp_path / names[2]).unlink()
    corpus = load_corpus(tmp_path)
    assert text_of(corpus)["validation"] == "to choose\n"
    assert "test cut from the end of train" in corpus.note
    program = {"train.py": LINE, "tests/test_model.py": LINE, "model.py": "THE MODEL\n" * 200}
    for name, text in program.items():  # whose tests are no split
        write(tmp_path / "program" / name, text)
    assert "THE MODEL" in text_of(load_corpus(tmp_path / "program"))["train"]


# ---- token files ---------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path):
    text = "".join(f"line {i} é\n" for i in range(2000))
    return load_corpus(write(tmp_path / "t.txt", text), cache_dir=tmp_path / "cache")


def test_token_file_holds_the_ids(corpus, tmp_path):
    found = token_file(corpus, "train", Bytes())
    assert found.path.parent == tmp_path / "cache" and found.dtype == np.dtype("<u2")
    tokens, text = found.memmap(), "".join(corpus.pieces("train")).encode()
    assert isinstance(tokens, np.memmap) and tokens.shape == (found.n_tokens,) == (len(text),)
    assert bytes(tokens.astype(np.uint8)) == text
    assert np.array_equal(found.load(), tokens) and not isinstance(found.load(), np.memmap)
    stamp = found.path.stat().st_mtime_ns
    assert token_file(corpus, "train", Bytes()) == found
    assert found.path.stat().st_mtime_ns == stamp and not list(found.path.parent.glob("*.tmp"))


def test_documents_end_with_the_end_of_text(tmp_path):
    path = write(tmp_path / "d.jsonl", jsonl({"text": f"d{i}"} for i in range(40)))
    corpus = load_corpus(path, cache_dir=tmp_path)
    ids = token_file(corpus, "train", Bytes()).load().tolist()
    assert ids[:6] == [100, 48, 256, 100, 49, 256] and ids[-1] == 256
    assert ids.count(256) == len(list(corpus.pieces("train")))


def test_a_long_split_is_encoded_by_several_processes(tmp_path, monkeypatch):
    lines = "".join(f"line {i} of a text that is cut into blocks\n" for i in range(40_000))
    text, tokenizer = write(tmp_path / "text.txt", lines), BPETokenizer([(97, 98), (32, 111)])
    requested, stream = [], BPETokenizer.encode_stream

    def encode_stream(self, chunks, processes=None, end_of_text=False):
        requested.append(processes)
        return stream(self, chunks, processes, end_of_text)

    monkeypatch.setattr(BPETokenizer, "encode_stream", encode_stream)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    contents = []
    for name, limit in (("one", 50_000_000), ("two", 1_000_000)):
        monkeypatch.setattr(token_files, "SEVERAL_FROM", limit)
        found = load_corpus(text, cache_dir=tmp_path / name)
        contents.append(token_file(found, "train", tokenizer, progress=False).path.read_bytes())
    assert requested == [1, 2] and contents[0] == contents[1]


def test_another_vocabulary_text_split_or_border_is_another_token_file(corpus, tmp_path):
    other = Bytes()
    other.sha256 = "c" * 64
    longer = write(tmp_path / "b" / "t.txt", "x" + (tmp_path / "t.txt").read_text("utf-8"))
    longer = load_corpus(longer, cache_dir=tmp_path / "cache")
    paths = {token_file(corpus, split, Bytes()).path for split in SPLITS}
    paths |= {token_file(corpus, "train", other).path, token_file(longer, "train", Bytes()).path}
    rows = [[{"text": "ab"}, {"text": "c"}] * 30, [{"text": "a"}, {"text": "bc"}] * 30]
    for i, some in enumerate(rows):
        path = write(tmp_path / str(i) / "d.jsonl", jsonl(some))
        paths.add(token_file(load_corpus(path, cache_dir=tmp_path), "train", Bytes()).path)
    assert len(paths) == 7
    copy = write(tmp_path / "elsewhere" / "t.txt", (tmp_path / "t.txt").read_bytes())
    copy = load_corpus(copy, cache_dir=tmp_path / "cache")  # the same bytes: the same corpus
    assert copy.sha256 == corpus.sha256
    assert token_file(copy, "test", Bytes()) == token_file(corpus, "test", Bytes())


@pytest.mark.parametrize("big", [False, True])
def test_a_text_that_changes_while_it_is_read_is_refused(corpus, tmp_path, monkeypatch, big):
    monkeypatch.setattr(own_text, "BIG", 1 if big else 10**9)
    path = tmp_path / "t.txt"
    corpus = load_corpus(path, cache_dir=tmp_path / "cache")
    path.write_bytes(path.read_bytes().replace(b"line 7 ", b"LINE 7 "))
    with pytest.raises(UserError, match="the train split changed while it was read"):
        token_file(corpus, "train", Bytes())
    assert not list((tmp_path / "cache").glob("*.bin"))
    again = load_corpus(path, cache_dir=tmp_path / "cache")
    assert bytes(token_file(again, "train", Bytes()).load().astype("u1")).count(b"LINE 7 ") == 1


DAMAGE = [
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(path.read_bytes() + b"\0\0"),
    lambda path: path.write_bytes(b"L" + path.read_bytes()[1:]),
    lambda path: path.unlink(),
    lambda path: path.with_suffix(".json").unlink(),
    lambda path: path.with_suffix(".json").write_bytes(b"{"),
    lambda path: path.with_suffix(".json").write_bytes(b"[]"),
    *[{"n_tokens": math.inf}, {"n_tokens": "3"}, {"n_tokens": 10**30}],
    *[{"dtype": ">u2"}, {"dtype": "|O"}, {"unknown_share": None}],
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_token_file_is_made_again(corpus, damage):
    found = token_file(corpus, "train", Bytes())
    whole = found.path.read_bytes()
    if isinstance(damage, dict):
        edit_json(found.path.with_suffix(".json"), **damage)
    else:
        damage(found.path)
    again = token_file(corpus, "train", Bytes())
    assert again == found and again.path.read_bytes() == whole


@pytest.mark.parametrize("value", [math.inf, {"splits": {}, "sha256": 5}, [], {"sha256": "0" * 64}])
def test_damaged_hashes_of_a_big_corpus_are_made_again(tmp_path, monkeypatch, value):
    monkeypatch.setattr(own_text, "BIG", 1)
    path = write(tmp_path / "t.csv", "text,n\n" + "a b,1\n" * 50)
    sha256 = load_corpus(path, cache_dir=tmp_path / "cache").sha256
    found = sorted((tmp_path / "cache").glob("facts-*.json"))
    assert len(found) == 2  # the sizes, and the hashes
    for file in found:
        saved = json.loads(file.read_text(encoding="utf-8"))
        text = json.dumps({"key": saved["key"], "value": value})
        file.write_text(text, encoding="utf-8")
    assert load_corpus(path, cache_dir=tmp_path / "cache").sha256 == sha256


def test_the_share_of_unknown_characters_is_measured(tmp_path, capsys):
    text = "".join(f"{chr(0x4E00 + i * 37 % 5000) * 9}，\n" for i in range(3000))
    corpus = load_corpus(write(tmp_path / "z.txt", text), cache_dir=tmp_path / "cache")
    tokenizer = WordTokenizer.train(corpus.pieces("train"), 50)
    validation = "".join(corpus.pieces("validation"))
    unknown = [word for word in tokenizer.pieces(validation) if word not in tokenizer.vocab]
    share = sum(map(len, unknown)) / len(validation)
    assert 0.5 < share < 1
    for _ in range(2):  # encoded, and found
        found = token_file(corpus, "validation", tokenizer)
        assert found.unknown_share == pytest.approx(share)
        assert f"z.txt: {share:.1%} of the validation split's char" in capsys.readouterr().err
    characters = CharTokenizer.train(corpus.pieces("train"))
    assert token_file(corpus, "train", characters).unknown_share == 0
    assert corpus.default_prompt in text and capsys.readouterr().err == ""


def test_a_split_of_one_token_is_refused(tmp_path):
    for name, text in (("train", LINE * 50), ("val", "T"), ("test", "T")):
        write(tmp_path / f"{name}.txt", text)
    corpus = load_corpus(tmp_path, cache_dir=tmp_path / "cache")
    with pytest.raises(UserError, match="1 token in the validation split is too few"):
        token_file(corpus, "validation", CharTokenizer.train([LINE], special_tokens=()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, line, sizes",
    [("t.txt", LINE, (3e6, 12e6)), ("t.csv", f"{LINE[:-1]},1\n", (5e5, 2e6))],
)
def test_memory_does_not_grow_with_the_text(tmp_path, name, line, sizes):
    peaks = []
    for size in sizes:
        path = write(tmp_path / str(size) / name, "text,n\n" + line * int(size / len(line)))
        tracemalloc.start()
        token_file(load_corpus(path, cache_dir=tmp_path / "cache"), "train", Bytes())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] < 40e6


def test_the_cache_by_argument_environment_and_default(tmp_path, monkeypatch, corpus):
    monkeypatch.setenv("LINEAGE_CACHE", str(tmp_path / "by-environment"))
    assert cache.cache_folder() == tmp_path / "by-environment"
    assert cache.cache_folder(tmp_path / "by-argument") == tmp_path / "by-argument"
    monkeypatch.delenv("LINEAGE_CACHE")
    monkeypatch.setattr(cache, "REPOSITORY", tmp_path)
    assert cache.cache_folder() == tmp_path / "data" / "cache"
    write(tmp_path / "file", "no folder")
    with pytest.raises(UserError, match="LINEAGE_CACHE"):
        token_file(corpus, "train", Bytes(), cache_dir=tmp_path / "file" / "cache")


# ---- text made readable --------------------------------------------------------------------------


READABLE = {  # as WikiText has it, and as a person writes it
    " The cat , which sat , ran . \n": "The cat, which sat, ran.\n",
    " a well @-@ known 1 @,@ 000 @.@ 5 km": "a well-known 1,000.5 km",
    " He did n't see Anna 's key : 50 % !": "He didn't see Anna's key: 50%!",
    ' He said " yes " and " no " . ': 'He said "yes" and "no".',
    ' ( " x " , 24 in ) [ 2 ]': '("x", 24 in) [2]',
    " the players ' kit and rock ' n ' roll": "the players' kit and rock 'n' roll",
    " the Knights ' king and the boys ' dog": "the Knights' king and the boys' dog",
    " the 1980s and ' 90s": "the 1980s and '90s",
    " = Title = \n \n = = Part ( one ) = = \n": "= Title =\n\n== Part (one) ==\n",
    " US $ 5 million , £ 12 @.@ 5": "US$5 million, £12.5",
    " 2013 – 14 York , 5 – 6 ; then – so": "2013–14 York, 5–6; then – so",
    " 20 ° C , 47 ° 36 ′ N and / or": "20°C, 47° 36′ N and/or",
    "\n\n": "\n\n",
    ' an open " quote': 'an open "quote',
}


@pytest.mark.parametrize("official", READABLE)
def test_detokenize(official):
    assert detokenize(official) == READABLE[official]
    assert detokenize(READABLE[official]) == READABLE[official]


SIGNS = [*" \n,.;:!?%()[]\"'@=$–/°5sa", "@-@", "@,@", "n't", "'s"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(SIGNS), max_size=40).map(" ".join))
def test_detokenize_changes_spaces_and_markers_only(text):
    def bare(text):
        return re.sub(r"\s|@", "", re.sub(r" @([-,.])@ ", r"\1", text.replace("\n", " \n ")))

    assert detokenize(text).count("\n") == text.count("\n")
    assert bare(detokenize(text)) == bare(text)

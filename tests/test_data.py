"""Corpora, token files and detokenization: the bytes that every version trains on."""

import hashlib
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bpe_tokenizer import BPETokenizer
from common import cache, data, hub, own_text
from common.data import SPLITS, Corpus, articles, detokenize, load_corpus, token_file
from common.errors import UserError
from common.tokenizers import CharTokenizer

REPOSITORY = Path(__file__).resolve().parent.parent


class Bytes:
    """A tokenizer whose ids are the text's bytes, and 256 behind each document."""

    kind, sha256, dtype, end_of_text = "bytes", "b" * 64, np.dtype("uint16"), 256

    def encode_stream(self, chunks, processes=None, end_of_text=False):
        for chunk in chunks:
            ids = np.frombuffer(chunk.encode(), dtype=np.uint8).astype(self.dtype)
            yield np.append(ids, self.dtype.type(256)) if end_of_text else ids


def text_of(corpus):
    return {split: "".join(corpus.pieces(split)) for split in SPLITS}


def one_line_error(*args, **kwargs):
    with pytest.raises(UserError) as caught:
        corpus = load_corpus(*args, **kwargs)
        text_of(corpus)
    message = str(caught.value)
    assert "\n" not in message and len(message) > 20
    return message


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_parquet(path, columns, row_group_size=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=row_group_size)
    return path


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(hub, "_hub_answers", lambda: False)


# ---- the sample --------------------------------------------------------------------------------


def make_sample(folder, stories=("Anna ran.\n\n", "Tom sat.\nHe slept.\n\n", "The end.\n\n")):
    info, offset = {"splits": {}}, 0
    for split, story in zip(SPLITS, stories):
        raw = story.encode()
        info["splits"][split] = {"offset": offset, "bytes": len(raw), "floor_bits_per_byte": 0.5,
                                 "sha256": hashlib.sha256(raw).hexdigest()}
        offset += len(raw)
    write(folder / "input.txt", "".join(stories))
    write(folder / "input.json", json.dumps(info))
    return folder


def test_bundled_sample():
    corpus = load_corpus("sample")
    raw = (REPOSITORY / "data" / "input.txt").read_bytes()
    assert "".join(text_of(corpus).values()).encode() == raw
    assert corpus.sha256 == hashlib.sha256(raw).hexdigest()
    assert sum(corpus.n_bytes.values()) == len(raw)
    assert corpus.documents and corpus.words("validation") is None
    for split in SPLITS:
        assert 0.1 < corpus.floor[split] < 1
        stories = list(corpus.pieces(split))
        assert len(stories) > 50
        assert all(story.endswith("\n\n") and "\n\n" not in story[:-2] for story in stories)


def test_sample_stories_are_pieces(tmp_path):
    stories = ("Anna ran.\n\nTom\nsat.\n\n", "Mira.\n\n", "x\n\ny\n\n")
    corpus = data._sample("sample", None, make_sample(tmp_path, stories))
    assert list(corpus.pieces("train")) == ["Anna ran.\n\n", "Tom\nsat.\n\n"]
    assert list(corpus.pieces("test")) == ["x\n\n", "y\n\n"]


@pytest.mark.parametrize("damage, wanted", [
    (lambda folder: write(folder / "input.txt", b"Anna ran!" + b"x" * 60), "train split"),
    (lambda folder: write(folder / "input.txt", b"Anna"), "train split"),
    (lambda folder: write(folder / "input.json", "{"), "input.json is damaged"),
    (lambda folder: write(folder / "input.json", '{"splits": {}}'), "input.json is damaged"),
    (lambda folder: (folder / "input.txt").unlink(), "cannot read the sample"),
])
def test_sample_is_verified(tmp_path, damage, wanted):
    damage(make_sample(tmp_path))
    with pytest.raises(UserError, match=wanted) as caught:
        data._sample("sample", None, tmp_path)
    assert "python data/world.py" in str(caught.value)


# ---- the copying task --------------------------------------------------------------------------


def test_copying_task_and_its_floor():
    corpus = load_corpus("copy")
    texts = text_of(corpus)
    assert 1_000_000 <= corpus.n_bytes["train"] < 1_000_100
    for split, text in texts.items():
        lines = text.splitlines()
        halves = [line.split("|") for line in lines]
        assert all(first == second for first, second in halves)
        lengths = {len(first) for first, _ in halves}
        assert lengths == set(range(4, 33))
        bits = sum(math.log2(29) + len(first) * math.log2(26) for first, _ in halves)
        assert corpus.floor[split] == pytest.approx(bits / len(text), rel=1e-9)
        letters = np.bincount(np.frombuffer("".join(a for a, _ in halves).encode(), np.uint8))[97:]
        assert len(letters) == 26 and letters.min() > 0.8 * letters.mean()   # all letters alike
    assert not corpus.documents
    assert texts["validation"] != texts["test"]
    assert corpus.sha256 == "7f158729091c023c349ea83564c377e303d969eb3cb443de630da0bf40c371b2"


# ---- WikiText ----------------------------------------------------------------------------------


def test_wikitext_2_has_its_official_sizes(wikitext_dir):
    corpus = load_corpus("wikitext-2", data_dir=wikitext_dir)
    assert corpus.n_bytes == {"train": 10_797_148, "validation": 1_121_681, "test": 1_256_449}
    assert corpus.words("validation") == 217_646
    assert corpus.words("test") == 245_569
    assert corpus.documents and corpus.floor is None
    whole = "".join("".join(corpus.pieces(split)) for split in SPLITS)
    assert corpus.sha256 == hashlib.sha256(whole.encode()).hexdigest()
    assert "\n\n" not in whole and " \n" in whole


def test_wikitext_2_has_its_official_number_of_articles(wikitext_dir):
    corpus = load_corpus("wikitext-2", data_dir=wikitext_dir)
    for split, number in {"train": 600, "validation": 60, "test": 60}.items():
        pieces = list(corpus.pieces(split))
        assert len(pieces) == number
        assert all(re.match(r" \n = [^=\n].* = \n \n", piece) for piece in pieces)
        assert all(piece.endswith("\n") for piece in pieces)


def test_wikitext_hashes_are_remembered(wikitext_dir, tmp_path, monkeypatch):
    before = load_corpus("wikitext-2", data_dir=wikitext_dir, cache_dir=tmp_path)
    sizes, key = before.n_bytes, before.key("test")
    monkeypatch.setattr(Corpus, "_count", lambda self: pytest.fail("read again"))
    again = load_corpus("wikitext-2", data_dir=wikitext_dir, cache_dir=tmp_path)
    assert (again.n_bytes, again.key("test"), again.sha256) == (sizes, key, before.sha256)
    assert again.words("test") == 245_569


def test_wikitext_is_found_by_the_environment(wikitext_dir, monkeypatch, no_hub):
    if wikitext_dir is None:
        pytest.skip("WIKITEXT_DIR is not set")
    assert load_corpus("wikitext-2").n_bytes["test"] == 1_256_449


ROWS = ["", " = One = \n", "", " a \n", " = = Part = = \n", " = Won , Lost = \n", " b \n", "",
        " = Two = 2 = \n", "", " c \n"]


def test_articles_begin_at_titles_between_blank_lines():
    lines = [row or " \n" for row in ROWS]
    pieces = list(articles(lines))
    assert "".join(pieces) == "".join(lines)
    assert [piece.split(" \n")[1] for piece in pieces] == [" = One =", " = Two = 2 ="]
    assert list(articles([])) == []
    assert list(articles(["a\n", "b\n"])) == ["a\nb\n"]


def test_wikitext_from_a_folder_without_a_readme(tmp_path):
    for split in SPLITS:
        write_parquet(tmp_path / "wikitext-103-v1" / f"{split}-00000-of-00001.parquet",
                      {"text": ROWS})
    corpus = load_corpus("wikitext-103", data_dir=tmp_path)
    assert text_of(corpus)["test"] == "".join(row or " \n" for row in ROWS)
    assert corpus.words("test") == sum(len(row.split()) + 1 for row in ROWS)
    assert corpus.readable(" a , b ") == "a, b"


def test_wikitext_s_folder_may_begin_with_a_tilde(tmp_path, monkeypatch, no_hub):
    for split in SPLITS:
        write_parquet(tmp_path / "wikitext-103-v1" / f"{split}-0.parquet", {"text": ROWS})
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WIKITEXT_DIR", "~")
    assert load_corpus("wikitext-103").words("test") == sum(len(row.split()) + 1 for row in ROWS)


def test_wikitext_that_is_not_there(tmp_path, monkeypatch, no_hub):
    assert "no such folder" in one_line_error("wikitext-2", data_dir=tmp_path / "none")
    assert "--data-dir" in one_line_error("wikitext-2", data_dir=tmp_path)
    write_parquet(tmp_path / "wikitext-2-v1" / "train-0.parquet", {"text": ROWS})
    assert "validation split" in one_line_error("wikitext-2", data_dir=tmp_path)
    # A default folder without this configuration is passed over, and the hub does not answer.
    monkeypatch.setenv("WIKITEXT_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="--data sample"):
        hub.load_dataset("nobody/nothing", "none-v1", None)


# ---- datasets of the hub -----------------------------------------------------------------------


def make_hub_folder(folder, rows=100, splits=("train",), **columns):
    for split in splits:
        texts = [f"{split} {i}" for i in range(rows)]
        write_parquet(folder / "data" / f"{split}-00000-of-00001.parquet",
                      {**(columns or {"text": texts}), "id": list(range(rows))})
    return folder


def test_hub_dataset_with_only_a_training_split_is_cut(tmp_path):
    corpus = load_corpus("hf:some-one/some.thing", data_dir=make_hub_folder(tmp_path))
    assert list(corpus.pieces("train")) == [f"train {i}" for i in range(90)]
    assert list(corpus.pieces("validation")) == [f"train {i}" for i in range(90, 95)]
    assert list(corpus.pieces("test")) == [f"train {i}" for i in range(95, 100)]
    assert corpus.documents and "5 %" in corpus.note


def test_hub_dataset_keeps_its_own_splits(tmp_path):
    folder = make_hub_folder(tmp_path, splits=("train", "validation"))
    corpus = load_corpus("hf:o/n", data_dir=folder)
    assert len(list(corpus.pieces("train"))) == 95
    assert list(corpus.pieces("validation"))[-1] == "validation 99"
    assert list(corpus.pieces("test"))[0] == "train 95"
    assert "no test split" in corpus.note


def test_hub_dataset_columns(tmp_path):
    rows = [str(i) for i in range(100)]
    folder = make_hub_folder(tmp_path, prose=rows, title=[row + "t" for row in rows])
    assert next(load_corpus("hf:o/n:prose", data_dir=folder).pieces("train")) == "0"
    assert next(load_corpus("hf:o/n::title", data_dir=folder).pieces("train")) == "0t"
    for name in ("hf:o/n:nope", "hf:o/n", "hf:o/n:id"):
        message = one_line_error(name, data_dir=folder)
        assert "hf:o/n" in message and ("prose, title, id" in message or "not hold text" in message)


def test_hub_dataset_configurations(tmp_path):
    for config in ("small", "large"):
        columns = {"text": [config] * 40, "b": ["x"] * 40}
        write_parquet(tmp_path / config / "train-0.parquet", columns)
    assert next(load_corpus("hf:o/n:small", data_dir=tmp_path).pieces("test")) == "small"
    assert next(load_corpus("hf:o/n:large:b", data_dir=tmp_path).pieces("test")) == "x"


@pytest.mark.parametrize("name", ["hf:", "hf:name", "hf:../x/y", "hf:o/n/x", "hf:o/n:a:b:c",
                                  "hf:o o/n", "hf:https://x/y"])
def test_hub_names_are_checked(name):
    assert "hf:OWNER/NAME" in one_line_error(name)


def test_hub_out_of_reach(no_hub):
    message = one_line_error("hf:nobody/there-is-no-such-dataset")
    assert "cannot be reached" in message and "--data sample" in message


def test_hub_errors_are_one_line():
    class DatasetNotFoundError(Exception):
        pass

    assert "no public dataset o/n" in str(hub._failure(DatasetNotFoundError("x\ny"), "o/n", None))
    assert "reason" in str(hub._failure(ValueError("reason\nmore"), "o/n", "c"))
    assert "\n" not in str(hub._failure(ValueError("reason\nmore"), "o/n", "c"))


# ---- the user's own text -----------------------------------------------------------------------


def test_text_file_is_split_90_5_5_at_line_ends(tmp_path):
    lines = [f"line number {i} of the text\n" for i in range(1000)]
    corpus = load_corpus(write(tmp_path / "my.txt", "".join(lines)))
    texts = text_of(corpus)
    assert "".join(texts.values()) == "".join(lines)
    assert all(text.endswith("\n") for text in texts.values())
    shares = [corpus.n_bytes[split] / sum(corpus.n_bytes.values()) for split in SPLITS]
    assert shares == pytest.approx([0.90, 0.05, 0.05], abs=0.002)
    assert not corpus.documents and "90/5/5" in corpus.note and corpus.name == "my.txt"
    assert corpus.readable(" a , b ") == " a , b "


def test_byte_order_mark_and_crlf(tmp_path):
    path = write(tmp_path / "w.txt", b"\xef\xbb\xbf" + b"one two\r\nthree\rx\r\n" * 50)
    corpus = load_corpus(path)
    assert "".join(text_of(corpus).values()) == "one two\nthree\rx\n" * 50
    assert r"\r\n" in corpus.note
    assert sum(corpus.n_bytes.values()) == len("one two\nthree\rx\n" * 50)


@pytest.mark.parametrize("block", [2, 3, 5])
def test_crlf_and_characters_across_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(own_text, "BLOCK", block)
    text = "né\r\nü\r\r\nok \U0001f600\r\nend\r\n" * 8
    corpus = load_corpus(write(tmp_path / "t.txt", text))
    assert "".join(text_of(corpus).values()) == text.replace("\r\n", "\n")


@pytest.mark.parametrize("content", [
    "one line of words without an end " * 40,
    "einzeiler" * 400,
    "字" * 1000,
    "a\nb\nc\n",
    "a\nb\nc",
    "\U0001f600\U0001f601\U0001f602",
    "first line\n" + "x" * 300_000,
    "x" * 300_000 + "\nlast line\n",
    "paragraph one.\n\nparagraph two.\n\n" * 30,
])
def test_awkward_texts_are_split_without_loss(tmp_path, content):
    corpus = load_corpus(write(tmp_path / "t.txt", content))
    texts = text_of(corpus)
    assert "".join(texts.values()) == content
    assert all(texts.values())
    if len(content) > 300:      # the shares are about right
        assert 0.8 < corpus.n_bytes["train"] / len(content.encode()) < 0.99


@settings(max_examples=150, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="ab \n\r\té字\u2028\U0001f600", min_size=1, max_size=200),
       block=st.integers(2, 40))
@example(text="\r\n\r\n\r\n", block=2)
def test_any_text_file_comes_back_or_is_refused(tmp_path, monkeypatch, text, block):
    monkeypatch.setattr(own_text, "BLOCK", block)
    monkeypatch.setattr(own_text, "LONGEST_BLOCK", 4 * block)
    path = write(tmp_path / "t.txt", text)
    try:
        texts = text_of(load_corpus(path))
    except UserError:
        assert len(text) < 7      # too short for three splits
        return
    # A cut may fall between \r and \n where there is no better place; nothing is lost by it.
    assert "".join(texts.values()).replace("\r", "") == text.replace("\r", "")


def test_stretches_are_tokenized_like_the_whole_text(monkeypatch):
    import regex

    from bpe_tokenizer import PATTERNS
    monkeypatch.setattr(own_text, "BLOCK", 64)
    words = ["the", "don't", "x1", " ", "  ", "\n", "\n\n", " \n", "\n ", "\t", "é", "12345",
             "...", "\u00a0", "\u2028", "'s", "\"", "!\n", "字", "\u0301", "-", "\r", "A b"]

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.sampled_from(words), min_size=40, max_size=200).map("".join))
    def check(text):
        pieces, rest = [], text
        while len(rest) > 64 and (cut := own_text._safe_cut(rest)):
            pieces.append(rest[:cut])
            rest = rest[cut:]
        pieces.append(rest)
        assert "".join(pieces) == text
        for name, pattern in PATTERNS.items():
            parts = [part for piece in pieces for part in regex.findall(pattern, piece)]
            assert parts == regex.findall(pattern, text), name

    check()


def test_long_texts_are_cut_in_stretches(tmp_path):
    text = "a line of words that goes on\n" * 200_000      # 5.8 MB
    corpus = load_corpus(write(tmp_path / "t.txt", text))
    pieces = list(corpus.pieces("train"))
    assert len(pieces) > 4 and max(map(len, pieces)) < 2.1 * own_text.BLOCK
    assert all(piece.endswith("\n") for piece in pieces)
    one_line = "x" * 20_000_000
    blocks = (one_line[i:i + (1 << 20)] for i in range(0, 20_000_000, 1 << 20))
    pieces = list(own_text.stretches(blocks))
    assert "".join(pieces) == one_line
    assert max(map(len, pieces)) <= own_text.LONGEST_BLOCK + own_text.BLOCK


@pytest.mark.parametrize("content, wanted", [
    (b"", "is empty"),
    (b"\xef\xbb\xbf", "is empty"),
    (b"x", "too short"),
    (b"plain\n" * 100 + b"caf\xe9\n" + b"plain\n" * 100, "byte 0xe9 at position 603"),
    (b"ab\0cd\n" * 100, "NUL byte at position 2"),
    ("Grüße\n".encode("utf-16") * 50, "NUL byte at position 3"),
    (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "t.txt is not"),
    (b"ends inside a character \n" * 40 + b"\xc3", "at position 1000"),
])
def test_files_that_are_no_text(tmp_path, content, wanted):
    assert wanted in one_line_error(write(tmp_path / "t.txt", content))


def test_bad_byte_far_into_a_file_is_reported_where_it_is(tmp_path):
    text = b"a line of text\n" * 300_000
    broken = text[:3_000_000] + b"\xff" + text[3_000_000:]
    assert "position 3000000" in one_line_error(write(tmp_path / "t.txt", broken))


@pytest.mark.parametrize("lines", [1, 60])
@pytest.mark.parametrize("line, wanted", [
    ('{"id": 1}', "Its columns are id, and none of them holds text"),
    ('{"id": 1, "title": "a b", "body": "c d"}', "are id, title, body; of them title, body hold text: .* t.jsonl:title"),
    ('{"messages": [{"content": "a b"}]}', "Its columns are messages, and none"),
    ("{}", "Its columns are none"),
    ('[{"text": "a b"}]', "byte 0 holds list, not text"),
    ('{"text": ', "byte 0 is not JSON"),
])
def test_a_table_without_a_column_of_text_is_not_called_short(
    tmp_path, monkeypatch, line, wanted, lines
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t.jsonl", f"{line}\n" * lines)
    assert re.search(wanted, one_line_error("t.jsonl"))


def test_a_column_that_begins_with_null_is_found(tmp_path):
    empty, full = '{"id": 1, "text": null}\n', '{"id": 2, "text": "a b"}\n'
    for content in (empty + full * 60, "null\n" + full * 60, (full + empty) * 50 + full * 9):
        path = write(tmp_path / "t.jsonl", content)
        for name in (path, f"{path}:text"):
            assert set("".join(text_of(load_corpus(name)).values())) == set("a b")


@pytest.mark.parametrize("name, wanted", [
    ("wikitxt-2", "did you mean wikitext-2?"),
    ("sampel", "did you mean sample?"),
    ("qqq", "unknown corpus 'qqq'"),
    ("", "unknown corpus ''"),
    ("no/such/folder", "no such file or folder"),
    ("nothing.txt", "no such file or folder"),
    ("a\0b", "unknown corpus"),
])
def test_unknown_names(name, wanted):
    assert wanted in one_line_error(name)


def test_file_without_permission(tmp_path):
    path = write(tmp_path / "t.txt", "text\n" * 50)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "cannot read" in one_line_error(path)


def test_split_names_are_checked(tmp_path):
    corpus = load_corpus(write(tmp_path / "t.txt", "text\n" * 50))
    with pytest.raises(UserError, match="train, validation, test"):
        corpus.pieces("valid")


# ---- tables and folders ------------------------------------------------------------------------


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_jsonl_rows_are_documents(tmp_path):
    rows = [{"id": i, "text": f"document\n{i:03} é\r\n"} for i in range(200)]
    corpus = load_corpus(write(tmp_path / "d.jsonl", jsonl(rows)))
    documents = [piece for split in SPLITS for piece in corpus.pieces(split)]
    assert documents == [row["text"] for row in rows]       # a document is left as it is
    assert corpus.documents and "documents" in corpus.note
    lengths = [len(list(corpus.pieces(split))) for split in SPLITS]
    assert lengths == pytest.approx([180, 10, 10], abs=1)


def test_jsonl_columns_and_plain_strings(tmp_path):
    rows = [{"title": f"t{i}", "body": f"b{i}"} for i in range(50)]
    path = write(tmp_path / "d.jsonl", jsonl(rows))
    assert next(load_corpus(f"{path}:body").pieces("train")) == "b0"
    assert "title, body" in one_line_error(path)
    assert "no column 'nope'; its columns are title, body" in one_line_error(f"{path}:nope")
    path = write(tmp_path / "s.jsonl", jsonl(f"story {i}" for i in range(50)))
    assert next(load_corpus(path).pieces("train")) == "story 0"
    path = write(tmp_path / "o.jsonl", jsonl({"n": 1, "story": f"s{i}"} for i in range(50)))
    assert next(load_corpus(path).pieces("train")) == "s0"


def test_jsonl_blank_lines_nulls_and_half_surrogates(tmp_path):
    lines = ['{"text": "a"}', "", '{"text": null}', '{"text": ""}', '{"text": "\\ud800!"}'] * 40
    corpus = load_corpus(write(tmp_path / "d.jsonl", "\r\n".join(lines)))
    assert set(corpus.pieces("train")) == {"a", "\ufffd!"}
    assert corpus.n_bytes["train"] > 0


@pytest.mark.parametrize("bad, wanted", [
    ("{oops\n", "byte 1400 is not JSON"),
    ('{"txt": "x"}\n', "no column 'text'; it has txt"),
    ('{"text": 5}\n', "holds int, not text"),
    ('[1, 2]\n', "holds list, not text"),
])
def test_jsonl_bad_lines_are_named(tmp_path, bad, wanted):
    good = '{"text": "x"}\n'
    assert wanted in one_line_error(write(tmp_path / "d.jsonl", good * 100 + bad + good * 100))


def test_parquet_rows_are_documents(tmp_path):
    texts = [f"row {i}" for i in range(1000)]
    path = write_parquet(tmp_path / "d.parquet", {"text": texts, "n": list(range(1000))}, 130)
    corpus = load_corpus(path)
    pieces = {split: list(corpus.pieces(split)) for split in SPLITS}
    assert [len(pieces[split]) for split in SPLITS] == [900, 50, 50]
    assert sum(pieces.values(), []) == texts
    assert "its columns are text, n" in one_line_error(f"{path}:nope")
    assert "does not hold text" in one_line_error(f"{path}:n")
    assert "cannot read" in one_line_error(write(tmp_path / "x.parquet", b"PAR1 no table" * 10))


def test_folder_of_texts(tmp_path):
    for i in range(40):
        write(tmp_path / "deep" / f"{i:02}.txt", f"text {i:02}\nsecond line\n")
    write(tmp_path / ".hidden.txt", "hidden")
    corpus = load_corpus(tmp_path)
    pieces = {split: list(corpus.pieces(split)) for split in SPLITS}
    assert [len(pieces[split]) for split in SPLITS] == [36, 2, 2]
    assert corpus.documents and pieces["train"][0] == "text 00\nsecond line\n"
    assert sorted(sum(pieces.values(), [])) == sum(pieces.values(), [])


def test_folder_with_one_long_text_and_a_small_one(tmp_path):
    write(tmp_path / "a.txt", "short\n")
    write(tmp_path / "b.txt", "line\n" * 1000)
    corpus = load_corpus(tmp_path)
    assert "".join(text_of(corpus).values()) == "short\n" + "line\n" * 1000
    assert corpus.n_bytes["test"] == pytest.approx(250, abs=10)


def test_folder_with_its_own_splits(tmp_path):
    write(tmp_path / "train.txt", "to learn\n" * 30)
    write(tmp_path / "valid.txt", "to choose\n")
    write(tmp_path / "test.txt", "to judge\n")
    corpus = load_corpus(tmp_path)
    texts = text_of(corpus)
    assert (texts["train"], texts["validation"], texts["test"]) == (
        "to learn\n" * 30, "to choose\n", "to judge\n")
    assert "own splits" in corpus.note
    (tmp_path / "test.txt").unlink()
    corpus = load_corpus(tmp_path)
    assert text_of(corpus)["validation"] == "to choose\n"
    assert "test cut from the end of train" in corpus.note
    assert "".join(text_of(corpus).values()).count("to learn") == 30


def test_folder_of_mixed_kinds_and_of_none(tmp_path):
    write(tmp_path / "notes.txt", "small\n")
    write(tmp_path / "d.jsonl", jsonl({"text": f"row {i}"} for i in range(100)))
    corpus = load_corpus(tmp_path)
    assert next(corpus.pieces("train")) == "row 0"
    assert ".txt files are not read" in corpus.note
    write(tmp_path / "none" / "x.bin", b"\0")
    assert "no .txt, .jsonl or .parquet file" in one_line_error(tmp_path / "none")


# ---- token files -------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path):
    text = "".join(f"line {i} é\n" for i in range(2000))
    return load_corpus(write(tmp_path / "t.txt", text), cache_dir=tmp_path / "cache")


def test_token_file_holds_the_ids(corpus, tmp_path):
    found = token_file(corpus, "train", Bytes())
    assert found.path.parent == tmp_path / "cache" and found.dtype == np.dtype("<u2")
    tokens = found.memmap()
    text = "".join(corpus.pieces("train")).encode()
    assert isinstance(tokens, np.memmap) and tokens.shape == (found.n_tokens,) == (len(text),)
    assert bytes(tokens.astype(np.uint8)) == text
    assert np.array_equal(found.load(), tokens) and not isinstance(found.load(), np.memmap)
    with pytest.raises(ValueError):
        tokens[0] = 1
    about = json.loads(found.path.with_suffix(".json").read_text(encoding="utf-8"))
    assert about["crc32"] == zlib.crc32(found.path.read_bytes())
    assert (about["n_tokens"], about["split"], about["tokenizer"]["kind"]) == (
        len(text), "train", "bytes")


def test_token_file_puts_end_of_text_behind_documents(tmp_path):
    rows = [{"text": f"d{i}"} for i in range(40)]
    corpus = load_corpus(write(tmp_path / "d.jsonl", jsonl(rows)), cache_dir=tmp_path)
    ids = token_file(corpus, "train", Bytes()).load().tolist()
    assert ids[:6] == [100, 48, 256, 100, 49, 256] and ids[-1] == 256
    assert ids.count(256) == len(list(corpus.pieces("train")))


def test_a_long_split_is_encoded_by_several_processes(tmp_path, monkeypatch):
    """With the same ids in the same order; how many processes may be asked for is the machine's."""
    text = tmp_path / "text.txt"
    lines = "".join(f"line {i} of a text that is cut into blocks\n" for i in range(40_000))
    text.write_text(lines, encoding="utf-8", newline="\n")
    tokenizer = BPETokenizer([(97, 98), (32, 111), (105, 110)])
    asked, stream = [], BPETokenizer.encode_stream

    def encode_stream(self, chunks, processes=None, end_of_text=False):
        asked.append(processes)
        return stream(self, chunks, processes, end_of_text)

    monkeypatch.setattr(BPETokenizer, "encode_stream", encode_stream)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    files = []
    for name, limit in (("one", 50_000_000), ("two", 1_000_000)):
        monkeypatch.setattr("common.data.corpus.SEVERAL_FROM", limit)
        found = load_corpus(str(text), cache_dir=tmp_path / name)
        files.append(token_file(found, "train", tokenizer, progress=False).path.read_bytes())
    assert asked == [1, 2]
    assert files[0] == files[1]


def test_token_file_is_made_once(corpus):
    first = token_file(corpus, "train", Bytes())
    stamp = first.path.stat().st_mtime_ns
    assert token_file(corpus, "train", Bytes()) == first
    assert first.path.stat().st_mtime_ns == stamp
    assert sorted(first.path.parent.glob("*.tmp")) == []


def test_token_file_is_another_for_another_vocabulary_text_or_split(corpus, tmp_path):
    other = Bytes()
    other.sha256 = "c" * 64
    longer = write(tmp_path / "b" / "t.txt", "x" + (tmp_path / "t.txt").read_text(encoding="utf-8"))
    paths = {token_file(corpus, "train", Bytes()).path, token_file(corpus, "test", Bytes()).path,
             token_file(corpus, "train", other).path,
             token_file(load_corpus(longer, cache_dir=tmp_path / "cache"), "train", Bytes()).path}
    assert len(paths) == 4


def test_same_bytes_with_other_document_borders_are_another_token_file(tmp_path):
    files = [jsonl([{"text": "ab"}, {"text": "c"}] * 30),
             jsonl([{"text": "a"}, {"text": "bc"}] * 30)]
    corpora = [load_corpus(write(tmp_path / str(i) / "d.jsonl", content), cache_dir=tmp_path)
               for i, content in enumerate(files)]
    assert corpora[0].sha256 == corpora[1].sha256
    assert len({token_file(corpus, "train", Bytes()).path for corpus in corpora}) == 2


def flip_a_byte(path):
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(path.read_bytes()[:-2]),
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(path.read_bytes() + b"\0\0"),
    flip_a_byte,
    lambda path: path.unlink(),
    lambda path: path.with_suffix(".json").unlink(),
    lambda path: path.with_suffix(".json").write_bytes(b"{"),
    lambda path: path.with_suffix(".json").write_bytes(b"[]"),
    lambda path: path.with_suffix(".json").write_bytes(b'{"n_tokens": 3, "dtype": "what"}'),
])
def test_damaged_token_file_is_made_again(corpus, damage):
    found = token_file(corpus, "train", Bytes())
    whole = found.path.read_bytes()
    damage(found.path)
    again = token_file(corpus, "train", Bytes())
    assert again == found and again.path.read_bytes() == whole


def test_token_file_takes_bounded_memory(tmp_path):
    peaks = []
    for megabytes in (8, 40):
        line = b"a line of the text, as long as a line is\n"
        path = write(tmp_path / f"{megabytes}.txt", line * (megabytes * 1_000_000 // len(line)))
        corpus = load_corpus(path, cache_dir=tmp_path / "cache")
        tracemalloc.start()
        token_file(corpus, "train", Bytes())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] < 40e6


def prepare(path, cache_dir, barrier, results):
    corpus = load_corpus(path, cache_dir=cache_dir)
    tokenizer = CharTokenizer.train(corpus.pieces("train"))
    barrier.wait()
    found = token_file(corpus, "train", tokenizer, progress=False)
    results.put((str(found.path), found.n_tokens, found.path.stat().st_mtime_ns,
                 int(found.memmap().sum(dtype=np.int64))))


def test_two_processes_prepare_the_same_corpus(corpus, tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=prepare, args=(str(tmp_path / "t.txt"),
                                                       str(tmp_path / "cache"), barrier, results))
                 for _ in range(2)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert answers[0] == answers[1]       # one file, written once
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1
    assert list((tmp_path / "cache").glob("*.tmp")) == []


def test_a_dead_process_leaves_no_lock(corpus, tmp_path):
    code = ("import os, sys; from common.data.cache import locked\n"
            "with locked(sys.argv[1]): os._exit(1)")
    found = token_file(corpus, "train", Bytes())
    subprocess.run([sys.executable, "-c", code, str(found.path)], cwd=REPOSITORY)
    found.path.unlink()
    assert token_file(corpus, "train", Bytes()) == found


@pytest.mark.skipif(os.name == "nt", reason="a limit on file sizes needs POSIX")
def test_full_disk_is_one_line_and_leaves_nothing(corpus, tmp_path):
    corpus.sha256       # nothing else is to be written below
    code = """if True:
        import resource, signal, sys
        sys.path.insert(0, "tests")
        from common.data import load_corpus, token_file
        from common.errors import UserError
        from test_data import Bytes
        corpus = load_corpus(sys.argv[1], cache_dir=sys.argv[2])
        corpus.sha256
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            token_file(corpus, "train", Bytes())
        except UserError as error:
            print("told:", error)
    """
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "t.txt", tmp_path / "full"],
                          cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8")
    assert done.stdout.startswith("told: can") and done.stdout.count("\n") == 1, done.stderr
    assert [path.name for path in (tmp_path / "full").iterdir() if path.suffix != ".lock"] == []


def test_cache_that_cannot_be_made(tmp_path, corpus):
    write(tmp_path / "file", "no folder")
    with pytest.raises(UserError, match="LINEAGE_CACHE"):
        token_file(corpus, "train", Bytes(), cache_dir=tmp_path / "file" / "cache")


def test_cache_folder_by_argument_environment_and_default(tmp_path, monkeypatch):
    monkeypatch.setenv("LINEAGE_CACHE", str(tmp_path / "by-environment"))
    assert cache.cache_folder() == tmp_path / "by-environment"
    assert cache.cache_folder(tmp_path / "by-argument") == tmp_path / "by-argument"
    monkeypatch.delenv("LINEAGE_CACHE")
    monkeypatch.setattr(cache, "REPOSITORY", tmp_path)
    assert cache.cache_folder() == tmp_path / "data" / "cache"


# ---- text made readable ------------------------------------------------------------------------


@pytest.mark.parametrize("official, readable", [
    (" The cat , which sat , ran . \n", "The cat, which sat, ran.\n"),
    (" a well @-@ known 1 @,@ 000 @.@ 5 km", "a well-known 1,000.5 km"),
    (" He did n't see Anna 's key ; they 're gone : 50 % !",
     "He didn't see Anna's key; they're gone: 50%!"),
    (' He said " yes " and " no " . ', 'He said "yes" and "no".'),
    (' ( " x " , 24 in ) [ 2 ]', '("x", 24 in) [2]'),
    (" the players ' kit and rock ' n ' roll", "the players' kit and rock 'n' roll"),
    (" the ' old ' one was ' lost '", "the 'old' one was 'lost'"),
    (" the Knights ' king and the boys ' dog", "the Knights' king and the boys' dog"),
    (" the 1980s and ' 90s", "the 1980s and '90s"),
    (" = Title = \n \n = = Part ( one ) = = \n", "= Title =\n\n== Part (one) ==\n"),
    (" US $ 5 million , £ 12 @.@ 5", "US$5 million, £12.5"),
    (" 2013 – 14 York , 5 – 6 ; then – so", "2013–14 York, 5–6; then – so"),
    (" 20 ° C , 47 ° 36 ′ N and / or", "20°C, 47° 36′ N and/or"),
    (" <unk> , <unk> !", "<unk>, <unk>!"),
    ("", ""),
    ("\n\n", "\n\n"),
    (' an open " quote', 'an open "quote'),
])
def test_detokenize(official, readable):
    assert detokenize(official) == readable
    assert detokenize(readable) == readable


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*" \n,.;:!?%()[]\"'@=$–/°5sa", "@-@", "@,@", "n't", "'s"]),
                max_size=40).map(" ".join))
def test_detokenize_changes_spaces_and_markers_only(text):
    def bare(text):
        return re.sub(r"\s", "", re.sub(r" @([-,.])@ ", r"\1", text.replace("\n", " \n ")))

    result = detokenize(text)
    assert result.count("\n") == text.count("\n")
    assert bare(result).replace("@", "") == bare(text).replace("@", "")


def test_detokenized_wikitext_has_no_loose_punctuation(wikitext_dir):
    corpus = load_corpus("wikitext-2", data_dir=wikitext_dir)
    text = detokenize("".join(corpus.pieces("validation")))
    assert not re.search(r"@[-,.]@| n't\b| [,.] ", text)
    assert len(re.findall(r'(?<!\S)"(?!\S)', text)) == 0

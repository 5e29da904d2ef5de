"""Corpora, the user's own text and token files: what versions train on."""

import hashlib
import json
import math
import os
import re
import tracemalloc

from bpe_tokenizer import PATTERNS
from common.data import SPLITS, bundled, load_corpus, own_text, reading, token_file
from common.data import tokens as token_files
from common.data.readable import detokenize
from common.errors import UserError
from common.tokenizers.classes import CharTokenizer, WordTokenizer

import numpy as np
import pytest
import regex
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from inputs import BAD_NAMES, BAD_TEXTS, LINE, ROWS, TABLES, TEXT, TEXTS, label, lines, put, table
from lineage import ROOT, edit_json, refused


class Bytes:
    """A tokenizer whose ids are the text's bytes, and 256 after each document."""

    kind, sha256, dtype, end_of_text = "bytes", "b" * 64, np.dtype("uint16"), 256
    lossless = True

    def encode_stream(self, chunks, processes=None, end_of_text=False):
        self.processes = processes
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


# ---- the sample and the copying task -------------------------------------------------------------


def test_the_sample_is_the_bundled_file():
    corpus = load_corpus("sample")
    raw = (ROOT / "data" / "input.txt").read_bytes()
    assert "".join(text_of(corpus).values()).encode() == raw
    assert corpus.sha256 == hashlib.sha256(raw).hexdigest()
    assert corpus.documents and corpus.words("validation") is None
    assert corpus.facts.prompt == "One morning" and corpus.note == ""
    for split in SPLITS:
        assert 0.1 < corpus.entropy[split] < 1
        stories = list(corpus.pieces(split))
        assert len(stories) > 50
        assert all(story.endswith("\n\n") and "\n\n" not in story[:-2] for story in stories)


CHANGED = [  # a file, what it holds, and what is said of it
    ("input.txt", "Anna", "train split"),
    ("input.json", '{"splits": {"train": {"offset": "0"}}}', "input.json is damaged"),
    ("input.txt", os.mkdir, "cannot read the sample"),
]


@pytest.mark.parametrize("name, damage, wanted", CHANGED)
def test_a_changed_sample_is_refused(tmp_path, name, damage, wanted):
    whole = {file: (ROOT / "data" / file).read_bytes() for file in ("input.txt", "input.json")}
    put(tmp_path, {**whole, name: damage})
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
        assert corpus.entropy[split] == pytest.approx(bits / len(text), rel=1e-9)
    assert re.fullmatch("[a-z]+[|]", corpus.facts.prompt)
    assert corpus.sha256 == "7f158729091c023c349ea83564c377e303d969eb3cb443de630da0bf40c371b2"


# ---- WikiText and datasets of the hub, from local folders ----------------------------------------


def test_wikitext_2_has_its_official_sizes(wikitext_dir, tmp_path):
    corpus = load_corpus("wikitext-2", data_dir=wikitext_dir)
    assert corpus.n_bytes == {"train": 10_797_148, "validation": 1_121_681, "test": 1_256_449}
    assert (corpus.words("validation"), corpus.words("test")) == (217_646, 245_569)
    for split, number in {"train": 600, "validation": 60, "test": 60}.items():
        pieces = list(corpus.pieces(split))
        assert len(pieces) == number
        assert all(re.match(r" \n = [^=\n].* = \n \n", piece) for piece in pieces)
    text = detokenize("".join(pieces))
    assert not re.search(r"@[-,.]@| n't\b| [,.] ", text)
    assert not re.findall(r'(?<!\S)"(?!\S)', text)


WIKI = ["", " = One = \n", "", " a \n", " = = Part = = \n", " = Won , Lost = \n", " b \n", ""]
WIKI += [" = Two = 2 = \n", "", " c \n"]


def dataset(folder, splits=SPLITS, **columns):
    """A folder in the hub's layout."""
    for split in splits:
        content = table(**(columns or {"text": [f"{split} {i}" for i in range(100)]}))
        put(folder / f"{split}-00000-of-00001.parquet", content)
    return folder


@pytest.mark.parametrize("by_environment", [False, True])
def test_wikitext_from_a_folder_is_cut_into_its_articles(tmp_path, monkeypatch, by_environment):
    """At titles between blank lines."""
    dataset(tmp_path / "wikitext-103-v1", text=WIKI)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WIKITEXT_DIR", "~")
    corpus = load_corpus("wikitext-103", data_dir=None if by_environment else tmp_path)
    assert text_of(corpus)["test"] == "".join(row or " \n" for row in WIKI)
    titles = [piece.split(" \n")[1] for piece in corpus.pieces("test")]
    assert titles == [" = One =", " = Two = 2 ="]
    assert corpus.words("test") == sum(len(row.split()) + 1 for row in WIKI)


def test_an_incomplete_copy_of_wikitext_is_refused(tmp_path):
    assert "no such folder" in refusal("wikitext-2", data_dir=tmp_path / "none")
    assert "--data-dir" in refusal("wikitext-2", data_dir=tmp_path)
    dataset(tmp_path / "wikitext-2-v1", splits=["train"], text=WIKI)
    assert "validation split" in refusal("wikitext-2", data_dir=tmp_path)
    dataset(tmp_path / "wikitext-2-raw-v1", text=[1, 2])
    assert "holds int, not text" in refusal("wikitext-2-raw", data_dir=tmp_path)


def test_splits_columns_and_configurations_of_a_hub_dataset(tmp_path):
    corpus = load_corpus("hf:some-one/some.thing", data_dir=dataset(tmp_path / "a", ["train"]))
    assert list(corpus.pieces("train")) == [f"train {i}" for i in range(90)]
    assert list(corpus.pieces("test")) == [f"train {i}" for i in range(95, 100)]
    assert corpus.documents and "validation and test cut from the end of train" in corpus.note
    corpus = load_corpus("hf:o/n", data_dir=dataset(tmp_path / "b", ["train", "validation"]))
    assert len(list(corpus.pieces("train"))) == 95
    assert list(corpus.pieces("validation"))[-1] == "validation 99"
    prose = [f"row {i} of prose" for i in range(100)]
    folder = dataset(tmp_path / "c", prose=prose, title=prose[::-1], id=list(range(100)))
    assert "of them prose, title hold text" in refusal("hf:o/n", data_dir=folder)
    assert "no column 'nope'; its columns are prose" in refusal("hf:o/n:nope", data_dir=folder)
    assert "'id' does not hold text" in refusal("hf:o/n:id", data_dir=folder)
    dataset(folder / "large", text=["large"] * 40, b=["x"] * 40)
    firsts = {"prose": prose[0], ":title": prose[-1], "large": "large", "large:b": "x"}
    for name, first in firsts.items():
        assert next(load_corpus(f"hf:o/n:{name}", data_dir=folder).pieces("train")) == first


# ---- text and tables -----------------------------------------------------------------------------


def test_text_files_are_split_90_5_5_at_line_ends(tmp_path):
    found = set()
    for name, content in TEXTS.items():
        corpus = load_corpus(put(tmp_path / name, content))
        texts = text_of(corpus)
        assert "".join(texts.values()) == TEXT, name
        assert all(text.endswith("\n") for text in texts.values()), name
        shares = [corpus.n_bytes[split] / sum(corpus.n_bytes.values()) for split in SPLITS]
        assert shares == pytest.approx([0.90, 0.05, 0.05], abs=0.006), name
        assert corpus.name == name and not corpus.documents
        assert "5 % each, between lines" in corpus.note
        assert (r"line ends \r\n are read as \n" in corpus.note) == (name == "windows.txt")
        found.add(corpus.sha256)
    assert len(found) <= 2  # the line ends of one are cut elsewhere
    with refused("train, validation, test"):
        corpus.pieces("valid")


PIECES = "the|don't|x1| |  |\n|\n\n| \n|\n |\t|é|123"
PIECES += "|...|\r|\u00a0|\u2028|'s|!\n|字|\u0301|-|\r\n|A b"


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    text=st.text("ab \n\r\té字", min_size=1, max_size=60)
    | st.lists(st.sampled_from(PIECES.split("|")), min_size=1, max_size=200).map("".join),
    block=st.integers(2, 64),
    longest=st.sampled_from([40, 10**6]),
)
@example(text="\r\n\r\n\r\n", block=2, longest=40)
@example(text="first line\n" + "x" * 300_000, block=reading.BLOCK, longest=10**6)
@example(text="x" * 300_000 + "\nlast line\n", block=2**12, longest=2**14)
def test_any_text_file_comes_back_or_is_refused(tmp_path, monkeypatch, text, block, longest):
    """Read in blocks, and in bounded chunks, which are tokenized like the whole text."""
    for module in (reading, own_text):
        monkeypatch.setattr(module, "BLOCK", block)
    monkeypatch.setattr(own_text, "LONGEST_CHUNK", longest)
    try:
        corpus = load_corpus(put(tmp_path / "t.txt", text))
    except UserError:
        assert len(text) < 7  # too short for three splits
        return
    # A cut may fall between \r and \n where there is no better place; nothing is lost by it.
    texts = text_of(corpus)
    assert "".join(texts.values()).replace("\r", "") == text.replace("\r", "")
    assert all(texts.values())
    if len(text) > 300:  # the shares are about right, whatever the lines are
        assert 0.8 < corpus.n_bytes["train"] / len(text.encode()) < 0.99
    for split in SPLITS:
        pieces = list(corpus.pieces(split))
        assert max(map(len, pieces)) <= longest + 2 * block
        for name, pattern in PATTERNS.items() if longest > len(text) else ():
            parts = [part for piece in pieces for part in regex.findall(pattern, piece)]
            assert parts == regex.findall(pattern, texts[split]), name
    prompt = corpus.facts.prompt
    assert 1 <= len(prompt) <= 12 and prompt in text and set(prompt) <= set(texts["train"])


@pytest.mark.parametrize("name, content, wanted", BAD_TEXTS, ids=label)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, content, wanted):
    put(tmp_path / name.partition(":")[0], content)
    assert re.search(wanted, refusal(tmp_path / name))


@pytest.mark.parametrize("name, wanted", BAD_NAMES.items())
def test_a_name_of_nothing_is_one_line(tmp_path, monkeypatch, name, wanted):
    monkeypatch.chdir(tmp_path)
    assert re.search(wanted, refusal(name))


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_kind_are_read_row_by_row(tmp_path, name):
    path, texts = put(tmp_path / name, TABLES[name]), [row["text"] for row in ROWS]
    for corpus in (load_corpus(path), load_corpus(f"{path}:text")):
        assert documents_of(corpus) == texts
        assert [len(list(corpus.pieces(split))) for split in SPLITS] == [180, 10, 10]
        assert corpus.documents and "column 'text' is read, typically 7" in corpus.note
    assert "no column 'nope'; its columns are id, stars, text" in refusal(f"{path}:nope")


PARTS = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
CHAT = [{"role": "user", "content": "What is it?"}, {"role": "tool", "content": None}]
CHAT += [{"from": "gpt", "value": "A lamp."}, {"role": "user", "content": PARTS}]
STRINGS = [  # a file's name, what it holds, the first text of it
    ("strings.json", json.dumps(["one text", "two texts"] * 30), "one text"),
    ("c.jsonl", lines([{"id": "q", "m": CHAT}] * 50), "user: What is it?\ngpt: A lamp.\nuser: a b"),
    ("c.parquet", table(id=["q"] * 50, m=[CHAT[:1]] * 50), "user: What is it?"),
    ("no-text.jsonl", lines([{"text": f"q{i}", "body": LINE} for i in range(60)]), LINE),
    ("long.csv", "text,n\n" + f"{'a b ' * 40_000},1\n" * 60, "a b " * 40_000),
    ("without-spaces.jsonl", lines([{"t": "黄花落日雨河闻觉"}] * 50), "黄花落日雨河闻觉"),
]


@pytest.mark.parametrize("name, content, first", STRINGS)
def test_strings_and_conversations_are_texts(tmp_path, name, content, first):
    assert next(load_corpus(put(tmp_path / name, content)).pieces("train")) == first


NO_TEXTS = ("q{}", "2024-01-{:02} 10:00:00", "https://x.org/page/{}", "positive")


@pytest.mark.parametrize("values", [[text.format(i) for i in range(1, 29)] for text in NO_TEXTS])
def test_a_column_that_is_no_text_is_read_only_by_its_name(tmp_path, values):
    path = put(tmp_path / "c.jsonl", lines({"a": value, "n": 1} for value in values))
    assert f"none of them reads as text: name one after a colon, {path}:a" in refusal(path)
    assert documents_of(load_corpus(f"{path}:a")) == values


def test_rows_without_text_are_skipped_and_counted(tmp_path):
    full, odd = '{"text": "a b"}', '{"text": "\\ud800!\\u0000"}'
    empty = ["", '{"text": null}', '{"text": ""}', '{"id": 1}', "null"]
    corpus = load_corpus(put(tmp_path / "d.jsonl", "\r\n".join([*empty, full, odd] * 40)))
    assert set(documents_of(corpus)) == {"a b", "\ufffd!\ufffd"}
    assert "rows without text, skipped: 160" in corpus.note
    late = '{"a": null, "n": 1}\n' * 300 + '{"a": "a b", "n": 1}\n' * 60
    late = put(tmp_path / "late.jsonl", late)
    assert set(documents_of(load_corpus(f"{late}:a"))) == {"a b"}


# ---- folders -------------------------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_its_paths_and_says_what_is_not(cache, tmp_path):
    texts = {f"deep/{i:02}.md": f"text {i:02}\n{LINE}" for i in range(58)}
    left = {".hidden.txt": "x", ".git/x.txt": "x", "none.txt": "", "latin.txt": b"caf\xe9\n"}
    left |= {"a.png": b"\x89PNG\r\n\x1a\n\0\0", "table.csv": "text\nTABLE\n", "pipe": os.mkfifo}
    left |= {"cache/v.json": "{}", "runs/v2/config.json": '{"version": "v2", "config": {}}'}
    more = dict.fromkeys(["LICENSE", "zoo.md", os.fsdecode(b"caf\xe9.txt")], LINE)
    more["runs/v2/samples.txt"] = "SAMPLES"
    put(tmp_path, {**texts, **left, **more})
    (tmp_path / "linked").symlink_to(ROOT, target_is_directory=True)
    corpus = load_corpus(tmp_path)
    assert documents_of(corpus) == [LINE, LINE, *texts.values(), LINE]
    assert [len(list(corpus.pieces(split))) for split in SPLITS] == [54, 3, 4] and corpus.documents
    wanted = ["read: 59 .md, 1 LICENSE, 1 .txt; ", ".git, .hidden.txt (hidden)", "linked (a link)"]
    wanted += ["runs/v2 (a run's folder)", "table.csv (other kinds)", "pipe (not a regular file)"]
    wanted += ["a.png, latin.txt (not UTF-8 text)", "none.txt (empty)", "cache (the cache)"]
    for words in wanted:
        assert words in corpus.note, corpus.note
    assert "is a run's folder" in refusal(tmp_path / "runs" / "v2")
    two = load_corpus(put(tmp_path / "two", {"a.txt": TEXT, "b.txt": TEXT}))  # b is cut
    assert two.n_bytes["train"] > 0.88 * sum(two.n_bytes.values())


OWN_SPLITS = [
    ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
    ("wiki_TRAINING.md", "wiki_dev.md", "my-test-1.md"),
    ("train/a.txt", "validation/a.txt", "test/a.txt"),
    ("trainset.txt", "wikiValSet.txt", "TESTSET2.txt"),
]


@pytest.mark.parametrize("names", OWN_SPLITS)
def test_a_folder_keeps_its_own_splits_and_leaves_the_rest_out(tmp_path, names):
    texts = "to learn\n" * 30, "to choose\n", "to evaluate\n"
    put(tmp_path, {**dict(zip(names, texts, strict=True)), "LICENSE.txt": "do what you want\n"})
    corpus = load_corpus(tmp_path)
    assert tuple(text_of(corpus).values()) == texts
    assert f"train: {names[0]}; validation: {names[1]}; test: {names[2]}" in corpus.note
    assert "not read: LICENSE.txt (of no split)" in corpus.note
    (tmp_path / names[2]).unlink()
    corpus = load_corpus(tmp_path)
    assert text_of(corpus)["validation"] == "to choose\n"
    assert "test cut from the end of train" in corpus.note
    program = {"train.py": LINE, "tests/test_model.py": LINE, "model.py": "THE MODEL\n" * 200}
    program |= {f"{i}.csv": "text\nx\n" for i in range(4)}  # more files, but fewer bytes
    # Its tests are no split.
    assert "THE MODEL" in text_of(load_corpus(put(tmp_path / "program", program)))["train"]


# ---- token files ---------------------------------------------------------------------------------


@pytest.fixture
def corpus(cache, tmp_path):
    return load_corpus(put(tmp_path / "t.txt", "".join(f"line {i} é\n" for i in range(2000))))


def test_token_file_holds_the_ids_and_is_made_once(corpus, tmp_path):
    found = token_file(corpus, "train", Bytes())
    assert found.path.parent == tmp_path / "cache" and found.dtype == np.dtype("<u2")
    text = "".join(corpus.pieces("train")).encode()
    assert (type(found.memmap()), type(found.load())) == (np.memmap, np.ndarray)
    assert found.memmap().tolist() == found.load().tolist() == list(text)
    assert found.n_tokens == len(text)
    stamp = found.path.stat().st_mtime_ns
    assert token_file(corpus, "train", Bytes()) == found
    assert found.path.stat().st_mtime_ns == stamp and not list(found.path.parent.glob("*.tmp"))


def test_documents_end_with_the_end_of_text(tmp_path):
    path = put(tmp_path / "d.jsonl", lines({"text": f"d{i}"} for i in range(40)))
    ids = token_file(load_corpus(path), "train", Bytes()).load().tolist()
    assert ids[:6] == [100, 48, 256, 100, 49, 256] and ids[-1] == 256 and ids.count(256) == 36


def test_a_long_split_is_encoded_by_several_processes(corpus, tmp_path, monkeypatch):
    tokenizer = Bytes()
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for limit, processes in ((50_000_000, 1), (10_000, 2)):
        monkeypatch.setattr(token_files, "SEVERAL_FROM", limit)
        monkeypatch.setenv("LINEAGE_CACHE", str(tmp_path / str(limit)))
        token_file(corpus, "train", tokenizer)
        assert tokenizer.processes == processes


def test_another_vocabulary_text_split_or_border_is_another_token_file(corpus, tmp_path):
    path, other = tmp_path / "t.txt", Bytes()
    other.sha256 = "c" * 64
    longer = load_corpus(put(tmp_path / "b" / "t.txt", b"x" + path.read_bytes()))
    paths = {token_file(corpus, split, Bytes()).path for split in SPLITS}
    paths |= {token_file(corpus, "train", other).path, token_file(longer, "train", Bytes()).path}
    for i, two in enumerate((["ab", "c"], ["a", "bc"])):
        rows = put(tmp_path / str(i) / "d.jsonl", lines({"text": text} for text in two * 30))
        paths.add(token_file(load_corpus(rows), "train", Bytes()).path)
    assert len(paths) == 7
    copy = load_corpus(put(tmp_path / "c" / "t.txt", path.read_bytes()))
    assert copy.sha256 == corpus.sha256
    assert token_file(copy, "test", Bytes()) == token_file(corpus, "test", Bytes())


@pytest.mark.parametrize("big", [False, True])
def test_a_text_that_changes_while_it_is_read_is_refused(cache, corpus, tmp_path, monkeypatch, big):
    monkeypatch.setattr(own_text, "BIG", 1 if big else 10**9)
    path = tmp_path / "t.txt"
    corpus = load_corpus(path)
    path.write_bytes(path.read_bytes().replace(b"line 7 ", b"LINE 7 "))
    with refused("the train split changed while it was read"):
        token_file(corpus, "train", Bytes())
    assert not list((tmp_path / "cache").glob("*.bin"))
    again = load_corpus(path)
    assert bytes(token_file(again, "train", Bytes()).load().astype("u1")).count(b"LINE 7 ") == 1


DAMAGE = [
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(b"L" + path.read_bytes()[1:]),
    lambda path: path.unlink(),
    lambda path: path.with_suffix(".json").unlink(),
    *[{"n_tokens": math.inf}, {"n_tokens": "3"}, {"n_tokens": 10**30}],
    *[{"dtype": ">u2"}, {"dtype": "|O"}, {"unknown_share": None}, {"unknown_share": 5.0}],
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


@pytest.mark.parametrize("value", [None, math.inf, {"splits": {}, "sha256": 5}, []])
def test_damaged_hashes_of_a_big_corpus_are_made_again(cache, tmp_path, monkeypatch, value):
    """And whole ones (None) remembered."""
    monkeypatch.setattr(own_text, "BIG", 1)
    path = put(tmp_path / "t.csv", "text,n\n" + "a b,1\n" * 50)
    sha256 = load_corpus(path).sha256
    [file] = (tmp_path / "cache").glob("facts-*.json")
    if value is not None:
        put(file, json.dumps(value))
    before = file.stat().st_mtime_ns
    assert load_corpus(path).sha256 == sha256
    assert (before == file.stat().st_mtime_ns) == (value is None)
    assert load_corpus(f"{path}:n").sha256 != sha256  # another column is another text


def test_the_share_of_unknown_characters_is_measured(cache, tmp_path, capsys):
    text = "".join(f"{chr(0x4E00 + i * 37 % 5000) * 9}，\n" for i in range(3000))
    corpus = load_corpus(put(tmp_path / "z.txt", text))
    tokenizer = WordTokenizer.train(corpus.pieces("train"), 50)
    words = tokenizer.pieces(text_of(corpus)["validation"])
    unknown = [word for word in words if word not in tokenizer.vocab]
    share = sum(map(len, unknown)) / sum(map(len, words))
    assert 0.5 < share < 1
    for _ in range(2):  # encoded, and found
        assert token_file(corpus, "validation", tokenizer).unknown_share == pytest.approx(share)
        assert f"z.txt: {share:.1%} of the validation split's char" in capsys.readouterr().err
    characters = CharTokenizer.train(corpus.pieces("train"))
    assert token_file(corpus, "train", characters).unknown_share == 0
    assert corpus.facts.prompt in text and capsys.readouterr().err == ""


def test_a_split_of_one_token_is_refused(tmp_path):
    put(tmp_path, {"train.txt": LINE * 50, "val.txt": "T", "test.txt": "T"})
    corpus = load_corpus(tmp_path)
    with refused("1 token in the validation split is too few"):
        token_file(corpus, "validation", CharTokenizer.train([LINE], special_tokens=()))


@pytest.mark.slow
@pytest.mark.parametrize("name, size", [("t.txt", 3e6), ("t.csv", 2e5)])
def test_memory_does_not_grow_with_the_text(cache, tmp_path, name, size):
    peaks = []
    for more in (1, 4):
        text = "text,n\n" + "The baker carried a lantern,1\n" * int(more * size / 30)
        path = put(tmp_path / str(more) / name, text)
        tracemalloc.start()
        token_file(load_corpus(path), "train", Bytes())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] < 40e6


def test_the_cache_by_environment_and_default(tmp_path, monkeypatch, corpus):
    from common.data import cache

    assert cache.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("LINEAGE_CACHE")
    monkeypatch.setattr(cache, "REPOSITORY", tmp_path)
    assert cache.cache_folder() == tmp_path / "data" / "cache"
    monkeypatch.setenv("LINEAGE_CACHE", str(tmp_path / "t.txt" / "cache"))
    with refused("LINEAGE_CACHE"):
        token_file(corpus, "train", Bytes())


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

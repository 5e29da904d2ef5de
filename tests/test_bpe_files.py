"""The tokenizer's files and command line: saved vocabularies, tokenizer.json, damage, bad input."""

import io
import json
import os
import re
import sys
import tracemalloc
from pathlib import Path

from bpe_tokenizer import GPT2_PATTERN, GPT4_PATTERN, WHITESPACE_PATTERN, BPETokenizer
from common.errors import UserError
from common.tokenizers import load_tokenizer_file
from common.tokenizers.classes import CharTokenizer, WordTokenizer
from results.bpe_cli import main

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inputs import BAD_JSON, label, link, put, sparse
from lineage import ROOT, python, read, refused
from test_bpe_tokenizer import TEXT


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(TEXT, 400)


@pytest.fixture
def files(tokenizer, tmp_path, monkeypatch):
    """A folder to work in, with a text and its vocabulary."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "text.txt", TEXT)
    tokenizer.save("vocab.json")
    return tmp_path


# -- the vocabulary's file


def test_saving_and_loading(files, tokenizer):
    again = BPETokenizer.load("vocab.json")
    for name in ("merges", "vocab", "vocab_size", "special_tokens", "pattern", "sha256", "kind"):
        assert getattr(again, name) == getattr(tokenizer, name)
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    # A person can read it: each merge has a line, with the string that it makes.
    row = json.dumps([*tokenizer.merges[0], tokenizer.vocab[256].decode("utf-8")])
    assert f"    {row},\n" in Path("vocab.json").read_text(encoding="utf-8")
    for odd in (BPETokenizer(), BPETokenizer(special_tokens=(), pattern="\n|[^\n]+")):
        odd.save("odd.json")
        assert BPETokenizer.load(Path("odd.json")).sha256 == odd.sha256
    assert {path.name for path in files.iterdir()} == {"text.txt", "vocab.json", "odd.json"}


def test_the_checksum_tells_vocabularies_apart(tokenizer):
    merges = tokenizer.merges
    assert BPETokenizer(np.array(merges)).sha256 == tokenizer.sha256
    others = [BPETokenizer(merges[:-1]), BPETokenizer(merges, GPT2_PATTERN)]
    others += [BPETokenizer(merges, special_tokens=names) for names in ([], ["<|end|>"])]
    assert len({each.sha256 for each in (tokenizer, *others)}) == 5


def vocabulary(**changes):
    """A vocabulary file's text in which something has been changed."""
    content = {"format": "bpe_tokenizer vocabulary", "version": 1, "sha256": "0" * 64}
    content |= {"vocab_size": 257, "pattern": "a", "special_tokens": {}, "merges": [[97, 97, "aa"]]}
    return json.dumps({**content, **changes})


LOADERS = load_tokenizer_file, BPETokenizer.load, BPETokenizer.from_huggingface
LISTED = '{"format": "lineage tokenizer", "version": 1, "kind": "char", "sha256": ""'
FOREIGN = [
    *(*BAD_JSON.values(), b"\x80\x04\x95pickle", '{"a": 1, "a": 2}', '{"kind": "sentences"}'),
    *(vocabulary(), vocabulary(merges=7), vocabulary(merges=[[300, 1, "x"]])),
    *(vocabulary(pattern=7), vocabulary(pattern="("), vocabulary(special_tokens=[1])),
    *(LISTED + "}", LISTED + ', "vocab": 1}', '{"model": {}}', vocabulary(merges=[5])),
]


@pytest.mark.parametrize("content", FOREIGN, ids=label)
def test_foreign_files_are_refused(tmp_path, content):
    path = put(tmp_path / "foreign.json", content)
    for load in LOADERS:
        with refused(re.escape(str(path))):
            load(path)


OTHERS = """"a" "aa" "merges" "BPE" "<|unk|>" null true -1 0 97 256 2.5 1e999 NaN
    [] {} [ ] { } , : 100000000000000000000000000000 \xff""".split()


@pytest.fixture(scope="module")
def saved_files(tmp_path_factory):
    """A vocabulary file of each kind that load_tokenizer_file reads: its text, its hash."""
    folder, text = tmp_path_factory.mktemp("kinds"), "the cat that sat on the mat"
    made = {"bpe": BPETokenizer.train(text, 264), "char": CharTokenizer.train([text])}
    made["word"] = WordTokenizer.train([text], 12)
    for kind, tokenizer in made.items():
        tokenizer.save(folder / kind)
    made["huggingface"] = made["bpe"]
    made["bpe"].to_huggingface().save(str(folder / "huggingface"))
    return {kind: ((folder / kind).read_text("utf-8"), made[kind].sha256) for kind in made}


@pytest.mark.parametrize("kind", ["bpe", "huggingface", "char", "word"])
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_change_of_a_vocabulary_file_is_noticed(saved_files, tmp_path_factory, kind, data):
    """Some tokens of JSON are others: refused in one line, or the same tokenizer. A tokenizer.json,
    which has no checksum, may be another one."""
    path = tmp_path_factory.getbasetemp() / "any.json"
    text, sha256 = saved_files[kind]
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+', text)
    for _ in range(data.draw(st.sampled_from([1, 1, 2, 3]))):
        at = data.draw(st.integers(0, len(tokens) - 1))
        kin = [one for one in tokens if one[0].isdigit() == tokens[at][0].isdigit()]
        other = data.draw(st.sampled_from(kin) | st.sampled_from(OTHERS))
        length, times = data.draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (0, 1), (1, 0)]))
        tokens[at : at + length] = [other] * times
    path.write_bytes("".join(tokens).encode("latin-1", "replace"))
    tracemalloc.start()
    for load in LOADERS:
        try:
            tokenizer = load(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert kind == "huggingface" or tokenizer.sha256 == sha256
            ids = tokenizer.encode("the cat")
            assert all(0 <= i < tokenizer.vocab_size for i in ids if i is not None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6  # whatever the file claims


# -- tokenizer.json


def test_reading_a_tokenizer_like_gpt2s(tmp_path):
    """Its bytes are not in byte order."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    no_regex = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(GPT4_PATTERN), "isolated")
    sequence = pre_tokenizers.Sequence([split, no_regex])
    for pre_tokenizer, pattern in ((byte_level, GPT2_PATTERN), (sequence, GPT4_PATTERN)):
        theirs = Tokenizer(models.BPE())
        theirs.pre_tokenizer, theirs.decoder = pre_tokenizer, decoders.ByteLevel()
        special, alphabet = ["<|endoftext|>", "<|pad|>"], byte_level.alphabet()
        options = {"special_tokens": special, "initial_alphabet": alphabet, "show_progress": False}
        trainer = trainers.BpeTrainer(vocab_size=400, **options)
        theirs.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
        theirs.save(str(tmp_path / "tokenizer.json"))
        ours = BPETokenizer.from_huggingface(tmp_path / "tokenizer.json")
        assert ours.pattern == pattern
        assert ours.special_tokens == {"<|endoftext|>": 398, "<|pad|>": 399}
        assert theirs.token_to_id("A") != 65 and ours.encode("A") == [65]
        carried = ours.to_huggingface()
        for text in (TEXT, "Unseen words: żółw, 12 345!\n\n x", "\t\t '' 'S  \r\n"):
            ids = ours.encode(text)
            assert ours.decode(ids) == text
            assert carried.encode(text).tokens == theirs.encode(text).tokens
            assert carried.encode(text).ids == ids


@pytest.fixture
def tokenizer_json(tokenizer, tmp_path):
    """The path of the vocabulary as a tokenizer.json, and its JSON value."""
    path = tmp_path / "tokenizer.json"
    tokenizer.to_huggingface().save(str(path))
    return path, read(path)


def test_a_carried_vocabulary_comes_back(tokenizer, tokenizer_json):
    path, saved = tokenizer_json
    assert BPETokenizer.from_huggingface(path).sha256 == tokenizer.sha256
    # Older files write a merge as one string.
    saved["model"]["merges"] = [" ".join(pair) for pair in saved["model"]["merges"]]
    put(path, json.dumps(saved))
    assert BPETokenizer.from_huggingface(path).sha256 == tokenizer.sha256


OTHER_KINDS = [  # what is changed where, and what the line says
    ("", {"normalizer": {"type": "NFC"}}, "normalizer"),
    ("model", {"type": "WordPiece"}, "missing field|not a tokenizer.json"),
    ("", {"pre_tokenizer": None}, "pre-tokenizer"),
    ("", {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "add_prefix_space"),
    ("pre_tokenizer pretokenizers 0", {"behavior": "Removed"}, "Isolated"),
    ("model", {"ignore_merges": True}, "ignore_merges"),
    ("model", {"end_of_word_suffix": "</w>"}, "end_of_word_suffix"),
    ("model vocab", {"unmade": 9999}, "neither a byte"),
]


@pytest.mark.parametrize("where, change, message", OTHER_KINDS)
def test_other_kinds_of_tokenizer_json_are_refused(tokenizer_json, where, change, message):
    path, saved = tokenizer_json
    part = saved
    for key in where.split():
        part = part[int(key) if key.isdigit() else key]
    part.update(change)
    put(path, json.dumps(saved))
    with refused(f"{re.escape(str(path))}.*{message}"):
        BPETokenizer.from_huggingface(path)


# -- the command line


def test_command_train(files, capsys):
    main("train --data text.txt --vocab-size 400 --out new.json".split())
    assert Path("new.json").read_bytes() == Path("vocab.json").read_bytes()
    assert "400 ids" in capsys.readouterr().out
    main("train --data text.txt --pattern whitespace --special <a> --out w.json".split())
    made = BPETokenizer.load("w.json")
    assert made.pattern == WHITESPACE_PATTERN and list(made.special_tokens) == ["<a>"]
    assert "nothing left to merge" in capsys.readouterr().out


def test_command_encode_and_decode(files, tokenizer, capfdbinary):
    ids = list(map(str, tokenizer.encode("the cat")))
    main(["encode", "the cat", "--vocab", "vocab.json"])
    assert capfdbinary.readouterr().out.decode().split() == ids
    main(["decode", *ids])
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == b"the cat"
    for out in ("ids.npy", "ids.txt"):
        main(f"encode --file text.txt --vocab vocab.json --out {out}".split())
        main(f"decode --file {out} --vocab vocab.json --out back.txt".split())
        assert Path("back.txt").read_bytes() == Path("text.txt").read_bytes()
    assert np.load("ids.npy").dtype == np.uint16
    main(["encode", "a<|endoftext|>", "--allow-special"])
    assert capfdbinary.readouterr().out.decode().split() == ["97", "399"]


def test_command_show(files, tokenizer, capsys, monkeypatch):
    text = "he sea\n\x1b[31m é"
    main(["show", text, "--vocab", "vocab.json"])
    out = capsys.readouterr().out
    assert out.startswith("[he]") and "[\\n]\n[" in out
    assert "\x1b" not in out and "\\x1b" in out  # no text commands the terminal
    ids = " ".join(map(str, tokenizer.encode(text)))
    for said in (f"{len(text.encode())} bytes", "bytes per token", "fertility", ids):
        assert said in out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for no_color in ("", "1"):
        monkeypatch.setenv("NO_COLOR", no_color)
        main(["show", "the sea", "--vocab", "vocab.json"])
        assert ("\x1b[30;48;5;" in capsys.readouterr().out) == (not no_color)
    main(["show", "", "--vocab", "vocab.json"])


def test_command_show_compares_two_vocabularies_word_by_word(files, capsys):
    BPETokenizer().save("bytes.json")
    BPETokenizer([(ord("t"), ord("h")), (256, ord("e"))]).save("the.json")
    main("show --vocab bytes.json --compare the.json".split() + ["the sea"])
    first, second, *counts = capsys.readouterr().out.splitlines()
    assert first == "[t][h][e]     [the]"
    assert second == "[ ][s][e][a]  [ ][s][e][a]"
    assert counts[0].startswith("bytes.json, 257 ids: 7 tokens for 7 bytes")
    assert counts[1].startswith("the.json, 259 ids: 5 tokens for 7 bytes")


BAD_COMMANDS = """paint
train --data text.txt --vocab-size 5
train --data empty.txt --out new.json
train --data missing.txt --out new.json
train --data text.txt --out text.txt
encode --file text.txt --out text.txt
encode
encode text --file text.txt
encode text --vocab missing.json
encode --file missing.txt
decode
decode -1
decode one
decode --file missing.npy
show --file latin1.txt
show text --vocab vocab.json --compare missing.json"""


def npy(value, save=np.save, **options):
    file = io.BytesIO()
    save(file, value, **options)
    return file.getvalue()


ARRAYS = [
    *(b"", b"nonsense", npy(np.zeros(3)), npy(np.zeros((2, 2), "u2")), npy(np.array(3))),
    *(npy([1], np.savez), npy(np.array([1, None]), allow_pickle=True), npy(np.array([-1]))),
    *(npy(np.array(["a"])), npy(np.zeros(9, [("a", "i4")])), npy(np.arange(9))[:-5]),
    *(npy(np.array(3)).replace(b"}", b" "), npy(np.array([10**6])), sparse, os.mkfifo, os.mkdir),
    *(link("ids"), link("/dev/zero")),
]
IDS = [b"", b"1 2 x", b"\xff", b"1.5", b"9" * 6000, b"-1", b"999999", os.mkfifo, os.mkdir]
BAD = [(command, "latin1.txt", b"caf\xe9") for command in BAD_COMMANDS.splitlines()]
BAD += [("decode --vocab vocab.json --file ids.npy", "ids.npy", content) for content in ARRAYS]
BAD += [("decode --vocab vocab.json --file ids.txt", "ids.txt", content) for content in IDS]


@pytest.mark.parametrize("command, name, content", BAD, ids=label)
def test_bad_commands_and_files_end_in_one_message(files, capsys, command, name, content):
    put(files, {"empty.txt": "", name: content})
    before = sorted(files.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in error
    assert error.count("\n") == 1 or error.startswith("╭")  # the command line's are in a frame
    assert sorted(files.iterdir()) == before  # nothing half-written


def test_the_script_itself(files):
    script = ROOT / "bpe_tokenizer.py"
    done = python(script, "show", "日本時間", "--vocab", "vocab.json", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "本" in done.stdout
    done = python(script, "show", "x", "--vocab", "-")
    assert done.returncode == 2
    assert done.stderr.startswith("bpe_tokenizer.py: ") and done.stderr.count("\n") == 1

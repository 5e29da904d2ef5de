"""Characters, words, byte pairs and GPT-2's tokens behind one interface."""

import string
import sys

from bpe_tokenizer import BPETokenizer
from common.data import Corpus, load_corpus
from common.tokenizers import load as tokenizers
from common.tokenizers import load_tokenizer, load_tokenizer_file
from common.tokenizers.classes import CharTokenizer, GPT2Tokenizer, WordTokenizer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import put
from lineage import refused

TEXT = "The cat , which sat on Anna 's mat , did n't run .\n \n"
TEXT += "It was the cat 's mat , sat the cat .\n"


@pytest.fixture
def gpt2(monkeypatch):
    """tiktoken's encoder over a small vocabulary, in the place of the one that is fetched."""
    encoding = BPETokenizer.train(TEXT, 270).to_tiktoken()
    monkeypatch.setattr("tiktoken.get_encoding", {"gpt2": encoding}.__getitem__)


@pytest.fixture
def corpus(cache, tmp_path):
    return load_corpus(put(tmp_path / "t.txt", TEXT * 40))


MAKE = {  # a tokenizer of each kind
    "char": lambda: CharTokenizer.train([TEXT]),
    "word": lambda: WordTokenizer.train([TEXT], 100),
    "bpe": lambda: BPETokenizer.train(TEXT, 270),
    "gpt2": GPT2Tokenizer,
}


@pytest.mark.parametrize("kind", MAKE)
def test_one_interface(kind, gpt2, tmp_path):
    tokenizer = MAKE[kind]()
    assert tokenizer.kind == kind and tokenizer.lossless == (kind in ("bpe", "gpt2"))
    ids = tokenizer.encode(TEXT)
    assert {type(ids), *map(type, ids)} == {list, int}
    assert tokenizer.decode(ids) == tokenizer.decode(np.array(ids)) == TEXT
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""
    assert max(ids) < tokenizer.vocab_size == len(tokenizer.vocab)
    assert np.iinfo(tokenizer.dtype).max >= tokenizer.vocab_size - 1
    assert len(tokenizer.sha256) == 64
    # Documents, each with its end, one at a time.
    end, texts = tokenizer.end_of_text, ["cat", "mat"]
    wanted = [*tokenizer.encode("cat"), end, *tokenizer.encode("mat"), end]
    arrays = list(tokenizer.encode_stream(iter(texts), end_of_text=True))
    assert {array.dtype for array in arrays} == {tokenizer.dtype}
    assert np.concatenate(arrays).tolist() == wanted
    assert tokenizer.encode_corpus(texts, end_of_text=True).tolist() == wanted
    assert tokenizer.encode_corpus(texts).tolist() == [i for i in wanted if i != end]
    assert tokenizer.encode_corpus("cat").tolist() == tokenizer.encode("cat")
    assert len(tokenizer.encode_corpus([])) == 0
    # The spelling of a special token is text like any other.
    assert end not in tokenizer.encode("a <|endoftext|> b")
    assert "<|endoftext|>" in tokenizer.decode([end])
    # Saved, and there again.
    tokenizer.save(tmp_path / "v.json")
    again = load_tokenizer_file(tmp_path / "v.json")
    for name in ("kind", "sha256", "vocab_size", "end_of_text"):
        assert getattr(again, name) == getattr(tokenizer, name)
    assert again.encode(TEXT) == ids


@pytest.mark.parametrize("kind", ["char", "word", "gpt2"])
def test_what_cannot_be_coded_is_refused(kind, gpt2):
    tokenizer = MAKE[kind]()
    for wrong in (None, 5, b"bytes", ["text"]):
        with refused("only text"):
            tokenizer.encode(wrong)
    for wrong in (-1, tokenizer.vocab_size, 10**9):
        with refused("ids go from 0"):
            tokenizer.decode([0, wrong])


# ---- characters and words ------------------------------------------------------------------------


def test_characters_in_order_and_unknown_ones():
    tokenizer = CharTokenizer.train(["ba", "é c"])
    assert tokenizer.vocab == [" ", "a", "b", "c", "é", "<|unk|>", "<|endoftext|>"]
    assert tokenizer.encode("abx") == [1, 2, 5] and tokenizer.decode([1, 2, 5]) == "ab<|unk|>"
    without = CharTokenizer.train(["ab"], special_tokens=())
    assert without.end_of_text is None and without.vocab == ["a", "b", "<|unk|>"]
    assert without.encode_corpus(["a", "b"], end_of_text=True).tolist() == [0, 1]
    for size, dtype in ((254, "uint8"), (255, "uint16"), (65534, "uint16"), (65535, "uint32")):
        names = [chr(0x10000 + i) for i in range(size)]
        assert CharTokenizer(names, ["<|unk|>", "<|endoftext|>"]).dtype == np.dtype(dtype)


def test_words_by_frequency_and_unknown_ones():
    tokenizer = WordTokenizer.train([" b b b a a c"], 4)
    assert tokenizer.vocab == [" b", " a", "<|unk|>", "<|endoftext|>"]
    assert tokenizer.encode(" a c b") == [1, 2, 0]
    assert tokenizer.decode([1, 2, 0]) == " a <|unk|> b"
    assert tokenizer.decode([2, 0]) == "<|unk|> b"
    assert WordTokenizer.train([" z a y b"], 100).vocab[:4] == [" a", " b", " y", " z"]


WORDS = ["the| <unk>| cat", " Anna| 's| @-@| did| n't", "I| don't|,| it's", "a| | b|\n|\n|\t|c"]
WORDS += ['He| said|:| "|Yes|!"|\n']


@pytest.mark.parametrize("pieces", WORDS)
def test_words_are_cut_as_documented(pieces):
    assert WordTokenizer([], ["<|unk|>"]).pieces(pieces.replace("|", "")) == pieces.split("|")


ODD = st.sampled_from(" \n\t'’.@<unk>-é字_\u0301\u2028\u00a0")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60, alphabet=ODD | st.characters(exclude_categories=["Cs"])))
def test_known_words_come_back_exactly(text):
    tokenizer = WordTokenizer.train([text], 1000)
    assert tokenizer.decode(tokenizer.encode(text)) == text


# ---- trained once, by kind ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
def test_vocabulary_is_trained_once_for_a_corpus_and_again_where_it_is_damaged(
    kind, corpus, monkeypatch, tmp_path
):
    first = load_tokenizer(kind, corpus, 280)
    assert first.kind == kind and first.end_of_text == first.vocab_size - 1
    with monkeypatch.context() as patch:
        patch.setattr(tokenizers, "_train", lambda *_: pytest.fail("trained again"))
        assert load_tokenizer(kind, corpus, 280).sha256 == first.sha256
    [path] = (tmp_path / "cache").glob(f"*-{kind}-*.json")
    path.write_text(path.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    assert load_tokenizer(kind, corpus, 280).sha256 == first.sha256
    assert load_tokenizer_file(path).sha256 == first.sha256


def test_other_settings_are_another_vocabulary(corpus, tmp_path):
    load_tokenizer("bpe", corpus, 280)
    load_tokenizer("bpe", corpus, 281)
    load_tokenizer("bpe", corpus, 280, pattern="whitespace")
    assert load_tokenizer("bpe", corpus, 280, special_tokens=()).end_of_text is None
    assert len(list((tmp_path / "cache").glob("*-bpe-*.json"))) == 4
    assert [load_tokenizer("word", corpus, size).vocab_size for size in (10, 12)] == [10, 12]


def test_vocabulary_of_a_huge_corpus_is_made_from_its_beginning(monkeypatch, capsys):
    taken = []

    def read(split):
        for letter in string.ascii_lowercase:
            taken.append(letter)
            yield letter * 1000

    corpus = Corpus("huge", True, read)
    assert corpus.n_bytes["train"] == 26_000
    monkeypatch.setattr(tokenizers, "ENOUGH", 5000)
    taken.clear()
    assert load_tokenizer("char", corpus, 0).vocab[:-2] == taken == list("abcde")
    assert "first" in capsys.readouterr().err


def test_gpt2_out_of_reach(monkeypatch, corpus):
    import requests

    def unreachable(name):
        raise requests.exceptions.ConnectionError("no\nroute")

    monkeypatch.setattr("tiktoken.get_encoding", unreachable)
    with refused("--tokenizer bpe"):
        load_tokenizer("gpt2", corpus, 0)
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with refused("pip install tiktoken"):
        load_tokenizer("gpt2", corpus, 0)


# ---- from a file -------------------------------------------------------------------------------


def test_saved_vocabulary_by_its_path(corpus, tmp_path):
    path = str(tmp_path / "v.json")
    BPETokenizer.train(TEXT, 270).to_huggingface().save(path)
    again = load_tokenizer(path, corpus, 0)
    assert again.decode(again.encode(TEXT)) == TEXT
    with refused("neither a kind .bpe, char, word, gpt2. nor a file"):
        load_tokenizer("bpee", corpus, 300)

"""The tokenizer: training, encoding and decoding, against the plain definitions and other code."""

import functools
import itertools
import json
import multiprocessing
import os
import tracemalloc
import unicodedata
from collections import Counter

from bpe_tokenizer import PATTERNS, BPETokenizer, encode_plainly, split, train_plainly
from common.bpe import PreTokenizer, cut, encode

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from inputs import put
from lineage import ROOT, python, refused

GPT2, GPT4, WHITESPACE = PATTERNS.values()
TEXT = (
    "The lighthouse keeper's daughter couldn't sleep; she'd heard 1234 waves. \n\n"
    "  'Who's there?' she asked the storm...\tNobody, of course!\n \n = A heading = \n"
    "It was the 21st of June, and the naïve café-owner's clock said 日本時間 12:30 😀.\n"
    "By winter everything had changed: ships no longer passed, letters stopped arriving, and the"
    " garden lay under snow until somebody remembered where her grandfather's telescope was.\n"
) * 3

# Characters that the patterns treat differently, most of all where cuts are decided.
SIGNS = [*" \n\t\r" * 3, *"abzAS'.,!?-=019\x0b\x0c\x1c\x1f\x85\xa0\u2003\u2028\u3000"]
SIGNS += [*"é\u0301ſßжأ日٣Ⅷ½😀🏽"]
SIGNS += ["'s", "'S", "'ll", "'re", " '", "  ", "\n\n", " \n", "\r\n", "\ufeff", "\u200b", "\0"]
TRICKY = st.lists(st.sampled_from(SIGNS), max_size=40).map("".join)
ANY_TEXT = TRICKY | st.text(max_size=80)


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(TEXT, 400)


@pytest.fixture(scope="module")
def wikitext(wikitext_dir):
    from common.data import load_corpus

    return "".join(load_corpus("wikitext-2", wikitext_dir).pieces("train"))


def make_small(monkeypatch):
    """Everything that bounds memory is so small that it takes part in every test text."""
    monkeypatch.setattr(cut, "PART", 20)
    for name, value in {"BLOCK": 500, "ENOUGH": 50, "REMEMBERED": 5000}.items():
        monkeypatch.setattr(encode, name, value)


small_blocks = pytest.fixture(make_small)


# -- training


BY_HAND = [
    # (a, a) 4 times; then "Xab d Xab a c": (a, b) 2 and (X, a) 2, the smaller pair of ids is
    # (a, b); then "XY d XY a c": (X, Y) twice.
    ("aaabdaaabac", 259, [(97, 97), (97, 98), (256, 257)]),
    ("aaaa", 300, [(97, 97), (256, 256)]),
    # Three pairs of a's in "aaaa", though only two can be merged: more often than the two "bc".
    ("aaaa bcbc", 257, [(97, 97)]),
    # (a, b) twice, then (" ", ab) once; then every chunk is one token.
    ("ab ab", 1000, [(97, 98), (32, 256)]),
    (["ab", "ab", "cd"], 260, [(97, 98), (99, 100)]),  # documents, each on its own
    ("ababcd", 260, [(97, 98), (99, 100), (256, 256), (258, 257)]),
    ("", 1000, []),
    ([], 1000, []),
]


@pytest.mark.parametrize("text, vocab_size, merges", BY_HAND)
def test_training_by_hand(text, vocab_size, merges):
    texts = text if isinstance(text, str) else (part for part in text)
    tokenizer = BPETokenizer.train(texts, vocab_size, special_tokens=())
    assert tokenizer.merges == merges and tokenizer.vocab_size == 256 + len(merges)


IMPOSSIBLE = [(size, ()) for size in (0, 255, 2**20 + 1, -1, 300.5, "300", True, None)]
IMPOSSIBLE += [(256, ["<x>"])]
IMPOSSIBLE += [(300, names) for names in ("<x>", [""], [3], ["a", "a"], ["\ud800"])]


@pytest.mark.parametrize("vocab_size, special_tokens", IMPOSSIBLE)
def test_impossible_vocabularies_are_refused(vocab_size, special_tokens):
    with refused("vocab_size" if vocab_size != 300 else "special|str|surrogate"):
        BPETokenizer.train(TEXT, vocab_size, special_tokens=special_tokens)


def test_tokens_that_double_cannot_fill_memory():
    with refused("too long"):
        # The last has 2^61 bytes.
        BPETokenizer([(97, 97), *((256 + i, 256 + i) for i in range(60))])
    with refused("too early|too many"):
        BPETokenizer((i // 256, i % 256) for i in itertools.count())


@settings(max_examples=400, deadline=None)
@given(st.text("ab ", max_size=60) | st.text("abc \n'", max_size=80) | TRICKY, st.integers(0, 40))
@example("aaaaaaaaa aaaa aaaaaaa", 40)
@example("abababab babab aba", 40)
def test_fast_training_is_plain_training(text, n_merges):
    for pattern in PATTERNS.values():
        fast = BPETokenizer.train(text, 256 + n_merges, pattern, special_tokens=())
        assert fast.merges == train_plainly(Counter(split(text, pattern)), n_merges)


def test_long_training_is_plain_training(monkeypatch):
    """Where the heap of pairs runs empty and is filled again; at last in small blocks."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), n)) for n in rng.integers(1, 9, 300)]
    text = TEXT + " ".join(rng.choice(words, 1500))
    plain = train_plainly(Counter(split(text, GPT4)), 600)
    assert len(plain) == 600
    for bound in (lambda patch: None, make_small):
        bound(monkeypatch)
        assert BPETokenizer.train(text, 856, special_tokens=()).merges == plain


@pytest.mark.slow
@pytest.mark.parametrize("n_ids", [4096, 32768])
def test_merges_are_those_of_rustbpe(wikitext, n_ids):
    # It counts bytes and merges, no special tokens.
    other = pytest.importorskip("rustbpe").Tokenizer()
    other.train_from_iterator([wikitext], n_ids, pattern=GPT4)
    ours = BPETokenizer.train(wikitext, n_ids, special_tokens=())
    theirs = sorted((rank, bytes(token)) for token, rank in other.get_mergeable_ranks())
    assert list(enumerate(ours.vocab)) == theirs and len(theirs) == n_ids
    # The same tokens in the same order; and each is made of the same two:
    assert ours.encode(wikitext[:300_000]) == other.encode(wikitext[:300_000])


# -- pre-tokenization


def test_the_patterns_on_a_sentence():
    text = "I'LL say: it's 12345 km.\n\n  Go"
    for pattern, chunks in (
        (GPT2, "I|'|LL| say|:| it|'s| 12345| km|.|\n\n | Go"),
        (GPT4, "I|'LL| say|:| it|'s| |123|45| km|.\n\n| | Go"),
        (WHITESPACE, "I'LL| say:| it's| 12345| km.|\n\n | Go"),
    ):
        assert split(text, pattern) == chunks.split("|")


def fast_chunks(pattern, documents):
    """The chunks of documents as the fast layer cuts them, part by part."""
    pre_tokenizer = PreTokenizer(pattern, True)
    parts = [part for part, _ in pre_tokenizer.parts(documents)]
    assert "".join(parts) == "".join(documents)
    spans = [span for part in parts for span in pre_tokenizer.spans(part)]
    return [chunk for span in spans for chunk in pre_tokenizer.chunks_of(span)]


@settings(max_examples=800, deadline=None)
@given(ANY_TEXT, st.sampled_from([1, 2, 5, 2**19]))
def test_fast_cutting_is_the_pattern(text, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut, "PART", size)
        for pattern in PATTERNS.values():
            assert split(text, pattern) == regex.findall(pattern, text)
            # With many single spaces around it, it is cut into words.
            for longer in (text, text + "." + " a" * 80, "a " * 80 + text):
                assert fast_chunks(pattern, [longer]) == split(longer, pattern)


def test_fast_cutting_is_the_pattern_for_every_character():
    """With each beside letters, digits and spaces, as words in spaced text too."""
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    common, white = every[:0x3100], regex.findall(r"\s", "".join(every))
    texts = ["".join(every), " x".join(common), "x1".join(common), "x " + "x ".join(common)]
    texts += [f"a {c}{c}b a {c} b a b{c} {c}b " + "c d " * 9 for c in white]
    for pattern in PATTERNS.values():
        chunks = [chunk for text in texts for chunk in regex.findall(pattern, text)]
        assert "".join(chunks) == "".join(texts) and fast_chunks(pattern, texts) == chunks


def test_a_document_without_spaces_is_cut_into_parts(monkeypatch):
    monkeypatch.setattr(cut, "PART", 100)
    documents = ["春眠不覺曉，處處聞啼鳥。" * 100, "12,345;6," * 200]
    for pattern in (GPT2, GPT4):
        assert max(len(part) for part, _ in PreTokenizer(pattern, True).parts(documents)) < 120


# The last one looks behind, has a group, and matches neither digits nor nothing at all.
OWN = [r"a(?=bc\K)|b", r"\w{2}", "(?i)E|x*", r"\b", ".+$", r"(?<=b) a|([a-z])+|\s|z*"]


@pytest.mark.parametrize("pattern", OWN)
def test_an_own_pattern_tiles_the_text(pattern):
    text = "xx abcab\nEe é ac 123 b a\n\nxyz9"
    tokenizer = BPETokenizer.train(text, 300, pattern)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    if pattern == OWN[-1]:
        chunks = ["xx", " ", "abcab", "\n", "E", "e", " ", "é", " ", "ac", " ", "123", " ", "b"]
        assert split(text, pattern) == [*chunks, " a", "\n", "\n", "xyz", "9"]


@pytest.mark.parametrize("pattern", ["(", "", None, 3, r"(?r)\w+", "(?R)a|b", "(a|(?1))*"])
def test_impossible_patterns_are_refused(pattern):
    with refused("split pattern"):
        BPETokenizer(pattern=pattern)


def test_patterns_that_take_forever_end_in_one_line(monkeypatch):
    monkeypatch.setattr(cut, "TIME_LIMIT", 0.2)
    with refused("takes too long"):
        BPETokenizer(pattern=r"(a|aa)+$").encode("a" * 60 + "b")


# -- encoding


@st.composite
def any_merges(draw):
    """Valid merges that no text need ever have led to, over few letters so that they meet."""
    merges = []
    for rank in range(draw(st.integers(1, 12))):
        ids = st.sampled_from([97, 98, 99, *range(256, 256 + rank)])
        pair = (draw(ids), draw(ids))
        if pair in merges:
            break
        merges.append(pair)
    return merges


@settings(max_examples=150, deadline=None)
@given(
    any_merges() | st.none(),
    st.lists(ANY_TEXT | st.text("abc ", max_size=30), max_size=6),
    st.sampled_from([GPT4, WHITESPACE]),
)
def test_encoding_is_the_definition_and_decoding_undoes_it(tokenizer, merges, documents, pattern):
    """Of each document on its own, with a vocabulary that was trained and with any other one."""
    fast = BPETokenizer(tokenizer.merges if merges is None else merges, pattern)
    ranks = {pair: rank for rank, pair in enumerate(fast.merges)}
    chunks = [split(text, pattern) for text in documents]
    plain = [[i for chunk in each for i in encode_plainly(chunk, ranks)] for each in chunks]
    ended = [i for ids in plain for i in [*ids, fast.end_of_text]]
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        assert fast.encode_corpus(iter(documents)).tolist() == sum(plain, [])
        assert fast.encode_corpus(documents, end_of_text=True).tolist() == ended
    assert [fast.encode(text) for text in documents] == plain
    assert [fast.decode(ids) for ids in plain] == documents
    assert [fast.decode_bytes(ids).decode() for ids in plain] == documents


@pytest.mark.slow
def test_long_chunks(wikitext):
    tokenizer = BPETokenizer.train(wikitext, 4096)
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    rng = np.random.default_rng(1)
    random = rng.integers(97, 123, 1_000_000, dtype=np.uint8).tobytes().decode()
    for text in (random[:3000], "a" * 3001, "ab" * 2000, "thethere" * 300, "é" * 999):
        assert tokenizer.encode(text) == encode_plainly(text, ranks)
    # A quadratic loop would take hours over these.
    for text in (random, "a" * 1_000_000, " " * 1_000_000, "\n " * 500_000, "= " * 500_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_ordinary_text_unless_allowed():
    tokenizer = BPETokenizer.train(TEXT, 300, special_tokens=["<|endoftext|>", "<|end", "<x>"])
    assert tokenizer.special_tokens == {"<|endoftext|>": 297, "<|end": 298, "<x>": 299}
    text = "a<|endoftext|>b<x>"
    plain = tokenizer.encode(text)
    assert max(plain) < 297 and tokenizer.decode(plain) == text
    assert tokenizer.encode_corpus(text).tolist() == plain
    assert tokenizer.encode(text, "all") == [97, 297, 98, 299]  # the longest spelling first
    assert tokenizer.encode(text, ["<x>"]) == plain[:-3] + [299]
    assert tokenizer.decode(tokenizer.encode(text, "all")) == text
    assert tokenizer.end_of_text == 297
    for wrong in (["<y>"], "<x>"):
        with refused("no such special token"):
            tokenizer.encode(text, wrong)


@pytest.mark.parametrize("text", ["\ud800", "x" * 5000 + "\udc80", b"bytes", 3, None, ["a", 3]])
def test_what_is_no_text_is_refused(tokenizer, text):
    own = BPETokenizer(pattern=r"\w+")
    train = functools.partial(BPETokenizer.train, vocab_size=300)
    for use in (tokenizer.encode, tokenizer.encode_corpus, own.encode, train):
        with refused(r"lone surrogate, U\+D" if isinstance(text, str) else "has to be a str"):
            use(text)


# -- corpora


def test_ids_have_the_smallest_type_that_holds_them():
    assert BPETokenizer(special_tokens=()).encode_corpus("é").dtype == np.uint8
    assert BPETokenizer().encode_corpus("é").dtype == np.uint16
    pairs = [(a, b) for a in range(255, -1, -1) for b in range(170)]  # ids up to 43,776
    (one, two), last = (256 + pairs.index(pair) for pair in ((98, 97), (99, 100))), 256 + len(pairs)
    assert BPETokenizer([*pairs, (one, two)]).encode("bacd") == [last]
    large = BPETokenizer([(a, b) for a in range(256) for b in range(256)])
    ids = large.encode_corpus(["\x7f\x7f", "a"], end_of_text=True)
    assert ids.tolist() == [256 + 127 * 256 + 127, 65_792, 97, 65_792]
    for found in (ids, *map(large.encode_corpus, ("", [], [""], ["", ""]))):
        assert (found.shape, found.dtype) == ((4 if found is ids else 0,), np.uint32)


def test_processes_give_the_same_ids(tokenizer, small_blocks, monkeypatch):
    """No more of them than this program may use."""
    documents = [TEXT[i:] for i in range(20)]
    one = tokenizer.encode_corpus(documents, end_of_text=True)
    monkeypatch.setattr(encode, "available_processors", lambda: 2)
    two = tokenizer.encode_corpus(documents, processes=64, end_of_text=True)
    assert two.dtype == one.dtype and two.tolist() == one.tolist()
    with refused("lone surrogate"):
        tokenizer.encode_corpus(documents + ["\ud800"], processes=2)
    for bad in (0, -1, 1.5, "2"):
        with refused("processes"):
            tokenizer.encode_corpus("text", processes=bad)
    monkeypatch.undo()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    monkeypatch.setattr("common.bpe.processes.encode_blocks", None)
    assert tokenizer.encode_corpus("the", processes=2).tolist() == tokenizer.encode("the")


def test_processes_do_not_run_the_script_again(tmp_path):
    """Not even where a process is idle before the second block is there."""
    script = """import time, bpe_tokenizer, common.bpe.encode as encode
encode.BLOCK, encode.available_processors = 400, lambda: 2
texts = (time.sleep(i == 1) or 'some text' * 200 for i in range(9))
print(len(bpe_tokenizer.BPETokenizer().encode_corpus(texts, processes=2)))"""
    done = python(put(tmp_path / "unguarded.py", script), PYTHONPATH=str(ROOT))
    assert (done.stdout, done.stderr) == ("16200\n", "")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stream_takes_documents_as_it_needs_them(tokenizer, small_blocks, monkeypatch, processes):
    monkeypatch.setattr(encode, "available_processors", lambda: 2)
    taken = itertools.count()
    endless = (f"document {next(taken)} {'x' * 50}" for _ in itertools.count())
    stream = tokenizer.encode_stream(endless, processes=processes)
    assert tokenizer.decode(next(stream)).startswith("document 0 ")
    assert next(taken) < 20 * (4 * processes + 2)  # an iterable without end: else this hangs
    for child in multiprocessing.active_children()[:1]:  # there is none where one process works
        os.kill(child.pid, 2)  # Ctrl-C, which ends it as being killed does
        with refused("shared the work has died"):
            list(itertools.islice(stream, 99))


def test_memory_does_not_grow_with_the_corpus(tokenizer, monkeypatch):
    # Words that never come again, so that whatever is remembered without bound shows.
    monkeypatch.setattr(encode, "REMEMBERED", 2**18)
    monkeypatch.setattr(encode, "ENOUGH", 2**12)
    monkeypatch.setattr(encode, "BLOCK", 2**13)

    def peak(n):
        documents = (" ".join(f"{i:x}{j}" for j in range(100)) for i in range(n))
        fresh = BPETokenizer(tokenizer.merges)
        tracemalloc.start()
        tokens = sum(len(ids) for ids in fresh.encode_stream(documents, end_of_text=True))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used, tokens

    (short, few), (long, many) = peak(80), peak(800)
    assert many > 9 * few and long < 1.3 * short


# -- decoding


def test_decoding_takes_any_whole_numbers_that_are_ids(tokenizer):
    import torch

    ids = tokenizer.encode("hello there")
    arrays = (np.array(ids, np.uint16), list(np.array(ids)), torch.tensor(ids))
    for same in (tuple(ids), iter(ids), *arrays, list(torch.tensor(ids))):
        assert tokenizer.decode(same) == "hello there"
    for wrong in ([400], [-1], [10**30], [1.5], ["a"], [None], "12", 3, None, [[1]]):
        with refused("ids"):
            tokenizer.decode(wrong)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=50))
def test_any_bytes_decode(tokenizer, data):
    assert tokenizer.decode_bytes(list(data)) == data
    assert tokenizer.decode(list(data)) == data.decode("utf-8", errors="replace")


# -- other libraries


def is_settled(c):
    """Libraries know different versions of Unicode: keep to characters that have not changed."""
    old = unicodedata.ucd_3_2_0.category(c)
    return old not in ("Cn", "Cs") and old == unicodedata.category(c)


@pytest.mark.parametrize("name", PATTERNS)
def test_other_libraries_agree_on_any_text(name):
    tokenizer = BPETokenizer.train(TEXT, 420, PATTERNS[name], ["<|endoftext|>", "<|x|>"])
    tiktoken, huggingface = tokenizer.to_tiktoken(), tokenizer.to_huggingface()

    @settings(max_examples=100, deadline=None)
    @given(ANY_TEXT.filter(lambda text: all(map(is_settled, text))))
    def agree(text):
        ids = tokenizer.encode(text)
        assert tiktoken.encode_ordinary(text) == ids
        assert tiktoken.decode(ids) == text
        if not any(spelling in text for spelling in tokenizer.special_tokens):
            assert huggingface.encode(text).ids == ids  # it takes a special token's spelling as one

    agree()
    text = "one<|endoftext|> two<|x|>"
    ids = tokenizer.encode(text, "all")
    assert 418 in ids and 419 in ids
    assert tiktoken.encode(text, allowed_special="all") == ids
    assert huggingface.encode(text).ids == ids
    assert huggingface.decode(ids, skip_special_tokens=False) == text
    assert tiktoken.n_vocab == huggingface.get_vocab_size() == tokenizer.vocab_size == 420


# -- the file by itself


def test_the_file_works_alone(tmp_path):
    source = (ROOT / "bpe_tokenizer.py").read_text(encoding="utf-8")
    put(tmp_path, {"bpe_tokenizer.py": source, "text.txt": TEXT})
    code = """
import json, bpe_tokenizer
from bpe_tokenizer import BPETokenizer
assert bpe_tokenizer.fast is None
text = open("text.txt", encoding="utf-8", newline="").read()
BPETokenizer.train([text, text[1:]], 330).save("vocab.json")
tokenizer = BPETokenizer.load("vocab.json")
assert tokenizer.decode(tokenizer.encode(text)) == text
print(json.dumps(tokenizer.encode_corpus([text, "a"], end_of_text=True).tolist()))
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tokenizer = BPETokenizer.train([TEXT, TEXT[1:]], 330)
    ids = tokenizer.encode_corpus([TEXT, "a"], end_of_text=True)
    assert json.loads(done.stdout) == ids.tolist()
    assert BPETokenizer.load(tmp_path / "vocab.json").sha256 == tokenizer.sha256

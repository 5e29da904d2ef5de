"""The tokenizer: against its definition, against other libraries, against damage and bad input."""

import itertools
import json
import os
import subprocess
import sys
import tracemalloc
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import bpe_tokenizer
from bpe_tokenizer import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    PATTERNS,
    WHITESPACE_PATTERN,
    BPETokenizer,
    TokenizerError,
    encode_plainly,
    main,
    train_plainly,
)

TEXT = (
    "The lighthouse keeper's daughter couldn't sleep; she'd heard 1234 waves. \n\n"
    "  'Who's there?' she asked the storm...\tNobody, of course!\n \n = A heading = \n"
    "It was the 21st of June, and the naïve café-owner's clock said 日本時間 12:30 😀.\n"
    "By winter everything had changed: ships no longer passed, letters stopped arriving, and the"
    " garden lay under snow until somebody remembered where her grandfather's telescope was.\n"
) * 3

# Characters that the patterns treat differently, most of all where cuts are decided.
TRICKY = st.lists(
    st.sampled_from(
        list(" \n\t\r") * 3
        + list("abzAS'.,!?-=019\x0b\x0c\x1c\x1f\x85\xa0\u2003\u2028\u3000")
        + list("é\u0301ſßжأ日٣Ⅷ½😀🏽")
        + ["'s", "'S", "'ll", "'re", " '", "  ", "\n\n", " \n", "\r\n", "\ufeff", "\u200b", "\0"]
    ),
    max_size=40,
).map("".join)
ANY_TEXT = TRICKY | st.text(max_size=80)
MORE = settings(max_examples=400, deadline=None)
SOME = settings(max_examples=100, deadline=None)


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(TEXT, 400)


@pytest.fixture(scope="module")
def wikitext(wikitext_dir):
    from common.data import load_corpus

    return "".join(load_corpus("wikitext-2", wikitext_dir).pieces("train"))


@pytest.fixture(scope="module")
def wiki_tokenizer(wikitext):
    return BPETokenizer.train(wikitext, 4096)


# -- training


def naive_merges(text, n_merges, pattern):
    """BPE by recounting everything: what training has to agree with."""
    chunks = [list(chunk.encode("utf-8")) for chunk in regex.findall(pattern, text)]
    merges = []
    while len(merges) < n_merges:
        counts = Counter(pair for ids in chunks for pair in zip(ids, ids[1:], strict=False))
        if not counts:
            break
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        for ids in chunks:
            i = 0
            while i < len(ids) - 1:
                if (ids[i], ids[i + 1]) == pair:
                    ids[i : i + 2] = [256 + len(merges)]
                i += 1
        merges.append(pair)
    return merges


def test_training_by_hand():
    # "aaabdaaabac": aa occurs 4 times; then ab twice as (a, b) beside (aa, a) and (aa, ab)...
    tokenizer = BPETokenizer.train("aaabdaaabac", 259, special_tokens=())
    a, b = 97, 98
    # (a, a) 4; then "Xab d Xab a c": (a, b) 2 and (X, a) 2, the smaller pair of ids is (a, b);
    # then "XY d XY a c": (X, Y) twice.
    assert tokenizer.merges == [(a, a), (a, b), (256, 257)]
    assert tokenizer.vocab[256:] == [b"aa", b"ab", b"aaab"]
    assert tokenizer.encode("aaabdaaabac") == [258, 100, 258, 97, 99]


def test_overlapping_pairs():
    tokenizer = BPETokenizer.train("aaaa", 300, special_tokens=())
    assert tokenizer.merges == [(97, 97), (256, 256)]
    assert tokenizer.encode("aaaaa") == [257, 97]
    assert tokenizer.encode("aaa") == [256, 97]
    # Three pairs of a's in "aaaa", though only two can be merged: more often than the two "bc".
    assert BPETokenizer.train("aaaa bcbc", 257, special_tokens=()).merges == [(97, 97)]


@MORE
@given(st.text("ab ", max_size=60) | st.text("abc \n'", max_size=80) | TRICKY, st.integers(0, 40))
@example("aaaaaaaaa aaaa aaaaaaa", 40)
@example("abababab babab aba", 40)
def test_trained_fast_is_trained_naively(text, n_merges):
    for pattern in PATTERNS.values():
        fast = BPETokenizer.train(text, 256 + n_merges, pattern, special_tokens=())
        naive = naive_merges(text, n_merges, pattern)
        assert fast.merges == naive
        chunks = Counter(chunk.encode("utf-8") for chunk in regex.findall(pattern, text))
        assert train_plainly(chunks, n_merges) == naive


def test_training_many_merges_lowers_the_floor_correctly():
    # Enough different words that the heap runs empty and is filled again many times.
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghij"))
    words = ["".join(rng.choice(letters, n)) for n in rng.integers(1, 9, 300)]
    text = " ".join(rng.choice(words, 1500))
    naive = naive_merges(text, 600, GPT4_PATTERN)
    assert len(naive) == 600
    assert BPETokenizer.train(text, 856, special_tokens=()).merges == naive


def test_a_short_text_gives_a_smaller_vocabulary():
    tokenizer = BPETokenizer.train("ab ab", 1000)
    # (a, b) twice, then (" ", ab) once; then every chunk is one token
    assert tokenizer.merges == [(97, 98), (32, 256)]
    assert tokenizer.vocab_size == 259
    assert tokenizer.special_tokens == {"<|endoftext|>": 258}
    assert BPETokenizer.train("", 1000).merges == []
    assert BPETokenizer.train([], 1000).vocab_size == 257


def test_documents_are_trained_on_their_own():
    as_generator = BPETokenizer.train((part for part in ["ab", "ab", "cd"]), 260)
    assert as_generator.merges == [(97, 98), (99, 100)]
    together = BPETokenizer.train("ababcd", 260)
    assert together.merges != as_generator.merges


def test_training_forgets_and_still_counts_right(monkeypatch):
    text = " ".join(f"w{i % 37}x{i % 11} q{i}" for i in range(2000))
    whole = BPETokenizer.train(text, 600)
    monkeypatch.setattr(bpe_tokenizer, "MOST_REMEMBERED", 50)
    monkeypatch.setattr(bpe_tokenizer, "LONGEST_REMEMBERED", 4)
    monkeypatch.setattr(bpe_tokenizer, "BLOCK", 300)
    assert BPETokenizer.train(text, 600).merges == whole.merges


@pytest.mark.parametrize("size", [0, 256, 2**20 + 1, -1, 300.5, "300", True, None])
def test_impossible_vocabulary_sizes(size):
    with pytest.raises(TokenizerError, match="vocab_size"):
        BPETokenizer.train("text", size)


@pytest.mark.parametrize("n_ids", [4096, 32768])
def test_merges_are_those_of_rustbpe(wikitext, n_ids):
    rustbpe = pytest.importorskip("rustbpe")
    other = rustbpe.Tokenizer()  # counts bytes and merges, no special tokens
    other.train_from_iterator([wikitext], n_ids, pattern=GPT4_PATTERN)
    ours = BPETokenizer.train(wikitext, n_ids, special_tokens=())
    theirs = sorted((rank, bytes(token)) for token, rank in other.get_mergeable_ranks())
    assert ours.vocab_size == len(theirs) == n_ids
    assert list(enumerate(ours.vocab)) == theirs
    # The same tokens in the same order: and each is made of the same two.
    if n_ids == 4096:
        sample = wikitext[:300_000]
        assert ours.encode(sample) == other.encode(sample)


# -- cutting


def spans_of(cutter, documents):
    """The chunks that fast cutting gives, as text."""

    def learn(spans):
        return [
            b"".join(chunk.encode("utf-8") + b"\xff" for chunk in cutter.chunks(span))
            for span in spans
        ]

    tables = {spaced: bpe_tokenizer._Spans(learn, spaced) for spaced in (True, False)}
    values = b""
    for block in cutter.blocks(documents):
        keys, spaced = cutter.keys(block)
        values += b"".join(tables[spaced].look_up(keys))
    return [chunk.decode("utf-8") for chunk in values.split(b"\xff")[:-1]]


def words_of(cutter, text):
    """The same for the second way to cut, as for texts of many lines and runs of spaces."""
    words = cutter.words.findall(text)
    assert "".join(words) == text
    return [chunk for word in words for chunk in cutter.chunks(word)]


@settings(max_examples=800, deadline=None)
@given(ANY_TEXT, st.sampled_from([1, 2, 5, 2**19]))
def test_fast_cutting_is_the_pattern(text, block):
    before, bpe_tokenizer.BLOCK = bpe_tokenizer.BLOCK, block
    try:
        for pattern in PATTERNS.values():
            cutter = bpe_tokenizer._Cutter(pattern)
            chunks = regex.findall(pattern, text)
            assert spans_of(cutter, [text]) == chunks
            assert words_of(cutter, text) == chunks
            text_ = text + "." + " a" * 200  # so many single spaces that str.split does the cutting
            assert spans_of(cutter, [text_]) == regex.findall(pattern, text_)
    finally:
        bpe_tokenizer.BLOCK = before


def test_fast_cutting_is_the_pattern_for_all_short_texts():
    for pattern in PATTERNS.values():
        cutter = bpe_tokenizer._Cutter(pattern)
        texts = ["".join(t) for n in range(6) for t in itertools.product(" \na1!\t", repeat=n)]
        chunks = [cutter.compiled.findall(text) for text in texts]
        assert spans_of(cutter, texts) == [chunk for some in chunks for chunk in some]
        assert [words_of(cutter, text) for text in texts] == chunks
        # Behind so many single spaces, str.split does the cutting.
        padding = " a" * 200
        for text, some in zip(texts, chunks, strict=True):
            if text[-1:] not in ("", " ", "\n", "\t"):
                assert spans_of(cutter, [text + padding]) == some + [" a"] * 200


def test_patterns_cover_every_character():
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for pattern in PATTERNS.values():
        text = "".join(every) + " " + " x".join(every[:0x3100])
        assert "".join(regex.findall(pattern, text)) == text


def test_isspace_holds_for_all_white_space_of_the_patterns():
    white = set(regex.findall(r"\s", "".join(map(chr, range(0x110000)))))
    assert white and all(c.isspace() for c in white)


def test_plain_words_need_no_pattern():
    for pattern in PATTERNS.values():
        cutter = bpe_tokenizer._Cutter(pattern)
        for span in ["a", "Word", " Word", " a", "x1", " x1", "'s", "\nab", " \n", "aé", "  a"]:
            assert cutter.chunks(span) == cutter.compiled.findall(span)


def test_an_own_pattern_takes_the_plain_way():
    # Looks behind, has a group, and matches neither digits nor nothing at all.
    pattern = r"(?<=b) a|([a-z])+|\s|z*"
    text = "ab ac 123 b a\n\nxyz9"
    tokenizer = BPETokenizer.train(text, 300, pattern)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    chunks = spans_of(bpe_tokenizer._Cutter(pattern), [text])
    assert chunks == ["ab", " a", "c", " ", "123", " ", "b", " a", "\n", "\n", "xyz", "9"]
    with pytest.raises(TokenizerError, match="no regular expression"):
        BPETokenizer.train(text, 300, "(")
    for bad in (None, "", 3):
        with pytest.raises(TokenizerError, match="pattern"):
            BPETokenizer.train(text, 300, bad)


def test_the_patterns_on_a_sentence():
    def cut(pattern):
        return regex.findall(pattern, "I'LL say: it's 12345 km.\n\n  Go")

    assert cut(GPT2_PATTERN) == [
        *["I", "'", "LL", " say", ":", " it", "'s", " 12345", " km", ".", "\n\n ", " Go"]
    ]
    assert cut(GPT4_PATTERN) == [
        *["I", "'LL", " say", ":", " it", "'s", " ", "123", "45", " km", ".\n\n", " ", " Go"]
    ]
    assert cut(WHITESPACE_PATTERN) == [
        *["I'LL", " say:", " it's", " 12345", " km.", "\n\n ", " Go"]
    ]


# -- encoding


@MORE
@given(ANY_TEXT)
def test_decoding_undoes_encoding(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode("utf-8")


def test_unassigned_and_private_code_points(tokenizer):
    for text in ("\u0378\U000e0080", "\ue000\U0010ffff", "a\u0301\u0323 \u200d", "👩‍👩‍👧 👍🏽"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@SOME
@given(ANY_TEXT)
def test_encoding_is_the_definition(tokenizer, text):
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    chunks = regex.findall(tokenizer.pattern, text)
    plain = [i for chunk in chunks for i in encode_plainly(chunk.encode("utf-8"), ranks)]
    assert tokenizer.encode(text) == plain
    assert tokenizer.encode_corpus(text).tolist() == plain


@st.composite
def any_merges(draw):
    """Valid merges that no text need ever have led to, over few letters so that they meet."""
    merges = []
    for rank in range(draw(st.integers(1, 12))):
        ids = st.sampled_from([97, 98, 99, *range(256, 256 + rank)])
        pair = (draw(ids), draw(ids))
        if pair not in merges:
            merges.append(pair)
        else:
            break
    return merges


@MORE
@given(any_merges(), st.lists(st.text("abc", min_size=1, max_size=30), min_size=1, max_size=8))
def test_the_three_ways_to_encode_agree(merges, words):
    tokenizer = BPETokenizer(merges)
    chunks = [word.encode() for word in words]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    plain = [encode_plainly(chunk, ranks) for chunk in chunks]
    assert [tokenizer._encode_long(chunk).tolist() for chunk in chunks] == plain
    many = tokenizer._encode_many(chunks)
    assert [np.frombuffer(ids, tokenizer.dtype).tolist() for ids in many] == plain


def test_long_chunks(wiki_tokenizer):
    ranks = {pair: rank for rank, pair in enumerate(wiki_tokenizer.merges)}
    rng = np.random.default_rng(1)
    random = rng.integers(97, 123, 1_000_000, dtype=np.uint8).tobytes().decode()
    for text in (random[:3000], "a" * 3001, "ab" * 2000, "thethere" * 300, "é" * 999):
        assert wiki_tokenizer.encode(text) == encode_plainly(text.encode(), ranks)
    # A quadratic loop would take hours over these.
    for text in (random, "a" * 1_000_000, " " * 1_000_000, "\n " * 500_000, "= " * 500_000):
        assert wiki_tokenizer.decode(wiki_tokenizer.encode(text)) == text


def test_special_tokens_are_ordinary_text_unless_allowed():
    tokenizer = BPETokenizer.train(TEXT, 300, special_tokens=["<|endoftext|>", "<|end", "<x>"])
    assert tokenizer.special_tokens == {"<|endoftext|>": 297, "<|end": 298, "<x>": 299}
    text = "a<|endoftext|>b<x>"
    plain = tokenizer.encode(text)
    assert max(plain) < 297 and tokenizer.decode(plain) == text
    assert tokenizer.encode_corpus(text).tolist() == plain
    a, b = tokenizer.encode("a"), tokenizer.encode("b")
    assert tokenizer.encode(text, "all") == a + [297] + b + [299]  # the longest spelling first
    assert tokenizer.encode(text, ["<x>"]) == plain[:-3] + [299]
    assert tokenizer.encode("<|endoftext|><|endoftext|>", {"<|endoftext|>"}) == [297, 297]
    assert tokenizer.decode(tokenizer.encode(text, "all")) == text
    assert tokenizer.end_of_text == 297
    assert BPETokenizer.train(TEXT, 300, special_tokens=()).end_of_text is None
    with pytest.raises(TokenizerError, match="no special token"):
        tokenizer.encode(text, ["<y>"])
    with pytest.raises(TokenizerError, match="allowed_special"):
        tokenizer.encode(text, "<x>")


@pytest.mark.parametrize("specials", ["<x>", [""], [3], ["a", "a"], ["\ud800"], None])
def test_impossible_special_tokens(specials):
    with pytest.raises((TokenizerError, TypeError)):
        BPETokenizer.train(TEXT, 300, special_tokens=specials)


def test_lone_surrogates_are_refused(tokenizer):
    for text in ("\ud800", "fine until \udfff here", "x" * 5000 + "\udc80", "a \ud83d\n b"):
        for use in (tokenizer.encode, tokenizer.encode_corpus):
            with pytest.raises(TokenizerError, match="lone surrogate, U\\+D"):
                use(text)
        with pytest.raises(TokenizerError, match="lone surrogate"):
            BPETokenizer.train(text, 300)
        with pytest.raises(TokenizerError, match="lone surrogate"):
            BPETokenizer(pattern=r"\w+").encode(text)


@pytest.mark.parametrize("thing", [b"bytes", 3, None, 1.5, ["a", 3], [b"a"], [["a"]]])
def test_what_is_no_text_is_refused(tokenizer, thing):
    for use in (tokenizer.encode_corpus, lambda text: BPETokenizer.train(text, 300)):
        with pytest.raises(TokenizerError, match="has to be a str"):
            use(thing)
    with pytest.raises(TokenizerError, match="has to be a str"):
        tokenizer.encode(thing)


# -- corpora


def test_corpus_types():
    assert BPETokenizer(special_tokens=()).encode_corpus("é").dtype == np.uint8
    assert BPETokenizer().encode_corpus("é").dtype == np.uint16
    tokenizer = BPETokenizer([(a, b) for a in range(256) for b in range(256)][:65_279])
    assert tokenizer.vocab_size == 2**16 and tokenizer.dtype == np.uint16
    tokenizer = BPETokenizer([(a, b) for a in range(256) for b in range(256)])
    ids = tokenizer.encode_corpus(["\x7f\x7f", "a"], end_of_text=True)
    assert ids.dtype == np.uint32
    assert ids.tolist() == [256 + 127 * 256 + 127, 65_792, 97, 65_792]
    for empty in ("", [], [""], ["", ""]):
        ids = tokenizer.encode_corpus(empty)
        assert ids.shape == (0,) and ids.dtype == np.uint32


@SOME
@given(st.lists(ANY_TEXT, max_size=6), st.sampled_from([1, 7, 2**19]))
def test_documents_are_encoded_on_their_own(tokenizer, documents, block):
    before, bpe_tokenizer.BLOCK = bpe_tokenizer.BLOCK, block
    try:
        plain, ended = [], []
        for document in documents:
            plain += tokenizer.encode(document)
            ended += tokenizer.encode(document) + [tokenizer.end_of_text]
        assert tokenizer.encode_corpus(iter(documents)).tolist() == plain
        assert tokenizer.encode_corpus(documents, end_of_text=True).tolist() == ended
    finally:
        bpe_tokenizer.BLOCK = before


def test_end_of_text_needs_the_special_token():
    tokenizer = BPETokenizer(special_tokens=["<other>"])
    assert tokenizer.encode_corpus(["a", "b"], end_of_text=True).tolist() == [97, 98]
    assert BPETokenizer().encode_corpus(["a", ""], end_of_text=True).tolist() == [97, 256, 256]


def test_processes_give_the_same_ids(tokenizer, monkeypatch):
    monkeypatch.setattr(bpe_tokenizer, "BLOCK", 500)
    documents = [TEXT[i:] for i in range(20)]
    one = tokenizer.encode_corpus(documents, end_of_text=True)
    two = tokenizer.encode_corpus(documents, processes=2, end_of_text=True)
    assert two.dtype == one.dtype and two.tolist() == one.tolist()
    with pytest.raises(TokenizerError, match="lone surrogate"):
        tokenizer.encode_corpus(documents + ["\ud800"], processes=2)
    for bad in (0, -1, 1.5, "2"):
        with pytest.raises(TokenizerError, match="processes"):
            tokenizer.encode_corpus("text", processes=bad)


def test_processes_need_a_guarded_script(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(bpe_tokenizer.__file__).parent)!r})\n"
        "from bpe_tokenizer import BPETokenizer\n"
        "BPETokenizer().encode_corpus('some text', processes=2)\n",
        encoding="utf-8",
    )
    command = [sys.executable, script]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert run.returncode == 1 and "TokenizerError: a process that shared the work" in run.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stream_takes_documents_as_it_needs_them(tokenizer, monkeypatch, processes):
    monkeypatch.setattr(bpe_tokenizer, "BLOCK", 1000)
    taken = itertools.count()
    endless = (f"document {next(taken)} {'x' * 50}" for _ in itertools.count())
    stream = tokenizer.encode_stream(endless, processes=processes)
    first = next(stream)
    assert tokenizer.decode(first).startswith("document 0 ")
    assert next(taken) < 40 * (2 * processes + 2)  # an iterable without end: else this hangs
    stream.close()


def test_memory_does_not_grow_with_the_corpus(tokenizer, monkeypatch):
    # Words that never come again, so that whatever is remembered without bound shows.
    monkeypatch.setattr(bpe_tokenizer, "MOST_REMEMBERED", 1000)
    monkeypatch.setattr(bpe_tokenizer, "BLOCK", 2**13)

    def documents(n):
        return (" ".join(f"{i:x}{j}" for j in range(100)) for i in range(n))

    def peak(n):
        fresh = BPETokenizer(tokenizer.merges)
        tracemalloc.start()
        tokens = sum(len(ids) for ids in fresh.encode_stream(documents(n), end_of_text=True))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used, tokens

    short, few = peak(80)
    long, many = peak(800)
    assert many > 9 * few
    assert long < 1.3 * short


# -- decoding


@SOME
@given(st.binary(max_size=50))
def test_any_bytes_decode(tokenizer, data):
    assert tokenizer.decode_bytes(list(data)) == data
    assert tokenizer.decode(list(data)) == data.decode("utf-8", errors="replace")


def test_decoding_takes_any_whole_numbers(tokenizer):
    import torch

    ids = tokenizer.encode("hello there")
    for same in (
        tuple(ids),
        iter(ids),
        np.array(ids, np.uint16),
        list(np.array(ids)),
        torch.tensor(ids),
        list(torch.tensor(ids)),
    ):
        assert tokenizer.decode(same) == "hello there"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("ids", [[400], [-1], [10**30], [1.5], ["a"], [None], "12", 3, None, [[1]]])
def test_impossible_ids(tokenizer, ids):
    with pytest.raises(TokenizerError, match="id"):
        tokenizer.decode(ids)


# -- the file


def test_saving_and_loading(tokenizer, tmp_path):
    path = tmp_path / "vocab.json"
    tokenizer.save(path)
    again = BPETokenizer.load(path)
    for name in ("merges", "vocab", "vocab_size", "special_tokens", "pattern", "sha256", "kind"):
        assert getattr(again, name) == getattr(tokenizer, name)
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    # A person can read it: each merge has a line, with the string that it makes.
    text = path.read_text(encoding="utf-8")
    a, b = tokenizer.merges[0]
    row = json.dumps([a, b, tokenizer.vocab[256].decode("utf-8")], ensure_ascii=False)
    assert row in [line.strip().removesuffix(",") for line in text.splitlines()]
    assert [p.name for p in tmp_path.iterdir()] == ["vocab.json"]
    for odd in (BPETokenizer(), BPETokenizer(special_tokens=(), pattern="\n|[^\n]+")):
        odd.save(path)
        assert BPETokenizer.load(str(path)).sha256 == odd.sha256


def test_the_checksum_tells_vocabularies_apart(tokenizer):
    same = BPETokenizer(tokenizer.merges)
    assert same.sha256 == tokenizer.sha256
    others = [
        BPETokenizer(tokenizer.merges[:-1]),
        BPETokenizer(tokenizer.merges, GPT2_PATTERN),
        BPETokenizer(tokenizer.merges, special_tokens=()),
        BPETokenizer(tokenizer.merges, special_tokens=["<|end|>"]),
    ]
    assert len({tokenizer.sha256, *(other.sha256 for other in others)}) == 5


def test_a_failed_save_leaves_the_old_file(tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "vocab.json"
    tokenizer.save(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            with pytest.raises(OSError, match="No space left"):
                BPETokenizer().save(path)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["vocab.json"]


def refused(path, text):
    path.write_text(text, encoding="utf-8", newline="\n")
    with pytest.raises(TokenizerError) as caught:
        BPETokenizer.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


EDITS = {  # field: (new value, what the error says)
    "format": ("something else", "no vocabulary of this tokenizer"),
    "version": (2, "format version 2"),
    "vocab_size": (10**9, "claims 1000000000 ids"),
    "pattern": ("(", "no regular expression"),
    "special_tokens": ({"<|endoftext|>": 10**9}, "last ids"),
    "sha256": ("0" * 64, "checksum"),
    "merges": ([], "checksum|claims|last ids"),
}


@pytest.mark.parametrize("field", EDITS)
def test_edited_files_are_refused(tokenizer, tmp_path, field):
    path = tmp_path / "vocab.json"
    tokenizer.save(path)
    saved = json.loads(path.read_text(encoding="utf-8"))
    value, message = EDITS[field]
    assert regex.search(message, refused(path, json.dumps({**saved, field: value})))
    for wrong in (None, 3.5, [1], "x", {"a": "b"}, True, -1, [[1, 2, "x"]] * 2):
        refused(path, json.dumps({**saved, field: wrong}))
    missing = {name: value for name, value in saved.items() if name != field}
    refused(path, json.dumps(missing))
    refused(path, json.dumps({**saved, "more": 1}))


BAD_ROWS = [
    ([400, 97, "x"], "only ids below"),
    ([-1, 97, "x"], "only ids below"),
    ([10**30, 97, "x"], "only ids below"),
    ([97.0, 97, "aa"], "no pair of ids"),
    (["97", 97, "aa"], "no pair of ids"),
    ([97, 97], "is not \\[first id"),
    ([97, 97, 97, 97], "is not \\[first id"),
    ("aa", "is not \\[first id"),
    ([97, 97, "ab"], "makes 'aa', not 'ab'"),
]


@pytest.mark.parametrize("row, message", BAD_ROWS)
def test_bad_merges_are_refused(tmp_path, row, message):
    path = tmp_path / "vocab.json"
    BPETokenizer([(97, 97), (256, 97)]).save(path)
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["merges"][0] = row
    assert regex.search(message, refused(path, json.dumps(saved)))
    saved["merges"][:2] = [[97, 97, "aa"], [97, 97, "aa"]]
    assert "comes twice" in refused(path, json.dumps(saved))


def test_foreign_files_are_refused(tokenizer, tmp_path):
    path = tmp_path / "vocab.json"
    tokenizer.save(path)
    whole = path.read_text(encoding="utf-8")
    for end in (0, 1, 100, len(whole) // 2, len(whole) - 3):
        assert "JSON" in refused(path, whole[:end])
    for text in ("[]", "3", "null", '"text"', "{}", "[" * 100_000, '{"a": 1, "a": 2}', "NaN"):
        refused(path, text)
    refused(path, "9" * 10_000)
    path.write_bytes(b"\x80\x04\x95pickle")
    with pytest.raises(TokenizerError, match="JSON"):
        BPETokenizer.load(path)
    with open(path, "wb") as file:  # sparse: takes no room, claims a lot
        file.truncate(2**33)
    with pytest.raises(TokenizerError, match="too many for a vocabulary"):
        BPETokenizer.load(path)
    with pytest.raises(OSError):
        BPETokenizer.load(tmp_path / "missing.json")


def test_tokens_that_double_cannot_fill_memory(tmp_path):
    doubling = [(97, 97), *((256 + i, 256 + i) for i in range(60))]  # the last: 2^61 bytes
    with pytest.raises(TokenizerError, match="too long"):
        BPETokenizer(doubling)
    endless = ((i // 256, i % 256) for i in itertools.count())
    with pytest.raises(TokenizerError, match="too many"):
        BPETokenizer(endless)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_damage_is_noticed(tmp_path_factory, data):
    """Cut, overwrite or insert bytes anywhere: refused, or (white space alone) the same content."""
    path = tmp_path_factory.mktemp("damage") / "vocab.json"
    tokenizer = BPETokenizer.train("the cat that sat on the mat", 270)
    tokenizer.save(path)
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, 20))
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=20)) + whole[start + length :])
    try:
        assert BPETokenizer.load(path).sha256 == tokenizer.sha256
    except TokenizerError as error:
        assert str(path) in str(error) and "\n" not in str(error)


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 96, 97, 256, 10**9, 2**63, 10**30])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["<|endoftext|>", "<|unk|>", "a", "aa", "Ġ", "BPE", "(", "ByteLevel"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["a", "type", "merges", "vocab", "id"]), inner, max_size=3),
    max_leaves=12,
)


def changed(data, value):
    """The JSON value with something in it replaced, left out or doubled, at any depth."""
    how = data.draw(st.sampled_from(["deeper"] * 4 + ["replace", "drop", "double"]))
    if how == "replace" or not isinstance(value, (dict, list)) or not value:
        return data.draw(ANY_JSON)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = data.draw(st.sampled_from(keys))
    value = value.copy()
    if how == "deeper":
        value[key] = changed(data, value[key])
    elif how == "drop":
        del value[key]
    else:
        other = data.draw(st.sampled_from(keys))
        value[other] = value[key]
    return value


@pytest.fixture(scope="module")
def saved_files(tmp_path_factory):
    """A whole vocabulary file of each kind that load_tokenizer_file reads: its JSON value."""
    from common.tokenizers import CharTokenizer, WordTokenizer

    folder, text = tmp_path_factory.mktemp("kinds"), "the cat that sat on the mat"
    bpe = BPETokenizer.train(text, 264, special_tokens=["<|endoftext|>"])
    bpe.save(folder / "bpe")
    bpe.to_huggingface().save(str(folder / "huggingface"))
    CharTokenizer.train([text]).save(folder / "char")
    WordTokenizer.train([text], 12).save(folder / "word")
    return {path.name: json.loads(path.read_text("utf-8")) for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("kind", ["bpe", "huggingface", "char", "word"])
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_vocabulary_file_is_read_or_refused(saved_files, tmp_path_factory, kind, data):
    """Any bytes, any JSON, a whole file with something changed: a tokenizer, or one line."""
    from common.errors import UserError
    from common.tokenizers import load_tokenizer_file

    path = tmp_path_factory.getbasetemp() / "any.json"
    value = saved_files[kind]
    for _ in range(data.draw(st.integers(0, 3))):
        value = changed(data, value)
    content = json.dumps(value).encode()
    content = data.draw(st.sampled_from([content] * 9 + [None]))
    path.write_bytes(data.draw(st.binary(max_size=60)) if content is None else content)
    tracemalloc.start()
    try:
        for load in (load_tokenizer_file, BPETokenizer.load, BPETokenizer.from_huggingface):
            try:
                tokenizer = load(path)
            except (TokenizerError, UserError) as error:
                assert str(path) in str(error) and "\n" not in str(error)
            else:
                ids = tokenizer.encode("the cat")
                assert all(0 <= i < tokenizer.vocab_size for i in ids if i is not None)
        assert tracemalloc.get_traced_memory()[1] < 50e6  # whatever the file claims
    finally:
        tracemalloc.stop()


# -- other libraries


def is_settled(c):
    """Libraries know different versions of Unicode: keep to characters that have not changed."""
    old = unicodedata.ucd_3_2_0.category(c)
    return old not in ("Cn", "Cs") and old == unicodedata.category(c)


SETTLED = ANY_TEXT.filter(lambda text: all(map(is_settled, text)))


@pytest.mark.parametrize("name", PATTERNS)
def test_other_libraries_agree_on_any_text(name):
    tokenizer = BPETokenizer.train(TEXT, 420, PATTERNS[name], ["<|endoftext|>", "<|x|>"])
    tiktoken, huggingface = tokenizer.to_tiktoken(), tokenizer.to_huggingface()

    @SOME
    @given(SETTLED)
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


def test_other_libraries_agree_on_wikitext(wikitext, wiki_tokenizer):
    ids = wiki_tokenizer.encode_corpus(wikitext).tolist()
    assert ids == wiki_tokenizer.to_tiktoken().encode_ordinary(wikitext)
    assert wiki_tokenizer.decode(ids) == wikitext
    huggingface = wiki_tokenizer.to_huggingface()
    part = wikitext[:1_500_000]
    assert huggingface.encode(part).ids == wiki_tokenizer.encode(part)


def test_a_carried_vocabulary_comes_back(tokenizer, tmp_path):
    path = str(tmp_path / "tokenizer.json")
    tokenizer.to_huggingface().save(path)
    again = BPETokenizer.from_huggingface(path)
    assert again.sha256 == tokenizer.sha256


def huggingface_tokenizer(pre_tokenizer, **options):
    """A tokenizer.json made as GPT-2's was: its bytes are not in byte order."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(**options))
    made.pre_tokenizer = pre_tokenizer
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        TEXT.splitlines(keepends=True),
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>", "<|pad|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return made


def test_reading_a_tokenizer_like_gpt2s(tmp_path):
    from tokenizers import Regex, pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    no_regex = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(GPT4_PATTERN), "isolated")
    for pre_tokenizer, pattern in (
        (byte_level, GPT2_PATTERN),
        (pre_tokenizers.Sequence([split, no_regex]), GPT4_PATTERN),
    ):
        theirs = huggingface_tokenizer(pre_tokenizer)
        path = tmp_path / "tokenizer.json"
        theirs.save(str(path))
        ours = BPETokenizer.from_huggingface(path)
        assert ours.pattern == pattern
        assert ours.special_tokens == {"<|endoftext|>": 398, "<|pad|>": 399}
        assert theirs.token_to_id("A") != 65 and ours.encode("A") == [65]
        carried = ours.to_huggingface()
        for text in (TEXT, "Unseen words: żółw, 12 345!\n\n x", "\t\t '' 'S  \r\n"):
            ids = ours.encode(text)
            assert ours.decode(ids) == text
            assert carried.encode(text).tokens == theirs.encode(text).tokens
            assert carried.encode(text).ids == ids


def test_older_files_write_a_merge_as_one_string(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.to_huggingface().save(str(path))
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["model"]["merges"] = [" ".join(pair) for pair in saved["model"]["merges"]]
    path.write_text(json.dumps(saved), encoding="utf-8")
    assert BPETokenizer.from_huggingface(path).sha256 == tokenizer.sha256


REFUSED = {
    "normalizer": (lambda s: s.update(normalizer={"type": "NFC"}), "normalizer"),
    "wordpiece": (lambda s: s["model"].update(type="WordPiece"), "BPE"),
    "no model": (lambda s: s.update(model=None), "BPE"),
    "metaspace": (lambda s: s.update(pre_tokenizer={"type": "Metaspace"}), "Metaspace"),
    "no pre-tokenizer": (lambda s: s.update(pre_tokenizer=None), "pre-tokenizer"),
    "prefix": (
        lambda s: s.update(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}),
        "add_prefix_space",
    ),
    "behavior": (
        lambda s: s["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"),
        "Isolated",
    ),
    "byte fallback": (lambda s: s["model"].update(byte_fallback=True), "byte_fallback"),
    "ignore merges": (lambda s: s["model"].update(ignore_merges=True), "ignore_merges"),
    "suffix": (lambda s: s["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "unknown half": (lambda s: s["model"]["merges"].insert(0, ["the", "x"]), "no earlier one"),
    "twice": (lambda s: s["model"]["merges"].append(s["model"]["merges"][0]), "two merges"),
    "no pair": (lambda s: s["model"]["merges"].append(["a"]), "no pair"),
    "no merge": (lambda s: s["model"]["vocab"].update(unmade=9999), "neither a byte"),
    "added": (lambda s: s.update(added_tokens=[{"id": "x"}, {"id": 1}]), "added_tokens"),
}


@pytest.mark.parametrize("change", REFUSED)
def test_other_kinds_of_tokenizer_json_are_refused(tokenizer, tmp_path, change):
    path = tmp_path / "tokenizer.json"
    tokenizer.to_huggingface().save(str(path))
    saved = json.loads(path.read_text(encoding="utf-8"))
    edit, message = REFUSED[change]
    edit(saved)
    path.write_text(json.dumps(saved), encoding="utf-8")
    with pytest.raises(TokenizerError, match=message) as caught:
        BPETokenizer.from_huggingface(path)
    assert str(path) in str(caught.value)


# -- the command line


@pytest.fixture
def files(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8", newline="")
    tokenizer.save("vocab.json")
    return tmp_path


def test_command_train(files, capsys):
    assert main("train --data text.txt --vocab-size 400 --out new.json".split()) == 0
    assert Path("new.json").read_bytes() == Path("vocab.json").read_bytes()
    assert "400 ids" in capsys.readouterr().out
    command = "train --data text.txt --pattern whitespace --special <a> --out w.json"
    assert main(command.split()) == 0
    made = BPETokenizer.load("w.json")
    assert made.pattern == WHITESPACE_PATTERN and list(made.special_tokens) == ["<a>"]
    assert "nothing left to merge" in capsys.readouterr().out


def test_command_encode_and_decode(files, tokenizer, capfdbinary):
    ids = tokenizer.encode("the cat")
    assert main(["encode", "the cat", "--vocab", "vocab.json"]) == 0
    assert capfdbinary.readouterr().out.decode().split() == [str(i) for i in ids]
    assert main(["decode", *map(str, ids), "--vocab", "vocab.json"]) == 0
    assert capfdbinary.readouterr().out == b"the cat"
    for out in ("ids.npy", "ids.txt"):
        assert main(f"encode --file text.txt --vocab vocab.json --out {out}".split()) == 0
        assert main(f"decode --file {out} --vocab vocab.json --out back.txt".split()) == 0
        assert Path("back.txt").read_bytes() == Path("text.txt").read_bytes()
    assert np.load("ids.npy").dtype == np.uint16
    assert main(["encode", "a<|endoftext|>", "--allow-special", "--vocab", "vocab.json"]) == 0
    assert capfdbinary.readouterr().out.decode().split() == ["97", "399"]


def test_command_show(files, tokenizer, capsys, monkeypatch):
    assert main(["show", "he sea\n\x1b[31m é", "--vocab", "vocab.json"]) == 0
    out = capsys.readouterr().out
    tokens = out[: out.index("\n[") + 2]
    assert tokens.startswith("[he]") and "[\\n]\n[" in out
    assert "\x1b" not in out and "\\x1b" in out  # no text commands the terminal
    assert str(len("he sea\n\x1b[31m é".encode())) + " bytes" in out
    assert "bytes per token" in out and "fertility" in out
    ids = tokenizer.encode("he sea\n\x1b[31m é")
    assert " ".join(map(str, ids)) in out

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["show", "the sea", "--vocab", "vocab.json"]) == 0
    assert "\x1b[30;48;5;" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["show", "the sea", "--vocab", "vocab.json"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["show", "", "--vocab", "vocab.json"]) == 0


BAD_COMMANDS = [
    "",
    "paint",
    "train --data text.txt",
    "train --data text.txt --out new.json --vocab-size many",
    "train --data text.txt --out new.json --vocab-size 5",
    "train --data text.txt --out new.json --vocab-size 9999999999",
    "train --data text.txt --out new.json --pattern (",
    "train --data text.txt --out no/such/folder/new.json",
    "train --data text.txt --out .",
    "train --data latin1.txt --out new.json",
    "train --data empty.txt --out new.json",
    "train --data missing.txt --out new.json",
    "train --data . --out new.json",
    "encode --vocab vocab.json",
    "encode text --file text.txt --vocab vocab.json",
    "encode text --vocab missing.json",
    "encode text --vocab text.txt",
    "encode --file missing.txt --vocab vocab.json",
    "encode text --vocab vocab.json --processes 0",
    "encode text --vocab vocab.json --out no/such/new.json",
    "decode --vocab vocab.json",
    "decode 400 --vocab vocab.json",
    "decode -1 --vocab vocab.json",
    "decode one --vocab vocab.json",
    "decode --file text.txt --vocab vocab.json",
    "decode --file bad.npy --vocab vocab.json",
    "decode --file square.npy --vocab vocab.json",
    "show --vocab vocab.json",
    "show --file latin1.txt --vocab vocab.json",
    "show text --vocab .",
]


@pytest.mark.parametrize("command", BAD_COMMANDS)
def test_bad_commands_end_in_one_line(files, capsys, command):
    Path("latin1.txt").write_bytes("café".encode("latin-1"))
    Path("empty.txt").write_bytes(b"")
    Path("bad.npy").write_bytes(b"\x93NUMPY")
    np.save("square.npy", np.zeros((2, 2), np.uint16))
    before = sorted(files.iterdir())
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("bpe_tokenizer.py: ") and error.count("\n") == 1
    assert "Traceback" not in error
    assert sorted(files.iterdir()) == before  # nothing half-written


def test_the_script_itself(files):
    script = Path(bpe_tokenizer.__file__)
    run = subprocess.run(
        [sys.executable, script, "show", "日本時間", "--vocab", "vocab.json"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert run.returncode == 0 and "本" in run.stdout.decode("utf-8")
    run = subprocess.run([sys.executable, script, "show", "x", "--vocab", "-"], capture_output=True)
    assert run.returncode == 2 and run.stderr.count(b"\n") == 1
    run = subprocess.run([sys.executable, script, "--help"], capture_output=True)
    assert run.returncode == 0 and b"train" in run.stdout


def test_importing_it_is_light():
    """Only regex and numpy are needed to train and encode, whatever else is installed."""
    code = (
        "import sys; from bpe_tokenizer import BPETokenizer;"
        "t = BPETokenizer.train('some text some text', 262); t.decode(t.encode('some'));"
        "heavy = {'tqdm', 'tyro', 'torch', 'tiktoken', 'tokenizers', 'common', 'argparse'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    folder = Path(bpe_tokenizer.__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, encoding="utf-8"
    )
    assert run.stdout.strip() == "[]", run.stderr

"""Byte-level byte-pair encoding (BPE) from scratch: a library and a command line.

A language model reads numbers, so text must become numbers first. BPE (Sennrich et al., 2016,
"Neural Machine Translation of Rare Words with Subword Units"; on bytes: Radford et al., 2019)
starts with the 256 bytes, which can spell any text, and adds one new token at a time:

    train    cut the text into chunks (words, roughly) by a pattern, so that no token crosses
             from one word into the next. Count every pair of neighbouring tokens. Merge the
             most frequent pair into one new token, everywhere. Repeat until the vocabulary is full.
    encode   cut the text into chunks by the same pattern, and make the same merges again in the
             order in which they were learned.
    decode   put the tokens' bytes end to end.

    tokenizer = BPETokenizer.train(text, vocab_size=4096)
    ids = tokenizer.encode("The cat sat.")            # a list of numbers
    tokenizer.decode(ids)                             # the same text again
    tokenizer.encode_corpus(documents)                # a numpy array, for whole corpora

Ids: 0 to 255 are the bytes, the merge of rank r is id 256 + r, special tokens come last. The
order of merges is total: the highest count goes first, and of equal counts the smaller pair of
ids. A count is the number of places where the two stand side by side ("aaa" holds two pairs of
a's). So the same text always gives the same vocabulary, on any machine.

    python bpe_tokenizer.py train --data text.txt --vocab-size 4096 --out vocab.json
    python bpe_tokenizer.py show "Which tokens is this made of?" --vocab vocab.json
"""

from __future__ import annotations

import hashlib
import heapq
import json
import operator
import os
import re
import sys
from collections import Counter, deque
from itertools import pairwise, repeat

import numpy as np
import regex

# ---------------------------------------------------------------------------------------------
# Patterns: where a text is cut into chunks. Every character belongs to exactly one chunk.
# ---------------------------------------------------------------------------------------------

# GPT-2: contractions, words, numbers and punctuation, each with one leading space, then the
# white space that is left over.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# GPT-4 (cl100k) as first published: numbers of at most three digits, contractions in capitals
# too, a word may take any one sign before it, and line ends stay together. (What tiktoken now
# ships under that name differs in one point: white space at the very end of a text is one chunk.)
GPT4_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
# White space only: a word is whatever stands between white space, and carries its one leading
# space. Punctuation stays glued to its word, which wastes vocabulary: "end", "end." and "end,"
# share nothing until their letters are merged.
WHITESPACE_PATTERN = r" ?\S+|\s+(?!\S)|\s+"

PATTERNS = {"gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN, "whitespace": WHITESPACE_PATTERN}

END_OF_TEXT = "<|endoftext|>"

# Limits, checked before memory is taken, so that a damaged or hostile file cannot fill it.
MAX_VOCAB_SIZE = 2**20
MAX_VOCAB_BYTES = 2**26  # all tokens' bytes together; 40 merges can spell a token of a terabyte
MAX_FILE_BYTES = 2**27
MAX_PATTERN_LENGTH = 10_000

BLOCK = 2**19  # characters that are encoded together
LONGEST_REMEMBERED = 100  # characters; longer stretches of text hardly ever come twice
MOST_REMEMBERED = 2**18  # stretches of text; about 50 MB, then forget and begin again
LONG_CHUNK = 256  # bytes; from here on a linked list pays
FEW_CHUNKS = 32  # up to here a plain loop beats starting numpy up
MANY_CHUNKS = 2**16  # that numpy takes at once, which bounds its memory


class TokenizerError(ValueError):
    """What is wrong with a text, a vocabulary or a file, in one line for people."""


# ---------------------------------------------------------------------------------------------
# BPE as it is defined. All that follows gives the same results, only sooner.
# ---------------------------------------------------------------------------------------------


def train_plainly(chunk_counts, n_merges):
    """The first n_merges merges for {chunk (bytes): count}, a list of pairs of ids; fewer if the
    pairs run out. BPETokenizer.train finds the same ones without counting all pairs each time."""
    chunks = [(list(chunk), count) for chunk, count in chunk_counts.items()]
    merges = []
    while len(merges) < n_merges:
        pair_counts = Counter()
        for ids, count in chunks:
            for pair in pairwise(ids):
                pair_counts[pair] += count
        if not pair_counts:
            break  # every chunk is one token: nothing is left to merge
        best = min(pair_counts, key=lambda pair: (-pair_counts[pair], pair))
        chunks = [(merge_pair(ids, best, 256 + len(merges)), count) for ids, count in chunks]
        merges.append(best)
    return merges


def merge_pair(ids, pair, new):
    """The list of ids with `new` in place of each such pair, from left to right."""
    merged = []
    for i in ids:
        if merged and (merged[-1], i) == pair:
            merged[-1] = new
        else:
            merged.append(i)
    return merged


def encode_plainly(chunk, ranks):
    """The ids of one chunk (bytes), given {pair: rank}: make the merges in the order in which
    they were learned, until no two neighbours were ever merged."""
    ids = list(chunk)
    while len(ids) > 1:
        earliest = min(pairwise(ids), key=lambda pair: ranks.get(pair, len(ranks)))
        if earliest not in ranks:
            break
        ids = merge_pair(ids, earliest, 256 + ranks[earliest])
    return ids


# ---------------------------------------------------------------------------------------------
# The tokenizer
# ---------------------------------------------------------------------------------------------


class BPETokenizer:
    """A byte-level BPE vocabulary: trains, encodes, decodes, saves and loads.

    merges          list of (first id, second id) in rank order; rank r makes id 256 + r
    vocab           list of bytes, by id; special tokens are their spelling
    vocab_size      how many ids there are: 256 bytes, the merges, the special tokens
    special_tokens  dict, spelling -> id; they come last
    pattern         the regular expression that cuts text into chunks

    Attributes are not meant to be changed. Raises TokenizerError wherever something is wrong.
    """

    kind = "bpe"

    def __init__(self, merges=(), pattern=GPT4_PATTERN, special_tokens=(END_OF_TEXT,)):
        """From merges and the spellings of the special tokens, in the order of their ids."""
        self.pattern = pattern
        self._cutter = _Cutter(pattern)
        self.merges = _check_merges(merges)
        specials = _check_special_tokens(special_tokens)
        first = 256 + len(self.merges)
        self.special_tokens = {spelling: first + i for i, spelling in enumerate(specials)}
        self.vocab_size = first + len(specials)
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise TokenizerError(
                f"{self.vocab_size:,} ids are too many; the limit is {MAX_VOCAB_SIZE:,}"
            )
        self.vocab = [bytes([i]) for i in range(256)]
        for a, b in self.merges:
            self.vocab.append(self.vocab[a] + self.vocab[b])
        self.vocab += [spelling.encode("utf-8") for spelling in specials]

        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        end = {END_KEY: self._as_bytes([self.end_of_text])} if self.end_of_text else {}
        self._spans = {spaced: _Spans(self._encode_spans, spaced, end) for spaced in (True, False)}
        # The pairs as sorted numbers with their ranks, so that numpy can look up many at once.
        keys = np.array([a << 32 | b for a, b in self.merges], dtype=np.int64)
        self._rank_of_key = np.argsort(keys)
        self._sorted_keys = keys[self._rank_of_key]

    # -- training

    @classmethod
    def train(
        cls,
        text,
        vocab_size,
        pattern=GPT4_PATTERN,
        special_tokens=(END_OF_TEXT,),
        progress=False,
    ):
        """Learn a vocabulary of `vocab_size` ids, special tokens counted.

        `text` is a string or an iterable of strings, which is read once; no token crosses from one
        string into the next. The spelling of a special token in it is ordinary text. A text too
        short for so many merges gives a smaller vocabulary. Memory grows with the number of
        different words, not with the length of the text.
        """
        cutter = _Cutter(pattern)
        specials = _check_special_tokens(special_tokens)
        if isinstance(vocab_size, bool) or not hasattr(vocab_size, "__index__"):
            raise TokenizerError(f"vocab_size has to be a whole number, not {vocab_size!r:.40}")
        vocab_size = operator.index(vocab_size)
        smallest = 256 + len(specials)
        if not smallest <= vocab_size <= MAX_VOCAB_SIZE:
            raise TokenizerError(
                f"vocab_size {vocab_size:,} has to be at least {smallest} (256 bytes and"
                f" {len(specials)} special tokens) and at most {MAX_VOCAB_SIZE:,}"
            )
        chunk_counts = _count_chunks(_documents(text), cutter, progress)
        merges = _train_merges(chunk_counts, vocab_size - smallest, progress)
        return cls(merges, pattern, specials)

    # -- encoding

    def encode(self, text, allowed_special=()):
        """The ids of a text, a list of ints.

        The spelling of a special token is ordinary text unless it is allowed: `allowed_special`
        is a collection of spellings, or "all".
        """
        _check_text(text)
        allowed = self._allowed(allowed_special)
        if not allowed:
            return self._encode_ordinary(text)
        ids = []
        # The longest spelling first, where one begins with another.
        spellings = sorted(map(regex.escape, allowed), key=len, reverse=True)
        for part in regex.split(f"({'|'.join(spellings)})", text):
            if part in allowed:
                ids.append(self.special_tokens[part])
            else:
                ids += self._encode_ordinary(part)
        return ids

    def encode_corpus(self, text_or_chunks, processes=None, end_of_text=False):
        """The ids of a whole corpus: a numpy array of type `dtype`, shape (number of tokens,).

        A string, or an iterable of strings: each is a document, encoded on its own, and followed
        by the id of <|endoftext|> if `end_of_text` is true and the vocabulary has it. With
        `processes` above 1 that many processes share the work, which pays from about 50 MB on.
        They are spawned, so a script that asks for them needs `if __name__ == "__main__":`.
        """
        parts = list(self.encode_stream(text_or_chunks, processes, end_of_text))
        return np.concatenate(parts) if parts else np.zeros(0, self.dtype)

    def encode_stream(self, chunks, processes=None, end_of_text=False):
        """Like encode_corpus, but an iterator of arrays, in order, in bounded memory: strings are
        taken from the iterable as they are needed, whatever its length. (One string is held as a
        whole; with a caller's own pattern all its chunks too.)"""
        if processes is not None and (not isinstance(processes, int) or processes < 1):
            raise TokenizerError(f"processes has to be at least 1, not {processes!r:.40}")
        return self._stream(_documents(chunks), processes or 1, end_of_text)

    def _stream(self, documents, processes, end_of_text):
        end = bool(end_of_text) and self.end_of_text is not None
        blocks = self._cutter.blocks(documents)
        if processes == 1:
            for block in blocks:
                yield self._encode_block(block, end)
            return
        from concurrent.futures import ProcessPoolExecutor
        from concurrent.futures.process import BrokenProcessPool
        from multiprocessing import get_context

        # An executor's own map would take the whole iterable at once. Keep a few blocks in flight.
        # "spawn" is the one way to start a process that is safe beside threads and on any system.
        with ProcessPoolExecutor(
            processes,
            mp_context=get_context("spawn"),
            initializer=_start_worker,
            initargs=(self.merges, self.pattern, list(self.special_tokens)),
        ) as pool:
            in_flight = deque()
            try:
                for block in blocks:
                    in_flight.append(pool.submit(_work, block, end))
                    if len(in_flight) > 2 * processes:
                        yield in_flight.popleft().result()
                while in_flight:
                    yield in_flight.popleft().result()
            except BrokenProcessPool:
                raise TokenizerError(
                    "a process that shared the work has died: too little memory, or the script that"
                    ' asks for processes lacks `if __name__ == "__main__":`'
                ) from None
            finally:
                for future in in_flight:
                    future.cancel()

    def _encode_ordinary(self, text):
        ids = []
        for block in self._cutter.blocks([text]):
            ids += self._encode_block(block).tolist()
        return ids

    def _encode_block(self, block, end=False):
        """The ids of a block of parts of documents (see _Cutter.blocks), an array."""
        keys, spaced = self._cutter.keys(block, end)
        return np.frombuffer(b"".join(self._spans[spaced].look_up(keys)), self.dtype)

    def _as_bytes(self, ids):
        return np.asarray(ids, self.dtype).tobytes()

    def _encode_spans(self, spans):
        """The ids of each span, as the bytes of an array."""
        chunks = [self._cutter.chunks(span) for span in spans]
        different = dict.fromkeys(chunk for some in chunks for chunk in some)
        encoded = self._encode_chunks([_utf8(chunk) for chunk in different])
        encoded = dict(zip(different, encoded, strict=True))
        return [b"".join([encoded[chunk] for chunk in some]) for some in chunks]

    def _encode_chunks(self, chunks):
        """The ids of each chunk (bytes), as the bytes of an array: three ways, one result."""
        encoded = [None] * len(chunks)
        short = []
        for i, chunk in enumerate(chunks):
            if len(chunk) > LONG_CHUNK:
                encoded[i] = self._as_bytes(self._encode_long(chunk))
            else:
                short.append(i)
        for start in range(0, len(short), MANY_CHUNKS):
            some = short[start : start + MANY_CHUNKS]
            if len(some) <= FEW_CHUNKS:
                for i in some:
                    encoded[i] = self._as_bytes(encode_plainly(chunks[i], self._ranks))
            else:
                many = self._encode_many([chunks[i] for i in some])
                for i, ids in zip(some, many, strict=True):
                    encoded[i] = ids
        return encoded

    def _encode_long(self, chunk):
        """encode_plainly for one long chunk, in time that hardly grows faster than its length.

        The plain loop looks at the whole chunk for each merge. Here a heap holds the ranks of the
        pairs that occur, and a linked list the places: the lowest rank is merged everywhere at
        once. The pairs that a merge makes all have higher ranks, because they hold its new token.
        """
        linked = _LinkedChunks([chunk])
        heap, places_of = [], {}

        def push(pairs, starts, places):
            for i, pair in enumerate(pairs.tolist()):
                rank = self._ranks.get(divmod(pair, 2**32))
                if rank is not None:
                    end = starts[i + 1] if i + 1 < len(starts) else None
                    places_of[rank] = places[starts[i] : end]
                    heapq.heappush(heap, rank)

        push(*_group(*linked.all_pairs()))
        while heap:
            rank = heapq.heappop(heap)
            a, b = self.merges[rank]
            pair = a << 32 | b
            places = linked.still_there(pair, places_of.pop(rank))
            if len(places):
                push(*_group(*linked.merge(pair, places, 256 + rank)))
        return linked.token[linked.token >= 0]

    def _encode_many(self, chunks):
        """encode_plainly for many short chunks side by side: in each round every chunk makes the
        merge that is earliest for it. There are as many rounds as merges in the busiest chunk."""
        never = len(self.merges)
        ids = np.frombuffer(b"".join(chunks), np.uint8).astype(np.int64)
        owner = np.repeat(np.arange(len(chunks)), [len(chunk) for chunk in chunks])
        done = []  # (ids, owner) of the chunks that are finished, round by round
        while len(ids):
            rank = np.full(len(ids), never)  # of the pair that begins here
            rank[:-1] = self._lookup_ranks(ids[:-1], ids[1:])
            is_start = np.ones(len(ids), bool)
            is_start[1:] = owner[1:] != owner[:-1]
            rank[:-1][is_start[1:]] = never  # no pair reaches into the next chunk
            starts = np.flatnonzero(is_start)
            lengths = np.diff(starts, append=len(ids))
            earliest = np.repeat(np.minimum.reduceat(rank, starts), lengths)
            going_on = earliest < never
            done.append((ids[~going_on], owner[~going_on]))
            merge = going_on & (rank == earliest)
            overlap = merge[1:] & merge[:-1]  # "aaa": two pairs, one merge, the left one first
            if overlap.any():
                number = np.arange(len(ids))
                last_off = np.maximum.accumulate(np.where(merge, -1, number))
                merge &= (number - last_off) % 2 == 1
            ids = np.where(merge, 256 + rank, ids)
            going_on[1:] &= ~merge[:-1]  # the second half of a merged pair
            ids, owner = ids[going_on], owner[going_on]
        if not done:
            return []
        ids, owner = (np.concatenate(arrays) for arrays in zip(*done, strict=True))
        data = ids[np.argsort(owner, kind="stable")].astype(self.dtype).tobytes()
        sizes = np.bincount(owner, minlength=len(chunks)) * self.dtype.itemsize
        ends = np.cumsum(sizes).tolist()
        return [data[start:end] for start, end in pairwise([0] + ends)]

    def _lookup_ranks(self, firsts, seconds):
        """The rank of each pair, len(merges) for those that were never merged."""
        if not self.merges:
            return np.zeros(len(firsts), np.int64)
        keys = firsts << 32 | seconds
        place = np.searchsorted(self._sorted_keys, keys)
        place[place == len(self._sorted_keys)] = 0
        found = self._sorted_keys[place] == keys
        return np.where(found, self._rank_of_key[place], len(self.merges))

    def _allowed(self, allowed_special):
        if isinstance(allowed_special, str):
            if allowed_special != "all":
                raise TokenizerError(
                    f"allowed_special has to be 'all' or a collection of spellings,"
                    f" not the string {allowed_special!r:.40}"
                )
            return set(self.special_tokens)
        allowed = set(allowed_special)
        for spelling in allowed:
            if spelling not in self.special_tokens:
                raise TokenizerError(f"{spelling!r:.60} is no special token of this vocabulary")
        return allowed

    # -- decoding

    def decode(self, ids, errors="replace"):
        """The text of some ids. Bytes that are no UTF-8 (a model may write any) become U+FFFD;
        `errors` is that of bytes.decode."""
        return self.decode_bytes(ids).decode("utf-8", errors=errors)

    def decode_bytes(self, ids):
        """The bytes of some ids: a list, a one-dimensional array or tensor, any iterable."""
        if hasattr(ids, "tolist"):  # numpy and torch: plain ints, in one call
            ids = ids.tolist()
        if isinstance(ids, (str, bytes)) or not hasattr(ids, "__iter__"):
            raise TokenizerError(f"ids have to be a list of whole numbers, not {ids!r:.40}")
        try:
            ids = list(map(operator.index, ids))
        except TypeError as error:
            raise TokenizerError(f"ids have to be whole numbers: {error}") from None
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise TokenizerError(
                f"id {wrong} is not in this vocabulary; its ids go from 0 to {self.vocab_size - 1}"
            )
        return b"".join(map(self.vocab.__getitem__, ids))

    # -- properties

    @property
    def dtype(self):
        """The smallest unsigned numpy type that holds every id."""
        largest = self.vocab_size - 1
        return np.dtype(np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.uint32)

    @property
    def end_of_text(self):
        """The id of <|endoftext|>, or None."""
        return self.special_tokens.get(END_OF_TEXT)

    @property
    def sha256(self):
        """A hex digest of all that decides the ids: pattern, merges, special tokens."""
        content = [self.pattern, self.merges, list(self.special_tokens)]
        return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()

    def __repr__(self):
        return f"BPETokenizer(vocab_size={self.vocab_size}, sha256={self.sha256[:8]}…)"

    def __reduce__(self):  # pickled for other processes, without what it remembers
        return BPETokenizer, (self.merges, self.pattern, list(self.special_tokens))

    # -- the file

    def save(self, path):
        """Write the vocabulary as JSON, one merge a line beside the string it makes. Whoever reads
        `path` meanwhile, or if the disk is full, finds the old file or the new one, never half."""
        head = {
            "format": FORMAT,
            "version": VERSION,
            "sha256": self.sha256,
            "vocab_size": self.vocab_size,
            "pattern": self.pattern,
            "special_tokens": self.special_tokens,
        }
        lines = [f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in head.items()]
        rows = [
            f"    {json.dumps([a, b, _readable(self.vocab[256 + rank])], ensure_ascii=False)}"
            for rank, (a, b) in enumerate(self.merges)
        ]
        merges = "[\n" + ",\n".join(rows) + "\n  ]" if rows else "[]"
        text = "{\n" + ",\n".join(lines) + ',\n  "merges": ' + merges + "\n}\n"
        _write_atomically(path, text.encode("utf-8"))

    @classmethod
    def load(cls, path):
        """Read what save wrote. A file that is cut short, edited or of another kind is refused with
        a TokenizerError that names it; one that cannot be opened raises OSError."""
        path = os.fspath(path)
        try:
            saved = _read_json(path)
            if not isinstance(saved, dict) or saved.get("format") != FORMAT:
                raise TokenizerError("it is no vocabulary of this tokenizer")
            if type(saved.get("version")) is not int or saved["version"] != VERSION:
                raise TokenizerError(f"format version {saved.get('version')!r:.20}, not {VERSION}")
            missing = FIELDS - saved.keys()
            if missing or saved.keys() - FIELDS:
                raise TokenizerError(f"its fields are not {', '.join(sorted(FIELDS))}")
            rows, specials = saved["merges"], saved["special_tokens"]
            if not isinstance(rows, list) or not isinstance(specials, dict):
                raise TokenizerError("merges have to be a list, special_tokens an object")
            for rank, row in enumerate(rows):
                if not isinstance(row, list) or len(row) != 3 or not isinstance(row[2], str):
                    raise TokenizerError(f"merge {rank} is not [first id, second id, string]")
            tokenizer = cls([row[:2] for row in rows], saved["pattern"], list(specials))
            if tokenizer.special_tokens != specials or any(
                type(i) is not int for i in specials.values()
            ):
                raise TokenizerError("special tokens have to be the last ids, in order")
            if saved["vocab_size"] != tokenizer.vocab_size:
                raise TokenizerError(
                    f"it claims {saved['vocab_size']!r:.20} ids and has {tokenizer.vocab_size}"
                )
            for rank, row in enumerate(rows):
                string = _readable(tokenizer.vocab[256 + rank])
                if row[2] != string:
                    raise TokenizerError(f"merge {rank} makes {string!r:.40}, not {row[2]!r:.40}")
            if saved["sha256"] != tokenizer.sha256:
                raise TokenizerError("the checksum does not fit: it has been edited or damaged")
        except TokenizerError as error:
            raise TokenizerError(f"{path}: not a usable vocabulary: {error}") from None
        return tokenizer

    # -- to and from other libraries

    def to_tiktoken(self, name="bpe"):
        """This vocabulary as a tiktoken.Encoding, with the same ids. (Libraries may know different
        versions of Unicode, and then cut text at characters of the newest scripts differently.)"""
        import tiktoken

        n_ordinary = 256 + len(self.merges)
        ranks = {token: i for i, token in enumerate(self.vocab[:n_ordinary])}
        if len(ranks) < n_ordinary:
            raise TokenizerError("two merges make the same token: tiktoken cannot hold that")
        return tiktoken.Encoding(
            name,
            pat_str=self.pattern,
            mergeable_ranks=ranks,
            special_tokens=dict(self.special_tokens),
        )

    def to_huggingface(self):
        """This vocabulary as a tokenizers.Tokenizer, with the same ids. Unlike here, the spelling
        of a special token in a text always becomes its id there."""
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers

        letters = _byte_letters()
        names = ["".join(letters[byte] for byte in token) for token in self.vocab]
        ordinary = names[: 256 + len(self.merges)]
        ids = {name: i for i, name in enumerate(ordinary)}
        if len(ids) < len(ordinary):
            raise TokenizerError("two merges make the same token: the library cannot hold that")
        for spelling in self.special_tokens:
            if spelling in ids:
                raise TokenizerError(f"the special token {spelling!r} is an ordinary token as well")
        merges = [(names[a], names[b]) for a, b in self.merges]
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(self.pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(
            [tokenizers.AddedToken(s, special=True, normalized=False) for s in self.special_tokens]
        )
        return tokenizer

    @classmethod
    def from_huggingface(cls, path):
        """Read a byte-level BPE `tokenizer.json`, GPT-2's for one.

        The tokens and where a text is cut stay the same, but the ids become this file's own: bytes
        first, merges in order, the added tokens last. (GPT-2 numbers its bytes otherwise.) Kinds
        of tokenizer that would cut a text differently are refused. What a post-processor puts
        around a text is left out.
        """
        path = os.fspath(path)
        try:
            return cls(*_from_huggingface(_read_json(path)))
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from None


# ---------------------------------------------------------------------------------------------
# Cutting text: most of it without the regular expression
# ---------------------------------------------------------------------------------------------
#
# The pattern's regular expression is the slowest part of encoding a corpus. So a text is first
# cut with str.split, which is many times faster, and the pattern runs only once over each
# different span that comes out. That gives the same chunks because every one of the three
# patterns is sure to cut there too. Look at a space and at its two neighbours:
#
# - The character before it is not white space ("x y"): in all three patterns a space is either
#   the first character of a chunk or part of a run of white space. So no chunk goes on from
#   a character that is not white space into a space. The patterns look ahead only behind white
#   space, and never behind their start: what follows the cut cannot change the chunks before it.
# - The character after it is not white space ("\n y"): the last space of a run always begins a
#   chunk. `\s+(?!\S)` takes the run but for its last character, `\s*[\r\n]` stops at a line end,
#   the optional character before a word is that last space. Before the cut, the run's other
#   characters are cut as at the end of a text, where `(?!\S)` holds as it does before a space.
# - White space on both sides ("\n \n"): no promise. The span is not cut there.
#
# str.isspace holds for all that `\s` matches (and for U+001C to U+001F), so a character that is
# taken for white space by mistake only leaves a cut out.
#
# Where line ends and runs of spaces are many, as in source code, too many spaces have white space
# on both sides. There a simpler pattern cuts: the tokenizer's own, with all that is not white space
# taken as one kind of character. What is white space decides where that one cuts, so its cuts are
# cuts of the tokenizer's pattern too, and `re` is faster at it than `regex` at the whole pattern.
#
# A caller's own pattern makes no such promise and takes the plain way: the pattern decides
# over the whole text, and what it does not match becomes a chunk of its own.


# The white space of `\s` in `regex`; in `re` it would take in U+001C to U+001F.
WHITE = r"\t\x0b\x0c \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
WORDS = rf" ?[^{WHITE}\r\n]+|[{WHITE}\r\n]+(?![^{WHITE}\r\n])|[{WHITE}\r\n]+"
WORDS_AND_LINE_ENDS = (  # GPT-4: a sign takes the line ends behind it, a word any one space before
    rf"[{WHITE}]?[^{WHITE}\r\n]+(?:[\r\n](?:[{WHITE}\r\n]*[\r\n])?)?|[{WHITE}\r\n]*[\r\n]"
    rf"|[{WHITE}\r\n]+(?![^{WHITE}\r\n])|[{WHITE}\r\n]+"
)

END_KEY = ()  # the key of a document's end, where <|endoftext|> goes
UNKNOWN = b""  # no span has this value but the empty one, and joining it adds nothing


class _Spans:
    """Looks up the value of each span of a text, and remembers it; `learn` finds new values.

    A span is known by its key. If the spans are `spaced`, the word "cat" as it comes out of
    str.split stands for " cat", with the space before it, and all other spans, such as a text's
    beginning, are written out in a tuple of one: ("cat",). So no string need be put together for
    the millions of usual words. If they are not, each span is its own key.
    A value is some numbers as bytes, so that the values of millions of spans join in one call.
    """

    def __init__(self, learn, spaced, fixed=()):
        self.learn = learn  # a list of spans -> a list of values
        self.spaced = spaced
        self.fixed = dict(fixed)  # never forgotten
        self.known = dict(fixed)

    def forget(self):
        self.known = dict(self.fixed)

    def look_up(self, keys):
        """The keys' values, in order, as a list of bytes."""
        if len(self.known) > MOST_REMEMBERED:
            self.forget()
        values = list(map(self.known.get, keys, repeat(UNKNOWN)))
        unknown = list(_places_of(UNKNOWN, values))
        if not unknown:
            return values

        new = {keys[place] for place in unknown}
        fresh = self._learn([key for key in new if self._is_whole(key)])
        blank = []  # the places of words that begin with white space: was the cut before them safe?
        for place in unknown:
            if keys[place] in fresh:
                values[place] = fresh[keys[place]]
            else:
                blank.append(place)
        joined = self._join_unsafe(keys, blank)
        fresh = self._learn([key for key in set(joined.values()) if key not in self.known])
        for place, key in joined.items():
            values[place] = fresh[key] if key in fresh else self.known[key]
        return values

    def _learn(self, keys):
        """dict: key -> value, for new keys; what is short will be remembered."""
        spans = [self._span(key) for key in keys]
        values = self.learn(spans)
        for key, span, value in zip(keys, spans, values, strict=True):
            if len(span) < LONGEST_REMEMBERED:
                self.known[key] = value
        return dict(zip(keys, values, strict=True))

    def _join_unsafe(self, keys, blank):
        """dict: place -> key, of the spans that the words at these places belong to. Where the
        span before such a word ends in white space too, the two are one span."""
        spans, parts, spaced, head, last = {}, {}, {}, None, None
        for place in blank:
            word, before = keys[place], self._span(keys[place - 1])
            if before and not before[-1].isspace():
                spans[place] = spaced.get(word) or spaced.setdefault(word, (" " + word,))
                head = place
            else:
                if last != place - 1:
                    head = place - 1
                parts.setdefault(head, [self._span(keys[head])]).append(" " + word)
            last = place
        spans.update((place, ("".join(strings),)) for place, strings in parts.items())
        return spans

    def _span(self, key):
        if isinstance(key, str):
            return " " + key if self.spaced else key
        return key[0]

    def _is_whole(self, key):
        """Is this span what it seems, whatever comes before it? Words that begin with white space
        are not: str.split leaves "" where two spaces meet, and "\\n" of " \\n "."""
        return not self.spaced or not isinstance(key, str) or (key and not key[0].isspace())


def _places_of(value, values):
    """The places of a value in a list; list.index runs through it faster than a loop would."""
    place = -1
    while True:
        try:
            place = values.index(value, place + 1)
        except ValueError:
            return
        yield place


class _Cutter:
    """Cuts texts into blocks of bounded size, blocks into spans, and spans into chunks."""

    def __init__(self, pattern):
        self.compiled = _compile(pattern)
        self.built_in = pattern in PATTERNS.values()
        self.words = re.compile(WORDS_AND_LINE_ENDS if pattern == GPT4_PATTERN else WORDS)

    def blocks(self, documents):
        """Lists of (text, begins, ends), each of about BLOCK characters: parts of documents, and
        whether the part is its document's beginning and its end. Takes no more documents from the
        iterable than the block needs."""
        block, size = [], 0
        for number, document in enumerate(documents):
            _check_text(document, number)
            start = 0
            while start is not None:
                cut = self._safe_cut(document, start + BLOCK)
                block.append((document[start:cut], start == 0, cut is None))
                size += len(block[-1][0]) + 1
                start = cut
                if size >= BLOCK:
                    yield block
                    block, size = [], 0
        if block:
            yield block

    def _safe_cut(self, text, place):
        """The first place from `place` on where a text may be cut into blocks, or None."""
        while self.built_in:
            place = text.find(" ", place)
            if place < 0 or place + 1 >= len(text):
                return None
            if not text[place + 1].isspace():
                return place
            place += 1

    def keys(self, block, end_of_text=False):
        """The keys of a block's spans, END_KEY behind each document's end; and whether they are
        spaced (see _Spans)."""
        spaces = sum(text.count(" ") for text, _, _ in block)
        runs = sum(text.count("\n") + text.count("  ") for text, _, _ in block)
        spaced = self.built_in and 4 * runs < spaces
        keys = []
        for text, begins, ends in block:
            if not self.built_in:
                words = self._own_chunks(text)
            elif not spaced:
                words = self.words.findall(text)
            else:
                words = text.split(" ")
                if begins:
                    words[0] = (words[0],)
                else:
                    del words[0]  # nothing: a part that goes on begins with a space
            if keys:
                keys += words
            else:
                keys = words  # millions, mostly: spare the copy
            if ends and end_of_text:
                keys.append(END_KEY)
        return keys, spaced

    def chunks(self, span):
        """The pattern's chunks of a span."""
        if not self.built_in:
            return [span]  # keys() has cut already
        if span.isascii() and span[1:].isalpha() and (span[0] == " " or span[0].isalpha()):
            return [span]  # one plain word: no need to ask the pattern
        return self.compiled.findall(span)

    def _own_chunks(self, text):
        chunks, end = [], 0
        for match in self.compiled.finditer(text):
            if match.start() == match.end():
                continue
            if match.start() > end:
                chunks.append(text[end : match.start()])
            chunks.append(match.group())
            end = match.end()
        if end < len(text):
            chunks.append(text[end:])
        return chunks


# ---------------------------------------------------------------------------------------------
# Merging at speed: many chunks at once, and one pair merged everywhere in one go
# ---------------------------------------------------------------------------------------------


class _LinkedChunks:
    """Chunks of tokens end to end in one array, linked, so that a merge never shifts the rest.

    `token[i]` is the token that begins at place i, `after[i]` the place of the next one,
    `before[i]` that of the one before, and `pair[i]` is token[i] and the next one, as one number:
    first * 2^32 + second. A negative number is no pair. Merging at place i writes the new token
    at i and links i past the second place.

    Training and the encoding of long chunks both work like this: "take a pair, merge it
    everywhere". They differ only in which pair comes next. All places of a pair are handled in
    one numpy call each, and that is where the speed comes from: a few thousand merges at thirty
    calls each, instead of millions of turns of a loop.
    """

    def __init__(self, chunks):
        # Walls keep the chunks apart. UTF-8 never contains the byte 255, so it can mark them.
        data = b"\xff" + b"\xff".join(chunks) + b"\xff"
        self.token = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
        self.token[self.token == 255] = -1
        self.before = np.arange(-1, len(data) - 1)
        self.after = np.arange(1, len(data) + 1)
        self.pair = np.full(len(data), -1)
        self.pair[:-1] = self._pair(self.token[:-1], self.token[1:])

    @staticmethod
    def _pair(first, second):
        return first << 32 | second  # -1, a wall, has all bits set: whatever it is in is negative

    def all_pairs(self):
        """Every pair there is: (pairs, places)."""
        places = np.flatnonzero(self.pair >= 0)
        return self.pair[places], places

    def still_there(self, pair, places):
        """Those of the places where the pair still stands: earlier merges may have used it up."""
        return places.compress(self.pair.take(places) == pair)

    def merge(self, pair, places, new):
        """Merge a pair into the token `new` at all these places, which are ascending. Returns the
        pairs that this makes, and negative numbers that are none: (pairs, places)."""
        if pair >> 32 == pair & 0xFFFFFFFF:
            places = self._every_second(places)
        seconds = self.after.take(places)
        following = self.after.take(seconds)
        self.after[places] = following
        self.before[following] = places
        self.token[places] = new
        self.token[seconds] = -1
        self.pair[seconds] = -1

        left = self.before.take(places)
        left_token = self.token.take(left)
        left_pair = self._pair(left_token, new)
        right_pair = self._pair(new, self.token.take(following))
        self.pair[left] = left_pair
        self.pair[places] = right_pair
        # Two new tokens side by side are one pair: count it for the first, not for the second.
        left_pair[left_token == new] = -1
        return np.concatenate((left_pair, right_pair)), np.concatenate((left, places))

    def _every_second(self, places):
        """Pairs of equal tokens overlap: in "aaaa" only the first and the third can be merged.
        Number the places within each run from 0 and keep the even ones."""
        number = np.arange(len(places))
        starts = np.ones(len(places), bool)
        starts[1:] = self.after[places[:-1]] != places[1:]
        run_start = np.maximum.accumulate(np.where(starts, number, 0))
        return places[(number - run_start) % 2 == 0]


def _group(pairs, places):
    """Bring the places of each pair together: (different pairs, starts, places). Those of pair i
    are places[starts[i]:starts[i + 1]], still ascending; those of the last go on to the end."""
    order = pairs.argsort(kind="stable")
    pairs, places = pairs.take(order), places.take(order)
    is_start = np.ones(len(pairs), bool)
    np.not_equal(pairs[1:], pairs[:-1], out=is_start[1:])
    starts = is_start.nonzero()[0]
    return pairs.take(starts), starts, places


# ---------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------


def _train_merges(chunk_counts, n_merges, progress=False):
    """The first n_merges merges for chunks (bytes) with their counts; fewer if pairs run out.

    Only unique chunks are kept, each with its count as the weight of its pairs. Three thoughts
    save most of the work:

    - A pair's count never rises after the merge that made its newer half: later merges can only
      use its tokens up. So the heap may hold outdated counts; they are upper bounds. When a pair
      comes to the top it is counted again. If the count still holds, no other pair can beat it;
      otherwise the pair goes back with its true count.
    - The places of a pair are all known when the pair is made, and only places can vanish.
    - Most pairs are too rare to ever be chosen. Pairs below `floor` stay out of the heap; when the
      heap runs empty, the floor is lowered and the pairs are counted afresh.
    """
    chunks = list(chunk_counts)
    linked = _LinkedChunks(chunks)
    lengths = np.fromiter(map(len, chunks), np.int64, len(chunks))
    counts = np.fromiter(chunk_counts.values(), np.int64, len(chunks))
    weight = np.append(0, np.repeat(counts, lengths + 1))  # of each place: its chunk's count

    merges, sizes, total_size = [], [1] * 256, 256
    heap, places_of, floor = [], {}, None

    def push(pairs, starts, places, totals):
        for i in ((totals >= floor) & (pairs >= 0)).nonzero()[0].tolist():
            pair = int(pairs[i])
            end = starts[i + 1] if i + 1 < len(starts) else None
            places_of[pair] = places[starts[i] : end]
            heapq.heappush(heap, (-int(totals[i]), pair))

    bar = _progress_bar(n_merges, "merges", progress)
    while len(merges) < n_merges:
        if not heap:
            pairs, starts, places = _group(*linked.all_pairs())
            if floor == 1 or not len(pairs):
                break  # every chunk is one token: nothing is left to merge
            totals = np.add.reduceat(weight[places], starts)
            # The pairs that are merged next are among the most frequent now or come from them.
            enough = max(100, (n_merges - len(merges)) // 4)
            floor = int(np.sort(totals)[-enough]) if enough < len(totals) else 1
            push(pairs, starts, places, totals)
        count, pair = heap[0]
        places = linked.still_there(pair, places_of[pair])
        true_count = int(np.add.reduce(weight.take(places)))
        if true_count < -count:
            if true_count >= floor:
                places_of[pair] = places
                heapq.heapreplace(heap, (-true_count, pair))
            else:
                heapq.heappop(heap)
                del places_of[pair]
            continue

        heapq.heappop(heap)
        del places_of[pair]
        a, b = divmod(pair, 2**32)
        new = 256 + len(merges)
        merges.append((a, b))
        bar.update()
        sizes.append(sizes[a] + sizes[b])
        total_size += sizes[new]
        if total_size > MAX_VOCAB_BYTES:
            raise TokenizerError(
                f"the tokens grow too long at id {new} ({sizes[new]:,} bytes): the text repeats"
                " one long stretch; ask for a smaller vocabulary or use a pattern that cuts it"
            )
        pairs, starts, places = _group(*linked.merge(pair, places, new))
        push(pairs, starts, places, np.add.reduceat(weight.take(places), starts))
    bar.close()
    return merges


def _count_chunks(documents, cutter, progress):
    """dict: chunk (bytes) -> how often it occurs in the documents."""
    chunk_counts = {}
    spans, totals = [], np.zeros(0, np.int64)  # spans and how often each has come

    def number(new):  # a span's value is its place in `spans`, as the bytes of an int32
        first = len(spans)
        spans.extend(new)
        return [n.to_bytes(4, sys.byteorder) for n in range(first, len(spans))]

    def count_chunks_of_spans():
        for span, count in zip(spans, totals.tolist(), strict=True):
            for chunk in cutter.chunks(span):
                chunk_counts[chunk] = chunk_counts.get(chunk, 0) + count

    numbers = {spaced: _Spans(number, spaced) for spaced in (True, False)}
    bar = _progress_bar(None, "characters", progress)
    for block in cutter.blocks(documents):
        keys, spaced = cutter.keys(block)
        seen = np.frombuffer(b"".join(numbers[spaced].look_up(keys)), np.int32)
        totals = np.bincount(seen, minlength=len(spans)) + _padded(totals, len(spans))
        if len(spans) > MOST_REMEMBERED:
            count_chunks_of_spans()
            spans.clear()
            for table in numbers.values():
                table.forget()
            totals = totals[:0]
        bar.update(sum(len(text) for text, _, _ in block))
    count_chunks_of_spans()
    bar.close()
    return {_utf8(chunk): count for chunk, count in chunk_counts.items()}


def _padded(array, length):
    return np.concatenate([array, np.zeros(length - len(array), array.dtype)])


# ---------------------------------------------------------------------------------------------
# Checks and files
# ---------------------------------------------------------------------------------------------

FORMAT, VERSION = "bpe_tokenizer vocabulary", 1
FIELDS = {"format", "version", "sha256", "vocab_size", "pattern", "special_tokens", "merges"}


def _compile(pattern):
    if not isinstance(pattern, str) or not pattern:
        raise TokenizerError(f"the pattern has to be a regular expression, not {pattern!r:.40}")
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise TokenizerError(f"the pattern has {len(pattern):,} characters: that is too long")
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        message = f"the pattern {pattern!r:.60} is no regular expression: {error}"
        raise TokenizerError(message) from None


def _check_text(text, number=None):
    if not isinstance(text, str):
        which = "" if number is None else f" (number {number})"
        raise TokenizerError(f"text{which} has to be a str, not {type(text).__name__}")


def _utf8(text):
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text holds a lone surrogate, U+{ord(text[error.start]):04X}, which UTF-8 cannot"
            " write; read it with errors='replace', or drop the character"
        ) from None


def _documents(text):
    """A string is one document; otherwise an iterable of strings, one document each."""
    if isinstance(text, str):
        return [text]
    if isinstance(text, (bytes, bytearray)) or not hasattr(text, "__iter__"):
        _check_text(text)
    return text


def _check_merges(merges):
    """The merges as a list of tuples, if every id is an earlier one and none comes twice."""
    checked, seen, sizes, total = [], set(), [1] * 256, 256
    for rank, pair in enumerate(merges):
        try:
            a, b = map(operator.index, pair)
        except (TypeError, ValueError):
            raise TokenizerError(f"merge {rank} is no pair of ids: {pair!r:.40}") from None
        if not (0 <= a < 256 + rank and 0 <= b < 256 + rank):
            raise TokenizerError(f"merge {rank} is ({a}, {b}): only ids below {256 + rank} exist")
        if (a, b) in seen:
            raise TokenizerError(f"merge {rank}, ({a}, {b}), comes twice")
        sizes.append(sizes[a] + sizes[b])
        total += sizes[-1]
        if rank >= MAX_VOCAB_SIZE or total > MAX_VOCAB_BYTES:
            raise TokenizerError(f"too many or too long tokens at merge {rank}")
        seen.add((a, b))
        checked.append((a, b))
    return checked


def _check_special_tokens(special_tokens):
    if isinstance(special_tokens, (str, bytes)):
        raise TokenizerError("special_tokens has to be a list of strings, not one string")
    specials = list(special_tokens)
    for spelling in specials:
        if not isinstance(spelling, str) or not spelling:
            raise TokenizerError(f"a special token has to be some text, not {spelling!r:.40}")
        _utf8(spelling)
    if len(set(specials)) < len(specials):
        raise TokenizerError("a special token comes twice")
    return specials


def _readable(token):
    """A token's bytes for people; bytes that are no UTF-8 as \\x… escapes."""
    return token.decode("utf-8", errors="backslashreplace")


def _read_json(path):
    """The JSON in a file; TokenizerError (without the path) if it is none or too large."""
    size = os.path.getsize(path)
    if size > MAX_FILE_BYTES:
        raise TokenizerError(f"{size:,} bytes are too many for a vocabulary")
    with open(path, "rb") as file:
        data = file.read(size)  # a limit in its place would be reserved in memory

    def no_doubles(pairs):
        if len({key for key, _ in pairs}) < len(pairs):
            raise TokenizerError("a name comes twice in one object")
        return dict(pairs)

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=no_doubles)
    except TokenizerError:
        raise
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"it is no whole JSON file ({error})") from None


def _write_atomically(path, data):
    """Write into a temporary file in the same folder, then rename: all or nothing."""
    path = os.fspath(path)
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


# ---------------------------------------------------------------------------------------------
# tokenizer.json, the file of Hugging Face's tokenizers
# ---------------------------------------------------------------------------------------------


def _byte_letters():
    """How `tokenizer.json` files write a byte: as one visible character. Bytes that are visible
    in Latin-1 stand for themselves, the others for the characters from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def _from_huggingface(saved):
    """(merges, pattern, special tokens) of a parsed tokenizer.json."""
    model = saved.get("model") if isinstance(saved, dict) else None
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise TokenizerError("it is no tokenizer.json of a BPE model")
    if saved.get("normalizer") is not None:
        raise TokenizerError("it has a normalizer, which would change the text; not supported")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise TokenizerError(f"its model uses {option}, which is not supported")
    for option in ("byte_fallback", "ignore_merges"):
        if model.get(option):
            raise TokenizerError(f"its model uses {option}, which is not supported")

    letters = _byte_letters()
    ids = {letter: byte for byte, letter in letters.items()}
    merges = []
    if not isinstance(model["merges"], list) or not isinstance(model.get("vocab"), dict):
        raise TokenizerError("its merges have to be a list and its vocab an object")
    for rank, pair in enumerate(model["merges"]):
        pair = pair.split(" ") if isinstance(pair, str) else pair
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(half, str) for half in pair)
        ):
            raise TokenizerError(f"merge {rank} is no pair of tokens: {pair!r:.60}")
        for half in pair:
            if half not in ids:
                raise TokenizerError(f"merge {rank} uses {half!r:.40}, which no earlier one makes")
        if "".join(pair) in ids:
            raise TokenizerError(
                f"two merges make {''.join(pair)!r:.40}: a vocabulary that was not trained as BPE"
            )
        merges.append((ids[pair[0]], ids[pair[1]]))
        ids["".join(pair)] = 256 + rank

    added = saved.get("added_tokens") or []
    try:
        added = [entry["content"] for entry in sorted(added, key=lambda entry: entry["id"])]
    except (TypeError, KeyError):
        raise TokenizerError("its added_tokens are damaged") from None
    for token in model["vocab"]:
        if token not in ids and token not in added:
            raise TokenizerError(f"its token {token!r:.40} is neither a byte nor made by a merge")
    return merges, _huggingface_pattern(saved.get("pre_tokenizer")), added


def _huggingface_pattern(pre_tokenizer):
    """The pattern of a pre-tokenizer: ByteLevel, or a Sequence of Split and ByteLevel."""
    steps = pre_tokenizer if isinstance(pre_tokenizer, dict) else {}
    steps = steps.get("pretokenizers") if steps.get("type") == "Sequence" else [steps]
    kinds = [step.get("type") if isinstance(step, dict) else None for step in steps or [None]]
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]):
        raise TokenizerError(
            f"its pre-tokenizer is {' + '.join(map(str, kinds))};"
            " only ByteLevel, or Split + ByteLevel, can be read"
        )
    if steps[-1].get("add_prefix_space"):
        raise TokenizerError("it puts a space before each text (add_prefix_space): not supported")
    own_regex = steps[-1].get("use_regex", True)
    if kinds == ["ByteLevel"]:
        if not own_regex:
            raise TokenizerError("its ByteLevel cuts nothing (use_regex false): not supported")
        return GPT2_PATTERN
    split = steps[0]
    pattern = split.get("pattern")
    pattern = pattern.get("Regex") if isinstance(pattern, dict) else None
    if own_regex or pattern is None or split.get("behavior") != "Isolated" or split.get("invert"):
        raise TokenizerError("its Split has to be by a Regex, Isolated, not inverted")
    return pattern


# ---------------------------------------------------------------------------------------------
# Other processes, progress
# ---------------------------------------------------------------------------------------------


_worker = None  # in a worker process: its tokenizer


def _start_worker(*vocabulary):
    global _worker
    _worker = BPETokenizer(*vocabulary)


def _work(block, end):
    return _worker._encode_block(block, end)


def _progress_bar(total, unit, wanted):
    """A tqdm bar on standard error, or something that does nothing."""
    if wanted:
        from tqdm import tqdm

        # Silent where standard error is no terminal.
        return tqdm(total=total, unit=f" {unit}", unit_scale=True, leave=False, disable=None)

    class Silent:
        def update(self, n=1):
            pass

        def close(self):
            pass

    return Silent()


# ---------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------

COLOURS = (153, 223, 157, 218, 189, 229)  # pale backgrounds of the 256-colour palette, in turn


def main(arguments=None):
    """Run the command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):  # a Windows console may have a smaller encoding
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        options = _parse_arguments(arguments)
        options.run(options)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else error
    except (ValueError, ImportError) as error:  # TokenizerError and what the corpora raise
        message = error
    print("bpe_tokenizer.py: " + " ".join(str(message).split()), file=sys.stderr)
    return 2


def _parse_arguments(arguments):
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise TokenizerError(f"{message} (--help lists the options)")

    parser = Parser(prog="bpe_tokenizer.py", description="Byte-level BPE from scratch.")
    commands = parser.add_subparsers(required=True, metavar="train | encode | decode | show")

    def command(name, run, help):
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(run=run)
        return made

    add = command("train", _train_command, "Learn a vocabulary from text.").add_argument
    add("--data", required=True, help="a text file (all of it), or a corpus (its training split)")
    add("--data-dir", help="where a corpus is read from, instead of the hub")
    add("--vocab-size", type=int, default=4096, help="all ids, special ones too (default: 4096)")
    add("--pattern", default="gpt4", help="gpt2, gpt4, whitespace, or a regular expression")
    add("--special", action="append", help="a special token; more than once for more")
    add("--out", required=True, help="the vocabulary's file")

    encode = command("encode", _encode_command, "Text to ids.")
    encode.add_argument("--processes", type=int, help="pays from about 50 MB on")
    show = command("show", _show_command, "Show a text's tokens, set apart in colour.")
    for made in (encode, show):
        made.add_argument("text", nargs="?", help="the text")
        made.add_argument("--file", help="a text file instead")
        made.add_argument("--allow-special", action="store_true", help="<|endoftext|> is its id")
    show.add_argument("--vocab", help="the vocabulary (default: a small one of data/input.txt)")
    encode.add_argument("--vocab", required=True, help="the vocabulary's file")
    encode.add_argument("--out", help="write the ids to this file; .npy for a numpy array")

    add = command("decode", _decode_command, "Ids to text.").add_argument
    add("ids", nargs="*", help="the ids")
    add("--file", help="a file of ids instead: .npy, or text")
    add("--vocab", required=True, help="the vocabulary's file")
    add("--out", help="write the text to this file")
    return parser.parse_args(arguments)


def _train_command(options):
    _check_out(options.out)
    tokenizer = BPETokenizer.train(
        _training_text(options.data, options.data_dir),
        options.vocab_size,
        PATTERNS.get(options.pattern, options.pattern),
        options.special or (END_OF_TEXT,),
        progress=True,
    )
    tokenizer.save(options.out)
    if tokenizer.vocab_size < options.vocab_size:
        print("every chunk of the text is one token now: there was nothing left to merge")
    print(f"{options.out}: {tokenizer.vocab_size:,} ids, sha256 {tokenizer.sha256}")


def _check_out(path):
    """Said before the work, not after it."""
    if path and (os.path.isdir(path) or not os.path.isdir(os.path.dirname(os.path.abspath(path)))):
        raise TokenizerError(f"--out {path}: has to be a file's name in a folder that exists")


def _training_text(data, data_dir):
    if os.path.isfile(data) and not data.lower().endswith((".jsonl", ".parquet")):
        return _read_text(data)
    try:
        from common.data import load_corpus
    except ImportError as error:
        raise TokenizerError(f"--data {data}: no such text file ({error})") from None
    corpus = load_corpus(data, data_dir)
    if corpus.note:
        print(corpus.note, file=sys.stderr)
    return corpus.pieces("train")


def _read_text(path):
    try:
        with open(path, encoding="utf-8", newline="") as file:  # line ends as they are
            text = file.read()
    except UnicodeDecodeError as error:
        message = f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"
        raise TokenizerError(message) from None
    if not text:
        raise TokenizerError(f"{path}: the file is empty")
    return text


def _text_of(options):
    if (options.text is None) == (options.file is None):
        raise TokenizerError("give either a text or --file")
    return options.text if options.file is None else _read_text(options.file)


def _encode_command(options):
    _check_out(options.out)
    tokenizer = BPETokenizer.load(options.vocab)
    text = _text_of(options)
    if options.allow_special:
        ids = np.array(tokenizer.encode(text, "all"), tokenizer.dtype)
    else:
        bar, parts = _progress_bar(None, "tokens", options.file is not None), []
        for part in tokenizer.encode_stream(text, options.processes):
            parts.append(part)
            bar.update(len(part))
        bar.close()
        ids = np.concatenate(parts) if parts else np.zeros(0, tokenizer.dtype)
    if options.out and options.out.endswith(".npy"):
        import io

        buffer = io.BytesIO()
        np.save(buffer, ids)
        _write_atomically(options.out, buffer.getbuffer())
    elif options.out:
        _write_atomically(options.out, (" ".join(map(str, ids.tolist())) + "\n").encode("ascii"))
    else:
        print(*ids.tolist())


def _decode_command(options):
    _check_out(options.out)
    tokenizer = BPETokenizer.load(options.vocab)
    if bool(options.ids) == (options.file is not None):
        raise TokenizerError("give either ids or --file")
    if options.file is not None and options.file.endswith(".npy"):
        ids = np.load(options.file, allow_pickle=False)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise TokenizerError(f"{options.file}: not a one-dimensional array of whole numbers")
    else:
        text = " ".join(options.ids) if options.file is None else _read_text(options.file)
        try:
            ids = [int(word) for word in text.replace(",", " ").split()]
        except ValueError as error:
            raise TokenizerError(f"ids have to be whole numbers: {error}") from None
    data = tokenizer.decode_bytes(ids)
    if options.out:
        _write_atomically(options.out, data)
    elif sys.stdout.isatty():
        print(data.decode("utf-8", errors="replace"))
    else:  # into a file or a pipe: the very bytes
        sys.stdout.buffer.write(data)


def _show_command(options):
    text = _text_of(options)
    if options.vocab:
        tokenizer = BPETokenizer.load(options.vocab)
    else:
        sample = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "input.txt")
        if not os.path.isfile(sample):
            raise TokenizerError("no vocabulary: train one first and give it as --vocab vocab.json")
        tokenizer = BPETokenizer.train(_read_text(sample), 1024, progress=True)
        print("no --vocab given: these are 1,024 ids learned from data/input.txt just now")
    ids = tokenizer.encode(text, "all" if options.allow_special else ())
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if colour and os.name == "nt":
        os.system("")  # switches the console's colours on
    print(_set_apart([tokenizer.vocab[i] for i in ids], colour))
    print(*ids)
    n_bytes, n_words = len(_utf8(text)), len(text.split())
    line = f"{len(ids)} tokens for {n_bytes} bytes"
    if ids:
        line += f": {n_bytes / len(ids):.2f} bytes per token"
    if n_words:
        line += f"; {n_words} words: {len(ids) / n_words:.2f} tokens per word (fertility)"
    print(line)


def _set_apart(tokens, colour):
    """Tokens on coloured grounds, or in brackets. What does not print is shown as an escape, so
    that a text cannot command the terminal; a line end is shown and also made."""
    shown = []
    for i, token in enumerate(tokens):
        string = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii")
            for c in _readable(token)
        )
        breaks = "\n" * token.count(b"\n")
        if colour:
            ground = COLOURS[i % len(COLOURS)]
            shown.append(f"\x1b[30;48;5;{ground}m{string}\x1b[0m{breaks}")
        else:
            shown.append(f"[{string}]{breaks}")
    return "".join(shown)


if __name__ == "__main__":
    sys.exit(main())

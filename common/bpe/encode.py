"""Encoding at speed: all distinct chunks of a block are merged together, rank by rank."""

import heapq
import os
from itertools import chain, repeat

from common.bpe.merge import Tokens, group

import numpy as np

BLOCK = 2**23  # bytes of text that are encoded together
REMEMBERED = 2**26  # bytes, about, of chunks with their ids; then forget and begin again
ENOUGH = 2**20  # characters of new chunks that are merged together: numpy's calls pay for many
END = None  # stands for the end of a document among its chunks


class Table(dict):
    """dict: key of a span -> its number, counted in the order in which keys are looked up first;
    and the ids of all spans, end to end in one array, with where each span's begin."""

    def __init__(self, chunks_of, dtype, end):
        self[END] = 0
        self.chunks_of = chunks_of
        self.ids = np.array([] if end is None else [end], dtype)
        self.starts = np.array([0, len(self.ids)])  # of the spans, and of the next one
        self.new, self.new_size = [], 0  # keys whose ids are not known yet, and their length

    def __missing__(self, key):
        number = self[key] = len(self)
        self.new.append(key)
        self.new_size += len(key)
        return number

    def learn(self, ranks):
        """Find the ids of the new spans."""
        chunks, ends = [], []  # of all spans, end to end; and where each span's end
        for key in self.new:
            chunks += self.chunks_of(key)
            ends.append(len(chunks))
        ids, lengths = ranks.merge_all(chunks).by_chunk()
        self.starts = np.append(self.starts, len(self.ids) + lengths.cumsum()[np.array(ends) - 1])
        self.ids = np.append(self.ids, ids.astype(self.ids.dtype))
        self.new, self.new_size = [], 0

    def look_up(self, numbers):
        """The ids of the spans with these numbers, one array."""
        starts = self.starts.take(numbers)
        lengths = self.starts.take(numbers + 1) - starts
        # Token i of a span that begins at place s of the result is token i of the span's own.
        shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        return self.ids.take(shift + np.arange(len(shift)))


class Encoder:
    """Encodes texts with a vocabulary, and remembers the ids of the spans that it has met.

    merges          list of (first id, second id), in rank order
    pre_tokenizer   a PreTokenizer
    dtype           numpy type of the ids
    end             id that follows a document, or None

    Memory: what is remembered, a block with its ids (about 20 times its bytes), and about 40
    bytes for each byte of ENOUGH new characters: some 300 MB in all, or 350 in each of two
    processes, whatever the length of the documents. Only a text that cannot be cut, one word of
    many megabytes for instance, or a long document with a caller's own pattern, takes more: about
    20 bytes for each of its bytes.
    """

    def __init__(self, merges, pre_tokenizer, dtype, end):
        self.merges, self.pre_tokenizer, self.dtype, self.end = merges, pre_tokenizer, dtype, end
        self.ranks = None
        self._forget()

    def __reduce__(self):  # pickled for other processes, without what it remembers
        return Encoder, (self.merges, self.pre_tokenizer, self.dtype, self.end)

    def _forget(self):
        self.table = Table(self.pre_tokenizer.chunks_of, self.dtype, self.end)

    def _learn(self, more_than):
        if self.table.new_size > more_than:
            self.ranks = self.ranks or Ranks(self.merges)
            self.table.learn(self.ranks)

    def encode(self, text):
        """The ids of a text, a list."""
        return [i for ids in self.stream([text], 1, False) for i in ids.tolist()]

    def encode_block(self, block, ends):
        """The ids of a block (see `blocks`), an array (number of tokens,); with the id
        `end` after each document if `ends` is true and the vocabulary has one."""
        numbers = []
        for text, is_end in block:
            keys = self.pre_tokenizer.spans(text)
            if is_end and ends:
                keys.append(END)
            numbers.append(np.fromiter(map(self.table.__getitem__, keys), np.int64, len(keys)))
            self._learn(more_than=ENOUGH)
        self._learn(more_than=0)
        ids = np.concatenate(list(map(self.table.look_up, numbers)))
        # About 200 bytes for a span, and 20 for each of its tokens.
        if 200 * len(self.table) + 20 * len(self.table.ids) > REMEMBERED:
            self._forget()
        return ids

    def stream(self, documents, processes, ends):
        """An iterator of arrays: the documents' ids, in order (see encode_block). `processes`: at
        most so many share the work, and no more than there are processors for this program."""
        processes = min(processes, available_processors(), 61)  # Windows can't wait for more
        parts = self.pre_tokenizer.parts(documents)
        if processes == 1:
            return (self.encode_block(block, ends) for block in blocks(parts, repeat(BLOCK)))
        from common.bpe.processes import encode_blocks

        # Small blocks, so that all processes end together; but larger ones at first, because each
        # process meets most of its spans there, and many of them are merged in little more time.
        sizes = chain(repeat(3 * BLOCK // processes, processes), repeat(BLOCK // 4))
        return encode_blocks(self, blocks(parts, sizes), processes, ends)


def blocks(parts, sizes):
    """Lists of parts (see PreTokenizer.parts) of about so many bytes, one after another.

    sizes: an iterator. Takes no more parts from theirs than a block needs."""
    block, size, enough = [], 0, next(sizes)
    for part in parts:
        block.append(part)
        size += 1 + len(part[0].encode("utf-8"))
        if size >= enough:
            yield block
            block, size, enough = [], 0, next(sizes)
    if block:
        yield block


def available_processors():
    """How many processors this program may use, which a container or taskset may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Ranks:
    """The merges of a vocabulary, arranged for merging many chunks together.

    A pair's newer half is the token that is made last. Once it has been made, everywhere at once,
    all places of the pair are there, and they are looked for just then; other merges can only use
    them up. Those who wait are in a heap, by rank: the pairs that a merge makes have higher ranks
    than it. So each rank comes up at most once, and every chunk gets its merges in their order.
    """

    def __init__(self, merges):
        self.merges = merges
        n_ids = self.n_ids = 256 + len(merges)
        self.sizes = [1] * 256
        for a, b in merges:
            self.sizes.append(self.sizes[a] + self.sizes[b])
        # The pairs by their newer half; their older half as a code (see Tokens.neighbours).
        a, b = np.array(merges, np.int64).reshape(-1, 2).T
        newer, codes = np.maximum(a, b), np.where(a < b, a, n_ids + 1 + b)
        self.ranks = newer.argsort(kind="stable").astype(np.int32)
        self.codes = codes[self.ranks]
        self.starts = np.searchsorted(newer[self.ranks], np.arange(n_ids + 1)).tolist()
        # By code: how far the pair begins before the newer half; the rank, for one half at a time.
        self.shift = np.array(self.sizes + [0] * (n_ids + 2))
        self.rank_of_code = np.full(2 * n_ids + 2, -1, np.int32)

    def merge_all(self, chunks):
        """The Tokens of these chunks (strings) after all merges."""
        tokens = Tokens(chunks, self.n_ids, self.sizes)
        heap = []  # (rank of a pair that occurs, where); a rank is there once

        def find_pairs(newer, places):
            """Put the pairs into the heap whose newer half is this token, at these places."""
            some = slice(self.starts[newer], self.starts[newer + 1])
            if some.start == some.stop:
                return  # no merge takes it and an older token
            codes = tokens.neighbours(newer, places)
            self.rank_of_code[self.codes[some]] = self.ranks[some]
            ranks = self.rank_of_code.take(codes)
            self.rank_of_code[self.codes[some]] = -1
            found = (ranks >= 0).nonzero()[0]
            if not len(found):
                return
            ranks, codes = ranks.take(found), codes.take(found)
            places = np.concatenate((places, places)).take(found) - self.shift.take(codes)
            order, starts, ends = group(ranks.astype(np.uint16) if self.n_ids < 2**16 else ranks)
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                same = order[start:end]
                heapq.heappush(heap, (int(ranks[same[0]]), places.take(same)))

        # Every byte that occurs; the last group is the walls'.
        order, starts, ends = group(tokens.first)
        for start, end in zip(starts[:-1].tolist(), ends[:-1].tolist(), strict=True):
            find_pairs(int(tokens.first[order[start]]), order[start:end])
        while heap:
            rank, places = heapq.heappop(heap)
            (a, b), new = self.merges[rank], 256 + rank
            places = tokens.still_there(a, b, places)
            if len(places):
                find_pairs(new, tokens.merge(a, b, new, places))
        return tokens

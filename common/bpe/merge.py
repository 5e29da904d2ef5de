"""Merging at speed: one pair at all its places in one go, in all chunks at once."""

import numpy as np

WALL = b"\xff"  # a byte that UTF-8 never contains: it keeps the chunks apart


class Tokens:
    """Chunks of tokens, end to end in one array, in which a merge moves nothing.

    first[i]   the token whose bytes begin at place i, `none` where no token begins
    last[i]    the token whose bytes end at place i; outdated where no token ends
    none       a number above all ids
    walls      places between chunks, before the first and after the last one; no token is there
    sizes      list: id -> number of bytes

    A token of s bytes at place i is followed by the one at i + s, and the one before it ends at
    i - 1. So neighbours need no links, and all places of a pair are merged in a few numpy calls:
    a few thousand merges at a few dozen calls, instead of millions of turns of a loop. 4 bytes of
    memory for each byte of the chunks up to 65,535 ids, else 8, and 8 for each place in a list.
    """

    def __init__(self, chunks, n_ids, sizes):
        """From chunks (strings), every byte a token; n_ids: how many ids there will be at most."""
        data = WALL + WALL.join([chunk.encode("utf-8") for chunk in chunks]) + WALL
        self.none, self.sizes = n_ids, sizes
        self.first = np.frombuffer(data, np.uint8).astype(np.uint16 if n_ids < 2**16 else np.uint32)
        self.walls = np.flatnonzero(self.first == WALL[0])
        self.first[self.walls] = self.none
        self.last = self.first.copy()

    def still_there(self, a, b, places):
        """Those of the places where the pair (a, b) still is: merges may have used it up."""
        there = self.first.take(places + self.sizes[a]) == b
        there &= self.first.take(places) == a
        return places.compress(there)

    def merge(self, a, b, new, places):
        """Merge the pair (a, b) into the token `new` at these places, which are ascending and where
        it is. Returns the places where it was merged: of pairs that overlap, every second."""
        if a == b:
            places = _every_second(places, self.sizes[a])
        seconds = places + self.sizes[a]
        self.first[seconds] = self.none
        self.first[places] = new
        self.last[seconds + (self.sizes[b] - 1)] = new
        return places

    def neighbours(self, token, places):
        """The tokens before and after `token`, which is at these places, as one array of codes: n
        for the token n before, none + 1 + n for the token n after."""
        after = self.first.take(places + self.sizes[token])
        after = np.add(after, self.none + 1, dtype=np.uint16 if self.none < 2**15 - 1 else np.int32)
        return np.concatenate((self.last.take(places - 1), after))

    def by_chunk(self):
        """(ids of all chunks, end to end; how many each chunk has)."""
        places = (self.first != self.none).nonzero()[0]
        return self.first.take(places), np.diff(np.searchsorted(places, self.walls))


def _every_second(places, size):
    """Pairs of equal tokens overlap: in "aaaa" only the first and the third can be merged. Number
    the places within each run from 0 and keep the even ones."""
    number = np.arange(len(places))
    starts_run = np.ones(len(places), bool)
    np.not_equal(places[1:] - places[:-1], size, out=starts_run[1:])
    run_start = np.maximum.accumulate(np.where(starts_run, number, 0))
    return places[(number - run_start) % 2 == 0]


def group(*keys):
    """(order, starts, ends): in this order equal keys are together, in their old order among
    themselves; those of group i are order[starts[i]:ends[i]]. Several arrays are one key, and
    numpy sorts those of 16 bits many times faster than others."""
    order = np.lexsort(keys)
    borders = np.zeros(len(order) + 1, bool)
    borders[:1] = borders[-1:] = True
    for key in keys:
        key = key.take(order)
        borders[1:-1] |= key[1:] != key[:-1]
    borders = borders.nonzero()[0]
    return order, borders[:-1], borders[1:]

"""Training at speed: the merges that counting all pairs again after each merge would choose."""

import heapq
from collections import Counter

from common.bpe.merge import Tokens, group

import numpy as np
from tqdm import tqdm

# Of a progress bar on standard error: silent if not wanted, and where that is no terminal.
BAR = {True: {"leave": False, "unit_scale": True, "disable": None}, False: {"disable": True}}


def count_chunks(documents, pre_tokenizer, progress):
    """Counter: chunk (string) -> how often it occurs in the documents."""
    counts, chunks = Counter(), Counter()
    with tqdm(unit=" characters", **BAR[progress]) as bar:
        for text, _ in pre_tokenizer.parts(documents):
            counts.update(pre_tokenizer.spans(text))
            bar.update(len(text))
    for span, count in counts.items():
        for chunk in pre_tokenizer.chunks_of(span):
            chunks[chunk] += count
    return chunks


def train_merges(chunk_counts, n_merges, progress):
    """The first n_merges merges for {chunk (string): count}; fewer if the pairs run out.

    Every distinct chunk is there once, with its count as the weight of its pairs. Three thoughts
    save most of the work:

    - A pair's count never rises after the merge that made its newer half: later merges can only
      use its tokens up. So the heap may hold outdated counts: they are upper bounds. When a pair
      comes to the top it is counted again. If the count still holds, no other pair can be more
      frequent; otherwise the pair goes back with its true count.
    - The places of a pair are all known when the pair is made, and only places can vanish.
    - Most pairs are too rare to ever be merged. Pairs rarer than `floor` stay out of the heap; when
      the heap runs empty, the floor is lowered and all pairs are counted again.

    Memory: about 40 bytes for each byte of the distinct chunks. English repeats its words, and 10
    MB of it have some 0.3 MB of distinct chunks. A text without spaces repeats next to nothing: 10
    MB of it take 400 MB, so give less of it where that is too much.
    """
    trainer = _Trainer(chunk_counts, n_merges)
    with tqdm(total=n_merges, unit=" merges", **BAR[progress]) as bar:
        while len(trainer.merges) < n_merges and (trainer.heap or trainer.count_all()):
            if trainer.merge_top():
                bar.update()
    return trainer.merges


class _Trainer:
    """The state of train_merges: the tokens, and the heap of the pairs that may come next."""

    def __init__(self, chunk_counts, n_merges):
        self.n_merges = n_merges
        self.merges = []
        self.tokens = Tokens(chunk_counts, 256 + n_merges, [1] * 256)
        dtype = np.min_scalar_type(max(chunk_counts.values(), default=0))
        counts = np.fromiter(chunk_counts.values(), dtype, len(chunk_counts))
        # Of each place, its chunk's count; a wall has that of the chunk after it.
        self.weights = np.repeat(counts, np.diff(self.tokens.walls))
        self.heap = []  # of (-count, (a, b), places); a pair is there once

    def _push(self, pair, places, count):
        heapq.heappush(self.heap, (-count, pair, places))

    def count_all(self):
        """Lower the floor, and fill the heap with the pairs above it. False if there are none."""
        first, sizes = self.tokens.first, np.array(self.tokens.sizes)
        places = (first != self.tokens.none).nonzero()[0]
        a = first.take(places)
        b = first.take(places + sizes.take(a))
        there = b != self.tokens.none
        places, a, b = places.compress(there), a.compress(there), b.compress(there)
        order, starts, ends = group(b, a)
        places, a, b = places.take(order), a.take(order), b.take(order)
        totals = np.add.reduceat(self.weights.take(places), starts, dtype=np.int64)
        # The pairs that are merged next are among the most frequent now or come from them.
        enough = max(500, (self.n_merges - len(self.merges)) // 4)
        self.floor = int(np.sort(totals)[-enough]) if enough < len(totals) else 1
        for i in (totals >= self.floor).nonzero()[0].tolist():
            pair = int(a[starts[i]]), int(b[starts[i]])
            self._push(pair, places[starts[i] : ends[i]].copy(), int(totals[i]))
        return len(places) > 0

    def merge_top(self):
        """Take the pair at the top of the heap: merge it and return True if its count still holds,
        else put it back with its true count."""
        tokens = self.tokens
        count, (a, b), places = heapq.heappop(self.heap)
        places = tokens.still_there(a, b, places)
        true_count = int(np.add.reduce(self.weights.take(places), dtype=np.int64))
        if true_count < -count:
            if true_count >= self.floor:
                self._push((a, b), places, true_count)
            return False
        new = 256 + len(self.merges)
        self.merges.append((a, b))
        tokens.sizes.append(tokens.sizes[a] + tokens.sizes[b])
        self._count_beside(new, tokens.merge(a, b, new, places))
        return True

    def _count_beside(self, new, places):
        """Count the pairs that the token `new` is in, and put the frequent ones into the heap."""
        tokens = self.tokens
        codes = tokens.neighbours(new, places)
        order, starts, ends = group(codes)
        places, codes = np.concatenate((places, places)).take(order), codes.take(order)
        totals = np.add.reduceat(self.weights.take(places), starts, dtype=np.int64)
        for i in (totals >= self.floor).nonzero()[0].tolist():
            is_after, other = divmod(int(codes[starts[i]]), tokens.none + 1)
            there, count = places[starts[i] : ends[i]].copy(), int(totals[i])
            if is_after and other != tokens.none:
                self._push((new, other), there, count)
            # Two new tokens side by side are counted once, for the first.
            elif not is_after and other not in (tokens.none, new):
                self._push((other, new), there - tokens.sizes[other], count)

"""Counted n-grams: values by hand, and Kneser-Ney smoothing as its definition reads."""

import math
from collections import Counter
from types import SimpleNamespace

from common.evaluation import counted_bigram, counted_ngrams

import numpy as np
import pytest


def bits(train, validation, V, order=2, n_bytes=1):
    corpus = SimpleNamespace(n_bytes={"validation": n_bytes})
    return counted_ngrams(train, validation, SimpleNamespace(vocab_size=V), corpus, order)


def kneser_ney(train, V, order):
    """p(w | tokens before) as a function, straight from the definition."""

    def grams(k):
        return Counter(tuple(train[i : i + k]) for i in range(len(train) - k + 1))

    counts = {order: grams(order)}
    for k in range(1, order):
        counts[k] = Counter(longer[1:] for longer in grams(k + 1))

    def p(w, before, k=order):
        if k == 0:
            return 1 / V
        if len(before) < k - 1:
            return p(w, before, k - 1)
        context = tuple(before[len(before) - (k - 1) :])
        after = {gram[-1]: c for gram, c in counts[k].items() if gram[:-1] == context}
        lower, total = p(w, before, k - 1), sum(after.values())
        if not total:
            return lower
        once, twice = (list(counts[k].values()).count(n) for n in (1, 2))
        D = once / (once + 2 * twice) if once and twice else 0.5
        return (max(after.get(w, 0) - D, 0) + D * len(after) * lower) / total

    return p


def text(n, V, seed=0):
    """Tokens with rare and frequent ones among them, and id V - 1 never."""
    draws = np.random.default_rng(seed).geometric(0.3, n) - 1
    return [int(i) for i in draws.clip(max=V - 2)]


def test_counted_bigrams_by_hand():
    """a b a b a c: ab and ba twice, ac once, so D = 1 / (1 + 2 * 2). Each token ends one kind of
    pair, none two: there D is a half, and the unigram is uniform."""
    chain = 1 / 3 * (1.8 / 3 + 0.4 / 9) * (1.8 / 2 + 0.1 / 3)  # "aba", its first token at 1 / V
    corpus = SimpleNamespace(n_bytes={"validation": 4})
    found = counted_bigram([0, 1, 0, 1, 0, 2], [0, 1, 0], SimpleNamespace(vocab_size=3), corpus)
    assert found == pytest.approx(-math.log2(chain) / 4)


def test_pairs_of_many_different_tokens_do_not_overflow():
    """Ids are stored as uint16; the number of a pair is far beyond that."""
    V, ids = 60_000, np.arange(0, 60_000, 7, dtype=np.uint16)
    train = np.concatenate([ids, ids[::-1], ids])
    assert bits(train, ids, V) == bits(train.astype(np.int64), ids.astype(np.int64), V)
    assert bits(train, ids, V) < bits(train, ids % 7, V)  # pairs that were seen, and unseen ones


TEXTS = [text(300, 9), text(300, 9, seed=1), [0, 1], [3, 3, 3, 3], list(range(7))]
TEXTS += [[0, 1, 2, 0, 3, 4, 5, 0] * 20]  # after 0 comes 1 or 3: it takes two tokens to know


@pytest.mark.parametrize("train", TEXTS)
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_n_grams_equal_their_definition_and_sum_to_one(order, train):
    V = 9
    validation = [*text(80, V, seed=100), V - 1, 0, V - 1, V - 1]  # with an id never seen
    p = kneser_ney(train, V, min(order, len(train)))  # a short text has no longer ones
    for before in (validation[:9], train, [V - 1] * 4):  # seen, and never seen
        assert sum(p(w, before) for w in range(V)) == pytest.approx(1)
    for held in (validation, train):
        nats = [-math.log2(p(w, held[:i])) for i, w in enumerate(held) if i]
        wanted = (math.log2(V) + sum(nats)) / 50
        assert bits(train, held, V, order, n_bytes=50) == pytest.approx(wanted)

"""Counted bigrams: values worked by hand, and Kneser-Ney as its definition reads."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from common.ngram import counting_bigram


def bits(train, validation, V, n_bytes=1):
    corpus = SimpleNamespace(n_bytes={"validation": n_bytes})
    return counting_bigram(train, validation, SimpleNamespace(vocab_size=V), corpus)


def probability(train, u, w, V):
    """p(w | u): what is left of a validation text `u w` without the ln V of its first token."""
    return 2 ** -(bits(train, [u, w], V) - math.log2(V))


def kneser_ney(train, V):
    """p(w | u) as a function, straight from the definition."""

    def discount(counts):
        once, twice = list(counts).count(1), list(counts).count(2)
        return once / (once + 2 * twice) if once and twice else 0.5

    pairs = Counter(zip(train, train[1:]))
    endings = Counter(w for _, w in pairs)  # in how many different pairs w comes second
    D1, D2 = discount(endings.values()), discount(pairs.values())

    def unigram(w):
        return (max(endings[w] - D1, 0) + D1 * len(endings) / V) / len(pairs)

    def bigram(u, w):
        total = sum(count for (first, _), count in pairs.items() if first == u)
        if not total:
            return unigram(w)
        kinds = sum(first == u for first, _ in pairs)
        return (max(pairs[u, w] - D2, 0) + D2 * kinds * unigram(w)) / total

    return bigram


def text(n, V, seed=0):
    """Tokens with rare and frequent ones among them, and id V - 1 never."""
    draws = np.random.default_rng(seed).geometric(0.3, n) - 1
    return [int(i) for i in draws.clip(max=V - 2)]


def test_by_hand():
    """a b a b a c: ab and ba twice, ac once, so D = 1 / (1 + 2 * 2). Each token ends one kind of
    pair, none two: there D is a half, and the unigram is uniform."""
    train = [0, 1, 0, 1, 0, 2]
    D, third = 1 / 5, 1 / 3
    assert probability(train, 0, 1, 3) == pytest.approx((2 - D) / 3 + 2 * D / 3 * third)
    assert probability(train, 0, 2, 3) == pytest.approx((1 - D) / 3 + 2 * D / 3 * third)
    assert probability(train, 0, 0, 3) == pytest.approx(2 * D / 3 * third)
    assert probability(train, 1, 0, 3) == pytest.approx((2 - D) / 2 + D / 2 * third)
    assert probability(train, 2, 1, 3) == pytest.approx(third)  # c is never followed by anything
    chain = 1 / 3 * (1.8 / 3 + 0.4 / 9) * (1.8 / 2 + 0.1 / 3)  # "aba", its first token at 1 / V
    assert bits(train, [0, 1, 0], 3, n_bytes=4) == pytest.approx(-math.log2(chain) / 4)


@pytest.mark.parametrize("seed", range(4))
def test_the_definition_gives_the_same(seed):
    V = 9
    train, validation = text(300, V, seed), [*text(80, V, seed + 100), V - 1, 0, V - 1, V - 1]
    p = kneser_ney(train, V)
    nats = math.log(V) - sum(math.log(p(u, w)) for u, w in zip(validation, validation[1:]))
    assert bits(train, validation, V, n_bytes=50) == pytest.approx(nats / math.log(2) / 50)


@pytest.mark.parametrize("train", [text(200, 7), [0, 1], [3, 3, 3, 3], list(range(7))])
def test_probabilities_sum_to_one(train):
    for u in range(7):  # seen or not: token 6 is in the last text only, and at its end
        assert sum(probability(train, u, w, 7) for w in range(7)) == pytest.approx(1)
        assert all(probability(train, u, w, 7) > 0 for w in range(7))


def test_pairs_of_many_different_tokens_do_not_overflow():
    """Ids are stored as uint16; the number of a pair is far beyond that."""
    V, ids = 60_000, np.arange(0, 60_000, 7, dtype=np.uint16)
    train = np.concatenate([ids, ids[::-1], ids])
    assert bits(train, ids, V) == bits(train.astype(np.int64), ids.astype(np.int64), V)
    assert bits(train, ids, V) < bits(train, ids % 7, V)  # pairs that were seen, and strangers

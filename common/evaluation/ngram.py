"""Counting: what tables of frequencies reach in closed form, without any training."""

import math

import numpy as np


def counted_bigram(train, validation, tokenizer, corpus):
    """`counted_ngrams` with one token of context, as a bigram model has."""
    return counted_ngrams(train, validation, tokenizer, corpus, order=2)


def counted_ngrams(train, validation, tokenizer, corpus, order):
    """Bits per byte of n-grams counted on `train`, with interpolated Kneser-Ney smoothing.

    train, validation  1-D integer arrays of ids
    tokenizer, corpus  whose tokens they are: V ids, and the bytes of the validation text
    order              the n-grams' length n: how a token depends on the n - 1 before it

    p(w | u) = max(c(u w) - D, 0) / c(u) + D * N(u .) / c(u) * p(w | u without its first token),
    where N(u .) is the number of different ids seen after u, and D = n1 / (n1 + 2 n2) from the
    number of n-grams seen once and twice. For the longest n-grams c counts how often they occur,
    for the shorter ones in how many different n-grams one longer. At the end stands 1 / V, so
    that nothing is impossible. The first token costs ln V, as in `evaluate`.
    Kneser and Ney 1995, "Improved backing-off for m-gram language modeling"; Chen and Goodman 1999.
    """
    V, n_train = tokenizer.vocab_size, len(train)
    order = min(order, n_train)  # a shorter text has no longer n-grams
    tokens = np.concatenate([train, validation])
    # grams[k][i] numbers the k-gram that ends at i; -1 where none can: it would begin before its
    # text does. Equal numbers, equal k-grams, whether in training or in validation.
    grams = [np.zeros(len(tokens), dtype=np.int32)]
    for k in range(1, order + 1):
        ends = np.concatenate([np.arange(k - 1, n_train), np.arange(n_train + k - 1, len(tokens))])
        pairs = grams[-1][ends - 1].astype(np.int64) * V + tokens[ends]  # context and token
        grams.append(np.full(len(tokens), -1, dtype=np.int32))
        grams[k][ends] = np.unique(pairs, return_inverse=True)[1]
    probability = np.full(len(validation) - 1, 1 / V)
    at = np.arange(n_train + 1, len(tokens))  # the validation text's second token, and on
    for k in range(1, order + 1):
        counts, context = _counts(grams, k, n_train, longest=k == order)
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        D = once / (once + 2 * twice) if once and twice else 0.5
        times = np.bincount(context, weights=counts, minlength=grams[k - 1].max() + 1)  # c(u)
        kinds = np.bincount(context, weights=counts > 0, minlength=len(times))  # N(u .)
        gram, before = grams[k][at], grams[k - 1][at - 1]
        known = (gram >= 0) & (times[before] > 0)  # else the shorter context has to do
        count, total = counts[gram[known]], times[before[known]]
        left = D * kinds[before[known]] / total
        probability[known] = np.maximum(count - D, 0) / total + left * probability[known]
    nats = math.log(V) - np.log(probability).sum()
    return float(nats / (math.log(2) * corpus.n_bytes["validation"]))


def _counts(grams, k, n_train, longest):
    """c of each k-gram, and the number of its context, the tokens but the last."""
    gram, size = grams[k][k - 1 : n_train], grams[k].max() + 1
    context = np.zeros(size, dtype=np.int32)
    context[gram] = grams[k - 1][np.arange(k - 2, n_train - 1)]  # at -1 stands a 0, as for k = 1
    if longest:
        return np.bincount(gram, minlength=size), context
    longer, first = np.unique(grams[k + 1][k:n_train], return_index=True)
    return np.bincount(grams[k][k + first], minlength=size), context

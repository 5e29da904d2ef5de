"""The evaluation, on models whose losses can be worked out by hand."""

import importlib
import math
from types import SimpleNamespace

from common.errors import NotFinite
from common.evaluation import evaluate, evaluate_long_contexts

import numpy as np
import pytest
import torch

# The module: in its package the function has the same name.
evaluation = importlib.import_module("common.evaluation.evaluate")


def corpus(n_bytes, n_words=None):
    """What the evaluation needs of a corpus: the bytes and the words of the split."""
    return SimpleNamespace(n_bytes={"validation": n_bytes}, words=lambda split: n_words)


class Table(torch.nn.Module):
    """Logits of the next token from the current one alone: the logarithms of a table's rows."""

    def __init__(self, probabilities):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, idx):  # (B, T) -> (B, T, V)
        return torch.nn.functional.dropout(self.logits[idx], 0.5, training=self.training)


class Counter(torch.nn.Module):
    """Knows that i is followed by i + 1, and has the loss `cost` in predicting it.

    cost(context, after) -> nats, where context (T,) is how many tokens each prediction is made
    from and after (B, T) the token it is made after. Notes the windows that it reads.
    """

    def __init__(self, V, cost):
        super().__init__()
        self.V, self.cost, self.windows, self.sizes = V, cost, [], []
        self.nothing = torch.nn.Parameter(torch.zeros(()))  # the device is that of the parameters

    def forward(self, idx):
        self.windows += idx.tolist()
        self.sizes.append(idx.numel())
        context = torch.arange(1, idx.shape[1] + 1)
        p = torch.exp(-self.cost(context, idx.double())).expand(idx.shape)[..., None]
        rest = ((1 - p).clamp(min=0) / (self.V - 1)).expand(*idx.shape, self.V)
        return rest.scatter(-1, idx[..., None] + 1, p).log()


def nats_of(model, n, T, **settings):
    """The total for the text 0, 1, 2, ..., n - 1, without the first token's ln V."""
    return evaluate(model, np.arange(n), T, corpus(n), **settings)["loss"] * n - math.log(model.V)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 9, 16, 23])
@pytest.mark.parametrize("T", [1, 2, 4, 8, 30])
def test_windows_predict_each_token_once_and_sliding_ones_from_enough_context(n, T):
    """Token k has k tokens before it; it must be predicted from min(k, T - stride) of them."""
    model = Counter(n + 1, lambda context, after: (after + 1) / n)  # each token has its own loss
    assert nats_of(model, n, T) == pytest.approx(sum(range(1, n)) / n, rel=1e-4)
    assert sum(model.windows, []) == list(range(n - 1))  # end to end, no token read twice
    assert all(len(window) == T for window in model.windows[:-1])
    for stride in range(1, T + 1):
        model = Counter(n + 1, lambda context, after: (after + 1) / n)
        assert nats_of(model, n, T, stride=stride) == pytest.approx(sum(range(1, n)) / n, rel=1e-4)

        def cost(context, after, wanted=T - stride):
            return (context < torch.minimum(after + 1, torch.tensor(wanted))).double()

        assert nats_of(Counter(n + 1, cost), n, T, stride=stride) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("bound, at_once", [("LOGIT_BYTES", 4 * 41 * 12), ("WINDOW_TOKENS", 12)])
def test_windows_that_go_together_are_bounded_and_change_nothing(bound, at_once, monkeypatch):
    """By the bytes of their logits and, where the vocabulary is small, by their tokens."""

    def evaluated():
        model = Counter(41, lambda context, after: context / 7 + after / 11)
        return nats_of(model, 40, 6, stride=4), model

    expected, together = evaluated()
    monkeypatch.setattr(evaluation, bound, at_once)
    total, bounded = evaluated()
    assert bounded.windows == together.windows and total == pytest.approx(expected, rel=1e-6)
    assert max(together.sizes) > 12 == max(bounded.sizes)


HALVES = [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]  # most likely: the same again


def test_bits_per_byte_perplexities_and_accuracies_by_hand():
    tokens = np.array([0, 0, 1, 1, 2], dtype=np.uint16)  # 0 0, 1 1: one bit each; 0 1, 1 2: two
    bits = math.log2(3) + 1 + 2 + 1 + 2
    assert evaluate(Table(HALVES), tokens, 2, corpus(n_bytes=7, n_words=4)) == {
        "bits_per_byte": pytest.approx(bits / 7, rel=1e-6),
        "loss": pytest.approx(bits * math.log(2) / 5, rel=1e-6),
        "perplexity": pytest.approx(2 ** (bits / 5), rel=1e-6),
        "word_perplexity": pytest.approx(2 ** (bits / 4), rel=1e-6),
        "accuracy": 2 / 4,
        "accuracy_top5": 1.0,  # there are three tokens in all
    }
    assert evaluate(Table(HALVES), tokens, 2, corpus(7))["word_perplexity"] is None
    row = [0.3, 0.2, 0.15, 0.14, 0.11, 0.07, 0.03]  # tokens in the order of their probability
    tokens = np.array([0, 0, 4, 5, 6, 1, 5])  # ranks of the predicted ones: 1 5 6 7 2 6
    scores = evaluate(Table([row] * 7), tokens, 4, corpus(7))
    assert (scores["accuracy"], scores["accuracy_top5"]) == pytest.approx((1 / 6, 3 / 6))


def test_a_limit_evaluates_the_beginning_and_scales_the_bytes():
    tokens = np.array([0, 1, 1, 2, 0, 0, 2, 1])
    head = evaluate(Table(HALVES), tokens[:4], 3, corpus(10, 4))
    assert evaluate(Table(HALVES), tokens, 3, corpus(20, 8), limit=4) == pytest.approx(head)
    whole = evaluate(Table(HALVES), tokens, 3, corpus(20, 8))
    assert evaluate(Table(HALVES), tokens, 3, corpus(20, 8), limit=100) == whole


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_random_and_the_model_keeps_its_mode(training):
    model = Table(HALVES).train(training)  # in training, dropout changes its logits
    before = torch.get_rng_state()
    first, second = (evaluate(model, np.arange(30) % 3, 4, corpus(30)) for _ in range(2))
    assert first == second and torch.equal(torch.get_rng_state(), before)
    assert model.training == training and model.logits.grad is None


def test_a_model_gone_wrong_has_a_huge_perplexity_or_is_refused():
    # It is certain that 0 comes next, which never does.
    scores = evaluate(Table([[1.0, 0.0], [1.0, 0.0]]), np.ones(4, dtype=int), 2, corpus(4, 1))
    found = [scores[name] for name in ("loss", "perplexity", "word_perplexity")]
    assert found == [math.inf, math.exp(700), math.exp(700)]
    with pytest.raises(NotFinite, match="became nan"):
        evaluate(Table([[math.nan] * 2] * 2), np.ones(4, dtype=int), 2, corpus(4))


@pytest.mark.parametrize("settings", [{"stride": 0}, {"stride": 4}, {"limit": 1}])
def test_what_cannot_be_evaluated_is_refused(settings):
    with pytest.raises(ValueError, match="stride [04]|nothing to evaluate"):
        evaluate(Table(HALVES), np.zeros(5, dtype=int), 3, corpus(5), **settings)


@pytest.mark.parametrize(("position", "times"), [("alibi", [1, 2, 4, 8]), ("learned", [1])])
def test_long_contexts_are_evaluated_side_by_side_and_sliding(position, times, monkeypatch):
    """All on the same first tokens; learned positions end with the context."""
    monkeypatch.setattr(evaluation, "LONG_WINDOWS", 30)
    rows = []
    run = SimpleNamespace(log_long_context=lambda *row: rows.append(row))
    config, tokens = SimpleNamespace(position=position, context_length=4), np.arange(50)

    def model():
        return Counter(51, lambda context, after: 1 / context)

    evaluate_long_contexts(model(), tokens, config, corpus(50), run)
    assert [row[:2] for row in rows] == [(n, 4 * n) for n in times]
    for _, T, *found in rows:
        strides = (T, T // 2)
        expected = [evaluate(model(), tokens, T, corpus(50), stride=s, limit=30) for s in strides]
        assert found == [scores["bits_per_byte"] for scores in expected]
    assert rows[0][2] > rows[0][3]  # sliding, they have more context

"""The judge on models whose losses can be worked out by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import common.evaluation.evaluate
from common.evaluation.evaluate import judge


def corpus(n_bytes, n_words=None):
    """What the judge asks of a corpus: the bytes and the words of the split."""
    return SimpleNamespace(n_bytes={"validation": n_bytes}, words=lambda split: n_words)


class Table(torch.nn.Module):
    """Logits of the next token from the current one alone: the logarithms of a table's rows."""

    def __init__(self, probabilities):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, idx):  # (B, T) -> (B, T, V)
        return self.logits[idx]


class Counter(torch.nn.Module):
    """Knows that i is followed by i + 1, and charges what `cost` says for predicting it.

    cost(context, after) -> nats, where context (T,) is how many tokens each prediction is made
    from and after (B, T) the token it is made after. Notes the windows that it is shown.
    """

    def __init__(self, V, cost):
        super().__init__()
        self.V, self.cost, self.windows = V, cost, []
        self.nothing = torch.nn.Parameter(torch.zeros(()))  # the judge asks where parameters are

    def forward(self, idx):
        self.windows += idx.tolist()
        context = torch.arange(1, idx.shape[1] + 1)
        p = torch.exp(-self.cost(context, idx.double())).expand(idx.shape)[..., None]
        rest = ((1 - p).clamp(min=0) / (self.V - 1)).expand(*idx.shape, self.V)
        return rest.scatter(-1, idx[..., None] + 1, p).log()


def nats_of(model, n, T, **settings):
    """The judge's total for the text 0, 1, 2, ..., n - 1, without the first token's ln V."""
    scores = judge(model, np.arange(n), T, corpus(n), **settings)
    return scores["loss"] * n - math.log(model.V)


SIZES = [(n, T) for n in (2, 3, 5, 8, 9, 16, 23) for T in (1, 2, 4, 8, 30)]


@pytest.mark.parametrize(("n", "T"), SIZES)
def test_windows_side_by_side_predict_each_token_once(n, T):
    model = Counter(n + 1, lambda context, after: (after + 1) / n)  # each token has its own price
    assert nats_of(model, n, T) == pytest.approx(sum(range(1, n)) / n, rel=1e-4)
    assert sum(model.windows, []) == list(range(n - 1))  # end to end, no token read twice
    assert all(len(window) == T for window in model.windows[:-1])


@pytest.mark.parametrize(("n", "T"), SIZES)
def test_sliding_windows_judge_each_token_once(n, T):
    for stride in range(1, T + 1):
        model = Counter(n + 1, lambda context, after: (after + 1) / n)
        assert nats_of(model, n, T, stride=stride) == pytest.approx(sum(range(1, n)) / n, rel=1e-4)


@pytest.mark.parametrize(("n", "T"), SIZES)
def test_sliding_windows_give_each_token_its_context(n, T):
    """Token k has k tokens before it; it must be predicted from min(k, T - stride) of them."""
    for stride in range(1, T + 1):

        def cost(context, after, wanted=T - stride):
            return (context < torch.minimum(after + 1, torch.tensor(wanted))).double()

        assert nats_of(Counter(n + 1, cost), n, T, stride=stride) == pytest.approx(0, abs=1e-6)


def test_too_little_context_would_be_seen():
    """The check above can fail: side by side, a window's first tokens have almost no context."""

    def cost(context, after):
        return (context < torch.minimum(after + 1, torch.tensor(2))).double()

    assert nats_of(Counter(12, cost), 11, 5) == pytest.approx(1, rel=1e-6)


def test_windows_judged_together_count_as_one_by_one(monkeypatch):
    def cost(context, after):
        return context / 7 + after / 11

    together = Counter(41, cost)
    expected = nats_of(together, 40, 6, stride=4)
    monkeypatch.setattr(common.evaluation.evaluate, "LOGIT_BYTES", 1)
    alone = Counter(41, cost)
    assert nats_of(alone, 40, 6, stride=4) == pytest.approx(expected, rel=1e-6)
    assert alone.windows == together.windows


HALVES = [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]  # most likely: the same again


def test_bits_per_byte_perplexities_and_accuracy_by_hand():
    tokens = np.array([0, 0, 1, 1, 2], dtype=np.uint16)  # 0 0, 1 1: one bit each; 0 1, 1 2: two
    scores = judge(Table(HALVES), tokens, 2, corpus(n_bytes=7, n_words=4))
    bits = math.log2(3) + 1 + 2 + 1 + 2
    assert scores["bits_per_byte"] == pytest.approx(bits / 7, rel=1e-6)
    assert scores["loss"] == pytest.approx(bits * math.log(2) / 5, rel=1e-6)
    assert scores["perplexity"] == pytest.approx(2 ** (bits / 5), rel=1e-6)
    assert scores["word_perplexity"] == pytest.approx(2 ** (bits / 4), rel=1e-6)
    assert scores["accuracy"] == 2 / 4
    assert scores["accuracy_top5"] == 1.0  # there are three tokens in all


def test_no_words_no_word_perplexity():
    assert judge(Table(HALVES), np.arange(3), 2, corpus(3))["word_perplexity"] is None


def test_top_five_leaves_out_the_sixth():
    row = [0.3, 0.2, 0.15, 0.14, 0.11, 0.07, 0.03]  # tokens in the order of their probability
    tokens = np.array([0, 0, 4, 5, 6, 1, 5])  # ranks of the predicted ones: 1 5 6 7 2 6
    scores = judge(Table([row] * 7), tokens, 4, corpus(7))
    assert scores["accuracy"] == pytest.approx(1 / 6)
    assert scores["accuracy_top5"] == pytest.approx(3 / 6)


def test_a_limit_judges_the_beginning_and_scales_the_bytes():
    tokens = np.array([0, 1, 1, 2, 0, 0, 2, 1])
    head = judge(Table(HALVES), tokens[:4], 3, corpus(10, 4))
    assert judge(Table(HALVES), tokens, 3, corpus(20, 8), limit=4) == pytest.approx(head)
    whole = judge(Table(HALVES), tokens, 3, corpus(20, 8))
    assert judge(Table(HALVES), tokens, 3, corpus(20, 8), limit=100) == whole


def test_arrays_tensors_and_files_are_judged_alike(tmp_path):
    tokens = np.array([0, 1, 1, 2, 0, 0, 2, 1], dtype="<u2")
    tokens.tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", dtype="<u2", mode="r")
    held = torch.from_numpy(tokens.astype("int64"))
    answers = [judge(Table(HALVES), kind, 3, corpus(9)) for kind in (tokens, mapped, held)]
    assert answers[0] == answers[1] == answers[2]


class Forgetful(Table):
    """Dropout that would change every logit while training."""

    def forward(self, idx):
        return torch.nn.functional.dropout(self.logits[idx], 0.5, training=self.training)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_random_and_the_model_keeps_its_mode(training):
    model = Forgetful(HALVES).train(training)
    tokens = np.arange(30) % 3
    before = torch.get_rng_state()
    scores = judge(model, tokens, 4, corpus(30))
    assert torch.equal(torch.get_rng_state(), before)
    assert scores == judge(Table(HALVES), tokens, 4, corpus(30))
    assert model.training == training
    assert model.logits.grad is None


def test_a_model_gone_wrong_has_a_huge_perplexity():
    certain = Table([[1.0, 0.0], [1.0, 0.0]])  # that 0 comes next, and it never does
    scores = judge(certain, np.ones(4, dtype=int), 2, corpus(4, 1))
    assert scores["loss"] == math.inf
    assert scores["perplexity"] == scores["word_perplexity"] == math.exp(700)


@pytest.mark.parametrize(("n", "settings", "words"), [
    (5, {"stride": 0}, "stride 0"),
    (5, {"stride": 4}, "stride 4"),
    (1, {}, "nothing to judge"),
    (5, {"limit": 1}, "nothing to judge"),
])
def test_what_cannot_be_judged_is_refused(n, settings, words):
    with pytest.raises(ValueError, match=words):
        judge(Table(HALVES), np.zeros(n, dtype=int), 3, corpus(5), **settings)

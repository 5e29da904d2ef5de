"""What a finished run leaves: the one schema of result.json, and of the published files made of it.

A run writes `Result` without the optional parts. A published file is the run's result and, under
keys of their own, what was measured afterwards: the loss curve, the evaluation on both splits, the
questions' answers and the stories' claims. Keys that are not named here are ignored.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Amount = Annotated[float, Meta(ge=0)]  # finite: JSON has no other numbers
Share = Annotated[float, Meta(ge=0, le=1)]


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Fields are given by name; optional ones that are not set are not written."""


class Data(Record):
    """The corpus that a run was trained on."""

    name: str
    sha256: str
    train_bytes: Count
    val_bytes: Count


class TokenizerInfo(Record):
    """Which vocabulary; of one that is not lossless the bits per byte leave something out."""

    kind: str
    vocab_size: Count
    sha256: str
    lossless: bool


class Environment(Record):
    """What a result may depend on besides its settings."""

    python: str
    torch: str
    device: str  # cpu, or the GPU's name
    processor: str
    threads: Count
    dtype: str  # number format of the training steps, as it came to be
    commit: str | None
    script_sha256: str
    code_sha256: str | None = None  # of the code alone, without comments and imports


class Point(Record):
    """An evaluation during the training: a line of metrics.jsonl."""

    step: Count
    tokens: Count
    seconds: Amount
    train_loss: float | None  # nats per token since the evaluation before
    val_loss: float
    val_bits_per_byte: float
    val_perplexity: float
    val_word_perplexity: float | None
    val_accuracy: Share
    val_accuracy_top5: Share


class Window(Record):
    """Bits per byte with windows of `times` the training context."""

    times: Count
    context: Count
    side_by_side: float
    sliding: float  # by half a window


class Scores(Record):
    """How well a split was predicted; losses in nats per token."""

    loss: float
    bits_per_byte: float
    perplexity: float
    word_perplexity: float | None
    accuracy: Share
    accuracy_top5: Share


class SplitScores(Record):
    """One split, with windows side by side and with windows that slide by half their length."""

    tokens: Count
    side_by_side: Scores
    sliding: Scores


class Evaluation(Record):
    """What `python -m results evaluate` measures: evaluation.json."""

    version: str
    splits: dict[str, SplitScores]  # validation and test
    windows: list[Window] = []  # on the first tokens of the validation split


class Result(Record):
    """result.json. Losses are nats per token, of the whole validation split with the last weights;
    seconds are of training alone.
    """

    version: str
    idea: str
    seed: Count
    data: Data
    tokenizer: TokenizerInfo
    config: dict[str, bool | int | float | str | None]
    params: Count
    steps: Count
    tokens_seen: Count
    train_loss: float | None
    val_loss: float
    val_bits_per_byte: float
    val_perplexity: float
    val_word_perplexity: float | None
    val_accuracy: Share
    val_accuracy_top5: Share
    best_step: Count
    seconds: Amount
    tokens_per_second: Amount
    peak_rss_mb: Amount
    peak_gpu_mb: float | None
    environment: Environment
    sample: str
    memory_estimate_mb: dict[str, float] = {}
    references: dict[str, float] = {}  # what counting reaches, in bits per byte
    extrapolation: list[Window] = []
    # What a published file holds besides.
    curve: Annotated[list[Point], Meta(min_length=1)] | None = None
    evaluation: Evaluation | None = None
    heldout: Scores | None = None  # the test split, of results published before `evaluation`
    probes: dict | None = None  # as the commands of these names write and read them
    claims: dict | None = None

    def test_scores(self):
        """The test split with windows side by side, or None where it was not measured."""
        split = self.evaluation and self.evaluation.splits.get("test")
        return split.side_by_side if split else self.heldout

    def windows(self):
        """Bits per byte at several lengths of window, a list of Window, empty where not measured.

        `evaluate` measures with the best weights, the run itself with the last.
        """
        return (self.evaluation and self.evaluation.windows) or self.extrapolation

    def sliding_bits(self):
        """Bits per byte of the whole validation split with sliding windows, or None."""
        split = self.evaluation and self.evaluation.splits.get("validation")
        if split:
            return split.sliding.bits_per_byte
        first = next((row for row in self.extrapolation if row.times == 1), None)
        whole = first and abs(first.side_by_side - self.val_bits_per_byte) < 1e-9
        return first.sliding if whole else None  # else it was measured on a part of the split

"""What a finished run leaves: the schema of result.json and of metrics.jsonl's lines. Keys that are
not named here are ignored.
"""

from typing import Annotated

from common.config import Settings

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


class Trained(Record):
    """Losses in nats per token, and what else an evaluation measures."""

    seconds: Amount  # of training alone
    train_loss: float | None
    val_loss: float
    val_bits_per_byte: float
    val_perplexity: float
    val_word_perplexity: float | None
    val_accuracy: Share
    val_accuracy_top5: Share


class Point(Trained):
    """An evaluation during the training: a line of metrics.jsonl, which names its run; its training
    loss is the mean since the evaluation before."""

    step: Count
    tokens: Count
    version: str | None = None  # of the run
    seed: Count | None = None


class Window(Record):
    """Bits per byte with windows of `times` the training context."""

    times: Count
    context: Count
    side_by_side: float
    sliding: float  # by half a window


class Result(Trained):
    """result.json: the last evaluation, of the whole validation split with the last weights."""

    version: str
    idea: str
    seed: Count
    data: Data
    tokenizer: TokenizerInfo
    config: Settings
    params: Count
    steps: Count
    tokens_seen: Count
    best_step: Count
    tokens_per_second: Amount
    peak_rss_mb: Amount
    peak_gpu_mb: float | None
    environment: Environment
    sample: str
    memory_estimate_mb: dict[str, float] = {}
    references: dict[str, float] = {}  # what counting reaches, in bits per byte
    extrapolation: list[Window] = []

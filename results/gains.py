"""Which predictions a version makes better: by how often the pair before each token was seen.

python -m results plot gains runs/v5-wikitext-2 runs/v6-wikitext-2
"""

from common.data import token_file
from common.errors import UserError
from common.files import read_json, write_json
from common.training.result import Record
from results.commands import RunName
from results.drawing import colour, draw, horizontal_grid, new_figure, picture_kind
from results.saved import load_run
from results.store import ROOT

import msgspec
import numpy as np
import torch
import torch.nn.functional as F

EDGES = [0, 1, 2, 4, 16, 64, 256, 1024]  # groups: never seen, once, 2 or 3 times, ...
LIMIT = 60_000  # tokens of the validation split at most
PUBLISHED = ROOT / "results" / "gains.json"


class Gains(Record):
    """What results/gains.json holds."""

    before: str  # the versions compared
    after: str
    data: str
    seen: list[str]  # the groups: how often the pair is in the training text
    predictions: list[int]  # how many tokens of the validation split follow such a pair
    gain: list[float]  # by how many nats the loss of these tokens is smaller, on average


def losses(run, tokens):
    """The loss of each token but the first in nats, by windows side by side: (N - 1,)."""
    T, found = run.config.context_length, []
    with torch.inference_mode():
        for start in range(0, len(tokens) - 1, T):
            row = torch.from_numpy(tokens[start : start + T + 1].astype(np.int64)).to(run.device)
            logits = run.model(row[None, :-1])[0]  # (T, V)
            found.append(F.cross_entropy(logits.float(), row[1:], reduction="none").cpu())
    return torch.cat(found).numpy()


def measure(before, after, data_dir=""):
    """The Gains from one finished run to another of the same text and vocabulary.

    Raises UserError where they have not the same.
    """
    if before.tokenizer.sha256 != after.tokenizer.sha256:
        raise UserError(f"{before.folder} and {after.folder} have different vocabularies")
    corpus = after.corpus(data_dir)
    read = {split: token_file(corpus, split, after.tokenizer) for split in ("train", "validation")}
    train, tokens = (np.asarray(each.memmap(), dtype=np.int64) for each in read.values())
    tokens, V = tokens[:LIMIT], after.tokenizer.vocab_size
    pairs, counts = np.unique(train[:-1] * V + train[1:], return_counts=True)
    # Token i + 1 is predicted from the pair (i - 1, i): so the first two are left out.
    wanted = tokens[:-2] * V + tokens[1:-1]
    places = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    seen = np.where(pairs[places] == wanted, counts[places], 0)
    gain = (losses(before, tokens) - losses(after, tokens))[1:]
    groups = np.searchsorted(EDGES, seen, side="right") - 1
    inside = [groups == group for group in range(len(EDGES))]
    lasts = [end - 1 for end in EDGES[1:]]
    ends = [f"–{n:,}" if n > low else "" for low, n in zip(EDGES[:-1], lasts, strict=True)]
    return Gains(
        before=before.version,
        after=after.version,
        data=after.config.data,
        seen=[f"{low:,}{end}" for low, end in zip(EDGES, [*ends, "+"], strict=True)],
        predictions=[int(each.sum()) for each in inside],
        gain=[float(gain[each].mean()) if each.any() else 0.0 for each in inside],
    )


def gains_figure(found):
    """A bar for each group: nats per token by which the loss is smaller, and how many tokens."""
    figure = new_figure(8.5, 4.4)
    axes = figure.subplots()
    bars = axes.bar(found["seen"], found["gain"], color=colour(found["after"]))
    share = [n / max(1, sum(found["predictions"])) for n in found["predictions"]]
    axes.bar_label(bars, [f"{each:.0%}" for each in share], padding=2, color="0.3")
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set(
        xlabel="how often the pair of tokens before is in the training text\n"
        "(above each bar: its share of the predictions)",
        ylabel=f"{found['before']}'s loss minus {found['after']}'s, nats per token",
    )
    axes.margins(y=0.12)
    horizontal_grid(axes)
    return figure


def published_gains():
    """What results/gains.json holds as a dictionary, None where there is no such file."""
    if not PUBLISHED.exists():
        return None
    return msgspec.to_builtins(read_json(PUBLISHED, "a file of gains", Gains))


def gains(
    before: RunName,
    after: RunName,
    out: str = "gains.png",
    slide: bool = False,
    data_dir: str = "",
    publish: bool = False,
):
    """How much better one run predicts than another after pairs that are rare or common.

    Args:
        before: the folder of a finished run
        after: that of another, of the same text and vocabulary
        out: the picture, .png or .svg
        slide: large type
        data_dir: where the corpus lies, if not where the runs found it; of an own text its path
        publish: write the numbers to results/gains.json, too
    """
    picture_kind(out)
    found = measure(load_run(before), load_run(after), data_dir)
    if publish:
        write_json(PUBLISHED, found)
    draw(out, slide, gains_figure, msgspec.to_builtins(found))

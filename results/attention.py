"""Attention weights: which earlier tokens each head reads, and which heads are induction heads.

The pictures of `python -m results plot attention` and `induction`.
"""

import contextlib
import math
from unittest.mock import patch

from common.errors import UserError
from results.commands import RunName
from results.drawing import draw, em, new_figure, picture_kind, token_labels, with_fonts
from results.saved import evaluating, load_run
from results.store import markdown

import torch
import torch.nn.functional as F

PROMPT = "Mira had an old copper key. Tom had a new silver bell. Mira lost the old"


def prompt_ids(run, prompt):
    """The prompt's ids (1, T). Raises UserError where it is empty or longer than the context."""
    ids = list(run.tokenizer.encode(prompt))
    most = run.config.context_length
    if not 1 <= len(ids) <= most:
        raise UserError(f"--prompt has {len(ids)} tokens; {run.label} reads 1 to {most}")
    return torch.tensor([ids], device=run.device)


@contextlib.contextmanager
def recorded_attention(model):
    """While it lasts, the weights of every `attend` in the model are kept: a list of (B, H, T, T).

    `attend(q, k, v, mask)` returns weights @ v, whatever makes the weights. With the identity
    matrix in the place of v, it returns the weights themselves.
    """
    recorded = []

    def recording(attend):
        def attend_and_record(q, k, v, mask):
            identity = torch.eye(k.shape[-2], dtype=v.dtype, device=v.device)
            recorded.append(attend(q, k, identity.expand(*k.shape[:-1], -1), mask))
            return attend(q, k, v, mask)

        return attend_and_record

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if hasattr(module, "attend"):
                stack.enter_context(patch.object(module, "attend", recording(module.attend)))
        yield recorded


def attention_weights(run, idx):
    """The weights (B, H, T, T) of each layer for idx (B, T); rows sum to 1.

    Raises UserError where the version has no attention.
    """
    with evaluating(run.model), recorded_attention(run.model) as recorded:
        run.model(idx)
    if not recorded:
        raise UserError(f"{run.version} has no attention: take a run of v2 or later")
    return [weights.float().cpu() for weights in recorded]


# ---- Maps ----------------------------------------------------------------------------------------


def attention_figure(weights, tokens, title, layer=0, head=0, columns=4):
    """A map for each head: rows are the queries, columns the keys, white is 0 and black is 1.

    weights: (H, T, T) of each layer. layer, head: which alone, from 1; 0 is all. columns: so many
    maps stand side by side, at most. The figure is as large as its labels need.
    """
    tokens = with_fonts(tokens)
    layers = [layer - 1] if layer else range(len(weights))
    heads = [head - 1] if head else range(len(weights[0]))
    maps = [(i, j) for i in layers for j in heads]
    columns = min(columns, len(heads))
    rows = math.ceil(len(maps) / columns)
    T, cell, longest = len(tokens), 1.25 * em(), max(map(len, tokens))
    margin = 0.65 * longest * em() + 3 * em()
    width = max(T * cell, 9 * em()) + 0.6 * em()
    figure = new_figure(columns * width + margin + 6 * em(), rows * (width + 2 * em()) + margin)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(maps) :]:
        axes.set_visible(False)
    for (i, j), axes in zip(maps, grid.flat, strict=False):
        picture = axes.imshow(weights[i][j].numpy(), cmap="Greys", vmin=0, vmax=1)
        axes.set_title(f"layer {i + 1}, head {j + 1}", fontsize="medium")
        axes.set_xticks(range(T), tokens, rotation=90)
        axes.set_yticks(range(T), tokens)
        axes.set_xticks([n + 0.5 for n in range(T - 1)], minor=True)
        axes.set_yticks([n + 0.5 for n in range(T - 1)], minor=True)
        axes.grid(which="minor", color="0.9", linewidth=0.4)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set(visible=True, color="0.6")
    figure.suptitle(title)
    figure.supylabel("query: the token that reads", fontsize="medium")
    figure.supxlabel("key: the token that is read", fontsize="medium")
    bar = figure.colorbar(picture, ax=grid, shrink=min(1, 2.5 / rows / 2), aspect=25, pad=0.01)
    bar.set_label("attention weight", fontsize="small")
    return figure


def attention(
    run: RunName,
    prompt: str = PROMPT,
    layer: int = 0,
    head: int = 0,
    out: str = "attention.png",
    slide: bool = False,
    device: str = "auto",
):
    """The attention weights of each head of a run for a prompt.

    Args:
        run: a run's folder, or a version, as v4: its published run
        prompt: the text that is read
        layer: this layer alone, from 1; 0 is all
        head: this head alone, from 1; 0 is all
        out: the picture, .png or .svg
        slide: large type; of all layers the last alone
        device: auto, cpu, cuda or mps
    """
    picture_kind(out)
    run = load_run(run, device)
    draw(out, slide, attention_of, run, prompt, layer, head, slide)


def attention_of(run, prompt, layer=0, head=0, slide=False):
    """`attention_figure` of a SavedRun that reads a prompt. Raises UserError."""
    idx = prompt_ids(run, prompt)
    weights = [each[0] for each in attention_weights(run, idx)]
    L, H = len(weights), len(weights[0])
    if not (0 <= layer <= L and 0 <= head <= H):
        raise UserError(f"{run.label} has {L} layers of {H} heads: --layer and --head count from 1")
    tokens = token_labels(run.tokenizer, idx[0])
    title, maps = f"{run.label}: attention", (layer or L * slide, head, 2 if slide else 4)
    return attention_figure(weights, tokens, title, *maps)


# ---- Induction -----------------------------------------------------------------------------------


def induction_scores(weights, n):
    """How much each head reads the token after the earlier occurrence of the present one.

    weights: (B, H, 2 n, 2 n) of each layer, for sequences of n random tokens that stand there
    twice. The score is the mean weight from each token of the second copy to the token after its
    first occurrence (Olsson et al. 2022): (L, H), between 0 and 1.
    """
    diagonals = [each.diagonal(1 - n, dim1=-2, dim2=-1)[..., 1:] for each in weights]
    return torch.stack([each.mean((0, -1)) for each in diagonals])


def previous_scores(weights):
    """The mean weight of each head from a token to the one before: (L, H).

    Such heads are the first half of an induction head: they write each token's predecessor where
    the next layer can look it up.
    """
    return torch.stack([each.diagonal(-1, dim1=-2, dim2=-1).mean((0, -1)) for each in weights])


def repeated_tokens(vocab_size, n, batch):
    """Sequences of n random tokens that stand there twice: (batch, 2 n)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(vocab_size, (batch, n), generator=generator).repeat(1, 2)


def copy_losses(model, idx):
    """Mean loss in nats per token of the first copy and of the second; idx (B, 2 n).

    A model that copies has a lower one in the second.
    """
    n = idx.shape[-1] // 2
    with evaluating(model):
        logits = model(idx)[:, :-1].float()  # (B, 2 n - 1, V)
    losses = F.cross_entropy(logits.mT, idx[:, 1:], reduction="none")  # (B, 2 n - 1)
    return float(losses[:, : n - 1].mean()), float(losses[:, n:].mean())


def induction_figure(scores, title):
    """A heat map of layers and heads for each of {name: (L, H)}, with the numbers in it."""
    L, H = next(iter(scores.values())).shape
    width = len(scores) * (H * 4 + 6) * em() + 4 * em()
    figure = new_figure(width, (L * 3 + 7) * em())
    grid = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, (name, values) in zip(grid, scores.items(), strict=True):
        axes.imshow(values.numpy(), cmap="Greys", vmin=0, vmax=1, aspect="auto")
        for layer, head in torch.cartesian_prod(torch.arange(L), torch.arange(H)).tolist():
            value = float(values[layer, head])
            dark = "white" if value > 0.5 else "black"
            axes.text(head, layer, f"{value:.2f}", ha="center", va="center", color=dark)
        axes.set_xticks(range(H), [f"head {h + 1}" for h in range(H)], fontsize="small")
        axes.set_yticks(range(L), [f"layer {i + 1}" for i in range(L)], fontsize="small")
        axes.tick_params(length=0)
        axes.spines[:].set(visible=True, color="0.6")
        axes.set_title(name, fontsize="medium")
    figure.suptitle(title)
    return figure


def induction(
    run: RunName,
    length: int = 32,
    out: str = "induction.png",
    slide: bool = False,
    device: str = "auto",
):
    """Induction heads: an induction score for each head of a run, printed and drawn.

    The model reads 64 sequences of random tokens, each repeated once. An induction head in the
    second copy reads the token after the earlier occurrence of the present one: what came next
    then will come next now (Olsson et al. 2022). It needs a head in an earlier layer that reads
    the previous token; that score is shown too.

    Args:
        run: a run's folder, or a version, as v4: its published run
        length: tokens in a sequence before it is repeated
        out: the picture, .png or .svg
        slide: large type
        device: auto, cpu, cuda or mps
    """
    picture_kind(out)
    run = load_run(run, device)
    if not 2 <= length <= run.config.context_length // 2:
        raise UserError(f"--length {length}: between 2 and half the context of {run.label}")
    idx = repeated_tokens(run.tokenizer.vocab_size, length, 64).to(run.device)
    weights = attention_weights(run, idx)
    scores = {"induction": induction_scores(weights, length), "previous": previous_scores(weights)}
    heads = [f"head {h + 1}" for h in range(weights[0].shape[1])]
    rows = [
        [name, layer + 1, *(f"{value:.3f}" for value in row)]
        for name, each in scores.items()
        for layer, row in enumerate(each.tolist())
    ]
    print(markdown(["score", "layer", *heads], rows, aligned=True))
    uniform = sum(1 / (length + i + 1) for i in range(length)) / length
    print(f"a head that reads all tokens alike has an induction score of {uniform:.3f}")
    first, second = copy_losses(run.model, idx)
    print(f"loss: {first:.2f} nats per token in the first copy, {second:.2f} in the second")
    names = {"induction": "induction score", "previous": "previous-token score"}
    scores = {names[name]: each for name, each in scores.items()}
    draw(out, slide, induction_figure, scores, f"{run.label}: induction heads")

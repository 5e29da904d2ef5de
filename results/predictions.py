"""What a model expects after each token of a prompt: `python -m results plot predictions`."""

from common.errors import UserError
from results.attention import PROMPT, prompt_ids
from results.commands import RunName
from results.drawing import COLOURS, draw, em, picture_kind, token_labels, with_fonts
from results.saved import evaluating, load_run
from results.store import markdown

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath


def next_probabilities(model, idx):
    """The probabilities of the token after each token of idx (1, T): (T, V)."""
    with evaluating(model):
        return model(idx)[0].float().softmax(-1).cpu()


def predictions_table(probabilities, ids, tokenizer, k):
    """A row for each position: [token, [(guess, probability, true?), ...], truth].

    truth: (token, probability, rank from 1) of the one that follows; None after the last.
    """
    best = probabilities.topk(min(k, probabilities.shape[-1]), dim=-1)
    rows = []
    for i, token in enumerate(token_labels(tokenizer, ids)):
        follows = int(ids[i + 1]) if i + 1 < len(ids) else None
        words = token_labels(tokenizer, best.indices[i])
        numbers = zip(words, best.values[i].tolist(), best.indices[i].tolist(), strict=True)
        guesses = [(word, p, guess == follows) for word, p, guess in numbers]
        truth = None
        if follows is not None:
            p = float(probabilities[i, follows])
            rank = 1 + int((probabilities[i] > probabilities[i, follows]).sum())
            truth = (token_labels(tokenizer, [follows])[0], p, rank)
        rows.append([token, guesses, truth])
    return rows


def percent(p):
    return "<1 %" if p < 0.01 else f"{100 * p:.0f} %"


def text_width(text):
    """A text's width in inches in the present font, bold."""
    return 1.15 * TextPath((0, 0), f"{text}.", size=72 * em()).get_extents().x1 / 72


def predictions_figure(rows, title):
    """The table as a picture: the darker a guess, the more likely; the true next token is framed.

    Columns are as wide as their widest label.
    """
    k, n = len(rows[0][1]), len(rows)
    columns = [[row[0] for row in rows], [row[2][0] if row[2] else "" for row in rows]]
    columns += [[row[1][j][0] for row in rows] for j in range(k)]
    flat = with_fonts([text for column in columns for text in column])
    texts, truths, *words = [flat[i * n : (i + 1) * n] for i in range(k + 2)]
    pad, line, number = 0.5 * em(), 1.7 * em(), text_width("<1 %")
    left = max(map(text_width, texts)) + 2 * pad
    widths = [max(map(text_width, column)) + number + 3 * pad for column in words]
    widths.append(max(map(text_width, truths)) + text_width("100 %, rank 1000") + 3 * pad)
    width, height = left + sum(widths) + pad, (n + 1.3) * line + 2.2 * em()
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-left, width - left), ylim=(n * line + pad, n * line + pad - height))
    axes.axis("off")
    starts = [sum(widths[:j]) for j in range(k + 1)]
    middle = {"va": "center_baseline"}
    for j, start in enumerate(starts):
        head = f"guess {j + 1}" if j < k else "true next token"
        axes.text(start + pad, -0.5 * line, head, color="0.35", **middle)
    axes.text(-pad, -0.5 * line, "after", ha="right", color="0.35", **middle)
    axes.text(-left + pad, -1.5 * line, title, fontsize="large", **middle)
    for i, (_, guesses, truth) in enumerate(rows):
        y = (i + 0.5) * line
        axes.text(-pad, y, texts[i], ha="right", **middle)
        for j, (_, p, true) in enumerate(guesses):
            shade, dark = str(1 - p), "white" if p > 0.5 else "black"
            box = (starts[j], i * line), widths[j], line
            axes.add_patch(Rectangle(*box, facecolor=shade, edgecolor="0.9", linewidth=0.5))
            if true:
                inner = (starts[j] + 0.02, i * line + 0.02), widths[j] - 0.04, line - 0.04
                axes.add_patch(Rectangle(*inner, fill=False, linewidth=2, edgecolor=COLOURS[2]))
            bold = "bold" if true else "normal"
            axes.text(starts[j] + pad, y, words[j][i], color=dark, weight=bold, **middle)
            end = starts[j] + widths[j] - pad
            axes.text(end, y, percent(p), ha="right", color=dark, fontsize="small", **middle)
        if truth:
            axes.text(starts[k] + pad, y, truths[i], weight="bold", **middle)
            says = f"{percent(truth[1])}, rank {truth[2]}"
            axes.text(width - left - pad, y, says, ha="right", fontsize="small", **middle)
    return figure


def predictions(
    run: RunName,
    prompt: str = PROMPT,
    top: int = 5,
    out: str = "predictions.png",
    slide: bool = False,
    device: str = "auto",
):
    """The most likely next tokens at each position of a prompt; printed too.

    Args:
        run: a run's folder, or a version, as v4: its published run
        prompt: the text that is read
        top: how many guesses
        out: the picture, .png or .svg
        slide: large type
        device: auto, cpu, cuda or mps
    """
    picture_kind(out)
    if not 1 <= top <= 20:
        raise UserError(f"--top {top}: it has to be between 1 and 20")
    run = load_run(run, device)
    rows = predictions_of(run, prompt, top)
    lines = []
    for token, guesses, truth in rows:
        cells = [f"{'*' * true}{word}{'*' * true} {percent(p)}" for word, p, true in guesses]
        last = f"{truth[0]} {percent(truth[1])}, {truth[2]}" if truth else ""
        lines.append([token, *cells, last])
    heads = [f"guess {i + 1}" for i in range(len(rows[0][1]))]
    print(markdown(["after", *heads, "true, rank"], lines))
    draw(out, slide, predictions_figure, rows, f"{run.label}: what comes next?")


def predictions_of(run, prompt, top):
    """`predictions_table` of a SavedRun that reads a prompt. Raises UserError."""
    idx = prompt_ids(run, prompt)
    return predictions_table(next_probabilities(run.model, idx), idx[0], run.tokenizer, top)

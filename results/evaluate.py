"""How well finished runs predict the validation and the test split, with more or longer context."""

from pathlib import Path

from common.data import token_file
from common.errors import UserError
from common.evaluation import evaluate as scores_of
from common.evaluation.evaluate import LONG_WINDOWS
from common.files import write_json
from common.training.result import Window
from results.commands import RunNames
from results.intervals import lossy_mark
from results.saved import load_own_run
from results.store import Evaluation, Scores, SplitScores, markdown

SPLITS = ("validation", "test")


def evaluate(
    runs: RunNames,
    times: tuple[int, ...] = (1, 2, 4, 8),
    data_dir: str = "",
    device: str = "auto",
):
    """Evaluate finished runs on the validation and the test split; leave evaluation.json in them.

    Windows of the context length stand side by side, as in training, and slide by half their
    length, so that all tokens but those of the first half window have that much before them. The
    test split is the one that published figures are of: use the validation split to choose
    settings. The weights are those of the best evaluation during training.

    Args:
        runs: folders of finished runs
        times: also windows of so many times the training context; `--times 1` leaves that out
        data_dir: where the corpus lies, if not where the runs found it; of an own text its path
        device: auto, cpu, cuda or mps
    """
    if not runs:
        raise UserError("give the folder of a run: python -m results evaluate runs/v4")
    if any(not 1 <= each <= 1024 for each in times):
        raise UserError(f"--times {' '.join(map(str, times))}: each has to be from 1 to 1024")
    rows, windows = [], []
    for run in [load_own_run(folder, device) for folder in runs]:
        found, lossy = evaluation(run, times, data_dir), lossy_mark([run.result])
        write_json(Path(run.folder) / "evaluation.json", found)
        for split, one in found.splits.items():
            side, sliding = one.side_by_side, one.sliding
            words = side.word_perplexity
            rows.append(
                [
                    run.label,
                    split,
                    f"{one.tokens:,}",
                    f"{side.bits_per_byte:.3f}{lossy}",
                    f"{sliding.bits_per_byte:.3f}{lossy}",
                    f"{words:.1f}" if words else "–",
                    f"{side.accuracy:.1%}",
                ]
            )
        for each in found.windows:
            bits = [f"{value:.3f}{lossy}" for value in (each.side_by_side, each.sliding)]
            windows.append([run.label, each.times, each.context, *bits])
    bits = ["side by side", "sliding"]
    head = ["bits per byte of", "split", "tokens", *bits, "word perplexity", "accuracy"]
    print(markdown(head, rows, aligned=True))
    if windows:
        head = ["longer windows", "times", "context", *bits]
        print("\n" + markdown(head, windows, aligned=True))


def evaluation(run, times=(1,), data_dir=""):
    """The Evaluation of a SavedRun, with windows of `times` its context."""
    corpus = run.corpus(data_dir)
    T = run.config.context_length
    tokens = {split: token_file(corpus, split, run.tokenizer).memmap() for split in SPLITS}

    def scores(split, context, stride, limit=None):
        found = scores_of(run.model, tokens[split], context, corpus, split, stride, limit)
        return Scores(**found)

    splits = {
        split: SplitScores(
            tokens=len(tokens[split]),
            side_by_side=scores(split, T, T),
            sliding=scores(split, T, max(1, T // 2)),
        )
        for split in SPLITS
    }
    ends = hasattr(run.model, "position_embedding")  # learned positions end with the context
    lengths = [each for each in sorted({1, *times}) if each == 1 or not ends]
    windows = []
    for each in lengths if len(lengths) > 1 else []:
        context = each * T
        both = [
            scores("validation", context, stride, LONG_WINDOWS).bits_per_byte
            for stride in (context, max(1, context // 2))
        ]
        windows.append(Window(times=each, context=context, side_by_side=both[0], sliding=both[1]))
    return Evaluation(version=run.version, splits=splits, windows=windows)

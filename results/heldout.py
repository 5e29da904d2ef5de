"""The test split, which nothing was tuned on.

    python -m results.heldout runs/v4

Judges finished runs there as they were judged on the validation split, but with their best weights
where those are not the last ones, and leaves heldout.json in their folders. Published figures of
others are of the test split: beside those belongs this number. Whoever looks at it to choose
settings has no test split left.
"""

import json
from pathlib import Path

from common.cli import run_command, run_main
from common.data import load_corpus, token_file
from common.errors import UserError
from common.files import atomic_write
from common.evaluation.evaluate import judge
from results.tables import markdown
from results.saved import open_run


def held_out(runs: tuple[str, ...], data_dir: str = "", device: str = "auto"):
    """Judge finished runs on the test split; print the table and leave heldout.json.

    Args:
        runs: folders of finished runs
        data_dir: where the corpus lies, if not where the runs found it
        device: auto, cpu, cuda or mps
    """
    if not runs:
        raise UserError("give the folder of a run: python -m results.heldout runs/v4")
    rows = []
    for run in [open_run(folder, device) for folder in runs]:
        corpus = load_corpus(run.config.data, data_dir or run.config.data_dir or None)
        tokens = token_file(corpus, "test", run.tokenizer).memmap()
        scores = judge(run.model, tokens, run.config.context_length, corpus, split="test")
        content = {"split": "test", "tokens": len(tokens), **scores}
        with atomic_write(Path(run.folder) / "heldout.json", "w") as file:
            file.write(json.dumps(content, indent=2) + "\n")
        words = scores["word_perplexity"]
        bits, words = f"{scores['bits_per_byte']:.3f}", "" if words is None else f"{words:.1f}"
        rows.append([run.label, corpus.name, bits, words])
    head = ["run", "data", "test, bits per byte", "test, word perplexity"]
    print(markdown(head, rows, aligned=True))


if __name__ == "__main__":
    run_main(lambda: run_command(held_out, __doc__))

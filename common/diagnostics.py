"""How generated text reads, in numbers: a lower loss need not read better.

    python -m common.diagnostics runs/v0 runs/v2 runs/v4

Every model continues the same prompts, the beginnings of documents of the validation split; the
first row says what those documents themselves go on with, measured in the same way. Close to that
row is good: a text that repeats itself has fewer different words, noise has more.

distinct-1, distinct-2  different words and pairs of words, as shares of all (Li et al. 2016)
repeated trigrams       share of a text's triples of words that it has had before
known words             share of words that the training text has
punctuation             share of the marks , . ; : ? ! with no space before them and no word right
                        behind (WikiText writes a space before each: its own row says so)
"""

import dataclasses
import itertools
import json
import re
import time
from pathlib import Path

from common.cli import run_command, run_main
from common.data import load_corpus
from common.errors import UserError
from common.files import atomic_write
from common.results import markdown
from common.saved import evaluating, open_run

PROMPT_WORDS = 4  # the prompt: a document's first words
ENOUGH = 100_000_000  # characters of training text in which words are looked up, at most
TRIES = 10  # to write as many words as are counted
WORD = re.compile(r"\w+(?:['’]\w+)*")
MARK = re.compile(r"[,.;:?!]+")
COLUMNS = {
    "words": "words",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "repeated_trigrams": "repeated trigrams",
    "known_words": "known words",
    "punctuation": "punctuation",
    "tokens_per_second": "tokens/s",
}


def words_of(text):
    """The words of a text in lower case: letters and digits, apostrophes inside."""
    return [word.lower() for word in WORD.findall(text)]


def cut_after(text, n_words):
    """The text up to its n-th word, with the marks that follow it."""
    found = list(itertools.islice(WORD.finditer(text), n_words))
    if len(found) < n_words:
        return text
    return text[: found[-1].end()] + re.match(r"[^\w\s]*", text[found[-1].end() :])[0]


def measure(texts, vocabulary):
    """The measures of some continuations, each a string; None where there is nothing to count.

    Distinct words and pairs are counted over all texts together, trigrams in each by itself.
    vocabulary: the words, in lower case, that count as known.
    """
    lists = [words_of(text) for text in texts]
    words = [word for one in lists for word in one]
    pairs = [pair for one in lists for pair in itertools.pairwise(one)]
    trigrams = [list(zip(one, one[1:], one[2:])) for one in lists]
    n_trigrams = sum(map(len, trigrams))
    marks = [(text, mark) for text in texts for mark in MARK.finditer(text)]
    fits = sum(
        not text[: mark.start()][-1:].isspace() and not re.match(r"\w", text[mark.end() :])
        for text, mark in marks
    )
    return {
        "words": len(words),
        "distinct_1": _share(len(set(words)), len(words)),
        "distinct_2": _share(len(set(pairs)), len(pairs)),
        "repeated_trigrams": _share(n_trigrams - sum(len(set(t)) for t in trigrams), n_trigrams),
        "known_words": _share(sum(word in vocabulary for word in words), len(words)),
        "punctuation": _share(fits, len(marks)),
    }


def _share(part, whole):
    return part / whole if whole else None


def passages(corpus, n_prompts, n_words):
    """Prompts and how the validation split goes on: [(prompt, text)], the same at every call.

    The first documents (or stretches) that are long enough, cut after n_words words.
    """
    found = []
    for piece in corpus.pieces("validation"):
        for piece in [piece] if corpus.documents else piece.split("\n"):
            text = piece.strip()
            prompt = cut_after(text, PROMPT_WORDS)
            rest = cut_after(text[len(prompt) :], n_words)
            if len(words_of(rest)) == n_words:
                found.append((prompt, rest))
            if len(found) == n_prompts:
                return found
    raise UserError(
        f"the validation split of {corpus.name} has {len(found)} passages of"
        f" {PROMPT_WORDS + n_words} words, not {n_prompts}: give fewer --prompts or --words"
    )


def training_words(corpus):
    """The set of the training split's words (of its first 100 million characters)."""
    found, left = set(), ENOUGH
    for piece in corpus.pieces("train"):
        found.update(words_of(piece))
        left -= len(piece)
        if left <= 0:
            break
    return found


def continuations(run, found, n_words, seed, temperature):
    """What the run's own `generate` writes behind each prompt, and tokens a second.

    Cut after n_words words. Where a text ends before, by the model's own end-of-text or after a
    fifth more tokens than the longest passage needs, another try follows it, ten at most: shares
    of different words only compare between texts of one length.
    """
    lengths = [len(run.tokenizer.encode(text)) for _, text in found]
    settings = {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    settings["max_new_tokens"] = 1 + max(lengths) * 6 // 5
    texts, tokens, seconds = [], 0, 0.0
    with evaluating(run.model):
        for number, (prompt, _) in enumerate(found):
            start = len(run.tokenizer.decode(run.tokenizer.encode(prompt)))
            text, tries = "", 0
            while tries < TRIES and len(words_of(text)) < n_words:
                draw = seed + number + tries * len(found)
                config = dataclasses.replace(run.config, prompt=prompt, seed=draw, **settings)
                began = time.perf_counter()
                new = run.module.generate(run.model, config, run.tokenizer, run.device)[start:]
                seconds += time.perf_counter() - began
                tokens += len(run.tokenizer.encode(new))
                text += "\n" * bool(text) + new
                tries += 1
            texts.append(cut_after(text, n_words))
    return texts, tokens / seconds


def table_rows(rows):
    """Head and rows, as text, of the table of {label: measures}."""
    lines = []
    for label, row in rows.items():
        shares = [row[key] for key in list(COLUMNS)[1:-1]]
        cells = ["–" if share is None else f"{share:.3f}" for share in shares]
        speed = row.get("tokens_per_second")
        words = f"{row['words']:.0f}"
        lines.append([label, words, *cells, "" if speed is None else f"{speed:,.0f}"])
    return ["text", *COLUMNS.values()], lines


def diagnose(
    runs: tuple[str, ...],
    prompts: int = 8,
    words: int = 80,
    seed: int = 1,
    temperature: float = 0.8,
    data_dir: str = "",
    device: str = "auto",
):
    """Let finished runs go on with the same prompts; print the table, leave diagnostics.json.

    Args:
        runs: folders of finished runs, all of one corpus
        prompts: how many
        words: that count of each continuation, at most
        seed: of the sampling
        temperature: of the sampling; 0 is greedy
        data_dir: where the corpus lies, if not where the runs found it
        device: auto, cpu, cuda or mps
    """
    if not runs:
        raise UserError("give the folder of a run: python -m common.diagnostics runs/v2")
    if min(prompts, words) < 1:
        raise UserError("--prompts and --words have to be at least 1")
    opened = [open_run(folder, device) for folder in runs]
    names = {run.config.data for run in opened}
    if len(names) > 1:
        raise UserError(f"runs of different data don't compare: {', '.join(sorted(names))}")
    config = opened[0].config
    corpus = load_corpus(config.data, data_dir or config.data_dir or None)
    vocabulary = training_words(corpus)
    found = passages(corpus, prompts, words)
    rows = {"the text itself": measure([text for _, text in found], vocabulary)}
    about = {"prompts": prompts, "seed": seed, "temperature": temperature}
    for run in opened:
        texts, speed = continuations(run, found, words, seed, temperature)
        row = {**measure(texts, vocabulary), "tokens_per_second": round(speed, 1)}
        with atomic_write(run.folder / "diagnostics.json", "w") as file:
            content = {"version": run.version, **about, **row, "source": rows["the text itself"]}
            file.write(json.dumps(content, indent=2) + "\n")
        rows[run.label if run.label not in rows else str(Path(run.folder))] = row
    print(markdown(*table_rows(rows), aligned=True))


if __name__ == "__main__":
    run_main(lambda: run_command(diagnose, __doc__))

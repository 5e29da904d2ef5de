"""Probes: what a model knows of a story beyond simple rules, measured by questions."""

import hashlib
import json
import time
from pathlib import Path
from statistics import fmean, stdev

from common.errors import UserError
from common.files import read_json, write_json
from data import world
from results.commands import RunNames
from results.questions import KINDS, make_questions, rules
from results.saved import evaluating, load_own_run
from results.store import markdown

import msgspec
import torch
from scipy.stats import binomtest
from tqdm import tqdm

LOGIT_BYTES = 2**25  # of the logits held at once
RULES = {
    "named_last": "named last",
    "named_first": "named first",
    "named_most": "named most often",
}


class Kind(msgspec.Struct):
    """One kind of question; accuracies are shares of right answers, 0 to 1."""

    n: int
    n_hard: int  # questions for which all rules are wrong
    accuracy: float
    accuracy_hard: float
    rules: dict[str, float]  # a rule's accuracy on all questions: on the hard ones it is 0
    chance_hard: float  # mean of 1 / (number of alternatives) of the hard ones
    example: str


class Probes(msgspec.Struct):
    """The content of probes.json."""

    version: str
    seed: int  # of the questions
    questions_sha256: str
    seconds: float  # for the answers
    kinds: dict[str, Kind]


# ---- Answers -------------------------------------------------------------------------------------


def encode(question, tokenizer, context_length):
    """Each alternative's ids after the prefix's, and where they begin to differ: (rows, start).

    Prefix and alternative are encoded together. Where the text after the answer would change the
    alternative's last token, the answer's tail is included. Rows are cut to the context, all at the
    same place. Raises UserError where the context is too short for the alternatives.
    """
    texts = [question.prefix + each for each in question.alternatives]
    rows = [list(tokenizer.encode(text)) for text in texts]
    longer = [list(tokenizer.encode(text + question.tail)) for text in texts]
    if any(long[: len(row)] != row for row, long in zip(rows, longer, strict=True)):
        rows = longer
    start = 0
    while all(start < len(row) and row[start] == rows[0][start] for row in rows):
        start += 1
    cut = max(0, max(map(len, rows)) - 1 - context_length)  # the last token is only predicted
    if cut >= start:
        raise UserError(f"a context of {context_length} tokens is too short for these questions")
    return [row[cut:] for row in rows], start - cut


def log_probabilities(model, tokenizer, context_length, questions):
    """The log probability (nats) of each question's alternatives after its prefix: [[float]].

    model: ids (B, T) -> logits (B, T, V), where later ids change no earlier logits.
    """
    # Alternatives of one token have the same input, which the model reads once.
    inputs = {}  # input ids -> [(question, alternative, the last ids, which are predicted)]
    scores = []
    for number, question in enumerate(questions):
        rows, start = encode(question, tokenizer, context_length)
        scores.append([0.0] * len(rows))
        for which, row in enumerate(rows):
            inputs.setdefault(tuple(row[:-1]), []).append((number, which, row[start:]))
    order, at = sorted(inputs, key=len), 0
    bar = tqdm(total=len(order), desc="answers", leave=False, disable=None)
    with evaluating(model) as device, bar:
        while at < len(order):
            batch = [order[at]]
            for ids in order[at + 1 :]:
                if 4 * tokenizer.vocab_size * len(ids) * (len(batch) + 1) > LOGIT_BYTES:
                    break
                batch.append(ids)
            at += len(batch)
            bar.update(len(batch))
            longest = len(batch[-1])
            padded = [ids + (0,) * (longest - len(ids)) for ids in batch]  # (B, T)
            logits = model(torch.tensor(padded, device=device))  # (B, T, V)
            for ids, row in zip(batch, logits, strict=True):
                for number, which, last in inputs[ids]:
                    part = row[len(ids) - len(last) : len(ids)].float().log_softmax(-1)
                    each = part.gather(1, torch.tensor(last, device=device)[:, None])
                    scores[number][which] = each.cpu().double().sum().item()
    return scores


def answer(model, tokenizer, context_length, questions):
    """Whether the model gives the right alternative the highest probability: a list of bool.

    Of equally probable alternatives the first counts. Their order is random, so that a model which
    knows nothing is right as often as chance.
    """
    scores = log_probabilities(model, tokenizer, context_length, questions)
    return [
        each.index(max(each)) == question.right
        for each, question in zip(scores, questions, strict=True)
    ]


def summary(questions, answers):
    """The answers (a list of bool) counted: {kind: Kind}, without kinds of which none is hard."""
    kinds = {}
    for name in KINDS:
        group = [
            (question, right, *rules(question))
            for question, right in zip(questions, answers, strict=True)
            if question.kind == name
        ]
        hard = [(question, right) for question, right, _, is_hard in group if is_hard]
        if hard:
            kinds[name] = Kind(
                n=len(group),
                n_hard=len(hard),
                accuracy=fmean(right for _, right, _, _ in group),
                accuracy_hard=fmean(right for _, right in hard),
                rules={
                    rule: fmean(found[rule] == question.right for question, _, found, _ in group)
                    for rule in RULES
                },
                chance_hard=fmean(1 / len(question.alternatives) for question, _ in hard),
                example=excerpt(min((q for q, _ in hard), key=lambda q: len(q.prefix))),
            )
    return kinds


def excerpt(question):
    """A question's last words and its alternatives, the right one first, in one short line."""
    words = question.prefix.replace("\n", " ")[-60:].partition(" ")[2]
    right = question.alternatives[question.right].strip()
    others = [each.strip() for each in question.alternatives if each.strip() != right]
    return f"… {words} ___ ({right}; not {', '.join(others)})"


# ---- The table -----------------------------------------------------------------------------------


def table(found):
    """Head and rows of the table of {label: [the Probes of each seed]}.

    Of several seeds: the mean ± the standard deviation on the hard half. Of one: the share with its
    95 % interval (Wilson).
    """
    kinds = next(iter(found.values()))[0].kinds
    rows = []
    for name, kind in kinds.items():
        row = [name, kind.example, f"{kind.n_hard} / {kind.n}", f"{100 * kind.chance_hard:.0f}"]
        row += [f"0 / {100 * kind.rules[rule]:.0f}" for rule in RULES]
        row += [cell([one.kinds[name] for one in seeds]) for seeds in found.values()]
        rows.append(row)
    head = ["right answers, %: hard half / all", "example", "questions", "chance", *RULES.values()]
    return head + [f"{label} ({len(seeds)})" for label, seeds in found.items()], rows


def cell(seeds):
    """'61 ± 3 / 78' of several seeds' Kind, '61 [51, 70] / 78' of one."""
    hard = [100 * kind.accuracy_hard for kind in seeds]
    if len(seeds) > 1:
        around = f"± {stdev(hard):.0f}"
    else:
        right = binomtest(round(seeds[0].accuracy_hard * seeds[0].n_hard), seeds[0].n_hard)
        low, high = right.proportion_ci(method="wilson")
        around = f"[{100 * low:.0f}, {100 * high:.0f}]"
    return f"{fmean(hard):.0f} {around} / {100 * fmean(kind.accuracy for kind in seeds):.0f}"


# ---- The command ---------------------------------------------------------------------------------


def open_sample_runs(runs, device, seed=None):
    """[(folder, label, SavedRun)] of finished runs; a label that occurs twice becomes the path.

    Raises UserError for a run that was not trained on this world, which includes more of its
    stories: data/world.py describes them in a file next to them. With a `seed`, runs that were
    trained on the stories made from that seed are refused as well.
    """
    if not runs:
        raise UserError("give the folder of a run, or several: runs/v2 runs/v4")
    opened = {}
    for folder in map(Path, runs):
        run = load_own_run(folder, device)
        made = seed_of_stories(run.config.data)
        if made is None:
            raise UserError(
                f"{folder} was trained on {run.config.data}: give a run on --data sample, or on"
                " more stories of its world, as data/world.py writes them"
            )
        if made == seed:
            raise UserError(f"--seed {seed} makes the stories that {folder} was trained on")
        opened[run.label if run.label not in opened else str(folder)] = folder, run
    return [(folder, label, run) for label, (folder, run) in opened.items()]


def seed_of_stories(data):
    """The seed of the world's stories that --data names, None for other texts."""
    if data == "sample":
        return world.SEED
    try:
        about = read_json(Path(data).with_suffix(".json"), "what world.py noted of a text")
    except ValueError:  # UserError is one, and a name that can't have an ending is another
        return None
    return about.get("seed") if about.get("format") == world.FORMAT else None


def probe(runs: RunNames, each: int = 300, seed: int = 2024, device: str = "auto"):
    """Ask finished runs the same questions; print a table, write probes.json into their folders.

    The questions are about new stories (results/questions.py); a run answers with the alternative
    to which it gives the highest probability. Half of the questions are hard: the rules "take what
    is named last", "... first" and "... most often" are all wrong. The table has two numbers in per
    cent: right answers on the hard half, and on all. What a model knows beyond the rules shows on
    the hard half, compared with chance, which is one alternative taken at random; a model below
    chance there follows the rules. On all questions a rule can reach 50, since half of them are
    hard. In the stories as they come the rules do much better.

    Args:
        runs: folders of finished runs on the sample
        each: questions of each kind, half of them hard
        seed: of the stories; any but the sample's own
        device: auto, cpu, cuda or mps
    """
    opened = open_sample_runs(runs, device, seed)
    questions = make_questions(seed, each)
    content = json.dumps([vars(question) for question in questions]).encode("ascii")
    found = {}
    for folder, label, run in opened:
        began = time.perf_counter()
        answers = answer(run.model, run.tokenizer, run.config.context_length, questions)
        probes = Probes(
            version=run.version,
            seed=seed,
            questions_sha256=hashlib.sha256(content).hexdigest(),
            seconds=round(time.perf_counter() - began, 1),
            kinds=summary(questions, answers),
        )
        write_json(folder / "probes.json", probes)
        found[label] = [probes]
    head, rows = table(found)
    print(markdown(head[:1] + head[2:], [row[:1] + row[2:] for row in rows], aligned=True))
    for kind, example, *_ in rows:
        print(f"\n{kind}: {KINDS[kind]}\n    {example}")

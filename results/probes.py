"""Cloze questions with known answers: what can a model do, beside its loss?

    python -m results.probes runs/v0 runs/v2 runs/v4

The sample's generator tells new stories, and where the story so far decides a word, it knows the
word. A question is a story up to there, and alternatives that grammar allows as well; the model
answers with the one that it gives the highest probability. What a row asks for:

grammar: pronoun    he or she, his or her: the gender of a name that came before
grammar: article    a or an, before the word that decides
grammar: number     was or were, after the word that decides; half of each, as with a and an
recall N            the role, the name, the owner, the look or material that belongs to somebody or
                    something, last told N sentences ago
tracking one thing  who has it when the day ends, in a story of one thing: whoever had it all day,
                    got it from somebody, or has it back again
tracking a group    where they all are when the day ends, among the places where they have been
tracking a thing    what he has when the day ends, among things that others have or that lie in a
                    box: one that was his all day, that has moved to him, or that he has back again
tracking a person   where she is when the day ends, among the places of the story
copying             a thing's full description, against ones with words that the story doesn't have

The alternatives of recall and tracking all stand in the same story, so that knowing its words is
not enough, and what is tracked is asked where the story's ending says it for the first time.
Guessing is right as often as the column `chance` says; a model that takes what was told last,
whoever it was about, is right less often than that where the answer lies far back.
"""

import hashlib
import itertools
import json
import math
import random
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from common.cli import run_command, run_main
from common.errors import UserError
from common.files import atomic_write
from results.tables import ROOT, markdown
from results.saved import evaluating, load_script, open_run, read_settings

world = load_script(ROOT / "data" / "world.py")

DISTANCES = {1: "1", 2: "2", 4: "3-4", 8: "5-8", 16: "9-16"}  # sentences, the most of each row
MOVES = {
    "one thing": ["no move", "moved", "back again"], "a group": ["moved"],
    "a thing": ["no move", "moved", "back again"], "a person": ["no move", "moved"],
}  # fmt: skip
KINDS = [
    *(f"grammar: {what}" for what in ("pronoun", "article", "number")),
    *(f"recall {n}" for n in DISTANCES.values()),
    *(f"tracking {what}, {n}" for what, moves in MOVES.items() for n in moves),
    "copying",
]
WORDS = 200  # of a question at most: within 256 tokens, if words are mostly one token
LOGIT_BYTES = 2**25  # logits held at once


@dataclass
class Question:
    kind: str
    prefix: str  # the story up to the answer
    alternatives: list[str]  # each could follow the prefix; none begins with another
    right: int  # which of them does
    tail: str  # what follows the answer up to white space: it may share a token with the answer


# ---- Questions -----------------------------------------------------------------------------------


class Asker(world.Teller):
    """A teller that notes what it can ask for; its stories end where everybody is in the end."""

    kinds = (1, 2)  # both are asked about, and several things give more to ask

    def __init__(self, choose):
        super().__init__(choose)
        self.first = {}  # person or thing that has moved -> where it was before
        self.found = []  # (kind, offset, answer, alternatives)
        self.ending = False

    def move(self, who, place):
        if who.place not in ("", place):
            self.first.setdefault(who, who.place)
        super().move(who, place)

    def give(self, thing, keeper):
        if keeper is not thing.keeper:
            self.first.setdefault(thing, thing.keeper)
        super().give(thing, keeper)

    def recall(self, kind, answer, alternatives, *facts):
        fact, about = facts[-1]
        super().recall(kind, answer, alternatives, *facts)
        recall = self.recalls[-1]
        row = None
        if kind == "pronoun":
            row = "grammar: pronoun"
        elif self.ending:
            if kind == "place":
                what = "a group" if self.single else "a person"
                row = tracked(what, about, about.place, self.first)
            elif kind == "holder" and self.single:
                row = tracked("one thing", about, about.keeper, self.first)
        elif fact != "place" and kind in ("attribute", "role", "owner", "name"):
            far = next((n for n in DISTANCES if recall.distance <= n), None)
            row = f"recall {DISTANCES[far]}" if recall.distance and far else None
        if row and len(alternatives) > 1:
            self.found.append((row, recall.offset, answer, list(alternatives)))

    def thing(self, thing, form):
        start = self.length + len("the ") * (form == "sure")
        called_it = self.is_it(form)
        super().thing(thing, form)
        if called_it:
            return
        if form in ("sure", "own"):  # decided by the story so far, all three words of it
            self.found.append(("copying", start, *self.described_wrongly(thing)))
        if form == "sure" and self.ending:  # what he has there is told by its look
            others = [each.look for each in self.things if who_has(each) is not who_has(thing)]
            looks = dict.fromkeys([thing.look, *others])
            row = tracked("a thing", thing, thing.keeper, self.first)
            self.found.append((row, start, thing.look, list(looks)))

    def described_wrongly(self, thing):
        """A thing's description, and it among seven with words that the story doesn't have.

        Each of the three words is the thing's own or a new one, in all eight ways: then whoever
        guesses the three one by one is right an eighth of the time, whatever words are common.
        """
        used = {word for each in self.things + self.boxes
                for word in (each.look, each.adjective, each.noun)}  # fmt: skip
        kinds = {**world.HARD, **world.SOFT}  # noun -> its adjectives
        looks = [look for look in world.LOOKS if look not in used]
        pairs = [
            (adjective, noun)
            for noun in world.OBJECTS[thing.adjective]
            for adjective in kinds[noun].split()
            if not {adjective, noun} & used and adjective in kinds[thing.noun].split()
        ]
        right, answers = (thing.look, thing.adjective, thing.noun), []
        if pairs:
            new = (self.draw.choice(looks), *self.draw.choice(pairs))
            answers = [" ".join(words) for words in itertools.product(*zip(right, new))]
        return " ".join(right), answers

    def closing(self):
        self.body, self.ending = self.length, True
        super().closing()

    def questions(self):
        """None: they ask for what the ending has told."""


def tracked(what, about, now, first):
    """The row of a person or thing that is `now` there, and was first[about] before it moved."""
    if about not in first:
        return f"tracking {what}, no move"
    return f"tracking {what}, {'back again' if first[about] == now else 'moved'}"


def who_has(thing):
    """The person, or None for what lies in a box: endings tell of such things in a row."""
    return thing.keeper if isinstance(thing.keeper, world.Person) else None


def agreements(text):
    """(kind, offset, answer, alternatives) of the articles in a text and of its was and were."""
    for match in re.finditer(r"(?<= )(an?) ([a-z]+)", text):
        article, word = match.groups()
        other = "an" if article == "a" else "a"
        yield "grammar: article", match.start(), match[0], [match[0], f"{other} {word}"]
    for match in re.finditer(r"(?<=[a-z] )(was|were)\b", text):
        yield "grammar: number", match.start(), match[0], ["was", "were"]


def make_questions(seed, each=200):
    """`each` questions of every kind, at most one of a kind from one story: a list of Question.

    The same seed asks the same. Raises UserError for the seed that the sample is made from.
    """
    if seed == world.SEED:
        raise UserError(f"--seed {seed} tells the stories that the models were trained on")
    told = (ROOT / "data" / "input.txt").read_text(encoding="utf-8").split("\n\n")
    told = {story.partition("\n")[0] for story in told}  # how the corpus' stories begin
    rng = random.Random(seed)
    draw = random.Random(f"{seed} questions")
    # was is far commoner than were, and a than an: half of each, or one word is always right
    left = Counter({kind: each for kind in KINDS})
    for answer in ("a", "an", "was", "were"):
        left[answer] = each // 2 + each % 2 * (answer in ("a", "was"))
    questions = []
    while any(left[kind] for kind in KINDS):
        teller = Asker(world.dice(rng))
        teller.draw = draw
        story = teller.story()
        if story.text.partition("\n")[0] in told:
            continue
        found = [*teller.found, *agreements(story.text[: teller.body])]
        draw.shuffle(found)
        taken = set()
        for kind, offset, answer, alternatives in found:
            word = answer.split()[0] if kind in ("grammar: article", "grammar: number") else kind
            if kind in taken or not left[kind] or not left[word] or len(alternatives) < 2:
                continue
            if len(story.text[:offset].split()) > WORDS:
                continue
            taken.add(kind)
            left.subtract({kind, word})
            questions.append(ask(kind, story.text, offset, answer, alternatives, draw))
    return questions


def ask(kind, text, offset, answer, alternatives, draw):
    """A Question about text[offset:], where the answer stands; alternatives come in any order."""
    start = offset - text[:offset].endswith(" ")  # the space belongs to the word's token
    space = text[start:offset]
    alternatives = [space + each for each in draw.sample(alternatives, len(alternatives))]
    right = alternatives.index(space + answer)
    tail = re.match(r"\S*", text[offset + len(answer) :])[0]
    return Question(kind, text[:start], alternatives, right, tail)


# ---- Answers -------------------------------------------------------------------------------------


def encode(question, tokenizer, context_length):
    """Each alternative's ids behind the prefix's, and where they begin to differ: (rows, start).

    Prefix and alternative are encoded together. Where the last token of an alternative would be
    another one in the whole text, the tail is taken along. Cut to the context: all at one place.
    """
    texts = [question.prefix + each for each in question.alternatives]
    rows = [list(tokenizer.encode(text)) for text in texts]
    longer = [list(tokenizer.encode(text + question.tail)) for text in texts]
    if any(long[: len(row)] != row for row, long in zip(rows, longer)):
        rows = longer
    start = 0
    while all(start < len(row) and row[start] == rows[0][start] for row in rows):
        start += 1
    cut = max(0, max(map(len, rows)) - 1 - context_length)  # the last token is only predicted
    if cut >= start:
        raise UserError(f"a context of {context_length} tokens is too short for these questions")
    return [row[cut:] for row in rows], start - cut


def log_probabilities(model, tokenizer, context_length, questions):
    """The log probability (nats) of each question's alternatives behind its prefix: [[float]].

    model: idx (B, T) -> logits (B, T, V), where later ids change nothing before them.
    """
    asked = [encode(question, tokenizer, context_length) for question in questions]
    # Alternatives of one token share all that the model reads: it reads it once.
    wanted = {}  # ids read -> [(question, alternative, the last ids, which are predicted)]
    for number, (rows, start) in enumerate(asked):
        for which, row in enumerate(rows):
            wanted.setdefault(tuple(row[:-1]), []).append((number, which, row[start:]))
    scores = [[0.0] * len(rows) for rows, _ in asked]
    order, at, vocab_size = sorted(wanted, key=len), 0, tokenizer.vocab_size
    with evaluating(model) as device:
        while at < len(order):
            group = [order[at]]
            while at + len(group) < len(order):
                ids = order[at + len(group)]
                if 4 * vocab_size * len(ids) * (len(group) + 1) > LOGIT_BYTES:
                    break
                group.append(ids)
            at += len(group)
            longest = len(group[-1])  # what stands behind a text cannot change what comes before
            padded = [ids + (0,) * (longest - len(ids)) for ids in group]
            logits = model(torch.tensor(padded, device=device))  # (B, T, V)
            for ids, row in zip(group, logits):
                for number, which, last in wanted[ids]:
                    part = row[len(ids) - len(last) : len(ids)].float().log_softmax(-1)
                    chosen = part.gather(1, torch.tensor(last, device=device)[:, None])
                    scores[number][which] = chosen.cpu().double().sum().item()
    return scores


def answer(model, tokenizer, context_length, questions):
    """Whether the model gives the right alternative the highest probability: a list of bool.

    Alternatives come in random order, so that a model for which they are all equally likely, whose
    first counts, is right as often as chance is.
    """
    scores = log_probabilities(model, tokenizer, context_length, questions)
    return [each.index(max(each)) == question.right for each, question in zip(scores, questions)]


def wilson(right, n, z=1.959964):
    """The 95 % interval of a share of `right` out of n (Wilson 1927)."""
    middle = (right + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(right * (n - right) / n + z * z / 4)
    return middle - half, middle + half


def summary(questions, answers):
    """kind -> how many were asked and right, the share with its interval, and what chance gets."""
    rows = {}
    for kind in KINDS:
        mine = [(q, a) for q, a in zip(questions, answers) if q.kind == kind]
        if mine:
            n, right = len(mine), sum(a for _, a in mine)
            low, high = wilson(right, n)
            chance = sum(1 / len(q.alternatives) for q, _ in mine) / n
            rows[kind] = {"n": n, "right": right, "accuracy": right / n, "low": low, "high": high,
                          "chance": chance}  # fmt: skip
    return rows


# ---- Command line --------------------------------------------------------------------------------


def table(results):
    """Markdown: a row a kind, a column a run. results: {label: summary}."""
    rows = []
    for kind, row in next(iter(results.values())).items():
        cells = [
            f"{100 * r[kind]['accuracy']:.0f} % [{100 * r[kind]['low']:.0f},"
            f" {100 * r[kind]['high']:.0f}]"
            for r in results.values()
        ]
        rows.append([kind, row["n"], f"{100 * row['chance']:.0f} %", *cells])
    return markdown(["", "questions", "chance", *results], rows, aligned=True)


def refuse_other_worlds(folder, seed):
    """Raise UserError where a run was not trained on stories of this world, or on the questions'.

    More stories of the world are known by the file that world.py writes beside them.
    """
    data = read_settings(folder)[1].get("data")
    if data == "sample":
        return
    try:
        about = json.loads(Path(data).with_suffix(".json").read_text(encoding="utf-8"))
        made = about["seed"] if about["format"] == world.FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        made = None
    if made is None:
        raise UserError(
            f"{folder} was trained on {data}: this is about --data sample, or about"
            " more of it, as data/world.py writes it"
        )
    if made == seed:
        raise UserError(f"--seed {seed} tells the stories that {folder} was trained on")


def probe(runs: tuple[str, ...], each: int = 200, seed: int = 2024, device: str = "auto"):
    """Ask finished runs the same questions; print the table and leave probes.json in their folders.

    Args:
        runs: folders of finished runs on the sample
        each: questions of each kind
        seed: of the stories; any but the sample's own
        device: auto, cpu, cuda or mps
    """
    if not runs:
        raise UserError("give the folder of a run, or several: python -m results.probes runs/v2")
    if each < 1:
        raise UserError(f"--each {each}: it has to be at least 1")
    for folder in runs:
        refuse_other_worlds(folder, seed)
    opened = [open_run(folder, device) for folder in runs]
    questions = make_questions(seed, each)
    asked = hashlib.sha256(json.dumps([vars(q) for q in questions]).encode()).hexdigest()
    results = {}
    for run in opened:
        began = time.perf_counter()
        length = run.config.context_length
        kinds = summary(questions, answer(run.model, run.tokenizer, length, questions))
        about = {"version": run.version, "seed": seed, "questions_sha256": asked,
                 "seconds": round(time.perf_counter() - began, 1)}  # fmt: skip
        with atomic_write(run.folder / "probes.json", "w") as file:
            file.write(json.dumps({**about, "kinds": kinds}, indent=2) + "\n")
        label = run.label if run.label not in results else str(Path(run.folder))
        results[label] = kinds
    print(table(results))
    print("\nRight answers with their 95 % interval (Wilson).")


if __name__ == "__main__":
    run_main(lambda: run_command(probe, __doc__))

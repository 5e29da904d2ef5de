"""Questions with known answers about new stories of the sample's world, hard for simple rules.

Where the story so far decides a word, the program that writes the stories knows it. A question is
a story up to that word, and alternatives that grammar allows as well. Every alternative has a name
in the story: the word itself, a thing's full description, or, for he and she, anybody's name of
that gender. Three rules need no understanding: take the alternative that is named last, first or
most often. A question is hard where all three are wrong. Half the questions of every kind are hard.

Two kinds were left out because they can't be hard. Copying a description: the right one is the only
one that the story has. Where a group is that stays together: it is where the story went last.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from data import world

from tqdm import tqdm

AGREEMENT, PRONOUN = "a or an, was or were", "he or she"
NEAR, FAR = "recall, 1-4 sentences", "recall, 5-16 sentences"
HOLDER, HELD, PLACE = "who has the one thing", "what somebody has", "where somebody is"
KINDS = {  # what each one asks for
    AGREEMENT: "the form that agrees with its neighbour, each of the four words equally often",
    PRONOUN: "the gender of the person who is meant",
    NEAR: "a role, an owner, a look, a material or a noun, given 1 to 4 sentences ago",
    FAR: "the same, given 5 to 16 sentences ago",
    HOLDER: "who has the thing in the end, in a story of one thing",
    HELD: "which thing somebody has in the end, in a story of several",
    PLACE: "where somebody is in the end, in a story of several things",
}
AGREE = ("a", "an", "was", "were")
MOST_WORDS = 200  # of a story up to the question: within 256 tokens where words are mostly one


@dataclass
class Question:
    kind: str
    prefix: str  # the story up to the answer
    alternatives: list[str]  # each could follow the prefix; none begins with another
    marks: list[str]  # for each alternative, a regular expression for its names in the story
    right: int  # index of the right alternative
    tail: str  # what follows the answer up to white space: it may share a token with the answer


def rules(question):
    """What each simple rule answers, an index, and whether all of them are wrong: (dict, bool).

    Of alternatives named equally often the rule takes the one named last, but a question where the
    right one is among them is not hard.
    """
    named = [
        [match.start() for match in re.finditer(rf"\b(?:{mark})\b", question.prefix, re.I)]
        for mark in question.marks
    ]
    last = [max(places, default=-1) for places in named]
    first = [min(places, default=len(question.prefix)) for places in named]
    most = [(len(places), end) for places, end in zip(named, last, strict=True)]
    found = {
        "named_last": last.index(max(last)),
        "named_first": first.index(min(first)),
        "named_most": most.index(max(most)),
    }
    tied = most[question.right][0] == max(most)[0]
    return found, question.right not in found.values() and not tied


class Recorder(world.Teller):
    """A teller that records what can be asked about its story, which ends in where everybody is."""

    kinds = (1, 2)  # stories of one thing and of several: both are asked about

    def __init__(self, choose):
        super().__init__(choose)
        self.found = []  # (kind, offset, answer, {alternative: mark})
        self.ending = False

    def recall(self, kind, answer, alternatives, *facts):
        super().recall(kind, answer, alternatives, *facts)
        recall, fact, row = self.recalls[-1], facts[-1][0], None
        marks = self.descriptions()
        if kind == "pronoun":
            row = PRONOUN
            marks = dict(zip(alternatives, map("|".join, (world.MEN, world.WOMEN)), strict=True))
        elif self.ending:
            if kind == "holder" and self.single:
                row = HOLDER
            elif kind == "place" and not self.single:
                row, marks = PLACE, {place: f"the {place}" for place in alternatives}
        elif fact != "place" and kind in ("attribute", "role", "owner", "name"):
            row = NEAR if 1 <= recall.distance <= 4 else FAR if 5 <= recall.distance <= 16 else None
        if row:
            marks = {each: marks.get(each, each) for each in alternatives}
            self.found.append((row, recall.offset, answer, marks))

    def thing(self, thing, form):
        start = self.length + len("the ")
        super().thing(thing, form)
        if form == "sure" and self.ending:
            marks = self.descriptions()
            others = [each.look for each in self.things if who_has(each) is not who_has(thing)]
            marks = {look: marks[look] for look in (thing.look, *others)}
            self.found.append((HELD, start, thing.look, marks))

    def descriptions(self):
        """word -> the full description of the thing or box that it describes."""
        each = [(one.look, one.adjective, one.noun) for one in self.things + self.boxes]
        return {word: " ".join(words) for words in each for word in words}

    def closing(self):
        self.found += agreements("".join(self.pieces))
        self.ending = True
        super().closing()

    def questions(self):
        """None: the sample's own questions ask for what the ending has said."""


def who_has(thing):
    """The person, or None for a thing in a box."""
    return thing.keeper if isinstance(thing.keeper, world.Person) else None


def agreements(text):
    """What can be asked about a text's articles and its was and were, as in Recorder.found."""
    for match in re.finditer(r"(?<= )(an?) ([a-z]+)", text):
        marks = {f"{article} {match[2]}": article for article in ("a", "an")}
        yield AGREEMENT, match.start(), match[0], marks
    for match in re.finditer(r"(?<=[a-z] )(was|were)\b", text):
        yield AGREEMENT, match.start(), match[0], {"was": "was", "were": "were"}


def make_questions(seed, each=300):
    """`each` questions of every kind, half of them hard, at most one of a kind from one story.

    Deterministic in the seed. Raises UserError for the seed that the sample is made from.
    """
    if seed == world.SEED:
        raise UserError(f"--seed {seed} makes the stories that the models were trained on")
    corpus = Path(world.__file__).with_name("input.txt").read_text(encoding="utf-8")
    openings = {story.partition("\n")[0] for story in corpus.split("\n\n")}
    rng, shuffle = random.Random(seed), random.Random(f"{seed} questions")
    left = Counter()  # (kind, hard, the word that has to agree) -> how many are missing
    for hard, n in ((True, each - each // 2), (False, each // 2)):
        left.update({(kind, hard, ""): n for kind in KINDS if kind != AGREEMENT})
        left.update({(AGREEMENT, hard, word): (n + i) // 4 for i, word in enumerate(AGREE)})
    questions = []
    bar = tqdm(total=left.total(), desc="questions", leave=False, disable=None)
    while +left:
        wanted = {kind for kind, _, _ in +left}
        teller = Recorder(world.dice(rng))
        if wanted == {HOLDER}:  # hard ones are rare
            teller.kinds = (1, 0)
        story = teller.story()
        if story.text.partition("\n")[0] in openings:
            continue
        shuffle.shuffle(teller.found)
        for kind, offset, answer, marks in teller.found:
            if kind not in wanted or len(marks) < 2:
                continue
            if len(story.text[:offset].split()) > MOST_WORDS:
                continue
            question = ask(kind, story.text, offset, answer, marks, shuffle)
            key = kind, rules(question)[1], answer.split()[0] if kind == AGREEMENT else ""
            if left[key] > 0:
                left[key] -= 1
                wanted.remove(kind)
                questions.append(question)
                bar.update()
    bar.close()
    return questions


def ask(kind, text, offset, answer, marks, shuffle):
    """A Question about text[offset:], where the answer stands; alternatives in a random order."""
    start = offset - text[:offset].endswith(" ")  # the space belongs to the word's token
    order = shuffle.sample(list(marks), len(marks))
    tail = re.match(r"\S*", text[offset + len(answer) :])[0]
    alternatives = [text[start:offset] + each for each in order]
    names = [marks[each] for each in order]
    return Question(kind, text[:start], alternatives, names, order.index(answer), tail)

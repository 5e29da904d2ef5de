"""What stories claim, held against what they have told: does it read as one story?

    python -m data.claims runs/v2 runs/v4

Every model tells stories of the sample's world. They are read with the sentences of the program
that wrote the sample (data/world.py), from the second one to the questions, and each thing
that a sentence says of what came before is a claim, true or false there:

names      whoever acts has been introduced, is introduced once, and deals with somebody else
things     the story has such a thing, and it looks as it was introduced
owners     what is called hers is hers
holders    whoever is said to have a thing has it; it lies in the box that is named
places     somebody or something is where the story has left him or it

What a false claim says is taken as true from there on, so that a slip which is kept to counts
once. "unread" is the share of sentences that the world has no pattern for, those that a story's
greatest length cuts off among them. The world's own stories have no false claim and no unread
sentence (tests/test_claims.py). "It" is the thing named last. Other pronouns, both or all, the
season and the time of day are not looked at.
"""

import dataclasses
import functools
import json
import re
from collections import Counter
from dataclasses import dataclass, field

from common.cli import run_command, run_main
from common.errors import UserError
from common.files import atomic_write
from results.probes import refuse_other_worlds, world
from results.tables import markdown, mean_and_deviation
from results.saved import evaluating, open_run

KINDS = ("names", "things", "owners", "holders", "places")
# How the world writes a slot's form, where it is not the slot's own kind of word.
PERSON = {"": "name", "named": "name", "lone": "name", "new": "role", "role": "role",
          "work": "role", "place": "place", "free": "place", "all": "all"}  # fmt: skip
THING = {"": "the", "The": "the", "sure": "the", "box": "the", "boxed": "the", "a": "a",
         "own": "thing", "bare": "thing", "new": "thing", "owners": "owned", "owner": "name",
         "holder": "name", "place": "place", "spot": "spot", "noun": "noun",
         "adjective": "adjective"}  # fmt: skip
PRONOUN = "he|she|him|her|his|He|She|His|Her"


def _any(words):
    return "|".join(map(re.escape, words))


@functools.cache
def sentences():
    """Every sentence of the world: [(event, pattern, {group: (slot, form)}), ...].

    The ones with most fixed words first, so that what fits two is read as the plainer one.
    """
    tables = {**world.HARD, **world.SOFT, **world.BOXES}
    adjectives = dict.fromkeys(" ".join(tables.values()).split())
    thing = f"(?:{_any(world.LOOKS)}) (?:{_any(adjectives)}) (?:{_any(tables)})"
    kinds = {
        "name": _any(world.WOMEN + world.MEN), "role": _any(world.ROLES),
        "place": _any(world.PLACES), "spot": _any(world.SPOTS), "pronoun": PRONOUN,
        "noun": _any(tables), "adjective": _any(adjectives), "thing": thing,
        "words": r"[^.?!\"]+?",
    }  # fmt: skip
    kinds["owned"] = f"(?:{kinds['name']})'s {thing}"
    around = {"the": ("[Tt]he ", thing), "a": ("an? ", thing), "any": ("(?:an?|the) ", thing)}
    around["all"] = ("", f"the {thing}(?:(?:, | and )the {thing})*")
    found = []
    for event, patterns in world.SENTENCES.items():
        for pattern in patterns:
            fixed = world.SLOT.sub("", pattern)
            parts, slots = [], {}
            for number, part in enumerate(world.SLOT.split(pattern)):
                if number % 2 == 0:
                    parts.append(re.escape(part))
                    continue
                slot, _, form = part.partition(".")
                before, inside = around.get(_kind(slot, form), ("", None))
                inside = inside or kinds[_kind(slot, form)]
                part = f"{before}(?P<g{number}>{inside})"
                parts.append(f"(?:{part}|[Ii]t)" if slot == "t" and form in world.IT else part)
                slots[f"g{number}"] = slot, form
            found.append((len(fixed), event, re.compile("".join(parts)), slots))
    found.sort(key=lambda each: -each[0])
    return [each[1:] for each in found]


def _kind(slot, form):
    if slot in "ABC":
        return PERSON.get(form, "pronoun")
    if slot in "tu":
        return THING.get(form, "pronoun")
    if slot == "x":
        return "any" if form == "any" else "spot"
    return "place" if slot == "p" else "words"


@dataclass
class Reader:
    """Reads one story: who there is, who has what, what is where, and the claims so far."""

    places: dict = field(default_factory=dict)  # name, or a box's noun -> place
    roles: dict = field(default_factory=dict)  # name -> role
    holders: dict = field(default_factory=dict)  # a thing's noun -> name or a box's noun
    owners: dict = field(default_factory=dict)  # a thing's noun -> name
    looks: dict = field(default_factory=dict)  # noun -> its full description
    spots: dict = field(default_factory=dict)  # a box's noun -> its spot
    thing: str = ""  # the one talked about
    asker: str = ""  # who wants it
    claims: list = field(default_factory=list)  # (kind, is it true?, the sentence)
    read: int = 0  # sentences that were read, and that were not
    unread: int = 0

    def story(self, text):
        """Read a story up to its questions."""
        leads = [*world.LEADS, *world.DAY.values(), *world.DARK.values()]
        lead = re.compile(f"(?:(?:{_any(leads)}) )?")
        sights = {sight for season in world.SEASONS.values() for sight in season[2]}
        for number, line in enumerate(text.split("\nQuestion:")[0].split("\n")):
            at = line.find(". ") + 2 if number == 0 and ". " in line else 0  # the weather
            while at < len(line):
                at = lead.match(line, at).end()
                matches = ((match, event, slots) for event, pattern, slots in sentences()
                           if (match := pattern.match(line, at)))  # fmt: skip
                match, event, slots = max(matches, key=lambda m: m[0].end(), default=[None] * 3)
                if match:
                    self.take(event, match, slots)
                    self.read += 1
                    at = match.end() + 1
                    continue
                end = re.compile(r'[.?!]"?(?: |$)').search(line, at)
                end = end.end() if end else len(line)
                known = line[at:end].strip() in sights
                self.read, self.unread = self.read + known, self.unread + (not known)
                at = end
        return self

    def claim(self, kind, true):
        self.claims.append((kind, bool(true), self.sentence))

    def called(self, said, new=False):
        """A thing's or a box's noun, by which a story tells them apart."""
        noun = said.split()[-1]
        if new or noun not in self.looks:
            self.looks[noun] = said
        elif " " in said:
            self.claim("things", self.looks[noun] == said)
            self.looks[noun] = said
        return noun

    def person(self, said, slot):
        """(name, place, role) that a sentence gives for a person's slot, each or None."""

        def first(*forms):
            return next((said[slot, form] for form in forms if (slot, form) in said), None)

        return first("", "named", "lone"), first("place", "free"), first("new", "role", "work")

    def object(self, said, slot):
        for form in ("", "The", "sure", "own", "bare", "owners"):
            if (slot, form) in said:
                return self.called(said[slot, form].rpartition("'s ")[2])
        return None

    def take(self, event, match, slots):
        """Hold a sentence against the state, then bring the state up to it."""
        self.sentence = match[0]
        said = {slots[group]: text for group, text in match.groupdict().items() if text}
        (A, A_at, A_role), (B, B_at, _), (C, C_at, _) = (self.person(said, s) for s in "ABC")
        if event in ("meet", "meet there", "join"):
            self.introduce(A, A_role, said)
            return
        named = [name for name in (A, B, C) if name]
        for name in named:
            self.claim("names", name in self.places)
            self.places.setdefault(name)
        if len(named) > 1:
            self.claim("names", len(set(named)) == len(named))
        thing, other = self.object(said, "t"), self.object(said, "u")
        for each in (thing, other):
            if each:
                self.claim("things", each in self.holders)
                self.holders.setdefault(each)
        box = said.get(("t", "box")) or said.get(("t", "boxed"))
        box = box and self.called(box)
        if not thing and ("t", "boxed") in said:  # whatever is in it
            thing = next((each for each, where in self.holders.items() if where == box), None)
        self.thing = thing = thing or other or self.thing
        self.owned(said, A, B, event)
        if event in ("travel", "end held", "end all") and A_at:  # everybody is there
            together = [self.places[name] == A_at for name in self.people()]
            self.claim("places", together and all(together))
            self.places.update(dict.fromkeys(self.people(), A_at))
        for name, place in ((A, A_at), (B, B_at), (C, C_at)):
            if name and place:
                self.claim("places", self.places[name] == place)
                self.places[name] = place
        if A_role:
            self.claim("names", self.roles.get(A) == A_role)
            self.roles[A] = A_role
        self.held(said, thing, box, A, B)
        self.happen(event, said, thing, other, (A, B, B_at))

    def introduce(self, name, role, said):
        self.claim("names", name not in self.places)
        friend, _, _ = self.person(said, "B")
        if friend:
            self.claim("names", friend in self.places and friend != name)
        last = friend or next(reversed(self.places), None)
        self.places[name] = said.get(("p", "")) or self.places.get(last)
        self.roles[name] = role
        if new := said.get(("t", "new")) or said.get(("t", "a")):  # who joins others has nothing
            noun = self.called(new, new=True)
            self.holders[noun] = self.owners[noun] = name

    def owned(self, said, A, B, event):
        """Whose the thing is said to be: by name, or as his own."""
        owner = said.get(("t", "owner"))
        if ("t", "owners") in said:
            owner = said["t", "owners"].partition("'s ")[0]
        elif ("t", "own") in said:
            owner = B if event == "want back" else A
        if owner:
            self.claim("owners", self.owners.get(self.thing) == owner)
            self.owners[self.thing] = owner

    def held(self, said, thing, box, A, B):
        """Who is said to have it, what it is said to lie in, and where that is."""
        holder = said.get(("t", "holder")) or box
        if holder:
            self.claim("holders", self.holders.get(thing) == holder)
            self.holders[thing] = holder
            if B:
                self.claim("names", B != holder)
        keeper = self.holders.get(thing)
        if place := said.get(("t", "place")):
            self.claim("places", self.places.get(keeper) == place)
            self.places[keeper] = place
        if spot := said.get(("t", "spot")):
            self.claim("places", self.spots.get(keeper) == spot)
            self.spots[keeper] = spot
        if ("A", "all") in said:
            told = re.split("(?:, | and )?the ", said["A", "all"])[1:]
            told = [self.called(each) for each in told]
            for each in told:
                self.claim("things", each in self.holders)
                self.claim("holders", self.holders.get(each) == A)
                self.holders[each] = A
            self.claim("holders", sorted(told) == sorted(self.things_of(A)))
            self.holders.update(dict.fromkeys(set(self.things_of(A)) - {*told}))

    def people(self):
        return [name for name in self.places if name in world.WOMEN + world.MEN]

    def things_of(self, keeper):
        return [thing for thing, holder in self.holders.items() if holder == keeper]

    def happen(self, event, said, thing, other, people):
        """What the sentence claims beside that, and what it changes."""
        A, B, B_at = people
        if event in ("look for", "look for it", "want", "want it", "want back", "where", "ask"):
            self.asker = B or A or said.get(("t", "owner")) or self.asker
        if event == "end empty":
            self.claim("holders", not self.things_of(A))
            self.holders.update(dict.fromkeys(self.things_of(A)))
        if event in ("carrying", "still with"):
            self.claim("holders", self.holders.get(other) == A)
            self.holders[other] = A
        if event in ("has it", "still has it") and A:
            self.claim("holders", self.holders.get(thing) == A)
            self.holders[thing] = A
        if event in ("want it", "bring", "bring here", "hide", "sneak", "swap"):
            self.claim("holders", self.holders.get(thing) == A)
        if event == "go":
            self.places[A] = said["p", ""]
        elif event == "travel":
            self.places.update(dict.fromkeys(self.people(), said["p", ""]))
        elif event == "fetch go":
            self.places[B or self.asker] = said["t", "place"]
        elif event in ("visit", "bring"):
            self.places[A] = B_at
        if event in ("yes", "take out"):
            self.holders[thing] = B or self.asker
        elif event in ("bring", "bring here"):
            self.holders[thing] = B
        elif event == "swap":
            self.claim("holders", self.holders.get(other) == B)
            self.holders[thing], self.holders[other] = B, A
        elif event in ("hide", "sneak"):
            place, spot = self.places.get(A), said["x", "spot"]
            box = self.called(said["x", "any"])
            if box in self.spots:
                there = self.places.get(box), self.spots[box]
                self.claim("places", there == (place, spot))
            self.places[box], self.spots[box] = place, spot
            self.holders[thing] = box


def score(stories):
    """{kind: (true claims, claims)} of the stories together, and "unread": (those, sentences)."""
    true, claimed, unread, n = Counter(), Counter(), 0, 0
    for story in stories:
        reader = Reader().story(story)
        claimed.update(kind for kind, _, _ in reader.claims)
        true.update(kind for kind, right, _ in reader.claims if right)
        unread, n = unread + reader.unread, n + reader.unread + reader.read
    return {**{kind: (true[kind], claimed[kind]) for kind in KINDS}, "unread": (unread, n)}


def table_rows(scores):
    """Head and rows of the table of {label: [score(...) of each seed]}: shares, and of how many.

    Of several seeds: the mean of their shares ± the standard deviation.
    """
    rows = []
    for label, seeds in scores.items():
        wholes = [{"true claims": [sum(one[kind][i] for kind in KINDS) for i in (0, 1)], **one}
                  for one in seeds]  # fmt: skip
        cells = [label]
        for kind in ("true claims", *KINDS, "unread"):
            pairs = [one[kind] for one in wholes if one[kind][1]]
            mean, deviation = mean_and_deviation([100 * a / n for a, n in pairs] or [0])
            around = "" if deviation is None else f" ± {deviation:.0f}"
            of = sum(n for _, n in pairs)
            cells.append(f"{mean:.0f} %{around} of {of:,}" if of else "–")
        rows.append(cells)
    return ["stories of", "true claims", *KINDS, "unread"], rows


def hold(runs: tuple[str, ...], stories: int = 20, seed: int = 1, temperature: float = 0.8,
         device: str = "auto"):  # fmt: skip
    """Let finished runs on the sample tell stories, and count which of their claims are true.

    Prints the table, and leaves claims.json in the runs' folders.

    Args:
        runs: folders of finished runs on the sample
        stories: how many of each
        seed: of the sampling
        temperature: of the sampling; 0 is greedy
        device: auto, cpu, cuda or mps
    """
    if not runs:
        raise UserError("give the folder of a run, or several: python -m data.claims runs/v2")
    if stories < 1:
        raise UserError(f"--stories {stories}: it has to be at least 1")
    for folder in runs:
        refuse_other_worlds(folder, None)
    scores = {}
    for folder in runs:
        run = open_run(folder, device)
        label = run.label if run.label not in scores else str(run.folder)
        with evaluating(run.model):
            found = score([tell(run, seed + n, temperature) for n in range(stories)])
        scores[label] = [found]
        about = {"version": run.version, "stories": stories, "seed": seed,
                 "temperature": temperature, "found": found}  # fmt: skip
        with atomic_write(run.folder / "claims.json", "w") as file:
            file.write(json.dumps(about, indent=2) + "\n")
    print(markdown(*table_rows(scores), aligned=True))


def tell(run, seed, temperature):
    """One story of a run's model, from "One" to its first blank line, of 300 tokens at most."""
    settings = {"prompt": "One", "temperature": temperature, "max_new_tokens": 300}
    config = dataclasses.replace(run.config, seed=seed, top_k=0, top_p=1.0, **settings)
    return run.module.generate(run.model, config, run.tokenizer, run.device).split("\n\n")[0]


if __name__ == "__main__":
    run_main(lambda: run_command(hold, __doc__))

"""Read a story of the sample's world, and check what each sentence says against what came before.

Stories are read with the sentences of the program that wrote the sample (data/world.py), from the
second sentence to the questions. Each thing that a sentence says of what came before is a claim,
which is true or false there:

names      people who act have been introduced, are introduced once, and deal with somebody else
things     the story has this thing, and it looks as it was introduced
owners     what is called hers is hers
holders    the person or box that is said to have a thing has it
places     a person or thing is where the story has left it

After a false claim the reader believes it, so that a slip which the story keeps to counts once. A
sentence is unread if the world has no pattern for it, which includes one that the end of the text
cuts off. The world's own stories have no false claim and no unread sentence, which a test checks.
"It" is the thing named last. Other pronouns, "both" and "all", the season and the time of day are
not checked.

    story = Reader().story(text)
    [sentence for kind, true, sentence in story.claims if not true], story.unread
"""

import functools
import re
from dataclasses import dataclass, field

from data import world

KINDS = ("names", "things", "owners", "holders", "places")
# What the world writes in a form of a slot: a person's, a thing's. Other forms are pronouns.
PERSON = {
    **dict.fromkeys(["", "named", "lone"], "name"),
    **dict.fromkeys(["new", "role", "work"], "role"),
    **dict.fromkeys(["place", "free"], "place"),
    "all": "all",
}
THING = {
    **dict.fromkeys(["", "The", "sure", "box", "boxed"], "the"),
    **dict.fromkeys(["own", "bare", "new"], "thing"),
    **dict.fromkeys(["owner", "holder"], "name"),
    **{form: form for form in ("a", "owners", "place", "spot", "noun", "adjective")},
}


def one_of(words):
    """A regular expression for one of the words."""
    return f"(?:{'|'.join(map(re.escape, words))})"


@functools.cache
def sentences():
    """Every sentence of the world: [(event, pattern, {group: (slot, form)}), ...].

    Those with most fixed words come first, so that a text which fits two is read as the plainer.
    """
    nouns = {**world.HARD, **world.SOFT, **world.BOXES}
    adjectives = dict.fromkeys(" ".join(nouns.values()).split())
    thing = f"{one_of(world.LOOKS)} {one_of(adjectives)} {one_of(nouns)}"
    name = one_of(world.WOMEN + world.MEN)
    written = {  # kind -> what stands before it, and itself
        "name": ("", name),
        "role": ("", one_of(world.ROLES)),
        "place": ("", one_of(world.PLACES)),
        "spot": ("", one_of(world.SPOTS)),
        "pronoun": ("", one_of(pronoun for both in world.PRONOUNS.values() for pronoun in both)),
        "noun": ("", one_of(nouns)),
        "adjective": ("", one_of(adjectives)),
        "words": ("", r"[^.?!\"]+?"),
        "thing": ("", thing),
        "owners": ("", f"{name}'s {thing}"),
        "all": ("", f"the {thing}(?:(?:, | and )the {thing})*"),
        "the": ("[Tt]he ", thing),
        "a": ("an? ", thing),
        "any": ("(?:an?|the) ", thing),
    }
    found = []
    for event, patterns in world.SENTENCES.items():
        for pattern in patterns:
            parts, slots = [], {}
            for number, part in enumerate(world.SLOT.split(pattern)):
                if number % 2 == 0:
                    parts.append(re.escape(part))
                    continue
                slot, _, form = part.partition(".")
                before, itself = written[kind_of(slot, form)]
                part = f"{before}(?P<g{number}>{itself})"
                parts.append(f"(?:{part}|[Ii]t)" if slot == "t" and form in world.IT else part)
                slots[f"g{number}"] = slot, form
            fixed = len(world.SLOT.sub("", pattern))
            found.append((fixed, event, re.compile("".join(parts)), slots))
    found.sort(key=lambda each: -each[0])
    return [each[1:] for each in found]


def kind_of(slot, form):
    """The kind of words that the world writes in this form of a slot."""
    if slot in "ABC":
        return PERSON.get(form, "pronoun")
    if slot in "tu":
        return THING.get(form, "pronoun")
    if slot == "x":
        return "any" if form == "any" else "spot"
    return "place" if slot == "p" else "words"


@dataclass
class Reader:
    """Reads one story: its people, who has what, what is where, and the claims so far."""

    places: dict = field(default_factory=dict)  # name, or a box's noun -> place
    roles: dict = field(default_factory=dict)  # name -> role
    holders: dict = field(default_factory=dict)  # a thing's noun -> name or a box's noun
    owners: dict = field(default_factory=dict)  # a thing's noun -> name
    looks: dict = field(default_factory=dict)  # noun -> its full description
    spots: dict = field(default_factory=dict)  # a box's noun -> its spot
    thing: str = ""  # the noun of the one named last
    asker: str = ""  # who wants it
    claims: list = field(default_factory=list)  # (kind, whether it is true, the sentence)
    sentence: str = ""
    read: int = 0  # sentences that fit a pattern
    unread: int = 0  # those that fit none

    def story(self, text):
        """Read a story up to its questions; the reader itself is returned."""
        leads = [*world.LEADS, *world.DAY.values(), *world.DARK.values()]
        lead = re.compile(f"(?:{one_of(leads)} )?")
        table = sentences()
        sights = {sight for season in world.SEASONS.values() for sight in season[2]}
        for number, line in enumerate(text.split("\nQuestion:")[0].split("\n")):
            at = line.find(". ") + 2 if number == 0 and ". " in line else 0  # the weather
            while at < len(line):
                at = lead.match(line, at).end()
                found = [(pattern.match(line, at), event, slots) for event, pattern, slots in table]
                found = [each for each in found if each[0]]
                if found:
                    match, event, slots = max(found, key=lambda each: each[0].end())
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
        """The noun of a thing or box, by which a story tells them apart; its look is checked."""
        noun = said.split()[-1]
        if new or noun not in self.looks:
            self.looks[noun] = said
        elif " " in said:
            self.claim("things", self.looks[noun] == said)
            self.looks[noun] = said
        return noun

    def person(self, said, slot):
        """(name, place, role) that a sentence gives for a person's slot, or None."""

        def first(*forms):
            return next((said[slot, form] for form in forms if (slot, form) in said), None)

        return first("", "named", "lone"), first("place", "free"), first("new", "role", "work")

    def object(self, said, slot):
        for form in ("", "The", "sure", "own", "bare", "owners"):
            if (slot, form) in said:
                return self.called(said[slot, form].rpartition("'s ")[2])
        return None

    def take(self, event, match, slots):
        """Check a sentence against the state, then update the state."""
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
        if not thing and ("t", "boxed") in said:  # the thing that is in it
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
        self.apply(event, said, thing, other, (A, B, B_at))

    def introduce(self, name, role, said):
        self.claim("names", name not in self.places)
        friend, _, _ = self.person(said, "B")
        if friend:
            self.claim("names", friend in self.places and friend != name)
        last = friend or next(reversed(self.places), None)
        self.places[name] = said.get(("p", "")) or self.places.get(last)
        self.roles[name] = role
        if new := said.get(("t", "new")) or said.get(
            ("t", "a")
        ):  # people who join others bring nothing
            noun = self.called(new, new=True)
            self.holders[noun] = self.owners[noun] = name

    def owned(self, said, A, B, event):
        """Check whose the thing is said to be, by name or as his own."""
        owner = said.get(("t", "owner"))
        if ("t", "owners") in said:
            owner = said["t", "owners"].partition("'s ")[0]
        elif ("t", "own") in said:
            owner = B if event == "want back" else A
        if owner:
            self.claim("owners", self.owners.get(self.thing) == owner)
            self.owners[self.thing] = owner

    def held(self, said, thing, box, A, B):
        """Check who is said to have it or what it is said to lie in, and where that is."""
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
            listed = re.split("(?:, | and )?the ", said["A", "all"])[1:]
            listed = [self.called(each) for each in listed]
            for each in listed:
                self.claim("things", each in self.holders)
                self.claim("holders", self.holders.get(each) == A)
                self.holders[each] = A
            self.claim("holders", sorted(listed) == sorted(self.things_of(A)))
            self.holders.update(dict.fromkeys(set(self.things_of(A)) - {*listed}))

    def people(self):
        return [name for name in self.places if name in world.WOMEN + world.MEN]

    def things_of(self, keeper):
        return [thing for thing, holder in self.holders.items() if holder == keeper]

    def apply(self, event, said, thing, other, people):
        """Check what only this event claims, and apply its changes."""
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

"""Claims: the world's own stories make no false one, planted slips are found, shares are right."""

import re

from data import world
from data.reader import KINDS, Reader
from results import claims

import msgspec
import pytest
from lineage import edit_json
from test_world import stories

STORY = """One morning in spring, the sun shone on the wet roofs. At the mill stood Mira the \
doctor, who was holding a plain red doll. Tom the smith was at the inn with his big iron key.
Before long, Mira wanted Tom's big iron key, because she had lost her own. So Mira went to the \
inn. She asked Tom for the big iron key. With a smile Tom handed the big iron key to Mira. \
Now Mira had the big iron key at the inn.
At last Mira hid the big iron key in a new tin box under the stairs, for a joke.
When evening came, Mira was at the inn with the plain red doll. Tom was at the inn and had nothing.
Question: Who had the plain red doll? Answer: Mira."""


def false_claims(text):
    return [(kind, sentence) for kind, true, sentence in Reader().story(text).claims if not true]


# ---- the reader ----


MANY = pytest.param(2000, False, marks=pytest.mark.slow)


@pytest.mark.parametrize(("n", "recaps"), [MANY, (600, True)])
def test_the_worlds_own_stories_are_read_completely_and_have_no_slip(n, recaps, monkeypatch):
    met, take = set(), Reader.take

    def noted(reader, event, *rest):
        met.add(event)
        take(reader, event, *rest)

    monkeypatch.setattr(Reader, "take", noted)
    texts = [story.text for story in stories(4, n, recaps=recaps)]
    found = claims.check(texts, version="", seed=0, temperature=0)
    assert found.without_slip == (n, n)
    assert found.unread[0] == 0 and found.unread[1] > 4000
    assert {*found.true} == {*KINDS}
    assert all(true == claimed > 150 for true, claimed in found.true.values()), found.true
    if n == 2000:  # every event of the world is among them, and is recognized
        assert met == {event for event in world.SENTENCES if not event.startswith("question")}


SLIPS = [  # what the story has, what stands there now, and the kind of claim that this makes false
    ("Tom the smith was at the inn", "Mira the smith was at the inn", "names"),
    ("So Mira went", "So Anna went", "names"),
    ("handed the big iron key to Mira", "handed the big iron key to Tom", "names"),
    ("wanted Tom's big iron key", "wanted Tom's big tin key", "things"),
    ("wanted Tom's big iron key", "wanted Tom's big iron bell", "things"),
    ("wanted Tom's big iron key", "wanted Mira's big iron key", "owners"),
    ("smile Tom handed the big iron key to Mira", "smile Mira handed it to Tom", "holders"),
    ("At last Mira hid", "At last Tom hid", "holders"),
    ("Now Mira had", "Now Tom had", "holders"),
    ("was at the inn and had nothing", "sat at the inn beside the plain red doll", "holders"),
    ("So Mira went to the inn", "So Mira went to the mill", "places"),
    ("Mira was at the inn with", "Mira was at the mill with", "places"),
]


@pytest.mark.parametrize("right, wrong, kind", SLIPS)
def test_a_planted_slip_is_found_and_has_its_kind(right, wrong, kind):
    assert STORY.count(right) == 1 and false_claims(STORY) == []
    reader = Reader().story(STORY.replace(right, wrong))
    assert kind in [each for each, true, _ in reader.claims if not true]
    assert not claims.has_no_slip(reader) and claims.has_no_slip(Reader().story(STORY))
    unread = Reader().story(STORY.replace("Now Mira", "The pl the at. Now Mira"))
    assert not claims.has_no_slip(unread)


def test_a_slip_that_the_story_keeps_to_counts_once_and_noise_is_unread():
    """Mira has the red doll at the inn; here Tom has it for a while, at the mill."""
    slip = "As for the plain {} doll, Tom still had it at the mill."
    for look, kinds in (("red", ["holders", "places"]), ("blue", ["things", "holders", "places"])):
        for times in (1, 3):
            said = " ".join([slip.format(look)] * times)
            text = STORY.replace("Now Mira had the big iron key at the inn.", said)
            assert [kind for kind, sentence in false_claims(text) if "As for" in sentence] == kinds
    text = """One day it rained. At the mill stood Mira the doctor, who was holding a plain red \
doll.
Then Mira remembered the plain red doll in the new tin box under the stairs.
At last Mira hid the plain red doll in the new tin box under the stairs, for a joke."""
    # A box that nobody introduced may be used.
    assert [kind for kind, _ in false_claims(text)] == ["holders", "places", "holders", "places"]
    noise = "One day of. Answer: fl. The pl the at with. Tom. Leo the whe."
    found = claims.check([noise, "One day. "], version="", seed=0, temperature=0)
    assert found.unread == (4, 4) and found.without_slip == (0, 2)  # what claims nothing has one
    assert set(found.true.values()) == {(0, 0)}


# ---- the command ----


def test_the_row_of_one_seed_has_wilsons_intervals():
    """Of 10 of 20 by hand: (10 + 1.92) / 23.84 ± 1.96 / 23.84 √(5 + 0.96)."""
    kinds = {**dict.fromkeys(KINDS, (60, 100)), "owners": (0, 2)}
    head, (row,) = claims.table({"long": [claims.Claims("v9", 1, 0.8, (10, 20), (1, 100), kinds)]})
    assert row[:3] == ["long (1)", "50 % [30, 70]", ""] and "owners" not in head  # too few of them
    assert (row[4], row[-1], len(row)) == ("60 % [50, 69]", "1 % [0, 5]", len(head))


def test_the_command_writes_claims_json(copy_of_v3, capsys):
    edit_json(copy_of_v3 / "config.json", config={"data": "sample"})
    claims.claims((str(copy_of_v3),), stories=2, seed=5)
    assert re.search(r"^\| v3 \(1\) +\| 0 % ", capsys.readouterr().out, re.M)
    saved = msgspec.json.decode((copy_of_v3 / "claims.json").read_bytes(), type=claims.Claims)
    assert (saved.version, saved.seed, saved.without_slip) == ("v3", 5, (0, 2))

"""Claims: the world's own stories make none that is false; what is broken on purpose is found."""

import json
import random
import re

import pytest
from lineage import edit_json, finished_run

from data import claims
from data.claims import KINDS, Reader, score
from common.cli import run_main
from common.errors import UserError

world = claims.world


def told(seed, n, **more):
    rng = random.Random(seed)
    return [world.tell_story(rng, **more).text for _ in range(n)]


STORY = """One morning in spring, the sun shone on the wet roofs. At the mill stood Mira the \
doctor, who was holding a plain red doll. Tom the smith was at the inn with his big iron key.
Before long, Mira wanted Tom's big iron key, because she had lost her own. So Mira went to the \
inn. She asked Tom for the big iron key. With a smile Tom handed the big iron key to Mira. \
Now Mira had the big iron key at the inn.
At last Tom hid the big iron key in a new tin box under the stairs, for a joke.
When evening came, Mira was at the inn with the plain red doll. Tom was at the inn and had nothing.
Question: Who had the plain red doll? Answer: Mira."""


def false_in(text):
    return [(kind, sentence) for kind, true, sentence in Reader().story(text).claims if not true]


@pytest.mark.parametrize("recaps", [False, True])
def test_the_world_s_own_stories_are_read_whole_and_claim_nothing_false(recaps):
    found = score(told(3, 1200, recaps=recaps))
    for kind in KINDS:
        true, claimed = found[kind]
        assert true == claimed > 300, kind
    unread, sentences = found["unread"]
    assert unread == 0 and sentences > 8000


def test_every_event_of_the_world_is_met_in_its_stories():
    met = set()

    class Noting(Reader):
        def take(self, event, match, slots):
            met.add(event)
            super().take(event, match, slots)

    for text in told(4, 6000):
        Noting().story(text)
    events = {event for event in world.SENTENCES if not event.startswith("question")}
    assert events == met


def test_a_story_by_hand():
    """One thing in it is false: Tom hides what he has just given away."""
    assert false_in(STORY) == [
        ("holders", "Tom hid the big iron key in a new tin box under the stairs, for a joke.")
    ]
    assert Reader().story(STORY).unread == 0


@pytest.mark.parametrize("right, wrong, kind", [
    ("Tom the smith was at the inn", "Mira the smith was at the inn", "names"),
    ("So Mira went", "So Anna went", "names"),
    ("handed the big iron key to Mira", "handed the big iron key to Tom", "names"),
    ("wanted Tom's big iron key", "wanted Tom's big tin key", "things"),
    ("wanted Tom's big iron key", "wanted Tom's big iron bell", "things"),
    ("wanted Tom's big iron key", "wanted Mira's big iron key", "owners"),
    ("With a smile Tom handed the big iron key to Mira", "With a smile Mira handed the big iron"
     " key to Tom", "holders"),
    ("Now Mira had", "Now Tom had", "holders"),
    ("Tom was at the inn and had nothing", "Tom was at the inn and had the plain red doll",
     "holders"),
    ("So Mira went to the inn", "So Mira went to the mill", "places"),
    ("Mira was at the inn with", "Mira was at the mill with", "places"),
])  # fmt: skip
def test_a_false_claim_is_found_and_has_its_kind(right, wrong, kind):
    assert STORY.count(right) == 1
    before, after = false_in(STORY), false_in(STORY.replace(right, wrong))
    new = [each for each in after if each not in before]
    assert kind in [each for each, _ in new]


def test_a_slip_that_the_story_keeps_to_counts_once():
    """Mira has the doll, in the story; here Tom has it for a while, and it is at the mill."""
    slip = "As for the plain {} doll, Tom still had it at the mill."
    for look, kinds in (("red", ["holders", "places"]), ("blue", ["things", "holders", "places"])):
        for times in (1, 2, 3):
            said = " ".join([slip.format(look)] * times)
            false = false_in(STORY.replace("Now Mira had the big iron key at the inn.", said))
            assert [kind for kind, sentence in false if "As for" in sentence] == kinds


def test_a_place_is_that_of_the_holder_who_is_named():
    text = STORY.replace("Now Mira had the big iron key at the inn.", "As for the plain red doll,"
                         " Tom still had it at the mill.")  # fmt: skip
    kinds = [kind for kind, sentence in false_in(text) if "As for" in sentence]
    assert kinds == ["holders", "places"]  # Tom is at the inn, Mira has it


def test_names_put_in_each_other_s_place_are_noticed_in_real_stories():
    """Two names change places in one sentence of a story: most often something gets false."""
    noticed, n, rng = 0, 0, random.Random(5)
    for text in told(6, 100):
        lines = text.split("\nQuestion:")[0].split("\n")
        row = rng.randrange(1, len(lines))
        names = list(dict.fromkeys(re.findall(rf"\b(?:{claims._any(world.WOMEN + world.MEN)})\b",
                                              lines[row])))  # fmt: skip
        if len(names) == 2:
            a, b = names
            lines[row] = lines[row].replace(a, "#").replace(b, a).replace("#", b)
            n, noticed = n + 1, noticed + bool(false_in("\n".join(lines)))
    assert n > 40 and noticed > 0.8 * n


def test_noise_is_unread():
    found = score(["One day of. Answer: fl. The pl the at with. Tom. Leo the whe."])
    assert found["unread"] == (4, 4) and found["names"] == (0, 0)
    assert score([]) == {**{kind: (0, 0) for kind in KINDS}, "unread": (0, 0)}
    head, rows = claims.table_rows({"a": [score(told(8, 10))], "none": [score([])]})
    assert len(head) == len(rows[0]) == len(rows[1])
    assert [cell.split(" of")[0] for cell in rows[0][1:]] == ["100 %"] * 6 + ["0 %"]
    assert rows[1][1:] == ["–"] * 7


def test_seeds_are_shares_with_their_spread():
    one = {**{kind: (0, 0) for kind in KINDS}, "holders": (1, 2), "unread": (0, 4)}
    two = {**one, "holders": (8, 8), "names": (1, 2)}
    _, (row,) = claims.table_rows({"a": [one, two]})
    assert row == ["a", "70 % ± 28 of 12", "50 % of 2", "–", "–", "75 % ± 35 of 10", "–",
                   "0 % ± 0 of 8"]  # fmt: skip


def test_the_command(tmp_path, capsys, monkeypatch):
    folder = finished_run("v3", tmp_path / "v3", context_length=64)
    with pytest.raises(UserError, match="was trained on"):
        claims.hold((str(folder),), stories=1)
    edit_json(folder / "config.json", config={"data": "sample"})
    claims.hold((str(folder),), stories=2)
    assert re.search(r"^\| v3 +\| – ", capsys.readouterr().out, re.M)
    left = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    assert left["stories"] == 2 and left["found"]["names"] == [0, 0]
    monkeypatch.setattr("sys.argv", ["claims.py"])
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: claims.run_command(claims.hold, claims.__doc__))
    assert stop.value.code == 2 and "give the folder of a run" in capsys.readouterr().err


def test_a_box_of_which_only_its_spot_was_told_may_be_used():
    """Models name boxes that nobody has introduced."""
    text = """One day it rained. At the mill stood Mira the doctor, who was holding a plain red \
doll.
Then Mira remembered the plain red doll in the new tin box under the stairs.
At last Mira hid the plain red doll in the new tin box under the stairs, for a joke."""
    assert [kind for kind, _ in false_in(text)] == ["holders", "places", "holders", "places"]

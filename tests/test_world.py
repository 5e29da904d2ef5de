"""The bundled sample corpus: its world, its floor, its files."""

import hashlib
import importlib.util
import json
import lzma
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parent.parent / "data"
PROGRAM = DATA / "world.py"

spec = importlib.util.spec_from_file_location("world", PROGRAM)
world = importlib.util.module_from_spec(spec)
sys.modules["world"] = world  # dataclasses look their module up
spec.loader.exec_module(world)


class Astray(Exception):
    """This way of choosing cannot write the text."""


class Retold(world.Teller):
    """A teller whose first choices are given, and which stops where it leaves a known text.

    Past the given choices it takes the first option that costs anything, and notes how many
    options there were, so that a search can come back and try the others.
    """

    def __init__(self, text, choices, **more):
        self.text, self.given, self.options = text, choices, []
        super().__init__(self.choose, **more)

    def choose(self, weights):
        index = len(self.options)
        possible = [i for i, weight in enumerate(weights) if weight > 0]
        self.options.append(possible)
        return self.given[index] if index < len(self.given) else possible[0]

    def say(self, piece):
        if not self.text.startswith(piece, self.length):
            raise Astray(piece)
        super().say(piece)


def derivations(text, **more):
    """Every way of choosing that writes this text: (its story, ...), and where others left it.

    Depth first: the teller is run again from the start with the choices so far, each time one
    of them changed to its next option. A run that leaves the text ends there, so that the
    search costs about (number of choices) x (options of each) short runs.
    """
    found, astray = [], []
    choices = []
    while True:
        teller = Retold(text, choices, **more)
        try:
            story = teller.story()
            if len(story.text) == len(text):
                found.append(story)
        except Astray as wrong:
            astray.append((teller.length, str(wrong)))
        path = (choices + [options[0] for options in teller.options[len(choices):]])
        path = path[:len(teller.options)]
        while path and path[-1] == teller.options[len(path) - 1][-1]:
            path.pop()
        if not path:
            return found, astray
        options = teller.options[len(path) - 1]
        choices = path[:-1] + [options[options.index(path[-1]) + 1]]


def stories(seed, n):
    rng = random.Random(seed)
    return [world.tell_story(rng) for _ in range(n)]


TOLD = stories(7, 200)


# ---- the floor: one way of choosing for each text, and its probability ----

@pytest.mark.parametrize("seed", range(6))
def test_a_story_can_be_told_in_one_way_only_and_costs_what_that_way_costs(seed):
    told = [story for story in stories(100 + seed, 10) if len(story.text) < 900]
    for story in told[:3]:  # the search takes time as the square of a story's length
        found, astray = derivations(story.text)
        assert len(found) == 1
        assert found[0].bits == pytest.approx(story.bits, abs=1e-9)
        assert len(astray) > 100  # the search did try others
        for recall in story.recalls:  # where another answer could stand, it would be no recall
            for position, piece in astray:
                other = (story.text[:position] + piece)[recall.offset:]
                if position > recall.offset + len(recall.answer) or position + len(
                        piece) <= recall.offset or not other:
                    continue
                if not (story.text[:position] + piece).startswith(story.text[:recall.offset]):
                    continue
                word = other.split(" ")[0].rstrip(".,?!\"")
                assert word == recall.answer or word not in recall.alternatives, (recall, other)


def test_the_search_sees_a_choice_that_stays_untold(monkeypatch):
    """The check above can fail: a world that chooses something and never says it is caught."""
    opening = world.Teller.opening

    def careless(self):
        self.pick(["red", "blue"])
        opening(self)

    story = stories(3, 1)[0]
    monkeypatch.setattr(world.Teller, "opening", careless)
    found, _ = derivations(story.text)
    assert len(found) == 2
    assert all(each.bits == pytest.approx(story.bits + 1) for each in found)


def test_dice_are_as_likely_as_their_weights():
    choose = world.dice(random.Random(5))
    n = 20_000
    seen = [0, 0, 0]
    for _ in range(n):
        seen[choose([1, 2, 5])] += 1
    for count, share in zip(seen, (1 / 8, 2 / 8, 5 / 8), strict=True):
        assert abs(count - n * share) < 5 * math.sqrt(n * share * (1 - share))


def test_one_option_costs_nothing_and_weights_count():
    teller = world.Teller(lambda weights: 1)
    assert teller.pick(["only"]) == "only" and teller.bits == 0
    assert teller.pick(["a", "b"]) == "b" and teller.bits == 1
    assert teller.pick(["a", "b"], [3, 1]) == "b" and teller.bits == 3


# ---- the stories ----

def test_the_recalls_stand_where_they_say():
    kinds = set()
    for story in TOLD:
        last = -1
        for recall in story.recalls:
            kinds.add(recall.kind)
            assert recall.offset >= last
            last = recall.offset
            assert story.text.startswith(recall.answer, recall.offset)
            assert recall.answer in recall.alternatives
            assert len(set(recall.alternatives)) == len(recall.alternatives)
            assert recall.distance >= 0
    assert kinds == {"attribute", "role", "owner", "holder", "place", "name", "box",
                     "holder_place", "box_place", "pronoun"}
    assert max(recall.distance for story in TOLD for recall in story.recalls) >= 10


def test_things_keep_their_adjectives():
    nouns = "|".join([*world.HARD, *world.SOFT, *world.BOXES])
    n = 0
    for story in TOLD:
        known = {}
        for adjective, noun in re.findall(rf"(\w+) ({nouns})\b", story.text):
            if adjective in world.OBJECTS or adjective in world.BOX_OBJECTS:
                assert known.setdefault(noun, adjective) == adjective, story.text
                n += 1
    assert n > 5 * len(TOLD)


def test_questions_are_answered_from_the_story():
    """Read again by other means: the last plain statement before the question is its answer."""
    n = 0
    for story in TOLD:
        body = story.text.split("\nQuestion:")[0]
        for name, place in re.findall(r"Where was (\w+)\? Answer: at the (\w+)\.", story.text):
            stated = re.findall(rf"\b{name} (?:was|sat) at the (\w+) (?:with|and|beside) ", body)
            closing = body.splitlines()[-1]
            if f"{name} was at the" in closing or f"{name} sat at the" in closing:
                assert stated[-1] == place
                n += 1
        for thing, name in re.findall(r"Who had the ([\w ]+)\? Answer: (\w+)\.", story.text):
            closing = body.splitlines()[-1]
            holders = [line for line in closing.split(".") if f"the {thing}" in line]
            if holders:
                has = rf"\b{name} (was|sat) at|\b{name} had|\bwith {name}($|,)"
                assert re.search(has, holders[0]), story.text
                n += 1
        for role, name in re.findall(r"Who was the (\w+)\? Answer: (\w+)\.", story.text):
            assert re.search(rf"{name}( the|, a) {role}|[Aa] {role} (called|whose name was) {name}",
                             body), story.text
            n += 1
    assert n > 100


def test_as_many_questions_as_asked_for_are_behind_every_story():
    rng = random.Random(8)
    told = [world.tell_story(rng, n_questions=7) for _ in range(100)]
    for story in told:
        asked = [line.split("?")[0] for line in story.text.split("\n") if "Question: " in line]
        assert len(asked) == len(set(asked)) == 7
    # As many as there are where there are no more: two people and one thing have nine or ten.
    counts = [world.tell_story(rng, n_questions=99).text.count("Question: ")
              for _ in range(100)]
    assert min(counts) in (9, 10) and max(counts) > 12


def test_more_questions_cost_what_their_one_way_of_asking_costs():
    rng = random.Random(9)
    told = [world.tell_story(rng, n_questions=5) for _ in range(20)]
    story = min(told, key=lambda each: len(each.text))
    found, astray = derivations(story.text, n_questions=5)
    assert len(found) == 1 and len(astray) > 100
    assert found[0].bits == pytest.approx(story.bits, abs=1e-9)


def test_recaps_cost_what_their_one_way_of_telling_costs():
    """One is told, and everything else is as without: each story in one way only."""
    rng, n = random.Random(10), 0
    told = [world.tell_story(rng, recaps=True) for _ in range(600)]
    for story in sorted(told, key=lambda each: len(each.text)):
        recaps = re.findall(r"(?<=[.!?] )(\w+) (?:was|sat) at the [^.]*\. \w+ (?:was|sat) at the ",
                            story.text.split("\nQuestion:")[0].rpartition("\n")[0])
        if not recaps:
            continue
        if n == 4:
            break
        found, astray = derivations(story.text, recaps=True)
        assert len(found) == 1 and len(astray) > 100
        assert found[0].bits == pytest.approx(story.bits, abs=1e-9)
        n += 1
    assert n == 4


def test_stories_have_the_promised_shape():
    lengths = sorted(len(story.text.split()) for story in TOLD)
    assert lengths[len(lengths) // 10] >= 70 and lengths[-len(lengths) // 10] <= 300
    assert len({story.text for story in TOLD}) == len(TOLD)
    assert sum(story.text.startswith("One ") for story in TOLD) > len(TOLD) / 2
    for story in TOLD:
        assert re.fullmatch(r"[A-Za-z ,.?!:'\"\n]+", story.text)
        assert "  " not in story.text and " \n" not in story.text and "\n " not in story.text
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n (?!hour)[^aeiou]", story.text), story.text
        lines = story.text.split("\n")
        assert all(lines)
        # a name never begins a line or follows a quotation mark: there it would be another token
        for name in world.WOMEN + world.MEN:
            assert not re.search(rf'(^|["\n]){name}', story.text)
    for kind in ("Question: Who had", "Question: Where was", "Question: What"):
        assert any(kind in story.text for story in TOLD)


# ---- the file ----

def test_the_bundled_file_is_what_the_program_writes():
    text = (DATA / "input.txt").read_bytes()
    info = json.loads((DATA / "input.json").read_text(encoding="utf-8"))
    again, facts = world.make(world.TRAIN_BYTES, world.SEED)
    assert hashlib.sha256(again).hexdigest() == hashlib.sha256(text).hexdigest() == info["sha256"]
    assert {**facts, "command": "python data/world.py"} == info


def test_the_bundled_file_is_laid_out_as_its_json_says():
    text = (DATA / "input.txt").read_bytes()
    info = json.loads((DATA / "input.json").read_text(encoding="utf-8"))
    assert b"\r" not in text and b"<|" not in text and text.endswith(b"\n\n")
    assert info["different_words"] >= 600
    parts, offset, seen = {}, 0, set()
    for split in ("train", "validation", "test"):
        facts = info["splits"][split]
        assert facts["offset"] == offset
        part = text[offset:offset + facts["bytes"]]
        offset += facts["bytes"]
        assert hashlib.sha256(part).hexdigest() == facts["sha256"]
        told = part.decode("ascii").split("\n\n")
        assert told.pop() == "" and len(told) == facts["stories"] and all(told)
        assert not seen & set(told) and len(set(told)) == len(told)
        seen |= set(told)
        assert facts["floor_bits_per_byte"] == pytest.approx(
            facts["entropy_bits"] / facts["bytes"], abs=1e-6)
        parts[split] = part
    assert offset == len(text)
    assert len(parts["train"]) >= 2_000_000 and len(parts["test"]) >= 100_000
    # no compressor can beat the floor either
    for split, part in parts.items():
        packed = 8 * len(lzma.compress(part, preset=9)) / len(part)
        assert packed > info["splits"][split]["floor_bits_per_byte"]


def test_counting_pairs_of_tokens_stays_far_above_the_floor():
    """What attention can win: a smoothed bigram over a BPE vocabulary is 0.4 bits a byte off."""
    tokenizers = pytest.importorskip("tokenizers")
    text = (DATA / "input.txt").read_bytes()
    splits = json.loads((DATA / "input.json").read_text(encoding="utf-8"))["splits"]
    told = {split: text[facts["offset"]:facts["offset"] + facts["bytes"]].decode("ascii")
            for split, facts in splits.items()}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(told["train"].split("\n\n"), tokenizers.trainers.BpeTrainer(
        vocab_size=2048, show_progress=False))
    train, validation = bpe.encode(told["train"]).ids, bpe.encode(told["validation"]).ids
    size = bpe.get_vocab_size()
    single = Counter(train)
    pairs, before = Counter(zip(train, train[1:])), Counter(train[:-1])
    nats = 0.0
    for last, token in zip(validation, validation[1:]):
        guess = (single[token] + 0.1) / (len(train) + 0.1 * size)
        nats -= math.log((pairs[last, token] + guess) / (before[last] + 1))
    facts = splits["validation"]
    bits_per_byte = nats / math.log(2) / facts["bytes"]
    assert bits_per_byte >= facts["floor_bits_per_byte"] + 0.4


def run(*arguments, **environment):
    return subprocess.run([sys.executable, str(PROGRAM), *map(str, arguments)],
                          capture_output=True, text=True, encoding="utf-8",
                          env={**os.environ, **environment})


def test_the_same_bytes_whatever_the_hash_seed_and_another_seed_other_stories(tmp_path):
    for name, seed, hash_seed in (("a", 5, "1"), ("b", 5, "2"), ("c", 6, "1")):
        done = run("--bytes", 20_000, "--seed", seed, "--out", tmp_path / f"{name}.txt",
                   PYTHONHASHSEED=hash_seed)
        assert done.returncode == 0, done.stderr
    a, b, c = ((tmp_path / f"{name}.txt").read_bytes() for name in "abc")
    assert a == b and a != c
    info = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert info["seed"] == 5 and info["splits"]["train"]["bytes"] >= 20_000
    assert info["splits"]["test"]["bytes"] >= 1_000
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.json", "a.txt", "b.json", "b.txt", "c.json", "c.txt"]


@pytest.mark.parametrize("arguments, says", [
    (["--bytes", "10"], "at least 1000"),
    (["--bytes", "many"], "invalid int value"),
    (["--seed", "-1"], "from 0 on"),
    (["--questions", "0"], "at least 1"),
    (["--out", "no/such/folder/x.txt"], "folder that is there"),
    (["--out", "x.json"], "another name"),
])
def test_a_mistake_is_told_in_one_line(arguments, says, tmp_path):
    done = subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True,
                          text=True, encoding="utf-8", cwd=tmp_path)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_the_command_in_the_json_makes_the_file_again(tmp_path):
    options = "--bytes 20000 --seed 5 --questions 6 --recaps --out a.txt".split()
    written = []
    for arguments in (options, None):
        folder = tmp_path / str(len(written))
        folder.mkdir()
        if arguments is None:
            info = json.loads((tmp_path / "0" / "a.json").read_text(encoding="utf-8"))
            arguments = info["command"].removeprefix("python data/world.py").split()
        done = subprocess.run([sys.executable, str(PROGRAM), *arguments], cwd=folder)
        assert done.returncode == 0
        written.append((folder / "a.txt").read_bytes())
    assert written[0] == written[1]
    assert written[0].count(b"Question: ") >= 5 * written[0].count(b"\n\n")


def test_help_tells_the_options():
    done = run("--help")
    assert done.returncode == 0
    for option in ("--bytes", "--seed", "--questions", "--recaps", "--out"):
        assert option in done.stdout

"""The bundled sample corpus: its world, its entropy, its files."""

import hashlib
import lzma
import os
import random
import re
from pathlib import Path

from data import world
from data.reader import Reader

import pytest
from lineage import python, read

PROGRAM = Path(world.__file__)
TEXT = PROGRAM.with_name("input.txt").read_bytes()
INFO = read(PROGRAM.with_name("input.json"))


class WrongPath(Exception):
    """This way of choosing does not write the text."""


class Retold(world.Teller):
    """A teller whose first choices are given, and which stops where it leaves a known text.

    After the given choices it takes the first possible option, and records how many there were, so
    that a search can come back and try the others.
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
            raise WrongPath(piece)
        super().say(piece)


def derivations(text, **more):
    """Every way of choosing that writes this text, and where others left it: [(at, piece)].

    A search in depth: the teller runs again from the start with the choices up to one that has
    another option, and that option.
    """
    found, left, untried = [], [], [[]]
    while untried:
        choices = untried.pop()
        teller = Retold(text, choices, **more)
        try:
            story = teller.story()
            if len(story.text) == len(text):
                found.append(story)
        except WrongPath as wrong:
            left.append((teller.length, str(wrong)))
        for first, *others in teller.options[len(choices) :]:
            untried += [[*choices, other] for other in others]
            choices = [*choices, first]
    return found, left


def stories(seed, n, **more):
    rng = random.Random(seed)
    return [world.tell_story(rng, **more) for _ in range(n)]


# ---- the entropy: one way of choosing for each text, and its probability ----


@pytest.mark.parametrize("more", [{}, {"n_questions": 5}, {"recaps": True}])
def test_a_story_has_one_way_of_choosing_and_costs_its_bits(more):
    made = stories(100, 80, **more)
    if more.get("recaps"):  # those with a recap before the ending
        recap = r"\w+ (?:was|sat) at the [^.]*\. \w+ (?:was|sat) at the (.*\n)+.*\nQuestion:"
        made = [s for s in made if re.search(recap, s.text)]
    for story in sorted(made, key=lambda each: len(each.text))[:5]:
        found, left = derivations(story.text, **more)
        assert len(found) == 1 and len(left) > 100
        assert found[0].bits == pytest.approx(story.bits, abs=1e-9)
        for recall in story.recalls:  # where another answer could stand, it would be no recall
            for at, piece in left:
                if at == recall.offset and piece != recall.answer:
                    assert piece not in recall.alternatives, recall


# ---- the stories ----


def answers(read):
    """Every question that a story's reader can answer, with its answer."""
    for name, role in read.roles.items():
        yield f"Who was the {role}", name
        yield f"What was {name}'s trade", role
        yield f"Where was {name}", f"at the {read.places[name]}"
    for noun, keeper in read.holders.items():
        look, place = read.looks[noun], f"at the {read.places[keeper]}"
        for adjective in look.split()[:-1]:
            yield f"What was the {noun} made of", adjective
            yield f"What colour was the {noun}", adjective
        yield f"Whose was the {look}", f"{read.owners[noun]}'s"
        if keeper in read.looks:
            yield f"Where was the {look}", f"in the {read.looks[keeper]} {place}"
        else:
            yield f"Who had the {look}", keeper
            yield f"Where was the {look}", f"with {keeper} {place}"


def test_as_many_questions_as_requested_follow_and_the_story_answers_them():
    for n in (7, 99):  # where there are fewer, all of them
        counts = []
        for story in stories(8, 100, n_questions=n):
            asked = re.findall(r"Question: (.*)\? Answer: (.*)\.", story.text)
            assert {*asked} <= {*answers(Reader().story(story.text))}, story.text
            assert len({question for question, _ in asked}) == len(asked)
            counts.append(len(asked))
        # Of two people and one thing there are nine or ten.
        assert {*counts} == {7} if n == 7 else (min(counts) in (9, 10) and max(counts) > 12)


# ---- the files ----


def test_the_bundled_files_are_what_the_program_writes_laid_out_as_the_json_says():
    text, facts = world.make(world.TRAIN_BYTES, world.SEED)
    assert hashlib.sha256(text).hexdigest() == hashlib.sha256(TEXT).hexdigest()
    assert {**facts, "command": "python data/world.py"} == INFO
    assert TEXT.endswith(b"\n\n") and b"\r" not in TEXT and INFO["different_words"] >= 600
    offset, seen = 0, []
    for split in ("train", "validation", "test"):
        facts = INFO["splits"][split]
        part = TEXT[offset : offset + facts["bytes"]]
        assert facts["offset"] == offset and hashlib.sha256(part).hexdigest() == facts["sha256"]
        offset += facts["bytes"]
        told = part.decode("ascii").removesuffix("\n\n").split("\n\n")
        assert len(told) == facts["stories"]
        seen += told
        entropy = facts["entropy_bits"] / facts["bytes"]
        assert facts["floor_bits_per_byte"] == pytest.approx(entropy, abs=1e-6)
        assert 8 * len(lzma.compress(part, preset=6)) / len(part) > entropy  # a compressor too
    assert offset == len(TEXT) and len(set(seen)) == len(seen)


def test_the_command_in_the_json_makes_the_same_bytes_with_any_hash_seed(tmp_path):
    options = "--bytes 20000 --seed 5 --questions 6 --recaps --out a.txt".split()
    made = []
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        folder.mkdir()
        done = python(PROGRAM, *options, cwd=folder, PYTHONHASHSEED=hash_seed)
        assert done.returncode == 0, done.stderr
        assert sorted(path.name for path in folder.iterdir()) == ["a.json", "a.txt"]
        options = read(folder / "a.json")["command"].split()[2:]
        made.append((folder / "a.txt").read_bytes())
    assert made[0] == made[1] and len(made[0]) >= 20_000
    assert world.make(20_000, 6, 6, True)[0] != made[0]


MISTAKES = {
    "--bytes 10": "at least 1000",
    "--bytes many": "invalid int value",
    "--seed -1": "from 0 on",
    "--questions 0": "at least 1",
    "--out no/such/folder/x.txt": "folder that is there",
    "--out x.json": "another name",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_reported_in_one_line(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        world.main(arguments.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and MISTAKES[arguments] in line and not any(tmp_path.iterdir())


def test_a_link_in_place_of_the_temporary_file_is_not_followed(tmp_path):
    (tmp_path / f"a.txt.{os.getpid()}.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        world.save(tmp_path / "a.txt", b"text")
    assert not (tmp_path / "elsewhere").exists() and not (tmp_path / "a.txt").exists()

"""Probes: the questions have one right answer each, and answers are counted as they should be."""

import json
import math
import re
import shutil
import subprocess
import sys

import pytest
import torch
from lineage import ROOT, edit_json, finished_run, model_of
from lineage import load as load_version
from torch import nn

from results import probes
from common.cli import run_main
from common.errors import UserError
from results.probes import KINDS, Question, answer, encode, log_probabilities, make_questions, wilson
from results.tables import EXTRAS
from common.tokenizers import CharTokenizer, WordTokenizer

EACH = 60
QUESTIONS = make_questions(5, each=EACH)
TEXTS = [q.prefix + q.alternatives[q.right] + q.tail for q in QUESTIONS]


def of(kind):
    return [q for q in QUESTIONS if q.kind == kind]


# ---- questions ----


def test_every_kind_is_asked_as_often_as_wanted():
    assert [len(of(kind)) for kind in KINDS] == [EACH] * len(KINDS)
    for question in QUESTIONS:
        assert 2 <= len(set(question.alternatives)) == len(question.alternatives)
        for one in question.alternatives:
            starts = [other for other in question.alternatives if other.startswith(one)]
            assert starts == [one]  # else the shorter one would have the better chance
        assert question.prefix and len(question.prefix.split()) <= probes.WORDS


def test_the_seed_decides_the_questions_and_the_corpus_own_is_refused():
    assert make_questions(5, each=3) == make_questions(5, each=3) != make_questions(6, each=3)
    with pytest.raises(UserError, match="were trained on"):
        make_questions(probes.world.SEED)


def test_no_question_is_about_a_story_of_the_corpus():
    corpus = (probes.ROOT / "data" / "input.txt").read_text(encoding="utf-8")
    long = [text for text in TEXTS if len(text) > 300]
    assert len(long) > len(TEXTS) / 2
    assert not any(text[:300] in corpus for text in long)


def test_articles_and_numbers_agree_and_neither_word_is_always_right():
    for q in of("grammar: article"):
        word = q.alternatives[q.right].split()
        assert (word[0] == "an") == (word[1][0] in "aeiou" or word[1] == "hour")
        assert {a.split()[0] for a in q.alternatives} == {"a", "an"}
    for kind, word in (("grammar: article", "an"), ("grammar: number", "were")):
        assert sum(q.alternatives[q.right].split()[0] == word for q in of(kind)) == EACH // 2


def test_a_pronoun_has_the_gender_of_the_one_who_was_named_or_the_only_one_around():
    n = 0
    for q in of("grammar: pronoun"):
        names = set(re.findall("|".join(probes.world.WOMEN + probes.world.MEN), q.prefix))
        if len({name in probes.world.WOMEN for name in names}) == 1:
            women = names <= set(probes.world.WOMEN)
            assert q.alternatives[q.right].strip() in (
                ("she", "her", "She", "Her") if women else ("he", "him", "his", "He", "His")
            )
            n += 1
    assert n > EACH / 3


def test_recall_is_told_before_and_so_are_its_alternatives():
    for kind in KINDS[3:8]:
        for q in of(kind):
            for alternative in q.alternatives:  # roles, names, looks, materials of the story
                assert re.search(rf"\b{alternative.strip()}\b", q.prefix), (q, alternative)


def test_recall_stands_as_many_sentences_back_as_its_row_says():
    n = 0
    for q in QUESTIONS:
        asked, role = re.search(r"(\w+) the$", q.prefix), q.alternatives[q.right].strip()
        if asked and q.kind.startswith("recall") and role in probes.world.ROLES:
            name = asked[1]
            told = rf"{name}( the|, a) {role}|[Aa] {role} (called|whose name was) {name}"
            last = [match.start() for match in re.finditer(told, q.prefix)][-1]
            distance = len(re.findall("[.?!]", q.prefix[last:]))
            low, _, high = q.kind.removeprefix("recall ").partition("-")
            assert int(low) <= distance <= int(high or low), (q, distance)
            n += 1
    assert n > 5


PLACE = re.compile(r"(\w+) (?:was|sat) at the$")


def test_what_moved_is_asked_at_the_end_where_it_is_told_for_the_first_time():
    ends = [*probes.world.DAY.values(), *probes.world.DARK.values()]
    for q in QUESTIONS:
        if q.kind.startswith("tracking"):
            ending = q.prefix.split("\n")[-1]
            assert any(ending.startswith(end) for end in ends) and "Question:" not in q.prefix
            if q.kind.startswith("tracking a person"):
                who = PLACE.search(q.prefix)[1]
                assert len(re.findall(rf"\b{who}\b", ending)) == 1
            elif q.kind.startswith("tracking a group"):
                assert re.search(r"(they were (all|both)|(all|both) of them were) at the$", ending)
                told = q.prefix.rpartition("\n")[0]  # before the ending
                left = r"they (all|both) left|(all|both) of them went|they said"
                assert re.search(left, told), q.prefix
            elif q.kind.startswith("tracking one thing"):  # whose thing it is, the opening tells
                begins = ending in [each for each in ends]  # then his name: he had ...
                assert begins or re.search(r"(, |and )the \w+ \w+ \w+ was with$", ending), q.prefix
            else:  # with the, beside the, had the, and the: what he has; The: what lies in a box
                assert re.search(r"(with|beside|had|,|and) the$|[.,] The$", q.prefix), q.prefix


def test_who_never_moved_is_where_she_was_first():
    for q in of("tracking a person, no move"):
        assert re.search(rf"\b{q.alternatives[q.right].strip()}\b", q.prefix.split("\n")[0])


def test_who_moved_is_where_the_story_took_her():
    """An answer that the story's first paragraph would give is no test of what happened since."""
    for q in of("tracking a person, moved"):
        went = q.prefix.split("\n", 1)[1]
        assert re.search(rf"\b{q.alternatives[q.right].strip()}\b", went), q.prefix


HELD = re.compile(r"(\w+) (?:was|sat) at the \w+(?: with| and had| beside) (.*) the$")


def test_the_other_things_are_not_his_as_well():
    """Which of the things that he has comes first is no question of who has what."""
    n = 0
    for q in QUESTIONS:
        said = HELD.search(q.prefix.split("\n")[-1].rpartition(". ")[2])
        if q.kind.startswith("tracking a thing") and said:  # what has been said of him before
            assert not any(re.search(rf"\b{a.strip()}\b", said[2]) for a in q.alternatives)
            n += 1
    assert n > 3


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("tracking a thing")])
def test_a_thing_that_moved_is_not_where_the_opening_says(kind):
    """An answer that the opening gives is no test of what happened since."""
    first = 0
    for q in of(kind):
        look = q.alternatives[q.right].strip()
        held = r"(\w+) (?:was|sat) at the \w+(?: with| and had| beside)[^.]*$"
        holder = re.search(held, q.prefix)
        opening = q.prefix.split("\n")[0]
        if holder and (told := re.search(rf"[^.]*\b{look}\b", opening)):
            new = rf"\b{holder[1]}(?: the|, a) \w+|(?:called|name was) {holder[1]}\b"
            first += bool(re.search(new, told[0]))  # not: beside him sat somebody, who had it
    share = first / len(of(kind))
    assert share < 0.2 if kind.endswith(" moved") else share > 0.6, share


def test_a_copy_stands_in_the_story_and_its_false_copies_do_not():
    for q in of("copying"):
        assert len(q.alternatives) == 8
        right = q.alternatives[q.right].strip()
        assert right in q.prefix
        new = {word for a in q.alternatives for word in a.split()} - set(right.split())
        assert len(new) == 3 and [a for a in q.alternatives if a in q.prefix] == [" " + right]
        for slot in range(3):  # each word is right in half of them
            assert sum(a.split()[slot] == right.split()[slot] for a in q.alternatives) == 4


# ---- answers ----


class Knows(nn.Module):
    """Knows the texts: behind each beginning of one it is sure of the next character."""

    def __init__(self, texts, tokenizer, sign=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(sign))
        self.next = {}
        for text in texts:
            for i in range(1, len(text)):
                self.next[text[max(0, i - 60) : i]] = tokenizer.ids[text[i]]
        self.tokenizer = tokenizer

    def forward(self, idx):
        logits = torch.zeros(*idx.shape, self.tokenizer.vocab_size)
        for row, ids in enumerate(idx.tolist()):
            text = self.tokenizer.decode(ids)
            for i in range(1, len(text) + 1):
                known = self.next.get(text[max(0, i - 60) : i])
                if known is not None:
                    logits[row, i - 1, known] = 9 * self.weight
        return logits


def few(each=4):
    return [q for kind in KINDS for q in of(kind)[:each]]


CHARACTERS = CharTokenizer.train(TEXTS + ["".join(a for q in QUESTIONS for a in q.alternatives)])


@pytest.mark.parametrize("context_length", [10_000, 90])
def test_a_model_that_knows_is_always_right_and_one_that_knows_better_never(context_length):
    questions = few()
    texts = [q.prefix + q.alternatives[q.right] + q.tail for q in questions]
    assert all(answer(Knows(texts, CHARACTERS), CHARACTERS, context_length, questions))
    wrong = Knows(texts, CHARACTERS, sign=-1.0)
    assert not any(answer(wrong, CHARACTERS, context_length, questions))


def test_a_model_that_knows_nothing_is_right_by_chance():
    model = Knows([], CHARACTERS)
    words = WordTokenizer.train(TEXTS + [" ".join(a) for a in [q.alternatives for q in QUESTIONS]],
                                vocab_size=5000)  # fmt: skip
    model.tokenizer = words  # one token a word: no alternative is longer than the others
    right = answer(model, words, 256, QUESTIONS)
    rows = probes.summary(QUESTIONS, right)
    chance = sum(1 / len(q.alternatives) for q in QUESTIONS)
    assert sum(row["n"] * row["chance"] for row in rows.values()) == pytest.approx(chance)
    variance = sum((1 - 1 / len(q.alternatives)) / len(q.alternatives) for q in QUESTIONS)
    assert abs(sum(right) - chance) < 4 * math.sqrt(variance)


def test_log_probabilities_are_those_of_the_table():
    """v0 by hand: the sum of the table's log probabilities along the alternative."""
    tokenizer = CharTokenizer.train(["abc "])
    model, _ = model_of(load_version("v0"), vocab_size=tokenizer.vocab_size)
    nn.init.normal_(model.table.weight)
    table = model.table.weight.detach().double().log_softmax(-1)
    a, b, c, space = (tokenizer.ids[one] for one in "abc ")
    question = Question("copying", "ab", [" ab", " ac", " b"], 0, "")
    first, second, third = log_probabilities(model, tokenizer, 16, [question])[0]
    common = table[b, space]  # all begin with the space: it decides nothing, and is left out
    assert first == pytest.approx(float(table[space, a] + table[a, b]), abs=1e-5)
    assert second == pytest.approx(float(table[space, a] + table[a, c]), abs=1e-5)
    assert third == pytest.approx(float(table[space, b]), abs=1e-5)
    assert common < 0


def test_batches_and_what_pads_them_change_nothing(monkeypatch):
    model, _ = model_of(load_version("v4"), vocab_size=CHARACTERS.vocab_size)
    together = log_probabilities(model, CHARACTERS, 60, few(2))
    monkeypatch.setattr(probes, "LOGIT_BYTES", 1)
    alone = log_probabilities(model, CHARACTERS, 60, few(2))
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert len({round(each, 6) for row in alone for each in row}) > len(alone)


def test_the_context_is_cut_at_one_place_for_all_alternatives():
    tokenizer = CharTokenizer.train(["abcdefgh xy."])
    question = Question("copying", "abcdefgh", [" xy", " y"], 0, ".")
    rows, start = encode(question, tokenizer, 5)
    assert [tokenizer.decode(row) for row in rows] == ["fgh xy", "fgh y"] and start == 4
    rows, start = encode(question, tokenizer, 100)
    assert [tokenizer.decode(row) for row in rows] == ["abcdefgh xy", "abcdefgh y"] and start == 9
    with pytest.raises(UserError, match="too short"):
        encode(question, tokenizer, 1)


def test_a_mark_that_shares_a_token_with_the_answer_is_taken_along():
    class Pairs:  # two characters a token: the mark behind the answer is part of its last token
        def encode(self, text):
            return [text[i : i + 2] for i in range(0, len(text), 2)]

    rows, start = encode(Question("copying", "ab", ["cde", "cfg"], 0, "."), Pairs(), 10)
    assert rows == [["ab", "cd", "e."], ["ab", "cf", "g."]] and start == 1
    rows, start = encode(Question("copying", "ab", ["cd", "ef"], 0, "."), Pairs(), 10)
    assert rows == [["ab", "cd"], ["ab", "ef"]] and start == 1


def test_wilson_s_interval():
    """By hand for 8 of 10: centre (8 + 1.92073) / 13.84146, and the textbook's 0.490 to 0.943."""
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94331), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0, 0.27753), abs=1e-4)
    low, high = wilson(10, 10)
    assert (low, high) == pytest.approx((1 - 0.27753, 1), abs=1e-4)


# ---- the command ----


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run that says it was trained on the sample."""
    folder = finished_run("v3", tmp_path_factory.mktemp("probes") / "v3", context_length=64)
    edit_json(folder / "config.json", config={"data": "sample"})
    return folder


def test_the_table_and_the_file_in_the_run_s_folder(run_folder, capsys):
    probes.probe((str(run_folder),), each=4)
    table = re.sub(" +", " ", capsys.readouterr().out)
    saved = json.loads((run_folder / "probes.json").read_text(encoding="utf-8"))
    assert EXTRAS["probes"](saved)
    assert list(saved["kinds"]) == KINDS and saved["version"] == "v3" and saved["seed"] == 2024
    for kind, row in saved["kinds"].items():
        assert row["n"] == 4 and row["accuracy"] == row["right"] / 4
        assert row["low"] - 1e-9 <= row["accuracy"] <= row["high"] + 1e-9
        cell = f"{100 * row['accuracy']:.0f} % [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"
        assert f"| {kind} | 4 | {100 * row['chance']:.0f} % | {cell} |" in table
    assert not list(run_folder.glob("*.tmp"))


def test_more_stories_of_the_world_can_be_asked_about(run_folder, tmp_path, monkeypatch):
    copy, text = tmp_path / "copy", tmp_path / "more.txt"
    shutil.copytree(run_folder, copy)
    edit_json(copy / "config.json", config={"data": str(text)})
    with pytest.raises(UserError, match="was trained on .*more.txt: this is about"):
        probes.probe((str(copy),), each=1)
    world = [sys.executable, str(ROOT / "data" / "world.py"), "--bytes", "1000"]
    subprocess.run([*world, "--seed", "2", "--out", str(text)], check=True)
    with pytest.raises(UserError, match="--seed 2 tells the stories that .*copy was trained on"):
        probes.probe((str(copy),), each=1, seed=2)
    probes.probe((str(copy),), each=1)
    assert (copy / "probes.json").exists()


def test_errors_are_one_line(run_folder, tmp_path, monkeypatch, capsys):
    def fails(folder, says):
        monkeypatch.setattr("sys.argv", ["probes.py", str(folder)])
        with pytest.raises(SystemExit) as stop:
            run_main(lambda: probes.run_command(probes.probe, probes.__doc__))
        told = capsys.readouterr().err
        assert stop.value.code == 2 and len(told.splitlines()) == 1 and says in told

    fails(tmp_path / "nothing", "no run in")
    copy = tmp_path / "copy"
    shutil.copytree(run_folder, copy)
    (copy / "probes.json").unlink(missing_ok=True)
    edit_json(copy / "config.json", config={"data": "wikitext-2"})
    fails(copy, "was trained on wikitext-2: this is about --data sample")
    edit_json(copy / "config.json", config={"data": "sample", "n_embd": 32})
    fails(copy, "doesn't fit v3.py")
    edit_json(copy / "config.json", config={"n_embd": 16})
    (copy / "best.pt").write_bytes((run_folder / "best.pt").read_bytes()[:1000])
    fails(copy, "not a whole checkpoint")
    (copy / "result.json").unlink()
    fails(copy, "is not finished; go on with it: python v3.py --resume --out-dir")
    assert not (copy / "probes.json").exists()

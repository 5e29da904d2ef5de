"""Probes: every question has one right answer, half of them are hard for rules, and answers are
counted as they should be."""

import dataclasses
import hashlib
import json
import re
from types import SimpleNamespace

from common.tokenizers.classes import CharTokenizer
from data import world
from data.reader import Reader
from results import probes, store
from results import questions as q
from results.probes import answer, encode, log_probabilities
from results.questions import KINDS, Question, make_questions, rules

import msgspec
import pytest
import torch
from lineage import ROOT, VERSIONS, edit_json, model_of, refused
from lineage import load as load_version
from torch import nn

EACH = 40
QUESTIONS = make_questions(5, each=EACH)
TEXTS = [each.prefix + each.alternatives[each.right] + each.tail for each in QUESTIONS]


def of(kind):
    return [each for each in QUESTIONS if each.kind == kind]


def right(question):
    return question.alternatives[question.right].strip()


# ---- questions ----


def test_every_kind_has_as_many_questions_as_requested_with_distinct_alternatives():
    assert [len(of(kind)) for kind in KINDS] == [EACH] * len(KINDS)
    for one in QUESTIONS:
        assert len(set(one.alternatives)) == len(one.alternatives) == len(one.marks) >= 2
        for each in one.alternatives:  # a prefix of another would have the better chance
            assert [other for other in one.alternatives if other.startswith(each)] == [each]
        assert one.prefix and len(one.prefix.split()) <= q.MOST_WORDS


def test_a_question_is_hard_where_all_rules_are_wrong():
    for kind in KINDS:
        assert sum(rules(one)[1] for one in of(kind)) == EACH // 2
    story = "Tom met Mira. Mira met Tom. Tom met Ben. Ben met Mira. Tom met"
    question = Question("", story, [" Tom", " Mira", " Ben"], ["Tom", "Mira", "Ben"], 1, "")
    assert rules(question) == ({"named_last": 0, "named_first": 0, "named_most": 0}, True)
    tied = dataclasses.replace(question, prefix="Tom met Mira. Ben")
    assert rules(tied) == ({"named_last": 2, "named_first": 0, "named_most": 2}, False)


@pytest.mark.slow
def test_the_published_answers_are_to_the_questions_of_today():
    questions = json.dumps([vars(question) for question in make_questions(2024)]).encode("ascii")
    published = store.load_results(f"{VERSIONS[-1]}-sample")[1].probes
    assert published["questions_sha256"] == hashlib.sha256(questions).hexdigest()
    corpus = (ROOT / "data" / "input.txt").read_text(encoding="utf-8")
    assert not any(text[:300] in corpus for text in TEXTS if len(text) > 300)
    assert make_questions(5, each=4) != make_questions(6, each=4)


def test_the_reader_of_stories_finds_the_same_answers_before_the_ending_says_them():
    for one in of(q.HOLDER) + of(q.HELD) + of(q.PLACE):
        story, _, ending = one.prefix.rpartition("\n")
        read = Reader().story(story)
        if one.kind == q.HOLDER:
            assert list(read.holders.values()) == [right(one)] and right(one) not in ending
            continue
        name = re.findall(r"(\w+) (?:was|sat) at the", ending)[-1]
        if one.kind == q.PLACE:
            assert read.places[name] == right(one) and len(re.findall(name, ending)) == 1
        else:
            held = {read.looks[thing].split()[0] for thing in read.things_of(name)}
            assert {each.strip() for each in one.alternatives} & held == {right(one)}
            assert not re.search(rf"\b{right(one)}\b", ending)


# ---- answers ----


CHARACTERS = CharTokenizer.train([*TEXTS, *("".join(each.alternatives) for each in QUESTIONS)])
FEW = [each for kind in KINDS for each in of(kind)[:4]]
NEXT = {  # the character after each beginning of a text
    text[max(0, i - 60) : i]: CHARACTERS.ids[text[i]] for text in TEXTS for i in range(1, len(text))
}


class Knows(nn.Module):
    """Knows the texts: after each beginning of one it is sure of the next character."""

    def __init__(self, sign=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(sign))

    def forward(self, idx):
        logits = torch.zeros(*idx.shape, CHARACTERS.vocab_size)
        for row, ids in enumerate(idx.tolist()):
            text = CHARACTERS.decode(ids)
            for i in range(1, len(text) + 1):
                if (known := NEXT.get(text[max(0, i - 60) : i])) is not None:
                    logits[row, i - 1, known] = 9 * self.weight
        return logits


@pytest.mark.parametrize("context_length", [10_000, 90])
def test_a_model_that_knows_the_stories_is_always_right_and_its_opposite_never(context_length):
    assert all(answer(Knows(), CHARACTERS, context_length, FEW))
    assert not any(answer(Knows(sign=-1.0), CHARACTERS, context_length, FEW))


def test_answers_are_counted_by_kind_and_by_their_hard_half():
    hard = [rules(one)[1] for one in QUESTIONS]
    for kind, row in probes.summary(QUESTIONS, hard).items():  # right where it is hard
        assert (row.n, row.n_hard, row.accuracy, row.accuracy_hard) == (EACH, EACH // 2, 0.5, 1)
        hard = [1 / len(each.alternatives) for each in of(kind) if rules(each)[1]]
        assert row.chance_hard == pytest.approx(sum(hard) / len(hard))
        for rule in probes.RULES:
            right = [rules(each)[0][rule] == each.right for each in of(kind)]
            assert row.rules[rule] == pytest.approx(sum(right) / EACH)


def test_log_probabilities_are_those_of_the_bigram_table_and_batches_change_none(monkeypatch):
    tokenizer = CharTokenizer.train(["abc "])
    model, _ = model_of(load_version("v0"), vocab_size=tokenizer.vocab_size)
    nn.init.normal_(model.table.weight)
    table = model.table.weight.detach().double().log_softmax(-1)
    a, b, c, space = (tokenizer.ids[one] for one in "abc ")
    question = Question("", "ab", [" ab", " ac", " b"], ["ab", "ac", "b"], 0, "")
    # All begin with the space, which decides nothing and is left out.
    by_hand = [table[space, a] + table[a, b], table[space, a] + table[a, c], table[space, b]]
    found = log_probabilities(model, tokenizer, 16, [question])[0]
    assert found == pytest.approx([float(each) for each in by_hand], abs=1e-5)
    model, _ = model_of(load_version("v4"), vocab_size=CHARACTERS.vocab_size)
    together = log_probabilities(model, CHARACTERS, 60, FEW)
    monkeypatch.setattr(probes, "LOGIT_BYTES", 1)
    for one, other in zip(together, log_probabilities(model, CHARACTERS, 60, FEW), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_alternatives_are_cut_at_the_same_place_and_take_a_shared_tail_along():
    tokenizer = CharTokenizer.train(["abcdefgh xy."])
    question = Question("", "abcdefgh", [" xy", " y"], ["xy", "y"], 0, ".")
    rows, start = encode(question, tokenizer, 5)
    assert [tokenizer.decode(row) for row in rows] == ["fgh xy", "fgh y"] and start == 4
    with refused("too short"):
        encode(question, tokenizer, 1)

    pairs = SimpleNamespace(encode=lambda text: re.findall("..?", text))  # two characters a token
    for answers, rows in (
        (["cde", "cfg"], [["ab", "cd", "e."], ["ab", "cf", "g."]]),
        (["cd", "ef"], [["ab", "cd"], ["ab", "ef"]]),
    ):
        assert encode(Question("", "ab", answers, ["", ""], 0, "."), pairs, 10) == (rows, 1)


# ---- the command and its table ----


def test_the_command_writes_probes_json_and_prints_its_table(copy_of_v3, capsys):
    edit_json(copy_of_v3 / "config.json", config={"data": "sample"})
    probes.probe((str(copy_of_v3),), each=8)
    saved = msgspec.json.decode((copy_of_v3 / "probes.json").read_bytes(), type=probes.Probes)
    assert list(saved.kinds) == list(KINDS) and saved.version == "v3" and saved.seed == 2024
    printed = re.sub(" +", " ", capsys.readouterr().out)
    for kind, row in saved.kinds.items():
        assert (row.n, row.n_hard) == (8, 4) and max(row.rules.values()) <= 0.5
        assert f"| {kind} | 4 / 8 | {100 * row.chance_hard:.0f} | 0 / " in printed
        assert f"\n{kind}: {KINDS[kind]}\n {row.example}\n" in printed


def test_the_cell_of_one_seed_has_wilsons_interval():
    """Of 4 of 5 by hand: (4 + 1.92) / 8.84 ± 1.96 / 8.84 √(4/5 + 0.96)."""
    kind = probes.Kind(10, 5, 0.7, 0.8, dict.fromkeys(probes.RULES, 0.3), 0.5, "a ___ (b)")
    assert probes.cell([kind]) == "80 [38, 96] / 70"


def test_more_stories_of_the_world_are_known_by_their_seed(tmp_path):
    text = tmp_path / "more.txt"
    world.main(["--bytes", "1000", "--seed", "2", "--out", str(text)])
    assert probes.seed_of_stories(str(text)) == 2
    text.with_suffix(".json").write_text(json.dumps({"seed": 2, "format": -1}), encoding="utf-8")
    assert probes.seed_of_stories(str(text)) is probes.seed_of_stories("wikitext-2") is None

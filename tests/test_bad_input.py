"""Bad input, one flag and one file after the other: a clear message, status 2, nothing left behind.

A number or a text among the fields of a version's Config without a row in OWN fails the test.
"""

import math
import os
import re
import sys
import typing

from common.cli import run_main
from common.config import RunConfig

import pytest
from lineage import VERSIONS, flags, load, read, story_file

LONG, HUGE = "x" * 300, "2147483649"
KINDS = {  # type of a field: values that can't be meant; WANTED has what the message names
    int: ["x", "", "1.5", "1e3", "nan", "inf", "٣ ٣", "-1", str(2**64)],
    float: ["x", "", "nan", "1,5"],
    str: ["a\0b", "\udcff"],
    bool: ["x", "True", ""],  # a switch takes no value
}
COUNT, SHARE, RATE = ["0", HUGE], ["-0.1", "1", "2", "inf"], ["0", "-1", "inf", "1e38", "1e-400"]
OWN = {  # field: further values
    **dict.fromkeys(["grad_accum", "n_samples", "max_new_tokens"], COUNT),
    **dict.fromkeys(["steps", "warmup_steps", "eval_every", "top_k"], [HUGE]),
    **dict.fromkeys(["dropout", "ngram_dropout"], SHARE),
    **dict.fromkeys(["learning_rate", "muon_learning_rate", "ngram_learning_rate"], RATE),
    # None: the switch alone, where there is nothing to resume.
    **dict.fromkeys(["resume", "sample_only", "interactive"], [None]),
    "data": ["", "no-such-corpus", "no/such/file.txt", "hf:", "hf:one", "hf:a/b:c:d:e", LONG],
    "data_dir": ["no/such/folder", "FILE", LONG],
    "tokenizer": ["", "no-such-kind", "no/such/file.json", "FOLDER", LONG],
    "split_pattern": ["", "gpt-4", "x", "(", "(?<n>a(?P&n)?)", "(?au)a"],
    "vocab_size": [*COUNT, "1", "255"],
    "context_length": [*COUNT, "100000"],
    "batch_size": [*COUNT, "65537"],
    "n_head": [*COUNT, "3", "17"],
    "n_embd": [*COUNT, "3", "65538"],
    "n_layer": [*COUNT, "1001"],
    "n_kv_head": [*COUNT, "3"],
    "rope_base": ["0", "1", "-10", "inf"],
    "ngram_rows": [HUGE, "67108865"],
    "ngram_max": [*COUNT, "1", "17"],
    "weight_decay": ["-1", "inf", "1e38"],
    "clip_norm": ["0", "-1", "inf"],
    "seed": [str(2**63)],
    "device": ["", "abacus", "meta", "CPU", "cpu:", "cuda:-1", "cuda:99", "cpu,cuda"],
    "out_dir": ["FILE", "FILE/run", LONG],
    "prompt": ["-hello"],
    "temperature": ["-1", "1e-320", "inf"],
    "top_p": ["0", "2", "-0.5", "inf"],
}
WANTED = {  # field: the message has this instead of the flag's name
    "data": "corpus|no such file|no file|hf:|--data",
    "split_pattern": "pattern",
    "context_length": "context",
    "n_head": "n-head|heads",
    "tokenizer": "tokenizer|read",
    "out_dir": "folder|--out-dir",
}


@pytest.fixture
def place(cache, monkeypatch):
    """An empty folder to run in, with a text, an empty folder and a file in it."""
    (cache / "work" / "FOLDER").mkdir(parents=True)
    (cache / "work" / "FILE").write_bytes(b"x\n")
    monkeypatch.chdir(cache / "work")
    monkeypatch.delenv("WIKITEXT_DIR", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return story_file(cache / "work")


def refusal(module, monkeypatch, capsys, args):
    """What a command prints that has to end with status 2 and leave nothing."""
    given = {args[i] for i in range(0, len(args), 2)}
    base = flags(module, data="story.txt", out_dir="runs/out", warmup_steps=1)
    base = [v for k in range(0, len(base), 2) if base[k] not in given for v in base[k : k + 2]]
    before = sorted(os.walk("."))
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *base, *args])
    with pytest.raises(SystemExit) as stop:
        run_main(module.main)
    message = "".join(capsys.readouterr())
    assert stop.value.code == 2, (args, message)
    line = message.startswith(f"{module.__name__}.py: ") and message.count("\n") == 1
    assert line or message.startswith("╭"), message  # tyro's box
    assert "Traceback" not in message and len(message) < 2000, message
    assert sorted(os.walk(".")) == before, (args, "left something behind")
    return message


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_flag_refuses_what_cannot_be_meant(version, place, monkeypatch, capsys):
    """Flags that all versions share are tried with the last one alone."""
    module = load(version)
    for name, kind in typing.get_type_hints(module.Config).items():
        if name in RunConfig.__dataclass_fields__ and version != VERSIONS[-1]:
            continue
        flag = "--" + name.replace("_", "-")
        choices = ["", "0", *(choice.upper() for choice in typing.get_args(kind))]
        assert name in OWN or kind is bool or choices[2:], f"{name} has no row in OWN"
        for value in KINDS.get(kind, choices) + OWN.get(name, []):
            args = [flag] if value is None else [flag, value]
            args += ["--data", "wikitext-2"] * (name == "data_dir")
            wanted = WANTED.get(name, "[Uu]nrecognized|no run in" if kind is bool else flag)
            message = refusal(module, monkeypatch, capsys, args)
            assert re.search(wanted, message), (args, message)


TOGETHER = [
    ("v2", ["--n-embd", "16", "--n-head", "3"], "divide into 3 heads"),
    ("v4", ["--n-embd", "6", "--n-head", "2", "--position", "rope"], "heads of an even width"),
    ("v0", ["--context-length", "5000"], "too few for a context of 5000"),
    ("v0", ["--prompt", "-hello"], "write .* as --prompt=-hello"),
    ("v1", ["--vocab-size", "256"], "too small for byte pairs"),
    ("v1", ["--vocab-size", "2", "--tokenizer", "word"], "too small|no room"),
    ("v0", ["--data", "sample", "--data-dir", "FOLDER"], "--data-dir .*WikiText"),
    ("v0", ["--data", "story.txt:column"], "has no column"),
    ("v0", ["--stepz", "3"], "Unrecognized options: --stepz"),
    ("v0", ["stray"], "Unrecognized"),
]


@pytest.mark.parametrize("version, args, wanted", TOGETHER)
def test_flags_that_contradict_each_other(version, args, wanted, place, monkeypatch, capsys):
    assert re.search(wanted, refusal(load(version), monkeypatch, capsys, args))


@pytest.mark.parametrize("position", ["alibi", "rope", "sinusoidal", "learned", "none"])
def test_a_context_of_one_token_works(train, position):
    folder, *_ = train("v4", context_length=1, position=position)
    rows = read(folder / "result.json")["extrapolation"]
    assert [row["context"] for row in rows] == ([1] if position == "learned" else [1, 2, 4, 8])
    assert all(math.isfinite(row["sliding"]) for row in rows)

"""Bad input, one flag and one file after the other: a clear message, status 2, nothing left behind.

A field of a version's Config without a row in FLAGS fails the test. What only looks bad, Windows'
line ends for one, has to work and to give what the same text gives without it.
"""

import dataclasses
import math
import os
import re
import sys
from pathlib import Path

from common.cli import run_main
from common.config import RunConfig

import pytest
from lineage import VERSIONS, flags, load, read, run, story_file

INT = ["x", "", "1.5", "1e3", "nan", "inf", "٣ ٣"]  # no whole numbers
FLOAT = ["x", "", "nan", "1,5"]
HUGE = ["2147483649", str(2**64)]
SIZE = [*INT, *HUGE, "0", "-1"]
NO_PATH = ["a\0b", "\udcff", "x" * 300]
SWITCH = ["x", "True", ""]  # a switch takes no value
RATE = [*FLOAT, "0", "-1", "inf", "1e38", "1e-400"]
FLAGS = {  # field: values that can't be meant; WANTED has what the message names besides the flag
    "data": ["", "no-such-corpus", "no/such/file.txt", "hf:", "hf:one", "hf:a/b:c:d:e", *NO_PATH],
    "data_dir": ["no/such/folder", "FILE", *NO_PATH],
    "tokenizer": ["", "no-such-kind", "no/such/file.json", "FOLDER", *NO_PATH],
    "split_pattern": ["", "gpt-4", "x", "(", "[a", "(?P<n", *NO_PATH[:2]],
    "end_of_text": SWITCH,
    "vocab_size": [*SIZE, "1", "255"],
    "context_length": [*SIZE, "100000"],
    "batch_size": [*SIZE, "65537"],
    "grad_accum": SIZE,
    "n_head": [*SIZE, "3", "17"],
    "n_embd": [*SIZE, "3", "65538"],
    "n_layer": [*SIZE, "1001"],
    "dropout": [*FLOAT, "-0.1", "1", "2", "inf"],
    "activation_checkpointing": SWITCH,
    "qkv_bias": SWITCH,
    "position": ["", "ALiBi", "absolute", "0"],
    "rope_base": [*FLOAT, "0", "1", "-10", "inf"],
    "n_kv_head": [*SIZE, "3"],
    "norm": ["", "RMS", "batch"],
    "mlp": ["", "GELU", "relu"],
    "bias": SWITCH,
    "qk_norm": SWITCH,
    "ngram_rows": [*INT, *HUGE, "-1", "67108865"],
    "ngram_max": [*SIZE, "1", "17"],
    "ngram_at": ["", "output", "values"],
    "ngram_gate": SWITCH,
    "ngram_dropout": [*FLOAT, "-0.1", "1", "inf"],
    "optimizer": ["", "Muon", "sgd"],
    "steps": [*INT, *HUGE, "-1"],
    "learning_rate": RATE,
    "muon_learning_rate": RATE,
    "ngram_learning_rate": RATE,
    "warmup_steps": [*INT, *HUGE, "-1"],
    "weight_decay": [*FLOAT, "-1", "inf", "1e38"],
    "clip_norm": [*FLOAT, "0", "-1"],
    "cosine_decay": SWITCH,
    "long_contexts": SWITCH,
    "n_samples": SIZE,
    "seed": [*INT, "-1", str(2**63)],
    "device": ["", "abacus", "meta", "CPU", "cpu:", "cuda:-1", "cuda:99", "cpu,cuda"],
    "dtype": ["", "float16", "int8", "32"],
    "compile": SWITCH,
    "eval_every": [*INT, *HUGE, "-1"],  # 0: about ten
    "out_dir": ["FILE", "FILE/run", *NO_PATH],
    "resume": [*SWITCH, None],  # None: the switch alone, where there is nothing to resume
    "sample_only": [*SWITCH, None],
    "interactive": [*SWITCH, None],
    "prompt": ["-hello", *NO_PATH[:2]],
    "max_new_tokens": SIZE,
    "temperature": [*FLOAT, "-1", "1e-320", "inf"],
    "top_k": [*INT, *HUGE, "-1"],
    "top_p": [*FLOAT, "0", "2", "-0.5", "inf"],
}
WANTED = {  # field: the message has this instead of the flag's name
    **{name: "[Uu]nrecognized|no run in" for name in FLAGS if FLAGS[name][:3] == SWITCH},
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


# Fields that all versions share are tried with the last one alone.
TRIED = [
    (version, field.name)
    for version in VERSIONS
    for field in dataclasses.fields(load(version).Config)
    if version == VERSIONS[-1] or field.name not in RunConfig.__dataclass_fields__
]


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_flag_refuses_what_cannot_be_meant(version, place, monkeypatch, capsys):
    module = load(version)
    for name in (name for tried, name in TRIED if tried == version):
        assert name in FLAGS, f"{name} has no row in FLAGS"
        flag = "--" + name.replace("_", "-")
        for value in FLAGS[name]:
            args = [flag] if value is None else [flag, value]
            if name == "data_dir" and value[0] != "\0":
                args += ["--data", "wikitext-2"]
            message = refusal(module, monkeypatch, capsys, args)
            assert re.search(WANTED.get(name, flag), message), (args, message)


def test_every_row_belongs_to_a_field():
    assert {name for _, name in TRIED} == set(FLAGS)


TOGETHER = [
    ("v2", ["--n-embd", "16", "--n-head", "3"], "divide into 3 heads"),
    ("v4", ["--n-embd", "6", "--n-head", "2", "--position", "rope"], "heads of an even width"),
    ("v0", ["--context-length", "5000"], "too few for a context of 5000"),
    ("v0", ["--batch-size", "2"], "batch-size"),
    ("v0", ["--prompt", "-hello"], "write .* as --prompt=-hello"),
    ("v1", ["--vocab-size", "256"], "too small for byte pairs"),
    ("v1", ["--vocab-size", "2", "--tokenizer", "word"], "too small|no room"),
    ("v0", ["--data", "sample", "--data-dir", "FOLDER"], "--data-dir .*WikiText"),
    ("v0", ["--data", "story.txt:column"], "has no column"),
    ("v0", ["--steps"], "steps"),
    ("v0", ["--stepz", "3"], "Unrecognized options: --stepz"),
    ("v0", ["stray"], "Unrecognized"),
]


@pytest.mark.parametrize("version, args, wanted", TOGETHER)
def test_flags_that_contradict_each_other(version, args, wanted, place, monkeypatch, capsys):
    assert re.search(wanted, refusal(load(version), monkeypatch, capsys, args))


@pytest.mark.parametrize("steps, wanted", [(3, True), (4, False), (0, False)])
def test_steps_under_the_warm_up_are_noted(place, monkeypatch, capsys, steps, wanted):
    module = load("v3")
    run(module, monkeypatch, flags(module, data="story.txt", steps=steps, warmup_steps=4))
    assert ("4 --warmup-steps, and --steps are 3" in capsys.readouterr().err) == wanted


@pytest.mark.parametrize("position", ["alibi", "rope", "sinusoidal", "learned", "none"])
def test_a_context_of_one_token_works(place, monkeypatch, position):
    module = load("v4")
    args = flags(module, data="story.txt", context_length=1, position=position, out_dir="out")
    run(module, monkeypatch, args)
    rows = read(Path("out/result.json"))["extrapolation"]
    assert [row["context"] for row in rows] == ([1] if position == "learned" else [1, 2, 4, 8])
    assert all(math.isfinite(row["sliding"]) for row in rows)

"""The command line of the scripts: ~ in paths, and how little is imported until it is needed."""

import os
import sys

from common.cli import parse, run_command
from results.__main__ import main

import pytest
from lineage import ROOT, VERSIONS, flags, load, python, run, story_file

# Slow to import, and wanted only once a picture is drawn, a dataset read, an interval computed.
HEAVY = "matplotlib scipy datasets pandas pyarrow transformers jinja2 safetensors".split()
HEAVY += "torch tyro argparse tiktoken tokenizers".split()


@pytest.fixture
def home(cache, monkeypatch):
    """A home for ~, on Windows too, and another folder to be in."""
    (cache / "home").mkdir()
    (cache / "here").mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(cache / "home"))
    monkeypatch.chdir(cache / "here")
    return cache / "home"


def test_a_quoted_tilde_is_the_home_in_every_path(home):
    args = ["--data", "~/a.jsonl:story", "--data-dir=~", "--tokenizer", "~/t.json"]
    config = parse(load("v0").Config, "", [*args, "--out-dir=~/r", "--prompt", "~/no path"])
    wanted = f"{home}/a.jsonl:story", str(home), f"{home}/t.json", f"{home}/r"
    assert (config.data, config.data_dir, config.tokenizer, config.out_dir) == wanted
    assert config.prompt == "~/no path"
    assert parse(load("v0").Config, "", ["--data", "x~", "--out-dir", "a/~"]).out_dir == "a/~"
    called = []

    def command(runs: tuple[str, ...], out: str = "~/a.png", prompt: str = ""):
        called.append((runs, out, prompt))

    run_command(command, "", ["~/x", "y", "--out=~/b.png", "--prompt", "~"])
    assert called == [((f"{home}/x", "y"), f"{home}/b.png", "~")]


def test_a_run_in_the_home(home, monkeypatch, capsys):
    module = load("v0")
    story_file(home)
    monkeypatch.setenv("LINEAGE_CACHE", "~/cache")
    run(module, monkeypatch, flags(module, data="~/story.txt", out_dir="~/runs/v0", steps=2))
    assert (home / "runs" / "v0" / "result.json").exists() and (home / "cache").is_dir()
    run(module, monkeypatch, ["--sample-only", "--out-dir", "~/runs/v0"])
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["results", "local", "--folder", "~/runs"])
    main()
    head, rule, row = capsys.readouterr().out.splitlines()
    assert row.startswith(f"| {home / 'runs' / 'v0'} | v0  ")
    assert [i for i, c in enumerate(head) if c == "|"] == [i for i, c in enumerate(row) if c == "|"]
    assert os.listdir() == []  # nothing in a folder called ~


def imported(program):
    """The names of HEAVY that are imported when a program has run."""
    program = f"import runpy, sys\n{program}\nprint('|', *set(sys.modules) & {{*{HEAVY!r}}})"
    done = python("-c", program, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("|")[2].split())


HELP = f"""
import {", ".join(VERSIONS)}
sys.argv = ["x", "--help"]
try:
    runpy.run_path("{VERSIONS[-1]}.py", run_name="__main__")
except SystemExit:
    pass
"""
VOCABULARY = """
from bpe_tokenizer import BPETokenizer
tokenizer = BPETokenizer.train("some text some text", 262)
tokenizer.decode(tokenizer.encode("some"))
"""
SAMPLE = "from common.data import load_corpus; load_corpus('sample').sha256"


def test_nothing_slow_is_imported_at_the_start():
    assert imported(HELP) <= {"torch", "tyro", "argparse"}
    assert imported(VOCABULARY) == imported(SAMPLE) == set()

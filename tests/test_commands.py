"""The command line of the scripts and of other commands: ~ in paths is the home."""

import os
import sys

from common.cli import parse
from results.__main__ import main
from results.commands import run_command

import pytest
from lineage import flags, load, run, story_file


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

    def command(runs: tuple[str, ...], out: str = "~/a.png", text: str = ""):
        called.append((runs, out, text))

    run_command(command, "", ["~/x", "y", "--out=~/b.png", "--text", "~"])
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

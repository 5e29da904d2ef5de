"""For the tests of the scripts: the versions as modules, small settings, a run in this process."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from common.errors import UserError
from results.store import versions

import pytest

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = versions()
STEPS = list(zip(VERSIONS, VERSIONS[1:], strict=False))  # (before, after)

SIZES = {"vocab_size": 300, "context_length": 16, "batch_size": 4, "grad_accum": 2}
SIZES |= {"n_head": 2, "n_kv_head": 1, "n_embd": 16, "n_layer": 2, "ngram_rows": 64}
LENGTHS = {"warmup_steps": 2, "steps": 12, "eval_every": 4, "max_new_tokens": 8}
SMALL = {**SIZES, **LENGTHS, "prompt": "The", "device": "cpu", "dtype": "float32"}


@contextlib.contextmanager
def refused(match=None):
    """What runs inside has to end with an error that is meant for people, one line, in which the
    regular expression `match` is found."""
    with pytest.raises(UserError, match=match) as caught:
        yield caught
    assert "\n" not in str(caught.value), caught.value


def python(*args, cwd=None, **environment):
    """The finished process of `python ARGS`, its output as text."""
    line = [sys.executable, *map(str, args)]
    env = {**os.environ, **environment}
    return subprocess.run(line, capture_output=True, encoding="utf-8", cwd=cwd, env=env)


def load(version):
    """The script as a module, read again."""
    from results.saved import load_script  # torch is imported only for this

    return load_script(ROOT / f"{version}.py")


def small(module, **changes):
    """A Config for small and quick models; fields that the version lacks are left out."""
    fields = module.Config.__dataclass_fields__
    return module.Config(**{k: v for k, v in (SMALL | changes).items() if k in fields})


def model_of(module, vocab_size=50, **changes):
    """(model, config): a small model with the initial parameters of seed 0."""
    import torch

    torch.manual_seed(0)
    config = small(module, **changes)
    return module.LanguageModel(config, vocab_size), config


def flags(module, **values):
    """Small settings and `values` as command-line arguments."""
    config, args = small(module, **values), []
    for name in {**SMALL, **values}:
        value, flag = getattr(config, name, None), "--" + name.replace("_", "-")
        if isinstance(value, bool):
            args.append(flag if value else flag.replace("--", "--no-"))
        elif value is not None:
            args += [flag, str(value)]
    return args


def run(module, monkeypatch, args):
    """Run the script's main() in this process with these arguments."""
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, args)])
    module.main()


def finished_run(version, folder, **changes):
    """A run of the small model on a small text, finished, in `folder`: the folder.

    version: its name or its module.
    """
    module = load(version) if isinstance(version, str) else version
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder.parent.mkdir(parents=True, exist_ok=True)
        text = story_file(folder.parent)
        run(module, monkeypatch, flags(module, **{"data": text, "out_dir": folder, **changes}))
    return folder


def read(path):
    """A JSON file's object, or the list of a .jsonl file's objects."""
    text = path.read_text(encoding="utf-8")
    lines = ".jsonl" in path.name
    return [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)


def edit_json(path, **changes):
    """Change entries of a JSON file's object, without its checksum; those of its `config` with a
    dictionary."""
    content = read(path)
    content.pop("checksum", None)
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(content), encoding="utf-8")


def story_file(folder, stories=60):
    """A small text to train on, in `folder`: lines of words, the same on every machine."""
    words = "the key cup lamp is was in on red old tin Anna Tom said gave took found house".split()
    state, lines = 1, [[] for _ in range(stories)]
    for line in lines * 12:
        state = state * 48271 % 2147483647
        line.append(words[state % len(words)])
    text = "".join(" ".join(line).capitalize() + ".\n" for line in lines)
    path = Path(folder) / "story.txt"
    path.write_text(text, encoding="utf-8", newline="\n")
    return path

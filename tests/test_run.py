"""What a run does beside the loop: a compiler that fails, overfitting that is said."""

import json

import pytest
import torch
from lineage import flags, load, run, story_file


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LINEAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("version", ["v0", "v3"])
def test_where_compiling_fails_the_run_says_why_and_goes_on(version, cache, monkeypatch, capsys):
    module, text = load(version), story_file(cache)
    run(module, monkeypatch, flags(module, data=text, out_dir=cache / "plain"))

    def compiled(self):
        def broken(*args, **kwargs):
            raise RuntimeError("no compiler found\nand a page of details")

        self._compiled_call_impl = broken

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    run(module, monkeypatch, flags(module, data=text, out_dir=cache / "tried", compile=True))
    said = capsys.readouterr().err
    assert "--compile is not possible here, going on without: no compiler found\n" in said
    assert "page of details" not in said
    losses = [
        [json.loads(line)["val_loss"] for line in file.read_text(encoding="utf-8").splitlines()]
        for file in (cache / "plain" / "metrics.jsonl", cache / "tried" / "metrics.jsonl")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_overfitting_is_said_once_and_the_best_weights_are_kept(cache, monkeypatch, capsys):
    """A model far too large for four lines, trained for long on them."""
    module = load("v3")
    text = story_file(cache, stories=24)
    args = flags(
        module, data=text, out_dir=cache / "run", steps=160, eval_every=20, n_embd=64,
        learning_rate=0.01, batch_size=8, grad_accum=1,
    )
    run(module, monkeypatch, args)
    said = capsys.readouterr().err
    assert said.count("overfitting: validation has risen from") == 1
    rows = (cache / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = {row["step"]: row["val_loss"] for row in map(json.loads, rows)}
    best = min(losses, key=losses.get)
    assert 0 < best < 160
    result = json.loads((cache / "run" / "result.json").read_text(encoding="utf-8"))
    assert result["best_step"] == best
    kept = torch.load(cache / "run" / "best.pt", weights_only=True)
    assert kept["step"] == best


def test_a_run_that_does_not_overfit_says_nothing_of_it(cache, monkeypatch, capsys):
    module = load("v3")
    run(module, monkeypatch, flags(module, data=story_file(cache), out_dir=cache / "run"))
    assert "overfitting" not in capsys.readouterr().err

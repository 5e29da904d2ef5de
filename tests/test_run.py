"""What a run does beside the loop: a compiler that fails, overfitting that is said."""

import json

import pytest
import torch
from lineage import finished_run, flags, load, run, story_file

import common.evaluation.evaluate


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


@pytest.mark.parametrize("version", ["v1", "v4"])
def test_the_steps_alone_run_compiled(version, cache, monkeypatch):
    """One graph, for the batches; evaluations and samples of many lengths run as they are."""
    module, text, graphs, sizes = load(version), story_file(cache), [], set()

    def compiler(graph, inputs):
        graphs.append(graph)

        def call(*args):
            sizes.update(arg.shape for arg in args if getattr(arg, "dtype", None) == torch.long)
            return graph(*args)

        return call

    def stance():
        return torch._dynamo.eval_frame._stance.stance

    def compiled(self):
        self._compiled_call_impl = torch.compile(self._call_impl, backend=compiler)

    torch._dynamo.reset()
    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    run(module, monkeypatch, flags(module, data=text, out_dir=cache / "run", compile=True))
    config = json.loads((cache / "run" / "config.json").read_text(encoding="utf-8"))["config"]
    assert len(graphs) == 1 and sizes == {(config["batch_size"], config["context_length"])}
    assert stance() == "default"
    # Stopped behind its last step, it goes on with evaluations alone; and a sample is one.
    (cache / "run" / "result.json").unlink()
    monkeypatch.setattr(module.Run, "finish", lambda self, *_: stances.append(stance()))
    stances = []
    run(module, monkeypatch, ["--resume", "--out-dir", str(cache / "run")])
    run(module, monkeypatch, ["--sample-only", "--out-dir", str(cache / "run")])
    assert stances == ["force_eager"] and stance() == "default"
    assert len(graphs) == 1  # which fits the resumed run, too


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


def test_what_was_done_to_a_text_is_said(cache, monkeypatch, capsys):
    module = load("v0")
    args = flags(module, data=story_file(cache), out_dir=cache / "run", vocab_size=2000)
    run(module, monkeypatch, args)
    said = capsys.readouterr().err
    assert "story.txt: split 90/5/5 at line ends\n" in said
    assert "ids of 2,000, since every chunk of the text is one token by then\n" in said


def test_no_memory_for_long_windows_does_not_cost_the_run(cache, monkeypatch, capsys):
    judge = common.evaluation.evaluate.judge

    def with_little_memory(model, tokens, T, *args, **options):
        if T > 40:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
        return judge(model, tokens, T, *args, **options)

    monkeypatch.setattr(common.evaluation.evaluate, "judge", with_little_memory)  # the scripts' own is as it was
    finished_run("v4", cache / "run")
    assert "not enough memory for windows of 64 tokens\n" in capsys.readouterr().err
    result = json.loads((cache / "run" / "result.json").read_text(encoding="utf-8"))
    assert [row["times"] for row in result["extrapolation"]] == [1, 2]


def test_ctrl_c_beyond_the_context_says_how_to_go_on(cache, monkeypatch, capsys):
    module, text = load("v4"), story_file(cache)
    plain = flags(module, data=text, out_dir=cache / "plain")
    run(module, monkeypatch, plain)
    extrapolation = module.Run.extrapolation

    def interrupted(self, times, *row):
        extrapolation(self, times, *row)
        if times == 2:
            self._stop(2, None)  # what the handler of SIGINT does

    monkeypatch.setattr(module.Run, "extrapolation", interrupted)
    with pytest.raises(SystemExit) as stop:
        run(module, monkeypatch, flags(module, data=text, out_dir=cache / "a run"))
    assert stop.value.code == 130
    said = capsys.readouterr().err
    assert f"SIGINT: saved at step 12; go on with: python v4.py --resume --out-dir '{cache}/a run'\n" in said
    assert not (cache / "a run" / "result.json").exists()
    monkeypatch.setattr(module.Run, "extrapolation", extrapolation)
    run(module, monkeypatch, ["--resume", "--out-dir", cache / "a run"])
    rows = [
        json.loads((cache / name / "result.json").read_text(encoding="utf-8"))["extrapolation"]
        for name in ("plain", "a run")
    ]
    assert rows[0] == rows[1] and [row["times"] for row in rows[0]] == [1, 2, 4, 8]


def test_a_folder_made_for_nothing_is_removed_with_those_above_it(cache, monkeypatch):
    from common.errors import UserError

    module = load("v0")
    args = ["--data", cache / "nothing.txt", "--out-dir", cache / "a" / "b" / "c"]
    with pytest.raises(UserError):
        run(module, monkeypatch, args)
    assert not (cache / "a").exists()


@pytest.mark.parametrize(
    ("flag", "value"), [("--temperature", "1e-40"), ("--split-pattern", "gpt-4")]
)
def test_values_that_cannot_be_meant(cache, monkeypatch, flag, value):
    from common.errors import UserError

    with pytest.raises(UserError, match=flag):
        run(load("v0"), monkeypatch, [flag, value, "--out-dir", cache / "run"])


def test_weights_that_exploded_are_one_line(cache, monkeypatch):
    from common.errors import UserError

    module = load("v4")
    args = flags(module, data=story_file(cache), out_dir=cache / "run", learning_rate=1e30)
    with pytest.raises(UserError, match="try a lower --learning-rate"):
        run(module, monkeypatch, [*args, "--eval-every", "1"])

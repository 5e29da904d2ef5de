"""What a run does around the loop: when it evaluates, what it prints, which weights it keeps."""

import importlib
import shlex
import signal
from types import SimpleNamespace

from common.cli import default_folder
from common.training.log import evaluation_limit, evaluation_steps, tokens_per_step

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lineage import ROOT, VERSIONS, load, python, read, run, story_file
from safetensors.torch import load_file

LAST = VERSIONS[-1]
evaluation = importlib.import_module("common.evaluation.evaluate")


# ---- Evaluations ----


@pytest.mark.parametrize("version", VERSIONS)
def test_evaluations_are_about_ten_and_dense_at_the_start(version):
    config = load(version).Config()
    steps = sorted(evaluation_steps(config))
    assert 10 <= len(steps) <= 12 and steps[0] == 0 and steps[-1] == config.steps
    assert len([step for step in steps if step <= config.steps / 8]) >= 4
    predicted = evaluation_limit(config, 10**9) * len(steps)
    assert 0.08 < predicted / (config.steps * tokens_per_step(config)) <= 0.1


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 64), st.integers(2, 10**5))
def test_evaluations_are_bounded_whatever_the_settings(steps, every, T, n_tokens):
    config = SimpleNamespace(steps=steps, eval_every=every, context_length=T, batch_size=4)
    found, limit = evaluation_steps(config), evaluation_limit(config, n_tokens)
    assert {0, steps} <= found <= {*range(steps + 1)}
    if every:
        assert found == {*range(0, steps, every), steps}
    assert min(n_tokens, T + 1) <= limit <= n_tokens
    assert limit * len(found) <= max(steps * 4 * T / 10, (T + 1) * len(found))


@pytest.mark.parametrize(("steps", "whole"), [(12, True), (1, False)])
def test_a_part_is_evaluated_along_the_way_and_at_the_end_the_whole_split(
    steps, whole, train, cache, monkeypatch
):
    """Of a user's own text, whatever its name, no more than training has read. The share is
    printed."""
    story_file(cache).rename(cache / "sample.txt")
    monkeypatch.chdir(cache)
    module, calls, evaluate = load("v3"), [], evaluation.evaluate

    def watched(model, tokens, *args, limit):
        calls.append((limit, len(tokens)))
        return evaluate(model, tokens, *args, limit=limit)

    monkeypatch.setattr(module, "evaluate", watched)
    folder, _, err = train(module, steps=steps, grad_accum=1, data="sample.txt")
    *way, (final, n_tokens) = calls
    trained = steps * 4 * 16
    expected = max(17, trained // 10 // len(way))
    assert {limit for limit, _ in way} == {expected} and n_tokens > expected
    assert final == (n_tokens if whole else trained) <= n_tokens
    share = f"the first {100 * expected / n_tokens:.2g} % of the validation split\n"
    assert f"evaluations along the way are on {share}" in err
    more = ["--resume", "--out-dir", folder, "--steps"]
    run(module, monkeypatch, [*more, steps + 2, "--eval-every", "1"])
    assert [limit for limit, _ in calls[-3:-1]] == [expected] * 2  # the same part
    run(module, monkeypatch, [*more, 4 * steps, "--eval-every", 2 * steps])
    if whole:
        assert calls[-2][0] > expected  # a larger one: what was better before does not compare
        assert read(folder / "result.json")["best_step"] in (2 * steps, 4 * steps)


LOSSES = [  # of the evaluations, the step of the best, and whether it overfits
    ([4.0, 3.0, 2.0, 2.5, 2.6, 2.7, 2.8], 8, True),
    ([2.0, 3.0, 2.9, 2.8, 2.85, 2.7, 2.9], 20, False),  # the untrained weights were better
    ([4.0, 3.0, 2.0, 1.9, 1.8, 1.7, 1.6], 24, False),
]


@pytest.mark.parametrize("losses, best, overfitting", LOSSES)
def test_the_best_trained_weights_are_kept_and_overfitting_is_printed_once(
    losses, best, overfitting, train, monkeypatch
):
    module, left = load("v1"), iter([*losses, losses[-1]])
    scores = dict.fromkeys("bits_per_byte perplexity accuracy accuracy_top5".split(), 0.5)
    scores["word_perplexity"] = None
    monkeypatch.setattr(module, "evaluate", lambda *_, **__: {**scores, "loss": next(left)})
    log_step, seen = module.Run.log_step, []
    noted = lambda run, loss, n: seen.append(loss.item()) or log_step(run, loss, n)  # noqa: E731
    monkeypatch.setattr(module.Run, "log_step", noted)
    folder, _, err = train(module, steps=24, learning_rate=0.05)
    means = [sum(seen[i : i + 4]) / 4 for i in range(0, 24, 4)]  # since the evaluation before
    assert [row["train_loss"] for row in read(folder / "metrics.jsonl")[1:]] == pytest.approx(means)
    assert err.count("overfitting: validation has risen from 2.000 (step 8)") == overfitting
    assert err.count("overfitting") == overfitting
    assert read(folder / "result.json")["best_step"] == best
    kept = torch.load(folder / "best.pt", weights_only=True)
    assert kept["step"] == best and any(w.any() for w in kept["state"]["model"].values())
    shared = load_file(folder / "model.safetensors")
    assert all(torch.equal(w, shared[name]) for name, w in kept["state"]["model"].items())


# ---- What is printed ----


def test_samples_scores_and_a_next_command_are_printed(train, monkeypatch, capsys):
    """The last line is a command that works as it stands."""
    folder, out, err = train("v1", prompt="Anna's", dtype="auto")
    for row in read(folder / "metrics.jsonl"):
        place = err.index(f"step {row['step']:>6}: ")
        assert f"{row['val_bits_per_byte']:.3f} bits per byte\n" in err[place:]
        assert "\n             Anna's" in err[place:]
    result = read(folder / "result.json")
    assert f"training steps compute in {result['environment']['dtype']}\n" in err
    assert f"v1 on story.txt: {result['val_bits_per_byte']:.3f} bits per byte" in out
    assert result["sample"] in out
    label, command = out.splitlines()[-1].split(": ", 1)
    python, script, *args = shlex.split(command)
    assert (label, python, script) == ("next", "python", "v1.py")
    run(load("v1"), monkeypatch, args)
    assert capsys.readouterr().out.count("Anna's") == 3


FOLDERS = {
    "sample": "runs/v1",
    "wikitext-2": "runs/v1-wikitext-2",
    "hf:roneneldan/TinyStories": "runs/v1-hf-roneneldan-TinyStories",
    "../my texts/": "runs/v1-my-texts",
    "/": "runs/v1-text",
}


@pytest.mark.parametrize("data", FOLDERS)
def test_a_run_has_a_folder_of_its_version_and_corpus(data):
    assert default_folder("v1", SimpleNamespace(data=data)) == FOLDERS[data]


# ---- Compilation ----


def test_where_compiling_fails_the_run_says_why_and_goes_on(train, monkeypatch):
    plain, *_ = train("v3", "plain")

    def broken(step):
        def compiled(*args):
            raise RuntimeError("no compiler found\nand a page of details")

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    tried, _, err = train("v3", "tried", compile=True)
    assert "--compile is not possible here, going on without: no compiler found\n" in err
    assert "page of details" not in err
    losses = [[row["val_loss"] for row in read(f / "metrics.jsonl")] for f in (plain, tried)]
    assert losses[0] == losses[1] and len(losses[0]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v0", LAST])
def test_training_steps_alone_run_compiled(version, train, monkeypatch):
    """One graph, for the batches; evaluations and samples of many lengths run as they are."""
    sizes, compiler = [], torch.compile

    def backend(graph, inputs):
        def call(*args):
            sizes.append([arg.shape for arg in args if getattr(arg, "dtype", 0) == torch.long])
            return graph(*args)

        return call

    monkeypatch.setattr(torch, "compile", lambda step: compiler(step, backend=backend))
    torch._dynamo.reset()
    folder, *_ = train(version, compile=True)
    config = read(folder / "config.json")["config"]
    shape = [config[name] for name in ("batch_size", "context_length") if name in config]
    assert sizes == [[torch.Size(shape)]] * (1 + 12 * config.get("grad_accum", 1))  # one to try it


# ---- Long contexts ----


def test_long_contexts_are_a_table_that_can_be_switched_off(train):
    folder, _, err = train(LAST)
    rows = read(folder / "result.json")["extrapolation"]
    assert [(row["times"], row["context"]) for row in rows] == [(n, 16 * n) for n in (1, 2, 4, 8)]
    for row in rows:
        numbers = f"{row['side_by_side']:>12.3f}  {row['sliding']:>7.3f}"
        assert f"  {row['times']:>5}  {row['context']:>6}  {numbers}\n" in err
    folder, _, err = train(LAST, "other", long_contexts=False)
    assert "extrapolation" not in read(folder / "result.json") and "times  tokens" not in err


def test_no_memory_for_long_windows_does_not_cost_the_run(train, monkeypatch):
    evaluate = evaluation.evaluate

    def with_little_memory(model, tokens, T, *args, **options):
        if T > 40:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
        return evaluate(model, tokens, T, *args, **options)

    monkeypatch.setattr(evaluation, "evaluate", with_little_memory)
    folder, _, err = train(LAST)
    assert "not enough memory for windows of 64 tokens\n" in err
    assert [row["times"] for row in read(folder / "result.json")["extrapolation"]] == [1, 2]


def test_ctrl_c_among_long_contexts_loses_nothing(train, monkeypatch, capsys):
    module, (plain, *_) = load(LAST), train(LAST, "plain")
    log_row = module.Run.log_long_context

    def interrupted(self, times, *row):
        log_row(self, times, *row)
        if times == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(module.Run, "log_long_context", interrupted)
    with pytest.raises(SystemExit) as stop:
        train(module)
    folder, err = plain.parent / "a run", capsys.readouterr().err
    go_on = f"python {LAST}.py --resume --out-dir '{folder}'"
    assert stop.value.code == 130 and not (folder / "result.json").exists()
    assert f"SIGINT: saved at step 12; go on with: {go_on}\n" in err
    monkeypatch.setattr(module.Run, "log_long_context", log_row)
    run(module, monkeypatch, shlex.split(go_on)[2:])
    rows = [read(f / "result.json")["extrapolation"] for f in (plain, folder)]
    assert rows[0] == rows[1] and len(rows[0]) == 4


# ---- OpenMP ----

SPIN = "import common, os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
OWN = [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]


@pytest.mark.parametrize("own, wanted", OWN)
def test_threads_spin_briefly_before_torch_is_imported(own, wanted, monkeypatch):
    """Scripts import common first, as ruff sees to."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert python("-c", SPIN, cwd=ROOT, **own).stdout == f"{wanted} False\n"

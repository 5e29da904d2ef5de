"""What every version of the lineage has to do, tested on each with small sizes."""

import functools
import io
import math
import signal

from common.training.summary import draw_loss

import pytest
import torch
from lab import at_step, contents, metrics_of
from lineage import ROOT, VERSIONS, finished_run, flags, load, read, run, small, story_file

pytestmark = pytest.mark.parametrize("version", VERSIONS)
FILES = """config.json metrics.jsonl checkpoint.pt checkpoint.previous.pt best.pt model.safetensors
    samples.txt loss.png script.py tokenizer.json result.json"""
RESULT = """version idea seed data tokenizer config params steps tokens_seen train_loss val_loss
    val_bits_per_byte val_perplexity val_word_perplexity val_accuracy best_step seconds
    tokens_per_second peak_rss_mb environment sample"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """version -> the folder of a finished run, which no test may change."""
    return functools.cache(lambda name: finished_run(name, tmp_path_factory.mktemp(name) / "run"))


def test_a_run_leaves_its_files_and_a_full_result(version, finished, monkeypatch):
    folder = finished(version)
    assert {path.name for path in folder.iterdir()} == set(FILES.split())
    result, config = read(folder / "result.json"), small(load(version))
    assert result["checksum"] and read(folder / "config.json")["checksum"]
    assert set(RESULT.split()) <= set(result)
    assert result["version"] == version and result["steps"] == 12
    assert f"{version}: {result['idea']}." == load(version).__doc__.splitlines()[0]
    assert result["val_perplexity"] == pytest.approx(math.exp(result["val_loss"]))
    assert 0 < result["val_accuracy"] < result["val_accuracy_top5"] < 1
    rows = getattr(config, "batch_size", 1) * getattr(config, "grad_accum", 1)
    assert result["tokens_seen"] == 12 * rows * config.context_length
    assert [row["step"] for row in metrics_of(folder)] == [0, 4, 8, 12]
    assert metrics_of(folder)[-1]["train_loss"] < metrics_of(folder)[1]["train_loss"]  # it learns
    assert (folder / "script.py").read_bytes() == (ROOT / f"{version}.py").read_bytes()
    drawn, rows = [], read(folder / "metrics.jsonl")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda own, *_, **__: drawn.append(own))
    draw_loss(rows, None, version, entropy=0.5)
    _, line, bound = drawn[0].axes[0].lines
    bits = [row["val_bits_per_byte"] for row in rows]
    assert [*line.get_ydata(), *bound.get_ydata()] == pytest.approx([*bits, 0.5, 0.5])


def test_the_same_seed_gives_the_same_run_bit_for_bit(version, finished, cache, monkeypatch):
    folder, other = finished(version), cache / "other"
    for seed, same in ((1, True), (2, False)):
        finished_run(version, other, seed=seed)
        assert (metrics_of(folder) == metrics_of(other)) == same
        samples = [(path / "samples.txt").read_bytes() for path in (folder, other)]
        assert (samples[0] == samples[1]) == same


def test_nothing_but_the_seed_decides_the_batches(version, cache, monkeypatch):
    module, text, seen = load(version), story_file(cache), []
    get_batch = module.get_batch

    def watched(*args):
        x, y = get_batch(*args)
        seen[-1].append(x.clone())
        assert torch.equal(x[..., 1:], y[..., :-1])  # the targets are the next tokens
        return x, y

    monkeypatch.setattr(module, "get_batch", watched)
    for changes in ({}, {"eval_every": 3, "prompt": "A longer prompt", "dropout": 0.5}):
        seen.append([])
        run(module, monkeypatch, flags(module, data=text, out_dir=cache / "run", **changes))
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_a_stopped_run_goes_on_bit_for_bit(version, cache, monkeypatch, capsys):
    """In bfloat16, with dropout, where there is some; stopped between two evaluations or at one, by
    Ctrl-C, by SIGTERM or by the terminal's end."""
    module, changes = load(version), {"dtype": "bfloat16", "dropout": 0.2}
    finished_run(version, cache / "whole", **changes)
    get_batch, nth = module.get_batch, VERSIONS.index(version)
    names = ("SIGINT", "SIGTERM", "SIGHUP" if hasattr(signal, "SIGHUP") else "SIGINT")
    number, step = signal.Signals[names[nth % 3]], 7 + nth % 2
    at_step(module, monkeypatch, step, lambda: signal.raise_signal(number))
    with pytest.raises(SystemExit) as stop:
        args = flags(module, data=cache / "story.txt", out_dir=cache / "parts", **changes)
        run(module, monkeypatch, args)
    go_on = f"python {version}.py --resume --out-dir {cache / 'parts'}"
    assert stop.value.code == 128 + number and len(metrics_of(cache / "parts")) == step - 5
    assert f"{number.name}: saved at step {step}; go on with: {go_on}\n" in capsys.readouterr().err
    monkeypatch.setattr(module, "get_batch", get_batch)
    (script := cache / "parts" / "script.py").write_bytes(b"before a change")
    (cache / "parts" / "probes.json").touch()  # of weights before
    run(module, monkeypatch, go_on.split()[2:])
    assert f"{script} differs from {version}.py, which is used" in capsys.readouterr().err
    assert contents(cache / "whole") == contents(cache / "parts")


def test_a_finished_run_continues_prompts_and_is_left_as_it_was(
    version, finished, monkeypatch, capsys
):
    module, folder = load(version), finished(version)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    capsys.readouterr()  # what the training printed

    def printed(*args):
        run(module, monkeypatch, ["--out-dir", folder, *args])
        return capsys.readouterr().out

    def sampled(prompt, seed, *more):
        return printed("--sample-only", "--prompt", prompt, "--seed", seed, *more)

    five, six = sampled("Anna", 5), sampled("Anna", 6)
    more = "--top-k 1 --top-p 0.9 --temperature 0.5 --max-new-tokens 9".split()
    assert sampled("Anna", 5, *more) == sampled("Anna", 6, *more)
    assert sampled("", 5) == printed("--sample-only", "--seed", "5")  # the run's own prompt
    assert five.startswith("Anna") and len(five) > 6 and five != six
    assert sampled("Anna", 5, "--n-samples", "2") == f"--- seed 5 ---\n{five}--- seed 6 ---\n{six}"
    typed = [sampled("Anna", 1), sampled("Tom", 1), sampled("Tom", 2)]
    monkeypatch.setattr("sys.stdin", io.StringIO("Anna\nTom\n\n"))
    assert printed("--interactive") == "".join(f"> {text}" for text in typed) + "> \n"
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

"""What every version of the lineage has to do, tested on each with small sizes."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from lineage import ROOT, VERSIONS, flags, load, model_of, run, small, story_file

pytestmark = pytest.mark.parametrize("version", VERSIONS)


class Letters:
    """A tokenizer for tests of sampling: a letter a token; token 7, `h`, ends a text."""

    end_of_text = 7

    def encode(self, text):
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, ids):
        return "".join(chr(i + ord("a")) for i in ids)


class Fixed(torch.nn.Module):
    """A model whose next token depends on the current one alone: logits are rows of a table."""

    def __init__(self, table):
        super().__init__()
        self.table = torch.nn.Parameter(table)

    def forward(self, idx, cache=None):
        return self.table[idx]


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_a_token_changes_no_logits_before_it(version):
    module = load(version)
    model, config = model_of(module)
    model.eval()
    for parameter in model.parameters():  # away from the zeros that some of them begin with
        torch.nn.init.normal_(parameter, std=0.5)
    idx = torch.randint(50, (2, config.context_length))
    before = model(idx)
    for t in range(1, config.context_length):
        changed = idx.clone()
        changed[:, t] = (changed[:, t] + 1) % 50
        after = model(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])


def test_the_loss_begins_near_ln_v(version):
    module = load(version)
    model, config = model_of(module, vocab_size=300)
    x, y = torch.randint(300, (2, 8, config.context_length))
    loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    assert abs(loss.item() - math.log(300)) < 0.05


def test_one_small_batch_can_be_overfitted(version):
    module = load(version)
    model, config = model_of(module, n_embd=32)
    order = torch.randperm(50)[: config.context_length + 1]  # no token twice: even a bigram can
    x, y = order[None, :-1], order[None, 1:]
    lr = 0.01 if hasattr(config, "n_embd") else 0.1  # a table's logits have a long way to go
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(300):
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_a_run_leaves_its_files_and_a_full_result(version, cache, monkeypatch, capsys):
    module = load(version)
    text, out = story_file(cache), cache / "out"
    run(module, monkeypatch, flags(module, data=text, out_dir=out))
    names = "config.json metrics.jsonl checkpoint.pt samples.txt loss.png script.py result.json"
    assert set(names.split()) <= {path.name for path in out.iterdir()}
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    wanted = """version idea seed data tokenizer config params steps tokens_seen train_loss val_loss
        val_bits_per_byte val_perplexity val_word_perplexity val_accuracy best_step seconds
        tokens_per_second peak_rss_mb environment sample"""
    assert set(wanted.split()) <= set(result)
    assert result["version"] == version and result["steps"] == 12
    assert result["idea"] and result["idea"] in module.__doc__
    assert result["val_perplexity"] == pytest.approx(math.exp(result["val_loss"]))
    assert 0 < result["val_accuracy"] < result["val_accuracy_top5"] < 1
    said = f"perplexity {result['val_perplexity']:,.1f} per token; the right token comes first in"
    assert said in capsys.readouterr().out
    config = small(module)
    sequences = config.batch_size * getattr(config, "grad_accum", 1)
    assert result["tokens_seen"] == 12 * sequences * config.context_length
    bits = result["val_loss"] / math.log(2) * _val_tokens(cache) / result["data"]["val_bytes"]
    assert result["val_bits_per_byte"] == pytest.approx(bits)
    assert [row["step"] for row in metrics(out)] == [0, 4, 8, 12]
    assert (out / "script.py").read_bytes() == (ROOT / f"{version}.py").read_bytes()
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("*.tmp"))


def _val_tokens(cache):
    [path] = [p for p in (cache / "cache").rglob("*.bin") if "validation" in p.name]
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["n_tokens"]


def test_the_same_seed_gives_the_same_losses_bit_for_bit(version, cache, monkeypatch):
    module = load(version)
    text = story_file(cache)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(module, monkeypatch, flags(module, data=text, out_dir=cache / name, seed=seed))
    assert metrics(cache / "a") == metrics(cache / "b")
    assert (cache / "a" / "samples.txt").read_bytes() == (cache / "b" / "samples.txt").read_bytes()
    assert metrics(cache / "a") != metrics(cache / "c")


def test_neither_evaluations_nor_dropout_change_the_batches(version, cache, monkeypatch):
    module = load(version)
    text, seen = story_file(cache), []
    get_batch = module.get_batch

    def spy(*args):
        x, y = get_batch(*args)
        seen[-1].append(x.clone())
        assert torch.equal(x[..., 1:], y[..., :-1])
        return x, y

    monkeypatch.setattr(module, "get_batch", spy)
    variants = [{}, {"eval_every": 3}, {"prompt": "A longer prompt"}]
    if "dropout" in module.Config.__dataclass_fields__:
        variants.append({"dropout": 0.5})
    for number, variant in enumerate(variants):
        seen.append([])
        run(module, monkeypatch, flags(module, data=text, out_dir=cache / str(number), **variant))
    for batches in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], batches, strict=True))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(version, cache, monkeypatch):
    module = load(version)
    text = story_file(cache)
    run(module, monkeypatch, flags(module, data=text, out_dir=cache / "whole"))
    get_batch, calls = module.get_batch, []

    def interrupt(*args):  # Ctrl-C in the middle of the seventh step: between two evaluations
        calls.append(1)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGINT)
        return get_batch(*args)

    monkeypatch.setattr(module, "get_batch", interrupt)
    with pytest.raises(SystemExit) as stop:
        run(module, monkeypatch, flags(module, data=text, out_dir=cache / "parts"))
    assert stop.value.code == 130
    monkeypatch.setattr(module, "get_batch", get_batch)
    assert len(metrics(cache / "parts")) < 4
    run(module, monkeypatch, ["--resume", "--out-dir", cache / "parts"])
    assert metrics(cache / "parts") == metrics(cache / "whole")
    whole, parts = (
        torch.load(cache / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts")
    )
    for name, tensor in whole["state"]["model"].items():
        assert torch.equal(tensor, parts["state"]["model"][name]), name
    assert torch.equal(whole["state"]["batches"], parts["state"]["batches"])
    samples = [(cache / name / "samples.txt").read_bytes() for name in ("whole", "parts")]
    assert samples[0] == samples[1]


def test_greedy_sampling_three_ways(version):
    module = load(version)
    torch.manual_seed(1)
    logits = torch.randn(40)
    best = logits.argmax()
    for settings in ({"temperature": 0.0}, {"temperature": 1e-4}, {"top_k": 1}, {"top_p": 1e-6}):
        config = small(module, **settings)
        generator = torch.Generator().manual_seed(5)
        assert all(module.choose(logits, config, generator) == best for _ in range(20)), settings


def test_top_k_and_top_p_keep_the_right_sets(version):
    module = load(version)
    probabilities = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15])

    def drawn(**settings):
        generator = torch.Generator().manual_seed(3)
        config = small(module, temperature=1.0, **settings)
        return {module.choose(probabilities.log(), config, generator).item() for _ in range(300)}

    assert drawn() == {0, 1, 2, 3, 4}
    assert drawn(top_k=2) == {1, 3}
    assert drawn(top_k=100) == {0, 1, 2, 3, 4}
    assert drawn(top_p=0.39) == {1}
    assert drawn(top_p=0.5) == {1, 3}  # the smallest set with at least half of the probability
    assert drawn(top_p=0.72) == {1, 3, 4}
    assert drawn(top_k=3, top_p=0.99) == {1, 3, 4}


def test_sampling_draws_in_proportion(version):
    module = load(version)
    config, generator = small(module, temperature=1.0), torch.Generator().manual_seed(0)
    logits = torch.tensor([0.2, 0.8]).log()
    ones = sum(module.choose(logits, config, generator).item() for _ in range(4000))
    assert abs(ones / 4000 - 0.8) < 0.03  # four and a half standard deviations


def test_the_stop_token_stops(version):
    module = load(version)
    config = small(module, temperature=0.0, max_new_tokens=30, prompt="c")
    follow = torch.full((10, 10), -100.0)
    for i in range(10):
        follow[i, (i + 1) % 10] = 100.0  # c d e f g h: `h` is the stop token
    assert module.generate(Fixed(follow), config, Letters(), "cpu") == "cdefg"


def test_prompts_longer_than_the_context_work(version):
    module = load(version)
    model, config = model_of(module, vocab_size=10, context_length=4, prompt="abcdefg" * 3)
    text = module.generate(model, config, Letters(), "cpu")
    assert text.startswith("abcdefg" * 3)
    assert model.training  # generating puts the model back as it was


def test_sample_only_prints_the_prompt_continued(version, cache, monkeypatch, capsys):
    module = load(version)
    text, out = story_file(cache), cache / "out"
    run(module, monkeypatch, flags(module, data=text, out_dir=out))
    capsys.readouterr()
    before = sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir())
    text.unlink()  # the run's folder is all that it takes
    run(module, monkeypatch, ["--sample-only", "--out-dir", out, "--prompt", "Anna said"])
    printed = capsys.readouterr().out
    assert printed.startswith("Anna said") and len(printed) > len("Anna said\n")
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir())


def test_a_second_run_moves_the_first_aside(version, cache, monkeypatch, capsys):
    module = load(version)
    text, out = story_file(cache), cache / "out"
    for seed in (1, 2):
        run(module, monkeypatch, flags(module, data=text, out_dir=out, seed=seed, steps=4))
    seeds = [
        json.loads((cache / name / "result.json").read_text(encoding="utf-8"))["seed"]
        for name in ("out", "out.1")
    ]
    assert seeds == [2, 1]
    assert "out.1" in capsys.readouterr().out


BAD = [
    (["--data", "no-such-corpus"], "no-such-corpus"),
    (["--data", "EMPTY"], "empty"),
    (["--data", "BINARY"], "binary"),
    (["--data", "SHORT", "--context-length", "100000"], "context"),
    (["--vocab-size", "255"], "vocab"),
    (["--vocab-size", "many"], "vocab-size"),
    (["--prompt", ""], "prompt"),
    (["--steps", "-1"], "steps"),
    (["--temperature", "-1"], "temperature"),
    (["--top-p", "0"], "top-p"),
    (["--top-p", "2"], "top-p"),
    (["--eval-every", "0"], "eval-every"),
    (["--device", "abacus"], "abacus"),
    (["--stepz", "3"], "--steps"),
    (["--tokenizer", "no-such-file.json"], "no-such-file.json"),
    (["--out-dir", "FILE"], "FILE"),
    (["--out-dir", "EMPTYDIR", "--resume"], "--resume"),
    (["--out-dir", "EMPTYDIR", "--sample-only"], "--sample-only"),
]


def test_bad_input_is_one_line_and_status_2(version, cache):
    """All at once in one process: to start Python for each would take most of the test's time."""
    files = {"EMPTY": b"", "BINARY": bytes(range(256)) * 40, "FILE": b"x"}
    for name, content in files.items():
        (cache / f"{name}.txt").write_bytes(content)
    files = {name: cache / f"{name}.txt" for name in files}
    files["SHORT"] = story_file(cache)
    files["EMPTYDIR"] = cache / "EMPTYDIR"
    files["EMPTYDIR"].mkdir()
    cases = [[str(files.get(word, word)) for word in args] for args, _ in BAD]
    out = cache / "never"
    program = f"""
import json, runpy, sys
for args in json.loads(sys.stdin.read()):
    if "--out-dir" not in args:
        args = args + ["--out-dir", {str(out)!r}]
    if "--data" not in args:
        args = args + ["--data", {str(files["SHORT"])!r}]
    sys.argv = ["{version}.py", *args]
    try:
        runpy.run_path({str(ROOT / f"{version}.py")!r}, run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code
    print("|", code, file=sys.stderr, flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    parts = re.split(r"\| (.*)\n", done.stderr)
    answers = list(zip(parts[::2], parts[1::2]))
    assert len(answers) == len(BAD), done.stderr
    for (args, word), (text, code) in zip(BAD, answers):
        assert code == "2", (args, code, text)
        assert text.count("\n") == 1 and text.startswith(f"{version}.py: "), (args, text)
        assert word.lower() in text.lower(), (args, text)
    assert not out.exists()
    assert list(files["EMPTYDIR"].iterdir()) == []


def test_resume_refuses_changed_settings(version, cache, monkeypatch):
    module = load(version)
    from common.errors import UserError

    text, out = story_file(cache), cache / "out"
    run(module, monkeypatch, flags(module, data=text, out_dir=out))
    result = (out / "result.json").read_bytes()
    with pytest.raises(UserError, match="learning_rate is .*, not 0.5"):
        run(module, monkeypatch, ["--resume", "--out-dir", out, "--learning-rate", "0.5"])
    with pytest.raises(UserError, match="step 12 already"):
        run(module, monkeypatch, ["--resume", "--out-dir", out, "--steps", "5"])
    assert (out / "result.json").read_bytes() == result
    run(module, monkeypatch, ["--resume", "--out-dir", out, "--steps", "16"])
    assert [row["step"] for row in metrics(out)] == [0, 4, 8, 12, 16]


def test_a_checkpoint_of_another_version_or_vocabulary_is_refused(version, cache, monkeypatch):
    module = load(version)
    from common.errors import UserError

    text, out = story_file(cache), cache / "out"
    run(module, monkeypatch, flags(module, data=text, out_dir=out))
    other = load(VERSIONS[VERSIONS.index(version) - 1])
    if other.__name__ != version:
        for flag in ("--resume", "--sample-only"):
            with pytest.raises(UserError, match="another|not of this script"):
                run(other, monkeypatch, [flag, "--out-dir", out])
    from bpe_tokenizer import BPETokenizer

    BPETokenizer.train("other text entirely", 260).save(out / "tokenizer.json")
    for flag in ("--resume", "--sample-only"):
        with pytest.raises(UserError, match="vocabulary"):
            run(module, monkeypatch, [flag, "--out-dir", out])


def test_a_folder_in_use_is_refused(version, cache, monkeypatch):
    from filelock import FileLock

    from common.errors import UserError

    module = load(version)
    text, out = story_file(cache), cache / "out"
    out.mkdir()
    with FileLock(out / ".lock"):
        with pytest.raises(UserError, match="another run"):
            run(module, monkeypatch, flags(module, data=text, out_dir=out))
    run(module, monkeypatch, flags(module, data=text, out_dir=out, steps=1))


def test_a_loss_that_is_not_a_number_stops_the_run(version, cache, monkeypatch):
    from common.errors import UserError

    module = load(version)
    text, out = story_file(cache), cache / "out"
    real, calls = F.cross_entropy, []

    def broken(*args, **kwargs):
        calls.append(1)
        loss = real(*args, **kwargs)
        return loss * math.nan if loss.requires_grad and len(calls) > 60 else loss

    monkeypatch.setattr(module.F, "cross_entropy", broken)
    with pytest.raises(UserError, match="nan after step .* learning rate"):
        run(module, monkeypatch, flags(module, data=text, out_dir=out, steps=200))
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in checkpoint["state"]["model"].values())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process can catch")
def test_sigterm_saves_and_says_how_to_go_on(version, cache):
    module = load(version)
    text, out = story_file(cache), cache / "out"
    args = flags(module, data=text, out_dir=out, steps=10**6, eval_every=10**6)
    script = str(ROOT / f"{version}.py")
    process = subprocess.Popen(
        [sys.executable, script, *args], stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    for line in process.stderr:  # the evaluation before the first step: training has begun
        if "step      0" in line:
            break
    time.sleep(0.5)
    process.terminate()
    rest = process.stderr.read()
    assert process.wait() == 128 + signal.SIGTERM
    assert f"{version}.py --resume" in rest
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] > 0

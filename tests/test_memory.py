"""What a model is said to weigh, against arithmetic."""

import gc
import json
import platform
import re
import subprocess
import sys
import weakref

import pytest
import torch
import torch.nn as nn
from lineage import (
    ROOT,
    UNCACHED,
    VERSIONS,
    finished_run,
    flags,
    load,
    model_of,
    run,
    small,
    story_file,
)

from common.training.memory import describe_model, estimate_memory, free_memory
from results.saved import load_run

CPU = torch.device("cpu")
NAME, VERSION = platform.libc_ver()
COUNT_FAULTS = """
import resource, torch
from common.training import memory
{first}
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones({size})  # freed again
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
STACKS = [version for version in VERSIONS if hasattr(load(version).Config, "n_layer")]
DROPOUTS = [version for version in VERSIONS if hasattr(load(version).Config, "dropout")]


def estimate(version, vocab_size=50, **changes):
    model, config = model_of(load(version), vocab_size, **changes)
    return estimate_memory(model, config, CPU), model


@pytest.mark.parametrize("version", VERSIONS)
def test_the_modules_sum_to_the_parameters(version):
    table, model = estimate(version)
    total, *parts = (
        int(number.replace(",", ""))
        for number in re.findall(r"(?<!\w)[\d,]*\d\b", describe_model(model, table)[0])
    )
    assert total == sum(parts) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("version", VERSIONS)
def test_parameters_gradients_and_optimizer_are_what_a_step_of_adamw_holds(version):
    table, model = estimate(version)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    optimizer.step()
    sizes = [p.nbytes for p in model.parameters()]
    gradients = [p.grad.nbytes for p in model.parameters()]
    moments = [
        value.nbytes
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    ]
    assert table["parameters"] == pytest.approx(sum(sizes) / 1e6)
    assert table["gradients"] == pytest.approx(sum(gradients) / 1e6)
    assert table["optimizer"] == pytest.approx(sum(moments) / 1e6)


@pytest.mark.parametrize("fused", [True, None])
def test_what_adamw_computes_in_counts_where_activations_take_less(fused):
    module = load("v0")
    config = small(module, context_length=2)
    model = nn.Sequential(nn.Embedding(3000, 300), nn.Linear(300, 3000))  # two large ones
    table = estimate_memory(model, config, CPU, fused)
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    for _ in range(2):  # the first step makes the two averages
        optimizer.zero_grad()
        model(torch.zeros(1, 2, dtype=torch.long)).sum().backward()
        with torch.profiler.profile(profile_memory=True) as profile:
            optimizer.step()
    live, most = 0, 0
    events = profile.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    assert most == pytest.approx(0 if fused else 3 * 4 * 3000 * 300, abs=2000)
    takes = table["optimizer"] - 2 * table["parameters"] + table["activations"]
    assert takes == pytest.approx(max(most / 1e6, table["activations"]), rel=0.001)


def test_activations_of_a_table_by_hand():
    """For each position its id (8 bytes), and V floats four times: the logits, the logarithms of
    their probabilities, which the backward pass needs, and the gradients of both."""
    V, T, B = 500, 16, 4
    table, _ = estimate("v1", V)
    assert table["activations"] == pytest.approx(B * T * (8 + 4 * 4 * V) / 1e6, rel=0.001)


@pytest.mark.parametrize("version", VERSIONS)
def test_activations_grow_with_the_batch_and_weights_do_not(version):
    tables = [estimate(version, batch_size=B)[0] for B in (1, 2, 6)]
    one, two, six = (table.pop("activations") for table in tables)
    assert two > 1.5 * one and six - one == pytest.approx(5 * (two - one))
    assert tables[0] == tables[1] == tables[2]


def test_activations_are_fewer_bytes_in_bfloat16():
    whole, half = (estimate("v4", dtype=d)[0]["activations"] for d in ("float32", "bfloat16"))
    assert 0.4 * whole < half < 0.9 * whole


def test_what_all_sequences_share_counts_once():
    """ALiBi's bias: H * T * T floats, however many sequences a batch has."""
    tables = [estimate("v4", context_length=64, batch_size=B, position=position)[0]["activations"]
              for B in (1, 50) for position in ("none", "alibi")]  # fmt: skip
    assert tables[3] - tables[2] == pytest.approx(tables[1] - tables[0], rel=0.05)


@pytest.mark.parametrize("version", STACKS)
def test_each_layer_adds_the_same(version):
    """A block's weights: 12 C^2 in matrices, and up to 12 C in biases and norms. Its activations:
    at least the MLP's hidden layer before and after the GELU."""
    C, T, B = 16, 16, 4
    tables = [estimate(version, n_layer=n, n_embd=C)[0] for n in (1, 2, 5)]
    for name in tables[0]:
        one, two, five = (table[name] for table in tables)
        assert two > one
        assert five - two == pytest.approx(3 * (two - one), rel=0.01), name
    added = tables[1]["parameters"] - tables[0]["parameters"]
    assert 12 * C**2 * 4 / 1e6 <= added <= (12 * C**2 + 12 * C) * 4 / 1e6
    assert tables[1]["activations"] - tables[0]["activations"] >= B * T * 8 * C * 4 / 1e6


@pytest.mark.parametrize("version", STACKS)
def test_checkpointed_blocks_keep_their_input_and_one_of_them_the_rest(version):
    """B * T * C floats a block in place of its activations, for all blocks but one."""
    (one, four), (one_more, four_more) = (
        [estimate(version, n_layer=n, activation_checkpointing=on)[0] for n in (1, 4)]
        for on in (False, True)
    )
    one, four, one_more, four_more = (e["activations"] for e in (one, four, one_more, four_more))
    inputs = 4 * 16 * 16 * 4 / 1e6  # B = 4, T = C = 16
    assert one_more == pytest.approx(one)
    assert four_more - one_more == pytest.approx(3 * inputs, rel=0.02)
    assert four - one > 10 * (four_more - one_more)


def test_a_run_from_before_there_was_checkpointing_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("LINEAGE_CACHE", str(tmp_path / "cache"))
    folder = finished_run("v3", tmp_path / "v3", context_length=64)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del settings["config"]["activation_checkpointing"], settings["checksum"]
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert load_run(folder).config.activation_checkpointing is False
    run(load("v3"), monkeypatch, ["--resume", "--out-dir", folder, "--steps", "16"])
    assert json.loads((folder / "result.json").read_text(encoding="utf-8"))["steps"] == 16


def test_checkpointing_is_on_again_once_it_is_measured():
    model, config = model_of(load("v3"), activation_checkpointing=True)
    estimate_memory(model, config, CPU)
    assert model.checkpointing and not model.blocks[0]._forward_hooks


def test_the_two_lines_give_the_sum():
    table, model = estimate("v1", vocab_size=1000)  # a table of 4 MB
    line = describe_model(model, table)[1]
    assert line.startswith(f"memory of a training step: {sum(table.values()):.0f} MB")
    assert "parameters 4, gradients 4, optimizer 8, activations 1" in line


@pytest.mark.parametrize("version", DROPOUTS)
def test_measuring_leaves_the_random_numbers_alone(version):
    """A resumed run measures once more; dropout has to go on as if it had not."""
    model, config = model_of(load(version), dropout=0.5)
    before = torch.get_rng_state()
    estimate_memory(model, config, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("version", DROPOUTS)
def test_a_resumed_run_drops_what_it_would_have_dropped(version, tmp_path, monkeypatch):
    monkeypatch.setenv("LINEAGE_CACHE", str(tmp_path / "cache"))
    module, text = load(version), story_file(tmp_path)
    settings = {"data": text, "dropout": 0.3, "warmup_steps": 0, "eval_every": 3}
    monkeypatch.setattr(module, "learning_rate", lambda step, config: 0.01)  # however long the run
    for name, steps in (("whole", 6), ("parts", 3)):
        args = flags(module, out_dir=tmp_path / name, steps=steps, **settings)
        run(module, monkeypatch, args)
    run(module, monkeypatch, ["--resume", "--out-dir", tmp_path / "parts", "--steps", "6"])
    whole, parts = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["state"]["model"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("version", ["v2", *STACKS])
def test_an_estimate_leaves_nothing_behind(version):
    """What its passes computed is freed: a run would carry it along to its end."""
    model, config = model_of(load(version), 50)
    outputs = []
    for module in model.modules():
        module.register_forward_hook(lambda module, x, y: outputs.append(weakref.ref(y)))
    estimate_memory(model, config, CPU)
    gc.collect()
    assert outputs
    assert not [each for each in outputs if each() is not None]


@pytest.mark.skipif(NAME != "glibc" or float(VERSION) < 2.35, reason="of glibc since 2.35")
def test_what_is_freed_is_kept_where_memory_is_not_short(monkeypatch):
    """Blocks of 64 MB are fresh pages each time unless they are kept, and those of 16 MB are kept
    unless memory is short: thousands of pages of 4 kB, or some of 2 MB.

    glibc's caches of small blocks are off here. Before its version 2.39 they can make the place of
    a freed block too short for the next, so that some of the ten get fresh pages by chance.
    """

    def faults(size, first):
        command = [sys.executable, "-c", COUNT_FAULTS.format(first=first, size=size)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
        return int(done.stdout)

    for name in ("MALLOC_MMAP_THRESHOLD_", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GLIBC_TUNABLES", UNCACHED)
    large, small = 16_000_000, 4_000_000  # numbers, of 4 bytes each
    there = "memory.free_memory = lambda: 299.0; "
    fresh = faults(large, "")
    assert fresh > 30
    assert faults(large, "assert not memory.keep_freed_memory()") < fresh / 10
    assert faults(large, there + "assert not memory.keep_freed_memory(99)") < fresh / 10
    assert faults(small, there + "assert not memory.keep_freed_memory(99)") < 3
    assert faults(small, there + "assert memory.keep_freed_memory(100)") > 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # each process takes that much
    assert faults(small, there + "assert memory.keep_freed_memory(50)") > 6
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1048576")  # the user's word
    assert faults(small, there + "assert not memory.keep_freed_memory(1)") > 6
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_")
    monkeypatch.setenv("GLIBC_TUNABLES", UNCACHED + ":glibc.malloc.mmap_threshold=1048576")
    assert faults(small, there + "assert not memory.keep_freed_memory(1)") > 6


def test_what_is_free_is_what_the_system_and_the_container_have(tmp_path):
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    assert free_memory(meminfo, cgroup) == float("inf")  # no Linux
    meminfo.write_text("MemTotal:  9000 kB\n", encoding="utf-8")
    assert free_memory(meminfo, cgroup) == float("inf")  # one that doesn't say
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:    5000 kB\n", encoding="utf-8")
    assert free_memory(meminfo, cgroup) == 5.12
    cgroup.mkdir()
    files = {"max": "max", "current": "3000000", "stat": "anon 2\ninactive_file 1000000"}
    for name, text in files.items():
        (cgroup / f"memory.{name}").write_text(text + "\n", encoding="utf-8")
    assert free_memory(meminfo, cgroup) == 5.12
    (cgroup / "memory.max").write_text("6000000\n", encoding="utf-8")
    assert free_memory(meminfo, cgroup) == 4.0


@pytest.mark.parametrize("version", ["v0", "v4"])
def test_a_run_says_where_memory_is_short(version, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("LINEAGE_CACHE", str(tmp_path / "cache"))
    module, asked = load(version), []
    monkeypatch.setattr("common.training.run.keep_freed_memory", lambda needed: asked.append(needed) or True)
    args = flags(module, out_dir=tmp_path / "run", steps=1, data=story_file(tmp_path))
    run(module, monkeypatch, args)
    out = "".join(capfd.readouterr())
    assert len(asked) == 1 and asked[0] > 0
    assert f"memory is short ({asked[0]:.0f} MB a step" in out

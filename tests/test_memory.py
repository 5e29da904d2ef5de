"""What a model is said to weigh, against arithmetic; what an evaluation takes, against a step."""

import gc
import itertools
import platform
import re
import weakref
from pathlib import Path
from types import SimpleNamespace

from common.data import load_corpus, token_file
from common.evaluation import evaluate
from common.tokenizers import load_tokenizer
from common.training.machine import describe_model, estimate_memory, prepare

import pytest
import torch
import torch.nn.functional as F
from lineage import ROOT, VERSIONS, flags, load, model_of, python, read, story_file

CPU = torch.device("cpu")
NAME, VERSION = platform.libc_ver()
# For GLIBC_TUNABLES: a heap with few holes, whose peak is what is in use.
UNCACHED = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"


def prepared(version, vocab_size=50, **changes):
    """(model, config): a small model as a run prepares it."""
    model, config = model_of(load(version), vocab_size, **{"dtype": "float32", **changes})
    return prepare(model, config, CPU), config


def estimate(version, vocab_size=50, **changes):
    """What a step is said to need, the model, and the optimizers of the version's train."""
    model, config = prepared(version, vocab_size, **changes)
    optimizers = [torch.optim.AdamW(model.parameters())]
    if hasattr(load(version), "new_optimizers"):
        optimizers = [*load(version).new_optimizers(model, config, torch.float32)]
    return estimate_memory(model, config, CPU, optimizers), model, optimizers


def most_bytes(function):
    """The most memory that torch held at once, beyond what it held before."""
    gc.collect()  # what others left is not freed meanwhile, which would count as less
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(itertools.accumulate(changes, initial=0))


@pytest.mark.parametrize("version", VERSIONS)
def test_parameters_gradients_and_optimizer_are_what_a_step_holds(version):
    table, model, optimizers = estimate(version)
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    states = [value for o in optimizers for state in o.state.values() for value in state.items()]
    held = {
        "parameters": [p.nbytes for p in model.parameters()],
        "gradients": [p.grad.nbytes for p in model.parameters() if not p.grad.is_sparse],
        "optimizer": [value.nbytes for name, value in states if name != "step"],
    }
    for name, sizes in held.items():
        assert table[name] == pytest.approx(sum(sizes) / 1e6), name
    by_module, memory = describe_model(model, table)
    numbers = re.findall(r"(?<!\w)[\d,]*\d\b", by_module)
    total, *parts = (int(number.replace(",", "")) for number in numbers)
    assert total == sum(parts) == sum(p.numel() for p in model.parameters())
    assert memory.startswith(f"memory of a training step: {sum(table.values()):.0f} MB (parameters")


SIZES = [{}, {"batch_size": 8}, {"dtype": "bfloat16"}, {"n_layer": 4}]
SIZES += [{"n_layer": 4, "activation_checkpointing": True}]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("version", [v for v in VERSIONS if hasattr(load(v).Config, "n_embd")])
def test_activations_are_about_what_a_step_takes(version, sizes):
    """To a hundredth, or somewhat more: not all of them are there at once."""
    table, model, _ = estimate(version, 400, context_length=32, **sizes)
    tokens = torch.randint(400, (sizes.get("batch_size", 4), 32))

    def step():
        F.cross_entropy(model(tokens).flatten(0, -2), tokens.flatten()).backward()

    assert 0.65 * table["activations"] < most_bytes(step) / 1e6 < 1.01 * table["activations"]


def test_activations_of_a_table_by_hand():
    """For each position its id (8 bytes), and V floats three times: the logits, their gradient, and
    the probabilities that it is made of, a buffer's worth at a time."""
    V, T, B = 500, 16, 4
    table, *_ = estimate("v1", V)
    assert table["activations"] == pytest.approx(B * T * (8 + 3 * 4 * V) / 1e6, rel=0.001)


def test_what_all_sequences_share_counts_once():
    """ALiBi's bias: H * T * T floats, however many sequences a batch has."""
    none_1, alibi_1, none_50, alibi_50 = (
        estimate("v4", context_length=64, batch_size=B, position=position)[0]["activations"]
        for B in (1, 50)
        for position in ("none", "alibi")
    )
    assert alibi_50 - none_50 == pytest.approx(alibi_1 - none_1, rel=0.05)


@pytest.mark.parametrize("version", ["v2", "v4"])
def test_estimate_is_the_same_every_time_and_leaves_nothing_behind(version):
    """Of many models of many sizes in between, whose freed memory is given out again."""
    outputs, found = [], set()
    for i in range(30):
        model, config = prepared(version, position="none", dropout=0.5, n_embd=16)
        for module in model.modules():
            module.register_forward_hook(lambda module, x, y: outputs.append(weakref.ref(y)))
        before = torch.get_rng_state()
        found.add(str(estimate_memory(model, config, CPU, [])))
        assert torch.equal(torch.get_rng_state(), before)  # dropout goes on as if it had not drawn
        assert model.training and all(p.grad is None for p in model.parameters())
        estimate(version, vocab_size=20 + 37 * i, context_length=3 + 5 * i)
    gc.collect()
    assert outputs and not [each for each in outputs if each() is not None]
    assert len(found) == 1


# ---- Evaluation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [30, 4096])
@pytest.mark.parametrize("version", ["v1", "v2", "v4"])
def test_evaluation_takes_no_more_memory_than_training(version, vocab_size):
    """With the default sizes, of few characters as of many byte pairs."""
    module = load(version)
    config = module.Config(dtype="float32")
    model = prepare(module.LanguageModel(config, vocab_size), config, CPU)
    B, T = config.batch_size, config.context_length
    tokens = torch.randint(vocab_size, (30 * T,))
    corpus = SimpleNamespace(n_bytes={"validation": 1}, words=lambda split: None)

    def step():
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        x = tokens[: B * T].view(B, T)
        F.cross_entropy(model(x).flatten(0, 1), x.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    training = most_bytes(step)
    evaluating = most_bytes(lambda: evaluate(model, tokens, T, corpus))
    # 16 MB are little next to what torch itself takes.
    assert evaluating < 1.5 * training + 16e6, (evaluating / 1e6, training / 1e6)


# ---- What the C library keeps --------------------------------------------------------------------

COUNT_FAULTS = """
import resource, torch
from common.training.machine import keep_freed_memory
{first}
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)  # 64 MB, freed again
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(NAME != "glibc" or float(VERSION) < 2.35, reason="of glibc since 2.35")
def test_what_is_freed_is_kept_unless_the_environment_says_otherwise():
    """Blocks of 64 MB are fresh pages each time unless they are kept: thousands of pages of 4 kB,
    or some of 2 MB.

    glibc's caches of small blocks are off here. Before its version 2.39 they can make the place of
    a freed block too short for the next, so that some of the ten get fresh pages by chance.
    """

    def faults(first, **environment):
        environment = {"GLIBC_TUNABLES": UNCACHED, **environment}
        return int(python("-c", COUNT_FAULTS.format(first=first), cwd=ROOT, **environment).stdout)

    keep, tunables = "keep_freed_memory()", f"{UNCACHED}:glibc.malloc.mmap_threshold=1048576"
    fresh = faults("")
    assert fresh > 30 and faults(keep) < fresh / 10
    assert faults(keep, MALLOC_MMAP_THRESHOLD_="1048576") > 30  # the user's word
    assert faults(keep, GLIBC_TUNABLES=tunables) > 30


# ---- The corpus ----------------------------------------------------------------------------------

LENGTHS = (8 * 10**6, 48 * 10**6)  # characters; even the first fills each buffer there is
TOKENS = 0.9 * (LENGTHS[1] - LENGTHS[0]) / 1e6  # MB that the longer one's add, at a byte each


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A short and a long text, encoded beforehand: what is measured is training alone."""
    folder, paths = tmp_path_factory.mktemp("texts"), []
    line = story_file(folder).read_text(encoding="utf-8")
    for length in LENGTHS:
        paths.append(folder / f"{length}.txt")
        paths[-1].write_text(line * (length // len(line)), encoding="utf-8", newline="\n")
        corpus = load_corpus(paths[-1])
        tokenizer = load_tokenizer("char", corpus, 0)
        for split in ("train", "validation"):
            assert token_file(corpus, split, tokenizer).dtype.itemsize == 1
    return paths


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is Linux's")
@pytest.mark.parametrize("version", ["v1", "v1_1"])
def test_memory_grows_with_the_corpus_in_v1_and_not_from_v1_1_on(version, texts, tmp_path):
    """v1 holds all tokens as int64, eight bytes each, and counts pairs.

    Few steps: each window that is read maps a few pages of the file, and those count here though
    the system can take them back. The heap's holes are left out, which differ by more than 10 MB
    from run to run.
    """
    settings = {"tokenizer": "char", "steps": 4, "eval_every": 4, "context_length": 64}
    peaks = []
    for text in texts:
        out = tmp_path / text.stem
        args = flags(load(version), **settings, data=text, out_dir=out)
        python(ROOT / f"{version}.py", *args, GLIBC_TUNABLES=UNCACHED)
        result = read(out / "result.json")
        assert result["data"]["train_bytes"] > 0.8 * text.stat().st_size
        peaks.append(result["peak_rss_mb"])
    growth = peaks[1] - peaks[0]
    assert growth < TOKENS / 2 if version == "v1_1" else growth > 0.9 * 8 * TOKENS, peaks

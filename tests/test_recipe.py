"""v5's parts and v6's table of n-grams, by their definitions."""

import itertools

from common.training.checkpoint import get_state, set_state

import pytest
import torch
from lineage import load, model_of


def test_newton_schulz_brings_singular_values_near_one_and_keeps_the_directions():
    torch.manual_seed(0)
    dtypes = [torch.float32, torch.bfloat16]
    for shape, dtype in itertools.product([(3, 16, 48), (3, 48, 16), (1, 16, 16)], dtypes):
        G = torch.randn(shape)
        U, _, V = torch.linalg.svd(G, full_matrices=False)
        found = load("v5").orthogonalize(G, dtype)
        assert found.shape == shape and found.dtype == torch.float32
        values = torch.linalg.svdvals(found)  # of each matrix, largest first
        assert values[:, :-2].min() > 0.6 and values.max() < 1.3  # a tiny one takes more steps
        cosines = torch.nn.functional.cosine_similarity(found.flatten(1), (U @ V).flatten(1))
        assert cosines.min() > 0.95


def test_muon_takes_the_orthogonalized_momentum_scaled_by_the_shape():
    module = load("v5")
    torch.manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in [(32, 8), (8, 8), (32, 8)]]
    muon = module.Muon(matrices, 0.1, 0.5, torch.float32)
    expected = [p.detach().clone() for p in matrices]
    averages = [torch.zeros_like(p) for p in matrices]
    for _ in range(3):
        for i, p in enumerate(matrices):
            p.grad = torch.randn(p.shape)
            averages[i] = 0.95 * averages[i] + 0.05 * p.grad
            update = module.orthogonalize((0.05 * p.grad + 0.95 * averages[i])[None])[0]
            scale = 2.0 if p.shape == (32, 8) else 1.0  # sqrt(32 / 8) is 2
            expected[i] = expected[i] * (1 - 0.1 * 0.5) - 0.1 * scale * update
        muon.step()
    for p, matrix in zip(matrices, expected, strict=True):
        assert torch.allclose(p, matrix, atol=1e-5)


@pytest.mark.parametrize("version", ["v5", "v6"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_parameter_has_one_optimizer(version, optimizer):
    module = load(version)
    model, config = model_of(module, optimizer=optimizer, learning_rate=0.006)
    owner, optimizers = {}, module.new_optimizers(model, config, torch.float32)
    for each, peak in optimizers.items():
        for group in each.param_groups:
            decay = group.get("weight_decay", 0)
            assert owner.keys().isdisjoint(map(id, group["params"]))
            owner |= dict.fromkeys(map(id, group["params"]), (type(each).__name__, peak, decay))
    for name, p in model.named_parameters():
        in_blocks = name.startswith("blocks") and p.dim() == 2
        wanted = ("Muon", 0.01) if in_blocks and optimizer == "muon" else ("AdamW", 0.006)
        wanted = *wanted, 0.1 * (p.dim() == 2)  # no decay of biases and norms
        assert owner.pop(id(p)) == (("SparseAdam", 0.003, 0) if "tables" in name else wanted), name
    assert not owner


# ---- Memory by lookup ----


@pytest.mark.parametrize("ngram_at", ["input", "head"])
@pytest.mark.parametrize("ngram_gate", [True, False])
def test_a_step_of_sparse_adam_changes_only_rows_that_were_read(ngram_at, ngram_gate):
    module = load("v6")
    model, config = model_of(module, ngram_at=ngram_at, ngram_gate=ngram_gate)
    optimizers = [*module.new_optimizers(model, config, torch.float32)]
    model(torch.zeros(2, 8, dtype=torch.long)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    changed = model.ngrams.tables[0].weight.detach().any(dim=1)
    assert changed.sum() == 2  # the pair (0, 0), and a first token with none before it
    set_state(optimizers[-1], get_state(optimizers[-1]))


def test_ngram_dropout_leaves_out_whole_vectors_in_training_alone():
    model, config = model_of(load("v6"), ngram_dropout=0.5)
    torch.nn.init.ones_(model.ngrams.tables[0].weight)
    x, idx = torch.zeros(4, 16, config.n_embd), torch.randint(50, (4, 16))
    kept = model.ngrams(idx, x)
    assert {*kept.unique().tolist()} == {0.0, 2.0} and torch.equal(kept[..., 0], kept[..., -1])
    assert torch.equal(model.eval().ngrams(idx, x), torch.ones_like(x))

"""What the modules are by definition: attention by loops, ALiBi, RoPE, the cache, the schedule."""

import copy
import dataclasses
import functools
import itertools
import math

from common.training.cross_entropy import Logits
from common.training.machine import fused_attention, pick_dtype, prepare

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from lineage import VERSIONS, load, model_of, small

POSITIONS = ["alibi", "rope", "sinusoidal", "learned", "none"]
TRANSFORMERS = [version for version in VERSIONS if hasattr(load(version), "CausalSelfAttention")]
DEEP = [version for version in TRANSFORMERS if "n_layer" in vars(small(load(version)))]
CPU = torch.device("cpu")


def positions_of(version, among=POSITIONS):
    """The kinds of position that a version can have; the others learn theirs, or have none."""
    return among if "position" in vars(small(load(version))) else ["learned"]


every_version = pytest.mark.parametrize("version", VERSIONS)
every_transformer = pytest.mark.parametrize("version", TRANSFORMERS)
every_deep_version = pytest.mark.parametrize("version", DEEP)
MODELS = [(v, each) for v in VERSIONS for each in positions_of(v)]
every_model = pytest.mark.parametrize(("version", "position"), MODELS)


def large(model, std=0.5):
    """Weights so large that every part of the model matters to the logits."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model.eval()


def blocks_of(model):
    return [m for m in model.modules() if type(m).__name__ == "Block"]


# ---- Every transformer, by its definition ----


def by_definition(model, c, idx):
    """The logits (T, V) of token ids [T], a head and a position at a time."""
    T, C, H, position = len(idx), c.n_embd, c.n_head, getattr(c, "position", "learned")
    D, G = C // H, getattr(c, "n_kv_head", H)
    x = model.token_embedding.weight[idx]
    if getattr(c, "ngram_rows", 0) and c.ngram_at == "input":
        x = with_ngrams(model.ngrams, idx, x)
    if position == "learned":
        x = x + model.position_embedding.weight[:T]
    if position == "sinusoidal":
        x = x + waves(T, C)
    for block in blocks_of(model):
        layer, out = block.attention, torch.zeros(T, C)
        q, k, v = layer.qkv(normed(block.norm1, x)).split([C, G * D, G * D], dim=-1)
        for h in range(H):
            one, shared = (slice(n * D, n * D + D) for n in (h, h // (H // G)))
            q_h, k_h = q[:, one], k[:, shared]
            if getattr(c, "qk_norm", False):
                q_h, k_h = normed(layer.q_norm, q_h), normed(layer.k_norm, k_h)
            if position == "rope":
                q_h, k_h = as_complex(q_h, c.rope_base), as_complex(k_h, c.rope_base)
            for i in range(T):
                scores = torch.stack([(q_h[i] @ k_h[j].conj()).real for j in range(i + 1)]) / D**0.5
                if position == "alibi":
                    scores -= torch.arange(i, -1, -1) * 2 ** (-8 * (h + 1) / H)
                weights = scores.exp() / scores.exp().sum()
                out[i, one] = weights @ v[: i + 1, shared]
        x = x + layer.proj(out)
        y, mlp = normed(block.norm2, x), block.mlp
        hidden = mlp.up(y)
        if getattr(c, "mlp", "gelu") == "swiglu":
            hidden = hidden * mlp.gate(y) / (1 + (-mlp.gate(y)).exp())
        else:
            hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        x = x + mlp.down(hidden)
    if getattr(c, "ngram_rows", 0) and c.ngram_at == "head":
        x = with_ngrams(model.ngrams, idx, x)
    return model.head(normed(model.norm, x))


def waves(T, C):
    """Sines and cosines of the positions: (T, C)."""
    angles = [[t * 100 ** -(2 * i / C) for i in range(C // 2)] for t in range(T)]
    return 0.05 * torch.tensor([[*map(math.sin, row), *map(math.cos, row)] for row in angles])


def normed(layer, x):
    """LayerNorm (Ba et al. 2016), or RMSNorm (Zhang and Sennrich 2019), which has no bias."""
    if hasattr(layer, "bias"):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5) ** 0.5 * layer.weight + layer.bias
    return x / (x.square().mean(-1, keepdim=True) + 1.2e-7) ** 0.5 * layer.weight


def as_complex(x, base):
    """RoPE by its definition: pairs of channels (i, i + D/2) as complex numbers, rotated."""
    T, D = x.shape
    angles = torch.arange(T)[:, None] * base ** (-torch.arange(0, D, 2) / D)
    return torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)


def with_ngrams(ngrams, idx, x):
    """The rows of the hashes of the last two tokens, the last three, ..., added to x (T, C)."""
    rows = []
    for t, hashed in enumerate(idx):
        total = 0
        for back, table in enumerate(ngrams.tables, 1):
            earlier = idx[t - back] if t >= back else -1
            hashed = (hashed * 1000003 + earlier + 1) % (2**31 - 1)
            total = total + table.weight[hashed % table.num_embeddings]
        gate = 1 if ngrams.gate is None else 1 / (1 + (-ngrams.gate(x[t])).exp())
        rows.append(x[t] + gate * total)
    return torch.stack(rows)


DEFINED = [(v, {"position": each}) for v, each in MODELS if v in TRANSFORMERS]
DEFINED += [(v, {"qkv_bias": True}) for v in TRANSFORMERS] + [
    ("v5", {"norm": "layer", "bias": True, "n_head": 4, "n_kv_head": 4}),
    ("v5", {"mlp": "swiglu", "qk_norm": True, "n_head": 4, "n_kv_head": 2, "position": "rope"}),
    ("v5", {"mlp": "swiglu", "bias": True, "n_head": 4, "n_kv_head": 1}),
    ("v6", {"ngram_max": 3, "ngram_at": "head", "ngram_gate": True}),
    ("v6", {"ngram_max": 4}),
    ("v6", {"ngram_rows": 0}),
]


@pytest.mark.parametrize(("version", "changes"), DEFINED, ids=str)
def test_logits_are_those_of_the_definition(version, changes):
    """Also with the kernel in place of the formula."""
    model, config = model_of(load(version), **changes)
    large(model)
    idx = torch.randint(50, (config.context_length,))
    with torch.no_grad():
        expected = by_definition(model, config, idx.tolist())
        assert torch.allclose(model(idx[None])[0], expected, atol=1e-3)
        assert torch.allclose(model(idx[None], last_only=True)[0], expected[-1:], atol=1e-3)
        for layer in (block.attention for block in blocks_of(model)):
            layer.attend = functools.partial(fused_attention, layer, layer.attend)
        assert torch.allclose(model(idx[None])[0], expected, atol=1e-3)
        if "position" in vars(config):  # the KV cache is as narrow as the key and value heads
            model(idx[None], cache=(cache := {}))
            heads = getattr(config, "n_kv_head", config.n_head)
            assert cache[layer][0].shape == (1, heads, 16, config.n_embd // config.n_head)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("T", [1, 5, 12])  # new positions, of S = 12: the others are cached
@pytest.mark.parametrize("heads", [1, 3])
def test_the_fused_kernel_equals_the_formula(T, heads, dtype):
    """For a mask of two dimensions and of four, as ALiBi's; in bfloat16 within its rounding."""
    module = load(VERSIONS[-1])
    layer = model_of(module)[0].blocks[0].attention
    q, k, v = (torch.randn(2, heads, n, 8).to(dtype).float() for n in (T, 12, 12))
    layer.dropout.p = 0.0
    causal = module.causal_mask(T, 12, CPU)
    for mask in (causal, causal - module.alibi_penalty(T, 12, heads, CPU)):
        formula = layer.attend(q.to(dtype), k.to(dtype), v.to(dtype), mask).float()
        kernel = fused_attention(layer, None, q, k, v, mask)
        atol = 1e-5 if dtype == torch.float32 else 0.03
        assert torch.allclose(formula, kernel, atol=atol)
    if dtype == torch.bfloat16:  # on CPUs the formula is quicker, and computes itself
        assert fused_attention(layer, lambda *args: args, q.to(dtype), k, v, mask)[1] is k


def test_the_kernel_does_not_replace_another_formula(monkeypatch):
    """As in an ablation with uniform weights: the model prepared for training gives its numbers."""
    module = load("v2")
    idx = torch.randint(50, (2, 16))

    def mean(self, q, k, v, mask):
        return F.softmax(mask, dim=-1) @ v

    monkeypatch.setattr(module.CausalSelfAttention, "attend", mean)
    model, config = model_of(module)
    plain = large(model)(idx)
    assert torch.allclose(prepare(model, config, CPU)(idx), plain, atol=1e-6)
    monkeypatch.undo()
    assert not torch.allclose(large(model_of(module)[0])(idx), plain, atol=0.1)


# ---- Every model ----


@every_model
def test_parameters_are_counted_by_hand(version, position):
    model, c = model_of(load(version), n_embd=24, position=position)
    V, expected = 50, 50 * 50
    if hasattr(c, "n_embd"):
        C, T = c.n_embd, c.context_length
        attention = 3 * C * C + C * C + C  # without biases in the first
        block = attention + (4 * C * C + 4 * C) + (4 * C * C + C) + 2 * 2 * C  # and two norms
        last = 2 * C
        if hasattr(c, "norm"):  # no biases; two query heads share one key and value head
            block, last = 3 * C * C + 8 * C * C + 2 * C + 2 * C // c.n_head, C
        tables = T * C if getattr(c, "position", "learned") == "learned" else 0
        tables += C * getattr(c, "ngram_rows", 0)
        expected = V * C + tables + getattr(c, "n_layer", 1) * block + last + C * V
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize("version", [v for v in VERSIONS if v not in TRANSFORMERS])
def test_the_table_approaches_counted_frequencies(version):
    """Row i of the trained table: how often each token follows token i."""
    model, _ = model_of(load(version), vocab_size=3)
    text = torch.tensor([0, 1, 0, 1, 0, 2, 0, 1, 2, 2, 0])  # after 0: 1, 1, 2, 1; after 1: 0, 0, 2
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        F.cross_entropy(model(text[:-1]), text[1:]).backward()
        optimizer.step()
    counted = torch.tensor([[0, 3 / 4, 1 / 4], [2 / 3, 0, 1 / 3], [2 / 3, 0, 1 / 3]])
    assert torch.allclose(model.table.weight.softmax(-1), counted, atol=0.01)
    assert torch.equal(model(text[None, :4], last_only=True), model(text[None, :4])[:, -1:])


# ---- Initialization, dropout, schedule ----


@every_transformer
def test_matrices_start_with_a_standard_deviation_of_a_twentieth(version):
    model, config = model_of(load(version), vocab_size=500, n_embd=64)
    for name, p in model.named_parameters():
        if "ngrams" in name:
            assert not p.any(), name
        elif "position" in name:
            assert torch.allclose(p, waves(*p.shape), atol=1e-6)
        elif p.dim() == 2:
            summed = name.endswith(("proj.weight", "down.weight")) and version in DEEP
            std = 0.05 / math.sqrt(2 * config.n_layer if summed else 1)
            assert p.std().item() == pytest.approx(std, rel=0.05), name
        elif name.endswith("bias"):
            assert not p.any(), name


@every_deep_version
@pytest.mark.parametrize("kernel", [True, False])  # which drops attention weights by itself
def test_dropout_is_for_training_alone(version, kernel):
    model, config = model_of(load(version), dropout=0.5)
    for name, module in prepare(model, config, CPU).named_modules():
        if isinstance(module, torch.nn.Dropout) and name.endswith("attention.dropout") != kernel:
            module.p = 0.0
    idx = torch.randint(50, (2, config.context_length))
    assert not torch.equal(model(idx), model(idx))
    model.eval()
    assert torch.equal(model(idx), model(idx))


@every_deep_version
def test_the_learning_rate_rises_then_falls_to_a_tenth(version):
    module = load(version)
    config = small(module, warmup_steps=10, steps=110, learning_rate=1.0)
    rates = [module.learning_rate(step, config) for step in range(111)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1.0 and rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    config.cosine_decay = False
    assert {module.learning_rate(step, config) for step in range(10, 111)} == {1.0}


@every_deep_version
def test_every_step_has_its_learning_rate_and_a_clipped_gradient(version, train, monkeypatch):
    module, step, seen = load(version), torch.optim.AdamW.step, []

    def watched(self, *args):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        seen.append((self.param_groups[0]["lr"], torch.nn.utils.get_total_norm(gradients).item()))
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    changes = {"clip_norm": 1e-3, "warmup_steps": 4, "steps": 12, "learning_rate": 0.01}
    train(module, **changes)
    rates, norms = zip(*seen, strict=True)
    config = small(module, **changes)
    assert rates == pytest.approx([module.learning_rate(i, config) for i in range(12)])
    assert 0 < max(norms) < 1.01e-3


# ---- The KV cache ----


@dataclasses.dataclass
class Letters:
    """A tokenizer for tests: a letter per token, from a; token 7, h, ends a text."""

    end_of_text: int | None = 7
    decode: type = tuple  # the ids themselves

    def encode(self, text):
        return [ord(letter) - ord("a") for letter in text]


def sample(version, model, config):
    """(ids, what each step read, its logits) of this version's `generate` with the model."""
    forward, read, rows = model.forward, [], []

    def watched(idx, **options):
        logits = forward(idx, **options)
        read.append(idx.shape[1])
        rows.append(logits[0, -1].clone())
        return logits

    model.forward = watched
    ids = load(version).generate(model, config, Letters(end_of_text=None), CPU)
    model.forward = forward
    return ids, read, torch.stack(rows)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("n_layer", [2, 4])
@pytest.mark.parametrize("version", VERSIONS[VERSIONS.index("v4") :])
def test_a_sample_with_the_cache_equals_the_sample_without(version, position, n_layer):
    """Over three times the context: when the window is full, both go on from its last half."""
    more = {"n_head": 4, "n_kv_head": 2, "ngram_max": 4} if version != "v4" else {}
    more |= {"ngram_at": "head" if n_layer == 4 else "input", "prompt": "abc"}
    model, config = model_of(load(version), position=position, n_layer=n_layer, **more)
    T = config.context_length
    config.max_new_tokens = 3 * T
    large(model)
    ids, read, logits = sample(version, model, config)
    expected_ids, windows, expected = sample("v3", model, config)  # which has no cache
    assert ids == expected_ids and len(ids) == 3 + 3 * T and len(set(ids)) > 10
    assert torch.allclose(logits, expected, atol=1e-4)
    assert windows == [*range(3, T + 1), *[*range(T // 2, T + 1)] * 4][: 3 * T]
    begins = [before in (0, T) for before in [0, *windows[:-1]]]  # the cache is filled there
    assert read == [n if begin else 1 for n, begin in zip(windows, begins, strict=True)]


# ---- Sampling ----


def kept(probs, k, p):
    """The probabilities that top-k and then top-p leave, as their definition reads."""
    order = sorted(range(len(probs)), key=lambda i: -probs[i])[: k or None]
    total, so_far, left = sum(probs[i] for i in order), 0.0, [0.0] * len(probs)
    for i in order:
        if so_far < p or so_far == 0:
            left[i] = probs[i]
        so_far += probs[i] / total
    return [x / sum(left) for x in left]


def sampled_from(module, logits, config):
    """The probabilities that the version's `sample_next_token` adds up last, to draw from."""
    added = []

    def cumsum(x, dim):
        added.append(x)
        return torch.cumsum(x, dim)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "cumsum", cumsum)
        token = module.sample_next_token(logits, config, None)
    return added[-1] / added[-1].sum() if added else F.one_hot(torch.tensor(token), len(logits))


@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=9, unique=True),
    st.sampled_from([0.001, 0.5, 1.0, 2.0]),
    st.integers(0, 10),
    st.sampled_from([1e-300, 0.1, 0.37, 0.5, 0.77, 0.93, 1.0]),
)
def test_temperature_top_k_and_top_p_leave_exactly_their_probabilities(weights, temperature, k, p):
    powers = [(weight / max(weights)) ** (1 / temperature) for weight in weights]
    probs, logits = [power / sum(powers) for power in powers], torch.tensor(weights).float().log()
    near = [kept(probs, k, p), kept(probs, k, p + 1e-6), kept(probs, k, p - 1e-6)]
    for version in ("v0", VERSIONS[-1]):
        module = load(version)
        config = small(module, temperature=temperature, top_k=k, top_p=p)
        found = sampled_from(module, logits, config).tolist()
        assert any(found == pytest.approx(one, abs=1e-4) for one in near)  # where a sum equals p


@every_version
def test_a_uniform_number_samples_the_token_in_whose_share_it_falls(version, monkeypatch):
    """Also the smallest and the largest, of 4 tokens and of 5,000, the last of probability 0."""
    module, uniform = load(version), [0.0]
    config = small(module, temperature=1.0)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(uniform))
    logits = torch.tensor([0.25, 0, 0.5, 0.25, 0]).log()
    for uniform[0], token in [(0, 0), (0.249, 0), (0.251, 2), (0.749, 2), (0.751, 3)]:
        assert module.sample_next_token(logits, config, None) == token
    uniform[0] = 1 - 2**-24
    many = torch.randn(5000).index_fill(0, torch.tensor(4999), -torch.inf)
    assert [module.sample_next_token(x, config, None) for x in (logits, many)] == [3, 4998]


@every_version
def test_the_stop_token_ends_the_sample(version):
    module = load(version)
    model, config = model_of(module, 10, temperature=0.0, max_new_tokens=30, prompt="c")
    follow = torch.eye(10).roll(1, dims=1)  # c d e f g h, and h is the stop token
    model.forward = lambda idx, **options: follow[idx] * (not model.training)
    assert module.generate(model, config, Letters(), CPU) == (2, 3, 4, 5, 6)


@every_version
@pytest.mark.parametrize("context_length", [1, 4])
def test_prompts_longer_than_the_context_are_continued(version, context_length):
    module = load(version)
    prompt = "abcdefg" * 3
    model, config = model_of(module, 10, context_length=context_length, prompt=prompt)
    ids = module.generate(model, config, Letters(end_of_text=None), CPU)
    assert ids[:21] == tuple(Letters().encode(prompt)) and len(ids) > 21
    assert model.training  # generating puts the model back as it was


# ---- The machine ----


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("N, V, scale", [(300, 4096, 1), (7, 300_000, 3), (40, 3, 300)])
def test_cross_entropy_of_training_is_torchs(dtype, rtol, N, V, scale):
    """The loss and its gradient, in any number of chunks, of tokens of any probability."""
    x, y = (scale * torch.randn(1, N, V)).to(dtype).requires_grad_(), torch.randint(V, (N,))
    hidden = y.where(torch.arange(N) % 2 == 0, -100)  # targets which torch leaves out
    for targets, changes in [(y, {}), (hidden, {}), (y, {"label_smoothing": 0.1})]:
        found = []
        for logits in (x.float(), x.as_subclass(Logits)):
            loss = F.cross_entropy(logits.flatten(0, -2), targets, **changes)
            found.append((loss.item(), *torch.autograd.grad(loss / 3, x)))
        (expected, their_gradient), (value, gradient) = found
        assert value == pytest.approx(expected, rel=1e-6)
        assert torch.allclose(gradient, their_gradient, rtol, 1e-8)
        assert ("CrossEntropy" in loss.grad_fn.name()) == (targets is y and not changes)
    with pytest.raises(ValueError, match="to match target"):
        F.cross_entropy(logits.flatten(0, -2), y[1:])


@every_model
def test_training_in_bfloat16_evaluates_and_samples_in_float32(version, position):
    """Loss and gradients of training come out in float32, close to those of float32 training."""
    module = load(version)
    model, config = model_of(module, n_embd=32, dtype="bfloat16", position=position)
    idx, y = torch.randint(50, (2, 4, config.context_length))
    gradients, losses = [], []
    plain = model.eval()(idx)
    for dtype in ("float32", "bfloat16"):
        own = copy.deepcopy(model).train()
        config.dtype = dtype
        logits = prepare(own, config, CPU)(idx)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        loss.backward()
        found = [p.grad.to_dense() for p in own.parameters()]
        assert {loss.dtype, *(gradient.dtype for gradient in found)} == {torch.float32}
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
        losses.append(loss.item())
        with torch.no_grad():  # evaluation in training mode, sampling and evaluation in eval mode
            for found in (own(idx), own.eval()(idx)):
                assert found.dtype == torch.float32 and torch.allclose(found, plain, atol=1e-5)
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert F.cosine_similarity(*gradients, dim=0) > 0.99
    if version in TRANSFORMERS:  # a table of logits is looked up: nothing is multiplied
        assert not torch.equal(*gradients)


@pytest.mark.parametrize(("version", "n_tokens", "wanted"), [("v4", 50, 1), ("v1", 4200, 3)])
def test_one_position_of_a_small_model_takes_one_thread(version, n_tokens, wanted):
    model, config = model_of(load(version), n_tokens)
    torch.set_num_threads(3)
    prepare(model, config, CPU).eval()
    seen, idx = [], torch.zeros(1, 5, dtype=torch.long)
    next(model.children()).register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    for rows in (idx[:, :1], idx):
        model(rows)
    assert (*seen, torch.get_num_threads()) == (wanted, 3, 3)
    torch.set_num_threads(1)


@pytest.mark.parametrize("quick", [True, False])
def test_dtype_auto_is_bfloat16_where_the_processor_multiplies_in_it(quick, monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: quick)
    wanted = torch.bfloat16 if quick else torch.float32
    assert pick_dtype("auto", CPU) == wanted
    assert pick_dtype("auto", torch.device("mps")) == torch.float32
    assert pick_dtype("bfloat16", CPU) == torch.bfloat16
    model, config = model_of(load("v3"), dtype="auto")
    seen = []
    prepare(model, config, CPU).head.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    model(torch.zeros(4, 16, dtype=torch.long))
    assert seen == [wanted]


@every_transformer
def test_activation_checkpointing_recomputes_blocks_and_changes_nothing(version):
    """With dropout, which has to drop the same both times."""
    found = []
    for switch in (False, True):
        model, config = model_of(load(version), dropout=0.3, activation_checkpointing=switch)
        calls = []
        blocks_of(model)[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        prepare(model, config, CPU)
        torch.manual_seed(5)
        loss = F.cross_entropy(model(torch.arange(32).view(2, 16)).flatten(0, -2), torch.arange(32))
        loss.backward()
        found.append([loss, *(p.grad.to_dense() for p in model.parameters())])
        assert len(calls) == 1 + switch
        with torch.no_grad():
            model.eval()(torch.arange(16)[None])
        assert len(calls) == 2 + switch  # once where nothing goes back
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))

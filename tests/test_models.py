"""What the modules of v2, v3 and v4 are by definition: attention, ALiBi, RoPE, the schedule."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from lineage import load, model_of, small

POSITIONS = ["alibi", "rope", "sinusoidal", "learned", "none"]


def large(model):
    """Weights so large that every part of the model matters to the logits."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def attention_of(module, T=16, **changes):
    """The first attention layer with large weights, and an input (2, T, C) for it."""
    model, config = model_of(module, **changes)
    blocks = [model.block] if hasattr(model, "block") else model.blocks
    return large(blocks[0].attention), torch.randn(2, T, config.n_embd)


# ---- v2: attention taken apart ----

def test_attention_weights_are_a_causal_mean():
    attention, x = attention_of(load("v2"))
    attention(x)
    weights = attention.weights  # (B, H, T, T)
    assert weights.shape == (2, 2, 16, 16) and not weights.requires_grad
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 16))
    assert (weights.triu(1) == 0).all() and (weights.tril() >= 0).all()


def test_attention_is_what_loops_over_heads_and_positions_give():
    attention, x = attention_of(load("v2"), qkv_bias=True)
    B, T, C = x.shape
    D = C // 2
    y = attention(x)
    for b in range(B):
        q, k, v = (F.linear(x[b], w, c) for w, c in zip(
            attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)))
        out = torch.zeros(T, C)
        for head in (slice(0, D), slice(D, C)):
            for t in range(T):
                scores = torch.stack([q[t, head] @ k[s, head] / D**0.5 for s in range(t + 1)])
                weights = scores.exp() / scores.exp().sum()
                out[t, head] = sum(weights[s] * v[s, head] for s in range(t + 1))
        assert torch.allclose(attention.proj(out), y[b], atol=1e-4)


def test_the_mean_of_what_came_before():
    attention, x = attention_of(load("v2"), attention="mean")
    means = torch.stack([x[:, : t + 1].mean(1) for t in range(x.shape[1])], dim=1)
    assert torch.allclose(attention(x), attention.proj(means), atol=1e-4)
    assert [name for name, _ in attention.named_parameters()] == ["proj.weight", "proj.bias"]


def test_the_dot_product_needs_no_parameters_and_looks_at_likeness():
    attention, x = attention_of(load("v2"), attention="dot")
    x[:, 9] = x[:, 4]  # the same vector again: its score with itself is the largest there is
    attention(10 * x)
    assert (attention.weights[:, :, 9, [4, 9]] > 0.49).all()
    assert [name for name, _ in attention.named_parameters()] == ["proj.weight", "proj.bias"]


@pytest.mark.parametrize("version", ["v2", "v3", "v4"])
def test_widths_that_do_not_divide_into_heads_are_refused(version):
    from common.errors import UserError

    with pytest.raises(UserError, match="does not divide into 3 heads"):
        model_of(load(version), n_head=3)


@pytest.mark.parametrize("version", ["v2", "v3", "v4"])
def test_biases_of_queries_keys_and_values_are_a_choice(version):
    for wanted in (False, True):
        attention, _ = attention_of(load(version), qkv_bias=wanted)
        assert (attention.qkv.bias is not None) == wanted


# ---- v3: the same attention by another kernel; initialisation, schedule, dropout ----

def test_v3s_attention_is_v2s():
    old, x = attention_of(load("v2"))
    new, _ = attention_of(load("v3"))
    new.load_state_dict(old.state_dict())
    assert torch.allclose(new(x), old(x), atol=1e-4)


def test_v4_with_learned_positions_is_v3():
    old, config = model_of(load("v3"))
    new, _ = model_of(load("v4"), position="learned")
    large(old)
    new.load_state_dict(old.state_dict())
    idx = torch.randint(50, (2, config.context_length))
    assert torch.allclose(new.eval()(idx), old(idx), atol=1e-4)


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_the_residual_stream_begins_as_wide_whatever_the_depth(version):
    """Each block adds two sums; scaled by 1 / sqrt(2 n_layer) they add up to the same size."""
    module, grown = load(version), {}
    for n_layer in (1, 16):
        model, config = model_of(module, n_layer=n_layer, n_embd=64)
        x = torch.randn(4, 16, 64)
        y = x
        for block in model.eval().blocks:
            y = block(y) if version == "v3" else block(y, None, None)
        grown[n_layer] = (y - x).std().item()
    assert 0.4 < grown[16] / grown[1] < 2.5  # without the scaling about 4


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_the_learning_rate_rises_then_falls_to_a_tenth(version):
    module = load(version)
    config = small(module, warmup_steps=10, steps=110, learning_rate=1.0)
    rates = [module.learning_rate(step, config) for step in range(111)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1.0 and rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)
    assert all(a > b for a, b in zip(rates[10:], rates[11:]))


@pytest.mark.parametrize(
    ("version", "position"), [("v3", None), *(("v4", position) for position in POSITIONS)]
)
def test_attention_written_out_is_the_fused_one(version, position, monkeypatch):
    """In bfloat16 on CPUs; with weights so large that the softmax is far from even."""
    changes = {"position": position} if position else {}
    module = load(version)
    model, config = model_of(module, n_embd=32, dropout=0.0, **changes)
    attention = model.blocks[0].attention
    attention.qkv.weight.data.normal_(std=0.7)
    more = ()
    if version == "v4":
        bias = module.alibi_bias(model.slopes, config.context_length)
        more = (bias if position == "alibi" else None, None)
    x = torch.randn(4, config.context_length, 32).bfloat16().float()
    fused = attention(x, *more)
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)  # not called
    with torch.autocast("cpu", torch.bfloat16):
        written_out = attention(x, *more)
    assert written_out.dtype == torch.bfloat16
    assert (written_out - fused).std() < 0.02 * fused.std()
    attention.dropout = 0.5
    with torch.autocast("cpu", torch.bfloat16):
        assert (attention(x, *more) - fused).std() > 0.1 * fused.std()
        assert torch.equal(attention.eval()(x, *more), written_out)


@pytest.mark.parametrize(
    ("version", "position"), [("v3", None), *(("v4", position) for position in POSITIONS)]
)
def test_bfloat16_learns_what_float32_does(version, position):
    """Products and attention are rounded: gradients point the same way, weights stay."""
    changes = {"position": position} if position else {}
    model, config = model_of(load(version), n_embd=32, **changes)
    x, y = torch.randint(50, (2, 4, config.context_length))
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(x)
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        assert logits.dtype == dtype
        loss.backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.zero_grad()
    assert not torch.equal(*gradients)
    assert F.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_activation_checkpointing_computes_blocks_twice_and_changes_no_gradient(version):
    """With dropout, which has to drop the same both times."""
    found = []
    for switch in (False, True):
        model, _ = model_of(load(version), dropout=0.3, activation_checkpointing=switch)
        calls = []
        model.blocks[0].mlp.register_forward_hook(lambda *_: calls.append(1))
        torch.manual_seed(5)
        logits = model(torch.arange(32).view(2, 16))
        loss = F.cross_entropy(logits.flatten(0, -2), torch.arange(32))
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters())])
        assert len(calls) == 1 + switch
        with torch.no_grad():
            model.eval()(torch.arange(16)[None])
        assert len(calls) == 2 + switch  # once where nothing goes back
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_dropout_is_for_training_alone(version):
    model, config = model_of(load(version), dropout=0.5)
    large(model)
    idx = torch.randint(50, (2, config.context_length))
    assert torch.equal(model(idx), model(idx))
    model.train()
    assert not torch.equal(model(idx), model(idx))


# ---- v4: ALiBi ----

def test_alibi_slopes_are_the_papers():
    slopes = load("v4").alibi_slopes
    assert slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert slopes(4).tolist() == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]
    assert slopes(1).tolist() == [2.0**-8]
    # Not a power of two: those of the power below, then every other one of the power above.
    assert slopes(3).tolist() == pytest.approx([2**-4, 2**-8, 2**-2])
    assert slopes(6).tolist() == pytest.approx([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])
    assert slopes(12).tolist() == pytest.approx(
        [2.0**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


def test_alibis_bias_against_a_table_worked_by_hand():
    v4 = load("v4")
    (bias,) = v4.alibi_bias(v4.alibi_slopes(2), 4)
    no = -math.inf
    distances = torch.tensor([[0, no, no, no], [1, 0, no, no], [2, 1, 0, no], [3, 2, 1, 0.0]])
    for head, slope in enumerate((1 / 16, 1 / 256)):
        expected = torch.where(distances == no, no, -slope * distances)
        assert torch.equal(bias[head], expected)


def test_alibi_adds_the_bias_to_the_scores():
    attention, x = attention_of(load("v4"), position="alibi")
    q, k, v = (z.view(2, 16, 2, -1).transpose(1, 2) for z in attention.qkv(x).chunk(3, dim=-1))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    for head, slope in enumerate((1 / 16, 1 / 256)):
        for i in range(16):
            for j in range(16):
                scores[:, head, i, j] += -slope * (i - j) if j <= i else -math.inf
    y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
    v4 = load("v4")
    bias = v4.alibi_bias(v4.alibi_slopes(2), 16)
    assert torch.allclose(attention(x, bias, None), attention.proj(y), atol=1e-4)


# ---- v4: RoPE ----

def test_rope_scores_depend_on_the_distance_alone():
    rotate = load("v4").rotate
    torch.manual_seed(0)
    q, k = torch.randn(2, 8, dtype=torch.float64)
    T = 40
    turned_q = rotate(q.expand(1, 1, T, 8), 100.0, 0)[0, 0]
    turned_k = rotate(k.expand(1, 1, T, 8), 100.0, 0)[0, 0]
    scores = turned_q @ turned_k.T  # (T, T): the same query and key at every pair of positions
    for distance in range(-T + 1, T):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4)
    assert scores[0].std() > 0.1  # and on the distance it does depend


def test_rope_turns_each_pair_by_its_angle():
    rotate = load("v4").rotate
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    x[..., 0], x[..., 1] = 1.0, 2.0  # pairs (0, 2) and (1, 3)
    y = rotate(x, 100.0, 0)[0, 0]
    for p in range(4):
        fast, slow = p * 1.0, p * 0.1  # 100 ** 0 and 100 ** -(2 / 4)
        expected = [math.cos(fast), 2 * math.cos(slow), math.sin(fast), 2 * math.sin(slow)]
        assert y[p].tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(y.norm(dim=-1), torch.tensor(5**0.5, dtype=torch.float64))


# ---- v4: every kind of position ----

@pytest.mark.parametrize("position", POSITIONS)
def test_a_token_changes_no_logits_before_it(position):
    model, config = model_of(load("v4"), position=position)
    large(model)
    idx = torch.randint(50, (2, config.context_length))
    before = model(idx)
    for t in range(1, config.context_length):
        changed = idx.clone()
        changed[:, t] = (changed[:, t] + 1) % 50
        after = model(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])


@pytest.mark.parametrize("position", POSITIONS)
def test_order_matters_where_there_are_positions(position):
    """One block without positions sees the tokens before as a bag; with them it sees an order."""
    model, _ = model_of(load("v4"), position=position, n_layer=1)
    large(model)
    last = model(torch.tensor([[1, 2, 3, 4, 5], [4, 3, 2, 1, 5]]))[:, -1]
    assert torch.allclose(last[0], last[1], atol=1e-4) == (position == "none")


@pytest.mark.parametrize("position", POSITIONS)
def test_windows_longer_than_the_training_context(position):
    model, config = model_of(load("v4"), position=position)
    idx = torch.randint(50, (1, 4 * config.context_length))
    if position == "learned":  # there is no vector for a position that training never had
        with pytest.raises(IndexError):
            model(idx)
    else:
        assert model(idx).isfinite().all()


@pytest.mark.parametrize("position", ["alibi", "rope"])
def test_shifting_a_window_changes_nothing_where_only_distance_counts(position):
    """The second half alone, and after a first half that attention is kept from: the same."""
    attention, x = attention_of(load("v4"), position=position)
    q, k, v = (z.view(2, 16, 2, -1).transpose(1, 2) for z in attention.qkv(x).chunk(3, dim=-1))
    if position == "rope":
        q, k = (load("v4").rotate(z, attention.rope_base, 0) for z in (q, k))
        own = None
        bias = torch.zeros(16, 16).masked_fill(torch.ones(16, 16).triu(1) > 0, -math.inf)
    else:
        v4 = load("v4")
        own, bias = (v4.alibi_bias(v4.alibi_slopes(2), T) for T in (8, 16))
    late = F.scaled_dot_product_attention(
        q[:, :, 8:], k[:, :, 8:], v[:, :, 8:], bias[..., 8:, 8:])
    late = attention.proj(late.transpose(1, 2).reshape(2, 8, -1))
    assert torch.allclose(attention(x[:, 8:], own, None), late, atol=1e-4)


# ---- v4: the cache of keys and values ----

CACHED = ["alibi", "rope", "none"]


def window_by_window(model, idx, T):
    """The last position's logits of every window, each worked out afresh."""
    return torch.stack([model(idx[None, max(0, i - T) : i])[0, -1] for i in range(3, len(idx) + 1)])


def token_by_token(model, idx):
    cache = {}
    rows = [model(idx[None, :3], cache)[0, -1]]
    rows += [model(idx[None, i : i + 1], cache)[0, -1] for i in range(3, len(idx))]
    return torch.stack(rows)


@pytest.mark.parametrize("position", CACHED)
def test_with_a_cache_the_logits_are_those_without(position):
    model, config = model_of(load("v4"), position=position)
    large(model.eval())
    idx = torch.randint(50, (config.context_length,))
    without = window_by_window(model, idx, config.context_length)
    assert torch.allclose(token_by_token(model, idx), without, atol=1e-3)
    assert not torch.allclose(without[1:], without[:-1], atol=1e-1)


@pytest.mark.parametrize("position", CACHED)
def test_a_full_cache_slides_along(position):
    """In one block keys and values depend on their own token alone, so that a window that slides
    sees what one sees that is worked out afresh."""
    model, config = model_of(load("v4"), position=position, n_layer=1)
    large(model.eval())
    idx = torch.randint(50, (3 * config.context_length,))
    without = window_by_window(model, idx, config.context_length)
    assert torch.allclose(token_by_token(model, idx), without, atol=1e-3)


@pytest.mark.parametrize("position", POSITIONS)
def test_only_positions_that_slide_along_are_cached(position):
    """And a prompt longer than the context fills the cache with its end."""
    module = load("v4")
    model, config = model_of(module, position=position, temperature=0.0)
    large(model)
    seen, forward = [], model.forward
    model.forward = lambda idx, cache=None: seen.append(idx.shape[1]) or forward(idx, cache)
    prompt = torch.randint(50, (20,)).tolist()
    tokenizer = SimpleNamespace(encode=lambda text: prompt, decode=tuple, end_of_text=None)
    made = module.generate(model, config, tokenizer, torch.device("cpu"))
    assert made[:20] == tuple(prompt) and len(made) == 28
    assert seen == [16, *[1 if position in CACHED else 16] * 7]


def test_rope_refuses_heads_of_an_odd_width():
    from common.errors import UserError

    with pytest.raises(UserError, match="needs an even width of head, not 3"):
        model_of(load("v4"), position="rope", n_embd=12, n_head=4)


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_a_mimetic_start_looks_for_what_is_alike_and_copies_it(version):
    """v3's in the head alone. It changes nothing else: the other weights are those without it."""
    weights = {}
    for switch in (True, False):
        torch.manual_seed(1)
        model, config = model_of(load(version), mimetic_start=switch)
        weights[switch] = {name: p.detach() for name, p in model.named_parameters()}
    for layer in range(config.n_layer) if version == "v4" else ():
        qkv, proj = (f"blocks.{layer}.attention.{name}.weight" for name in ("qkv", "proj"))
        q, k, v = weights[True][qkv].chunk(3)
        assert torch.equal(q, k)
        torch.testing.assert_close(weights[True].pop(proj), v.T / math.sqrt(2 * config.n_layer))
        old_q, old_k, old_v = weights[False].pop(qkv).chunk(3)
        assert torch.equal(q, old_q) and torch.equal(v, old_v) and not torch.equal(k, old_k)
        del weights[True][qkv], weights[False][proj]
    embedding = weights[True]["token_embedding.weight"]
    assert torch.equal(weights[True].pop("head.weight"), embedding)
    assert not torch.equal(weights[False].pop("head.weight"), embedding)
    assert all(torch.equal(p, weights[False][name]) for name, p in weights[True].items())

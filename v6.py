"""v6: memory by lookup, embeddings of hashed n-grams.

Attention and MLP spend work on what a table could hold: which token follows a pair of tokens. Here
each position's token, together with the one before it, is hashed to a row of a table, and that row
is added to the token's embedding (Huang et al. 2025, "Over-Tokenized Transformer"; Cheng et al.
2026, "Conditional Memory via Scalable Lookup", add rows deeper, through a gate, and the records of
modded-nanogpt add rows of pairs to every layer). Two n-grams with the same hash share a row, a
collision; a large text has more n-grams than the table has rows, so collisions are common. A step
reads and updates only the rows of its own n-grams, so a large table costs memory, on disk too, and
little time.

It closes the circle of this lineage: v0's table comes back as the memory of a transformer, with
rows for the last two tokens in place of the last one.

Expect better predictions, on WikiText-2, after pairs that occur a few times in the training text;
on the sample, stories much like v5's, where the table gains nothing or does slight harm.
The step to here is `diff v5.py v6.py`.
"""

import math
from dataclasses import dataclass
from typing import Literal

from common.cli import parse, run_main
from common.config import RunConfig
from common.data import load_corpus, token_file
from common.errors import UserError
from common.evaluation import evaluate, evaluate_long_contexts
from common.training import Run

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config(RunConfig):
    split_pattern: str = "gpt4"  # pre-tokenization by whitespace, gpt2, gpt4 or a regex
    end_of_text: bool = True  # put a token <|endoftext|> after each document
    vocab_size: int = 4096  # tokens in the vocabulary at most, V
    context_length: int = 256  # tokens in a training sequence, T
    batch_size: int = 4  # sequences per micro-batch, B
    grad_accum: int = 1  # micro-batches per step: gradient accumulation
    n_head: int = 4  # attention heads, H
    n_embd: int = 128  # width of the residual stream, C
    n_kv_head: int = 2  # key and value heads, G: where fewer than H, query heads share them
    n_layer: int = 2  # transformer blocks in the stack
    ngram_rows: int = 65536  # rows of each table of hashed n-grams; 0 is none
    ngram_max: int = 2  # the longest n-gram: 2 is bigrams, 3 bigrams and trigrams
    ngram_at: Literal["input", "head"] = "input"  # add rows before the blocks or before the head
    ngram_gate: bool = False  # scale the rows by a gate, computed from the residual stream
    ngram_dropout: float = 0.0  # share of the looked-up rows that are left out in training
    norm: Literal["rms", "layer"] = "rms"  # RMSNorm or LayerNorm
    mlp: Literal["swiglu", "gelu"] = "swiglu"  # the MLP: with gates (SwiGLU) or without
    bias: bool = False  # add biases to attention's output projection and to the MLP
    qk_norm: bool = True  # normalize queries and keys
    dropout: float = 0.0  # share of activations set to zero in training
    position: Literal["alibi", "rope", "sinusoidal", "learned", "none"] = "alibi"  # which encoding
    rope_base: float = 10000.0  # RoPE's: the larger, the more slowly the slow channel pairs rotate
    qkv_bias: bool = False  # add biases to the query, key and value projections (GPT-2 has them)
    steps: int = 2000  # updates of the parameters
    long_contexts: bool = True  # evaluate at 1, 2, 4 and 8 times the context after training
    optimizer: Literal["muon", "adamw"] = "muon"  # trains the matrices of the blocks
    learning_rate: float = 0.006  # AdamW's step size, at its peak
    muon_learning_rate: float = 0.01  # Muon's step size, at its peak
    ngram_learning_rate: float = 0.003  # SparseAdam's step size for the n-grams, at its peak
    warmup_steps: int = 100  # steps in which the learning rate rises linearly to the peak
    cosine_decay: bool = True  # after warm-up, decay along half a cosine to a tenth of the peak
    weight_decay: float = 0.1  # weight decay of AdamW and Muon, on matrices; none on n-grams
    clip_norm: float = 1.0  # a gradient with a larger norm is scaled down to this norm
    temperature: float = 0.8  # below 1 sharper and more conservative, above 1 flatter; 0 is greedy
    top_k: int = 0  # sample among the k most likely tokens only; 0 is off
    top_p: float = 1.0  # nucleus: the fewest tokens whose probabilities reach this sum; 1: off


# ---- Batches -------------------------------------------------------------------------------------
def load_tokens(corpus, split, tokenizer):
    """Return the tokens of the split, memory-mapped: (N,) integers, read from disk when indexed."""
    return token_file(corpus, split, tokenizer).memmap()


def get_batch(tokens, config, generator):
    """Return random windows of the tokens: inputs x (B, T), and targets y (B, T), the next ones."""
    B, T = config.batch_size, config.context_length
    starts = torch.randint(len(tokens) - T, (B,), generator=generator)
    rows = np.stack([tokens[i : i + T + 1] for i in starts])  # (B, T + 1)
    rows = torch.from_numpy(rows.astype(np.int64))
    return rows[:, :-1], rows[:, 1:]


# ---- Model ---------------------------------------------------------------------------------------
def sinusoids(T, C):
    """Sines and cosines of the position, about as large as the token embeddings: (T, C).

    Sinusoidal positional encoding (Vaswani et al. 2017, section 3.5), with frequencies from 1
    radian per position down to 1/100. With the paper's 1/10000, two fifths of the channels would
    turn by less than one radian within 256 positions.
    """
    angles = torch.arange(T)[:, None] * 100 ** (-torch.arange(0, C, 2) / C)  # (T, C/2)
    return 0.05 * torch.cat((angles.sin(), angles.cos()), dim=-1)[:, :C]


def causal_mask(T, S, device):
    """What is added to the scores (T, S): minus infinity where a key comes after its query.

    The queries are those of the last T positions, the keys those of all S.
    """
    return torch.full((T, S), -math.inf, device=device).triu(1 + S - T)


def alibi_penalty(T, S, n_head, device):
    """What ALiBi subtracts from the attention scores, slope * distance: (1, H, T, S).

    The slopes are 2^(-8/H), 2^(-16/H), ..., 2^-8, as in the paper where H is a power of two (Press
    et al. 2022, section 3): some heads look near, some far.
    """
    slopes = torch.linspace(-8 / n_head, -8, n_head, device=device).exp2()  # (H,)
    positions = torch.arange(S, device=device)
    distance = positions[S - T :, None] - positions  # (T, S): query's position minus key's
    return slopes.view(1, -1, 1, 1) * distance


def rotate(x, base, start):
    """RoPE: rotate each pair of channels of x (B, H, T, D) by its position times its frequency.

    Channel i is paired with channel i + D/2, as GPT-NeoX does; the paper and Llama pair neighbours,
    2i with 2i + 1. Which pairs does not matter as long as queries and keys agree.
    """
    T, D = x.shape[-2:]
    frequencies = base ** (-torch.arange(0, D, 2, device=x.device) / D)  # radians per position
    angles = torch.arange(start, start + T, device=x.device)[:, None] * frequencies  # (T, D/2)
    cos, sin = angles.cos().type_as(x), angles.sin().type_as(x)
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x1 * sin + x2 * cos), dim=-1)


class RMSNorm(nn.Module):
    """Divide by the root of the mean square over the channels, and scale each channel.

    LayerNorm also subtracts the mean first and adds a bias; models learn as well without that.
    """

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):  # x / sqrt(mean(x^2) + eps) * weight
        return F.rms_norm(x, x.shape[-1:], self.weight.type_as(x))


def new_norm(width, config):
    return RMSNorm(width) if config.norm == "rms" else nn.LayerNorm(width)


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which no position sees a later one (Vaswani et al. 2017).

    A position's query is compared with the keys of all positions up to itself, and the better a key
    matches, the more of that position's value it takes. Several heads do this in parallel, each in
    D = C/H channels of its own, because one softmax gives one weighted mean: with several, a
    position can attend to the subject and to the previous word at the same time. Each of the G key
    and value heads serves H/G query heads: grouped-query attention.
    """

    def __init__(self, config):
        super().__init__()
        C, H, G = config.n_embd, config.n_head, config.n_kv_head
        if C % H:
            raise UserError(f"--n-embd {C} does not divide into {H} heads: change it or --n-head")
        if config.position == "rope" and C // H % 2:
            raise UserError(f"--position rope needs heads of an even width, not {C // H}")
        if H % G:
            raise UserError(f"--n-kv-head {G} does not divide --n-head {H}")
        self.rope_base = config.rope_base if config.position == "rope" else None
        self.heads = [H, G, G]  # of queries, keys and values
        width = C // H * (H + 2 * G)  # of the query, key and value projections
        self.qkv = nn.Linear(C, width, bias=config.qkv_bias)
        self.proj = nn.Linear(C, C, bias=config.bias)  # mixes the heads' results
        # RMSNorm and a gain per channel, as in Qwen3; Henry et al. 2020 divide by the length and
        # learn one factor. Either way the model still decides how sharp its attention is.
        self.q_norm = RMSNorm(C // H) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(C // H) if config.qk_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def attend(self, q, k, v, mask):  # q (B, H, T, D); k, v (B, H, S, D); (T, S) or (1, H, T, S)
        # Dot products of vectors of D independent numbers of mean 0 and variance 1 have variance D.
        # Divided by sqrt(D) the scores have a standard deviation of 1; with larger ones softmax
        # would put nearly all weight on one key, and its gradient would vanish. (Where torch's own
        # function for this is quicker and gives the same, run.prepare puts it in this one's place.)
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)  # (B, H, T, S)
        weights = F.softmax(scores + mask.to(q.dtype), dim=-1)  # attention weights; a row sums to 1
        return self.dropout(weights) @ v  # (B, H, T, D)

    def forward(self, x, mask, cache):  # (B, T, C), (T, S) or (1, H, T, S) with S keys
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, sum(self.heads), -1)  # (B, T, H + 2G, D)
        q, k, v = qkv.transpose(1, 2).split(self.heads, dim=1)  # k and v: (B, G, T, D)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rope_base is not None:
            start = mask.shape[-1] - T  # the position of x[:, 0]: so many are cached
            q, k = rotate(q, self.rope_base, start), rotate(k, self.rope_base, start)
        if cache is not None:  # sampling: x is what is new, earlier keys and values are cached
            if self in cache:
                old_k, old_v = cache[self]
                k, v = torch.cat((old_k, k), dim=2), torch.cat((old_v, v), dim=2)
            cache[self] = k, v  # (B, G, S, D): S positions, the cached ones included
        shared = self.heads[0] // self.heads[1]  # query heads for each key and value head
        k, v = (z.repeat_interleave(shared, dim=1) for z in (k, v))  # (B, H, S, D)
        y = self.attend(q, k, v, mask)  # (B, H, T, D)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))  # (B, T, C)


class MLP(nn.Module):
    """A position-wise feed-forward network: the same layers at each position.

    SwiGLU multiplies each hidden channel by a gate that is computed from the same input. It has
    three matrices instead of two, but 8C/3 hidden channels instead of 4C: about as many parameters.
    """

    def __init__(self, config):
        super().__init__()
        C, gated = config.n_embd, config.mlp == "swiglu"
        hidden = 8 * C // 3 if gated else 4 * C
        self.gate = nn.Linear(C, hidden, bias=config.bias) if gated else None
        self.up = nn.Linear(C, hidden, bias=config.bias)
        self.down = nn.Linear(hidden, C, bias=config.bias)

    def forward(self, x):  # (B, T, C)
        if self.gate is None:
            return self.down(F.gelu(self.up(x)))  # (B, T, 4C) in between
        return self.down(F.silu(self.gate(x)) * self.up(x))  # (B, T, 8C/3) in between


class Block(nn.Module):
    """A transformer block: attention, then the MLP.

    Both read the residual stream x and add to it. The addition keeps what earlier layers wrote, and
    passes the gradient on undiminished. A norm in front of each (pre-norm, Xiong et al. 2020)
    gives it inputs of one scale, however large the stream has grown.
    """

    def __init__(self, config):
        super().__init__()
        self.norm1 = new_norm(config.n_embd, config)
        self.attention = CausalSelfAttention(config)
        self.norm2 = new_norm(config.n_embd, config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, mask, cache):  # (B, T, C), (T, S) or (1, H, T, S)
        x = x + self.dropout(self.attention(self.norm1(x), mask, cache))
        return x + self.dropout(self.mlp(self.norm2(x)))


class NgramEmbedding(nn.Module):
    """Adds to each position a row of a table for its last two tokens, one for three, and so on.

    The row is found by a hash, so no list of n-grams is kept. The tables start at zero, so at first
    they change nothing. Their gradients are sparse: they hold only the rows that were read.
    """

    def __init__(self, config):
        super().__init__()
        self.tables = nn.ModuleList(
            nn.Embedding.from_pretrained(  # draws no random numbers: the rest starts as in v5
                torch.zeros(config.ngram_rows, config.n_embd), freeze=False, sparse=True
            )
            for _ in range(config.ngram_max - 1)
        )
        self.gate = nn.Linear(config.n_embd, 1) if config.ngram_gate else None
        self.dropout = nn.Dropout(config.ngram_dropout)

    def forward(self, tokens, x):  # (B, T + n) token ids, the first n cached; (B, T, C)
        T, rows, total, hashed = x.shape[1], self.tables[0].num_embeddings, 0, tokens
        for back, table in enumerate(self.tables, 1):
            # The tokens `back` positions before, -1 where the window had not begun.
            earlier = F.pad(tokens, (back, 0), value=-1)[:, : tokens.shape[1]]
            hashed = (hashed * 1000003 + earlier + 1) % 2147483647  # two primes
            total = total + table(hashed[:, -T:] % rows)  # (B, T, C)
        if self.gate is not None:
            total = total * torch.sigmoid(self.gate(x))
        keep = self.dropout(torch.ones_like(x[..., :1]))  # (B, T, 1): a whole vector or none
        return x + keep * total


class LanguageModel(nn.Module):
    """Embeddings of tokens and n-grams, a stack of blocks, and an output head: V logits."""

    def __init__(self, config, vocab_size):
        super().__init__()
        self.position, self.n_head = config.position, config.n_head
        self.token_embedding = nn.Embedding(vocab_size, config.n_embd)
        self.ngrams = NgramEmbedding(config) if config.ngram_rows else None
        self.ngram_at, self.ngram_max = config.ngram_at, config.ngram_max
        if config.position == "learned":
            self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = new_norm(config.n_embd, config)
        self.head = nn.Linear(config.n_embd, vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            # 0.05, not GPT-2's 0.02: at a width of 128 the model learns copying late with 0.02.
            if parameter.dim() == 2 and not name.startswith("ngrams"):
                nn.init.normal_(parameter, std=0.05)  # the loss then starts near ln V
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            # 2 * n_layer projections add to the residual stream: scaled down, so that their sum
            # does not grow with depth (Radford et al. 2019).
            if name.endswith(("proj.weight", "down.weight")):
                nn.init.normal_(parameter, std=0.05 / math.sqrt(2 * config.n_layer))
        # Learned embeddings that start as sinusoids. A linear map turns those of position t into
        # those of t + k, for every t (Vaswani et al. 2017): one projection can learn a distance for
        # all positions at once. Random ones would have to be learned position by position.
        if config.position == "learned":
            self.position_embedding.weight.data = sinusoids(config.context_length, config.n_embd)

    def forward(self, idx, last_only=False, cache=None):  # (B, T) token ids
        tokens = torch.cat((cache["tokens"], idx), dim=1) if cache else idx  # (B, S)
        if cache is not None:  # an n-gram reaches back to tokens that are cached
            cache["tokens"] = tokens
        T, S = idx.shape[-1], tokens.shape[-1]
        start = S - T  # so many are cached
        tokens = tokens[:, -(T + self.ngram_max - 1) :]  # as far back as n-grams reach
        x = self.token_embedding(idx)  # (B, T, C)
        if self.ngrams is not None and self.ngram_at == "input":
            x = self.ngrams(tokens, x)
        if self.position == "learned":
            x = x + self.position_embedding(torch.arange(start, S, device=idx.device))
        if self.position == "sinusoidal":
            x = x + sinusoids(S, x.shape[-1])[start:].to(x.device)
        x, mask = self.dropout(x), causal_mask(T, S, idx.device)
        if self.position == "alibi":
            mask = mask - alibi_penalty(T, S, self.n_head, idx.device)
        for block in self.blocks:
            x = block(x, mask, cache)
        if self.ngrams is not None and self.ngram_at == "head":
            x = self.ngrams(tokens, x)
        if last_only:  # sampling needs the logits of the last position alone
            x = x[:, -1:]
        return self.head(self.norm(x))  # (B, T, V) logits


# ---- Sampling ------------------------------------------------------------------------------------
def sample_next_token(logits, config, generator):
    """Sample one token id from the logits (V,), after temperature, top-k and top-p."""
    if config.temperature == 0:
        return logits.argmax().item()  # greedy decoding: the most likely token
    logits = logits / config.temperature
    if config.top_k:
        kth = logits.topk(min(config.top_k, len(logits))).values[-1]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    probs = F.softmax(logits, dim=-1)
    if config.top_p < 1:  # nucleus sampling (Holtzman et al. 2020)
        sorted_probs, order = probs.sort(descending=True)
        before = sorted_probs.cumsum(0) - sorted_probs  # the sum over all more likely tokens
        probs[order[1:][before[1:] >= config.top_p]] = 0  # order[0], the most likely, stays
    # Inverse transform sampling: the first token at which the running sum of the probabilities
    # exceeds a uniform random share of their total. (torch.multinomial would be one line, but takes
    # a random number for every token of the vocabulary.)
    sums = probs.cumsum(0)
    return (sums > torch.rand(1, generator=generator) * sums[-1]).nonzero()[0].item()


@torch.inference_mode()
def generate(model, config, tokenizer, device):
    """Continue the prompt token by token and return the decoded text. A seed gives one text."""
    generator = torch.Generator().manual_seed(config.seed)
    ids = tokenizer.encode(config.prompt)
    window = list(ids)  # the tokens that the model reads
    model.eval()
    cache = {}  # layer -> keys, values of the tokens read before; "tokens" -> their ids
    for _ in range(config.max_new_tokens):
        if len(window) > config.context_length:  # full: continue from its last half
            window, cache = window[-max(1, config.context_length // 2) :], {}
        new = torch.tensor([window[-1:] if cache else window], device=device)  # (1, T)
        logits = model(new, last_only=True, cache=cache)[0, -1]  # (V,)
        token = sample_next_token(logits.float().cpu(), config, generator)
        if token == tokenizer.end_of_text:
            break
        ids.append(token)
        window.append(token)
    model.train()
    return tokenizer.decode(ids)


# ---- Training ------------------------------------------------------------------------------------
def orthogonalize(G, dtype=torch.float32):
    """Replace each of K matrices U S V^T by about U V^T: (K, n, m), the gradients G or the like.

    Any matrix is a rotation or reflection V^T, then a factor for each direction, its singular
    values S, then another rotation or reflection U. These stay; all factors become about 1.

    Newton-Schulz iteration: a X + b (X X^T) X + c (X X^T)^2 X turns each singular value x of X into
    a x + b x^3 + c x^5. Jordan et al. 2024 chose coefficients that bring values between 0 and 1
    near 1 in few rounds: five leave all but tiny ones between 0.68 and 1.21. Rounding does it no
    harm, so it computes in the number format of the training steps.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G.mT if G.shape[1] > G.shape[2] else G  # X X^T is then the smaller product
    X = (X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)  # no singular value is above 1
    for _ in range(5):
        A = X @ X.mT
        A = torch.baddbmm(A, A, A, beta=b, alpha=c)  # b A + c A A
        X = torch.baddbmm(X, A, X, beta=a)  # a X + (b A + c A A) X
    return (X.mT if G.shape[1] > G.shape[2] else X).type_as(G)


class Muon(torch.optim.Optimizer):
    """Gradient descent for matrices, with orthogonalized momentum (Jordan et al. 2024).

    The idea: a gradient is large in the few directions that all examples share; with equal singular
    values the other directions are learned as fast as those.

    The matrices decay as with AdamW (Liu et al. 2025). The query, key and value projections are one
    matrix here and are orthogonalized together; each by itself would be another choice.
    """

    def __init__(self, matrices, lr, weight_decay, dtype, momentum=0.95):
        shapes = {}  # matrices of one shape are orthogonalized together, which is quicker
        for p in matrices:
            shapes.setdefault(p.shape, []).append(p)
        groups = [{"params": alike} for alike in shapes.values()]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            updates = []
            for p in group["params"]:
                average = self.state[p].setdefault("momentum", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])  # momentum: of the last gradients
                updates.append(p.grad.lerp(average, group["momentum"]))  # Nesterov's momentum
            updates = orthogonalize(torch.stack(updates), self.dtype)  # (K, n, m)
            for p, update in zip(group["params"], updates, strict=True):
                scale = max(1, p.shape[0] / p.shape[1]) ** 0.5  # for more outputs than inputs
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * scale)


def learning_rate(step, config):
    """A linear warm-up, then half a cosine from the peak down to a tenth of it.

    At first Adam's averages rest on few gradients, so its steps should be small; at the end smaller
    steps average out the noise of the batches.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if not config.cosine_decay:
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.55 + 0.45 * math.cos(math.pi * progress))


def new_optimizers(model, config, dtype):
    """{optimizer: peak learning rate}: AdamW for embeddings, output head and vectors, Muon for the
    matrices of the blocks, SparseAdam for the tables of n-grams: only rows that were read change.
    """
    tables = [p for name, p in model.named_parameters() if "ngrams.tables" in name]
    dense = {name: p for name, p in model.named_parameters() if "ngrams.tables" not in name}
    matrices = {name: p for name, p in dense.items() if p.dim() == 2}
    vectors = [p for p in dense.values() if p.dim() < 2]  # biases and norms: no decay
    hidden = [p for name, p in matrices.items() if name.startswith("blocks")]
    others = [p for name, p in matrices.items() if not name.startswith("blocks")]
    if config.optimizer == "adamw":
        hidden, others = [], others + hidden
    groups = [
        {"params": others, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
    optimizers = {adamw: config.learning_rate}
    if hidden:
        muon = Muon(hidden, config.muon_learning_rate, config.weight_decay, dtype)
        optimizers[muon] = config.muon_learning_rate
    if tables:
        sparse = torch.optim.SparseAdam(tables, lr=config.ngram_learning_rate)
        optimizers[sparse] = config.ngram_learning_rate
    return optimizers


def train(model, config, corpus, tokenizer, run):
    tokens = load_tokens(corpus, "train", tokenizer)
    val_tokens = load_tokens(corpus, "validation", tokenizer)
    optimizers = new_optimizers(model, config, run.dtype)
    generator = torch.Generator().manual_seed(config.seed)  # for the batches and nothing else
    run.start(tokens, val_tokens, list(optimizers), generator)
    for step in range(run.first_step, config.steps + 1):
        if step in run.evaluation_steps:
            scores = evaluate(model, val_tokens, config.context_length, corpus, limit=run.val_limit)
            run.log_evaluation(step, scores, generate(model, config, tokenizer, run.device))
            run.save_checkpoint(step)
        if run.interrupted:  # for example by Ctrl-C
            run.save_and_exit(step)
        if step == config.steps:  # one round more than updates: it only evaluates and saves
            break
        share = learning_rate(step, config) / config.learning_rate  # one schedule for all
        for optimizer, peak in optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = peak * share
            optimizer.zero_grad()
        step_loss = 0.0
        for _ in range(config.grad_accum):
            x, y = run.to_device(*get_batch(tokens, config, generator))
            logits = model(x)  # (B, T, V)
            # Cross entropy: the mean of -ln p(next token), in nats.
            loss = F.cross_entropy(logits.flatten(0, -2), y.flatten()) / config.grad_accum
            loss.backward()  # accumulates in .grad: after the loop, the gradient of the mean loss
            step_loss = step_loss + loss.detach()
            del logits, loss  # the largest activation: free it before the next micro-batch
        run.average_gradients(model)  # over the processes, where there are several
        # One unlucky batch must not undo many good ones. (clip_grad_norm_ takes no sparse ones,
        # so those of the n-grams stay as they are. Like any Adam, theirs divides the mean gradient
        # by the root of the mean square, and that bounds its steps.)
        dense = [p for p in model.parameters() if not (p.grad is None or p.grad.is_sparse)]
        nn.utils.clip_grad_norm_(dense, config.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        run.log_step(step_loss, y.numel() * config.grad_accum)
    scores = evaluate(model, val_tokens, config.context_length, corpus, limit=run.final_limit)
    if config.long_contexts:
        evaluate_long_contexts(model, val_tokens, config, corpus, run)
    run.finish(scores)


# ---- Command line --------------------------------------------------------------------------------
def main():
    config = parse(Config, __doc__)
    with Run(config, __file__, __doc__) as run:
        corpus = None if config.sample_only else load_corpus(config.data, config.data_dir or None)
        tokenizer = run.load_tokenizer(corpus)
        torch.manual_seed(config.seed)  # for the initial parameters
        # On its device, with --dtype, --compile and data parallelism as the settings say.
        model = run.prepare(LanguageModel(config, tokenizer.vocab_size))
        if config.sample_only:
            run.print_samples(model, tokenizer, generate)
        else:
            train(model, config, corpus, tokenizer, run)


if __name__ == "__main__":
    run_main(main)

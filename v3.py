"""v3: scale, by a stack of transformer blocks and the recipe that trains it.

A deeper network needs care. The recipe is largely that of GPT-2 and GPT-3 (Radford et al. 2019,
Brown et al. 2020): initialization scaled down with the depth, warm-up and cosine decay of the
learning rate, gradient clipping, weight decay, which pulls the matrices towards zero, dropout, and
AdamW (Loshchilov and Hutter 2019) with a shorter memory of squared gradients (beta2 = 0.95).
Dropout is off by default: without it the validation loss falls to the last step.

Expect stories that keep better track of who has the object that they are about. Two controls, in
the tables of `results/README.md`, tell the depth from the recipe: v3 with one block, and v3 without
schedule, clipping and weight decay. On the sample the recipe with one block brings half of the
gain. The step to here is `diff v2.py v3.py`.
"""

import math
from dataclasses import dataclass

from common.cli import parse, run_main
from common.config import RunConfig
from common.data import load_corpus, token_file
from common.errors import UserError
from common.evaluation import evaluate
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
    n_layer: int = 2  # transformer blocks in the stack
    dropout: float = 0.0  # share of activations set to zero in training
    qkv_bias: bool = False  # add biases to the query, key and value projections (GPT-2 has them)
    steps: int = 2000  # updates of the parameters
    learning_rate: float = 0.002  # the optimizer's step size, at its peak
    warmup_steps: int = 100  # steps in which the learning rate rises linearly to the peak
    cosine_decay: bool = True  # after warm-up, decay along half a cosine to a tenth of the peak
    weight_decay: float = 0.1  # AdamW's weight decay, on the matrices only
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


def causal_mask(T, device):
    """What is added to the scores (T, T): minus infinity where a key comes after its query."""
    return torch.full((T, T), -math.inf, device=device).triu(1)


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which no position sees a later one (Vaswani et al. 2017).

    A position's query is compared with the keys of all positions up to itself, and the better a key
    matches, the more of that position's value it takes. Several heads do this in parallel, each in
    D = C/H channels of its own, because one softmax gives one weighted mean: with several, a
    position can attend to the subject and to the previous word at the same time.
    """

    def __init__(self, config):
        super().__init__()
        C, H = config.n_embd, config.n_head
        if C % H:
            raise UserError(f"--n-embd {C} does not divide into {H} heads: change it or --n-head")
        self.n_head = H
        self.qkv = nn.Linear(C, 3 * C, bias=config.qkv_bias)  # query, key and value projections
        self.proj = nn.Linear(C, C)  # mixes the heads' results
        self.dropout = nn.Dropout(config.dropout)

    def attend(self, q, k, v, mask):  # (B, H, T, D) each, and (T, T)
        # Dot products of vectors of D independent numbers of mean 0 and variance 1 have variance D.
        # Divided by sqrt(D) the scores have a standard deviation of 1; with larger ones softmax
        # would put nearly all weight on one key, and its gradient would vanish. (Where torch's own
        # function for this is quicker and gives the same, run.prepare puts it in this one's place.)
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)  # (B, H, T, T)
        weights = F.softmax(scores + mask.to(q.dtype), dim=-1)  # attention weights; a row sums to 1
        return self.dropout(weights) @ v  # (B, H, T, D)

    def forward(self, x, mask):  # (B, T, C), (T, T)
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3 * self.n_head, -1)  # (B, T, 3H, D)
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=1)  # (B, H, T, D) each
        y = self.attend(q, k, v, mask)  # (B, H, T, D)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))  # (B, T, C)


class MLP(nn.Module):
    """A position-wise feed-forward network: the same two layers at each position.

    Between them stands GELU, a smooth max(0, x): without it two linear layers could do no more than
    one.
    """

    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):  # (B, T, C)
        return self.down(F.gelu(self.up(x)))  # (B, T, 4C) in between


class Block(nn.Module):
    """A transformer block: attention, then the MLP.

    Both read the residual stream x and add to it. The addition keeps what earlier layers wrote, and
    passes the gradient on undiminished. LayerNorm in front of each (pre-norm, Xiong et al. 2020)
    brings its inputs to mean 0 and variance 1, however large the stream has grown.
    """

    def __init__(self, config):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.n_embd)
        self.attention = CausalSelfAttention(config)
        self.norm2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, mask):  # (B, T, C), (T, T)
        x = x + self.dropout(self.attention(self.norm1(x), mask))
        return x + self.dropout(self.mlp(self.norm2(x)))


class LanguageModel(nn.Module):
    """Token and positional embeddings, a stack of blocks, and an output head: V logits."""

    def __init__(self, config, vocab_size):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            # 0.05, not GPT-2's 0.02: at a width of 128 the model learns copying late with 0.02.
            if parameter.dim() == 2:  # the loss then starts near ln V
                nn.init.normal_(parameter, std=0.05)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            # 2 * n_layer projections add to the residual stream: scaled down, so that their sum
            # does not grow with depth (Radford et al. 2019).
            if name.endswith(("proj.weight", "down.weight")):
                nn.init.normal_(parameter, std=0.05 / math.sqrt(2 * config.n_layer))
        # Learned embeddings that start as sinusoids. A linear map turns those of position t into
        # those of t + k, for every t (Vaswani et al. 2017): one projection can learn a distance for
        # all positions at once. Random ones would have to be learned position by position.
        self.position_embedding.weight.data = sinusoids(config.context_length, config.n_embd)

    def forward(self, idx, last_only=False):  # (B, T) token ids
        T = idx.shape[-1]
        positions = torch.arange(T, device=idx.device)
        x = self.token_embedding(idx) + self.position_embedding(positions)  # (B, T, C)
        x, mask = self.dropout(x), causal_mask(T, idx.device)
        for block in self.blocks:
            x = block(x, mask)
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
    for _ in range(config.max_new_tokens):
        if len(window) > config.context_length:  # full: continue from its last half
            window = window[-max(1, config.context_length // 2) :]
        logits = model(torch.tensor([window], device=device), last_only=True)[0, -1]  # (V,)
        token = sample_next_token(logits.float().cpu(), config, generator)
        if token == tokenizer.end_of_text:
            break
        ids.append(token)
        window.append(token)
    model.train()
    return tokenizer.decode(ids)


# ---- Training ------------------------------------------------------------------------------------
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


def train(model, config, corpus, tokenizer, run):
    tokens = load_tokens(corpus, "train", tokenizer)
    val_tokens = load_tokens(corpus, "validation", tokenizer)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]  # biases and LayerNorms: no decay
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
    generator = torch.Generator().manual_seed(config.seed)  # for the batches and nothing else
    run.start(tokens, val_tokens, optimizer, generator)
    for step in range(run.first_step, config.steps + 1):
        if step in run.evaluation_steps:
            scores = evaluate(model, val_tokens, config.context_length, corpus, limit=run.val_limit)
            run.log_evaluation(step, scores, generate(model, config, tokenizer, run.device))
            run.save_checkpoint(step)
        if run.interrupted:  # for example by Ctrl-C
            run.save_and_exit(step)
        if step == config.steps:  # one round more than updates: it only evaluates and saves
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
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
        # One unlucky batch must not undo many good ones.
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        run.log_step(step_loss, y.numel() * config.grad_accum)
    scores = evaluate(model, val_tokens, config.context_length, corpus, limit=run.final_limit)
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

"""v3: scale, by a stack of blocks and what it takes to train one.

Depth needs care: residual-scaled initialisation, warm-up and cosine decay, gradient clipping,
weight decay on matrices, an AdamW that forgets sooner (its betas), a head that begins as the
embedding; dropout is off. Size needs machines: mixed precision, fused attention, data parallelism
(`torchrun --nproc-per-node=2 v3.py`). The step to here: `diff v2.py v3.py`.

Expect stories that keep to their things: the second block looks up what the first has gathered.
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from common.cli import parse, run_main
from common.data import load_corpus, token_file
from common.training.distributed import join_processes, rank, to_device, world_size
from common.errors import UserError
from common.evaluation.evaluate import judge
from common.training.run import Run, compile_if_asked, pick_device


@dataclass
class Config:
    data: str = "sample"  # a corpus' name, hf:OWNER/NAME, or a path: .txt .jsonl .parquet, a folder
    data_dir: str = ""  # a folder in the hub's layout, read instead of the hub [WIKITEXT_DIR]
    tokenizer: str = "bpe"  # bpe, char, word, gpt2, or a saved vocabulary's path
    split_pattern: str = "gpt4"  # where BPE cuts first: whitespace, gpt2 or gpt4
    end_of_text: bool = True  # a token <|endoftext|> after each document
    vocab_size: int = 2048  # tokens in the vocabulary, V
    context_length: int = 256  # tokens the model may look at, T
    batch_size: int = 4  # sequences in a micro-batch, B
    grad_accum: int = 1  # micro-batches a step
    n_head: int = 4  # attention heads, H
    n_embd: int = 128  # width of the residual stream, C
    n_layer: int = 2  # blocks in the stack
    dropout: float = 0.0  # share of activations set to zero while training
    activation_checkpointing: bool = False  # keep only blocks' inputs, compute the rest again
    qkv_bias: bool = False  # biases for queries, keys and values, as in GPT-2
    mimetic_start: bool = True  # begin with weights that copy what stands there
    steps: int = 2000  # updates of the parameters
    learning_rate: float = 0.002  # AdamW's step size
    warmup_steps: int = 100  # steps in which the learning rate rises to that
    weight_decay: float = 0.1  # of the matrices, per unit of learning rate
    clip_norm: float = 1.0  # a longer gradient is scaled down to this
    seed: int = 1  # of the initial parameters and of the batches
    device: str = "auto"  # auto, cpu, cuda or mps
    dtype: Literal["float32", "bfloat16"] = "float32"  # the numbers' type while training
    compile: bool = False  # torch.compile the model
    eval_every: int = 500  # steps between evaluations, each of which saves a checkpoint
    out_dir: str = f"runs/{Path(__file__).stem}"  # where the run's files go
    resume: bool = False  # go on from the checkpoint in out_dir
    sample_only: bool = False  # no training: continue the prompt from the checkpoint in out_dir
    prompt: str = "One morning"  # the text to continue
    max_new_tokens: int = 200  # length of the continuation
    temperature: float = 0.8  # below 1 bolder, above 1 wilder, 0 always the likeliest token
    top_k: int = 0  # choose among the k likeliest tokens only; 0 is off
    top_p: float = 1.0  # choose among the fewest tokens that together have this probability


# ---- Batches -------------------------------------------------------------------------------------
def load_tokens(corpus, split, tokenizer):
    """The split's tokens, mapped from disk: (N,) uint16; what is not looked at is not read."""
    return token_file(corpus, split, tokenizer).memmap()


def get_batch(tokens, config, generator):
    """Random stretches of the tokens: inputs x (B, T), and targets y (B, T), the tokens after."""
    B, T = config.batch_size, config.context_length
    starts = torch.randint(len(tokens) - T, (B,), generator=generator)[rank() :: world_size()]
    rows = torch.from_numpy(np.stack([tokens[i : i + T + 1] for i in starts]).astype(np.int64))
    return rows[:, :-1], rows[:, 1:]


# ---- Model ---------------------------------------------------------------------------------------
def sinusoids(T, C):
    """Waves, from one radian a token to a hundredth: (T, C) (Vaswani et al. 2017, to 1/10000)."""
    angles = torch.arange(T)[:, None] * 100 ** (-torch.arange(0, C, 2) / C)  # (T, C/2)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[:, :C]


class CausalSelfAttention(nn.Module):
    """Each position takes a weighted mean of those up to itself (Vaswani et al. 2017)."""

    def __init__(self, config):
        super().__init__()
        C, H = config.n_embd, config.n_head
        if C % H:
            raise UserError(f"--n-embd {C} does not divide into {H} heads: change it or --n-head")
        self.n_head, self.dropout = H, config.dropout
        self.qkv = nn.Linear(C, 3 * C, bias=config.qkv_bias)  # three maps side by side
        self.proj = nn.Linear(C, C)

    def forward(self, x):  # (B, T, C)
        B, T, C = x.shape
        # What do I look for, what do I offer, what do I hand over: (B, T, C) each.
        q, k, v = self.qkv(x).split(C, dim=-1)
        q, k, v = (z.view(B, T, self.n_head, -1).transpose(1, 2) for z in (q, k, v))  # (B, H, T, D)
        dropout = self.dropout if self.training else 0.0
        if q.dtype == torch.bfloat16 and x.device.type == "cpu":  # quicker there than fused
            scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)  # (B, H, T, T)
            future = torch.full((T, T), -math.inf, dtype=q.dtype).triu(1)
            weights = F.softmax(scores + future, dim=-1)  # each row sums to 1
            y = F.dropout(weights, dropout) @ v  # (B, H, T, D)
        else:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Two layers that work on each position by itself."""

    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):  # (B, T, C)
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Attention, then the MLP; each reads the normalised residual stream and adds to it."""

    def __init__(self, config):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.n_embd)
        self.attention = CausalSelfAttention(config)
        self.norm2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):  # (B, T, C)
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class LanguageModel(nn.Module):
    """Embeddings in, transformer blocks between, and a head that scores every token."""

    def __init__(self, config, vocab_size):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.checkpointing = config.activation_checkpointing
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:  # small: every token about equally likely, the loss near ln V
                nn.init.normal_(parameter, std=0.05)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            if name.endswith(("proj.weight", "down.weight")):  # what the 2 * n_layer sums add up
                nn.init.normal_(parameter, std=0.05 / math.sqrt(2 * config.n_layer))
        if config.mimetic_start:  # a token is likely where its embedding has been handed on
            self.head.weight.data.copy_(self.token_embedding.weight)
        # The same distance looks the same everywhere from the start: from noise, that takes long.
        self.position_embedding.weight.data = 0.05 * sinusoids(config.context_length, config.n_embd)

    def forward(self, idx):  # (B, T) token ids
        x = self.token_embedding(idx)  # (B, T, C)
        x = x + self.position_embedding(torch.arange(idx.shape[-1], device=idx.device))
        x = self.dropout(x)
        for block in self.blocks:
            if self.checkpointing and self.training:  # less memory, a third more work
                block = partial(checkpoint, block, use_reentrant=False)
            x = block(x)
        return self.head(self.norm(x))  # (B, T, V) logits


# ---- Sampling ------------------------------------------------------------------------------------
def choose(logits, config, generator):
    """Draw one token id from the logits (V,)."""
    if config.temperature == 0:
        return logits.argmax()
    probs, order = F.softmax(logits / config.temperature, dim=-1).sort(descending=True)
    if config.top_k:
        probs[config.top_k :] = 0
    probs[probs.cumsum(0) - probs >= config.top_p * probs.sum()] = 0  # those before reach top_p
    return order[torch.multinomial(probs, 1, generator=generator)[0]]


@torch.no_grad()
def generate(model, config, tokenizer, device):
    """The prompt, continued token by token, as text. The same seed draws the same."""
    generator = torch.Generator().manual_seed(config.seed)
    idx = torch.tensor(tokenizer.encode(config.prompt), device=device)  # (T,)
    model.eval()
    for _ in range(config.max_new_tokens):
        logits = model(idx[None, -config.context_length :])[0, -1]  # (V,): the last position's
        token = choose(logits.float().cpu(), config, generator)
        if token == tokenizer.end_of_text:
            break
        idx = torch.cat((idx, token[None].to(device)))
    model.train()
    return tokenizer.decode(idx.tolist())


# ---- Training ------------------------------------------------------------------------------------
def learning_rate(step, config):
    """A linear warm-up, then half a cosine from the peak down to a tenth of it."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.55 + 0.45 * math.cos(math.pi * progress))


def train(model, config, corpus, tokenizer, run, device):
    tokens = load_tokens(corpus, "train", tokenizer)
    val_tokens = load_tokens(corpus, "validation", tokenizer)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
    parallel = DistributedDataParallel(model) if world_size() > 1 else model  # averages gradients
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16")
    generator = torch.Generator().manual_seed(config.seed)  # draws the batches and nothing else
    state = {"model": model, "optimizer": optimizer, "batches": generator}
    step = run.start(tokens, tokenizer, state)
    run.describe(model)
    while True:
        if run.due(step):  # before the first step, every eval_every steps and after the last
            scores = judge(model, val_tokens, config.context_length, corpus)
            run.record(step, scores, generate(model, config, tokenizer, device))
        if run.done(step, state):  # saves where it has just evaluated, and on Ctrl-C
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        optimizer.zero_grad()
        for _ in range(config.grad_accum):  # each piece's activations are freed before the next
            x, y = get_batch(tokens, config, generator)
            x, y = to_device(x, y, device)  # on a GPU while it still works on the last
            with autocast:
                logits = parallel(x)
                loss = F.cross_entropy(logits.flatten(0, -2), y.flatten())
            (loss / config.grad_accum).backward()  # gradients add up: the mean over the pieces
            run.count(loss, y.numel())
            del logits, loss  # a batch's logits are large: free for the update and the next batch
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        step += 1


# ---- Command line --------------------------------------------------------------------------------
def main():
    config = parse(Config, __doc__)
    device = join_processes(pick_device(config.device), config)
    with Run(config, __file__, __doc__) as run:
        corpus = None if config.sample_only else load_corpus(config.data, config.data_dir or None)
        tokenizer = run.load_tokenizer(corpus)
        torch.manual_seed(config.seed)  # draws the initial parameters
        model = LanguageModel(config, tokenizer.vocab_size).to(device)
        compile_if_asked(model, config, device)
        if config.sample_only:
            run.load_weights(model, tokenizer)
            print(run.readable(generate(model, config, tokenizer, device)))
        else:
            train(model, config, corpus, tokenizer, run, device)
            run.finish(model, corpus, device)


if __name__ == "__main__":
    run_main(main)

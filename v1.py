"""v1: batches of sequences, and a better tokenizer.

The same bigram table. Many sequences a step make the gradient less noisy, and cost less each.
The vocabulary grows and is cut by GPT-4's pattern, so that a token is often a word, and a token
<|endoftext|> says where a document ends. The step from the version before: `diff v0.py v1.py`.

Expect whole words, and pairs of words that go together. Still salad: a token sees one token back.
Compare bits per byte, not the loss per token: a longer token says more, and is harder to guess.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

from common.cli import parse, run_main
from common.data import load_corpus, token_file
from common.evaluation.evaluate import judge
from common.evaluation.ngram import counting_bigram
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
    batch_size: int = 16  # sequences a step, B
    steps: int = 800  # updates of the parameters
    learning_rate: float = 0.05  # AdamW's step size
    seed: int = 1  # of the initial parameters and of the batches
    device: str = "auto"  # auto, cpu, cuda or mps
    dtype: Literal["float32"] = "float32"  # the numbers' type while training
    compile: bool = False  # torch.compile the model
    eval_every: int = 200  # steps between evaluations, each of which saves a checkpoint
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
    """The split's tokens, all of them in memory: (N,) int64."""
    return torch.from_numpy(token_file(corpus, split, tokenizer).load().astype("int64"))


def get_batch(tokens, config, generator):
    """Random stretches of the tokens: inputs x (B, T), and targets y (B, T), the tokens after."""
    B, T = config.batch_size, config.context_length
    starts = torch.randint(len(tokens) - T, (B,), generator=generator)
    rows = torch.stack([tokens[i : i + T + 1] for i in starts])
    return rows[:, :-1], rows[:, 1:]


# ---- Model ---------------------------------------------------------------------------------------
class LanguageModel(nn.Module):
    """A table: row i holds the logits of the token after token i."""

    def __init__(self, config, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.zeros_(self.table.weight)  # every token equally likely: the loss begins at ln V

    def forward(self, idx):  # (..., T) token ids
        return self.table(idx)  # (..., T, V) logits


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
def train(model, config, corpus, tokenizer, run, device):
    tokens = load_tokens(corpus, "train", tokenizer)
    val_tokens = load_tokens(corpus, "validation", tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(config.seed)  # draws the batches and nothing else
    state = {"model": model, "optimizer": optimizer, "batches": generator}
    step = run.start(tokens, tokenizer, state)
    run.reference("bigrams, counted", counting_bigram(tokens, val_tokens, tokenizer, corpus))
    while True:
        if run.due(step):  # before the first step, every eval_every steps and after the last
            scores = judge(model, val_tokens, config.context_length, corpus)
            run.record(step, scores, generate(model, config, tokenizer, device))
        if run.done(step, state):  # saves where it has just evaluated, and on Ctrl-C
            break
        optimizer.zero_grad()
        x, y = get_batch(tokens, config, generator)
        logits = model(x.to(device))
        loss = F.cross_entropy(logits.flatten(0, -2), y.to(device).flatten())
        loss.backward()
        run.count(loss, y.numel())
        del logits, loss  # a batch's logits are large: free for the update and the next batch
        optimizer.step()
        step += 1


# ---- Command line --------------------------------------------------------------------------------
def main():
    config = parse(Config, __doc__)
    device = pick_device(config.device)
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

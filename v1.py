"""v1: batches, and a better tokenizer.

The same bigram table, trained on batches: many sequences per step make the gradient less noisy, and
each takes less time. A less noisy gradient allows a larger learning rate, so that fewer steps are
enough, 800 in place of 5,000. The BPE vocabulary may grow to 4,096 tokens (on the sample it ends at
1,773, when every chunk of the text is one token). Pre-tokenization uses GPT-4's split pattern, so
that a token is often a word, and never a word with the punctuation after it. A special token
<|endoftext|> marks where a document ends. How BPE learns its merges and encodes with them is in
`bpe_tokenizer.py`: read `train_plainly` and `encode_plainly` there.

On the sample the better loss is the tokenizer's: with v0's tokenizer, a control in
`results/README.md`, batches give v0's loss again, as far as three seeds can tell.

Compare bits per byte with v0's, not the loss per token: a longer token carries more of the text.

Expect whole words and pairs of words that go together, and still no sentences: the model sees one
token of context. The step to here is `diff v0.py v1.py`.
"""

from dataclasses import dataclass

from common.cli import parse, run_main
from common.config import RunConfig
from common.data import load_corpus, token_file
from common.evaluation import counted_bigram, evaluate
from common.training import Run

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config(RunConfig):
    split_pattern: str = "gpt4"  # pre-tokenization by whitespace, gpt2, gpt4 or a regex
    end_of_text: bool = True  # put a token <|endoftext|> after each document
    vocab_size: int = 4096  # tokens in the vocabulary at most, V
    context_length: int = 256  # tokens in a training sequence, T
    batch_size: int = 16  # sequences per step, B
    steps: int = 800  # updates of the parameters
    learning_rate: float = 0.05  # the optimizer's step size
    temperature: float = 0.8  # below 1 sharper and more conservative, above 1 flatter; 0 is greedy
    top_k: int = 0  # sample among the k most likely tokens only; 0 is off
    top_p: float = 1.0  # nucleus: the fewest tokens whose probabilities reach this sum; 1: off


# ---- Batches -------------------------------------------------------------------------------------
def load_tokens(corpus, split, tokenizer):
    """Return all tokens of the split, held in memory: (N,) int64."""
    return torch.from_numpy(token_file(corpus, split, tokenizer).load().astype("int64"))


def get_batch(tokens, config, generator):
    """Return random windows of the tokens: inputs x (B, T), and targets y (B, T), the next ones."""
    B, T = config.batch_size, config.context_length
    starts = torch.randint(len(tokens) - T, (B,), generator=generator)
    rows = torch.stack([tokens[i : i + T + 1] for i in starts])  # (B, T + 1)
    return rows[:, :-1], rows[:, 1:]


# ---- Model ---------------------------------------------------------------------------------------
class LanguageModel(nn.Module):
    """A table of V rows: row i holds the logits of the token that follows token i."""

    def __init__(self, config, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        # Equal logits make every token equally likely, so the loss starts at ln V.
        nn.init.zeros_(self.table.weight)

    def forward(self, idx, last_only=False):  # (..., T) token ids
        if last_only:  # sampling needs the logits of the last position alone
            idx = idx[..., -1:]
        return self.table(idx)  # (..., T, V) logits


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
def train(model, config, corpus, tokenizer, run):
    tokens = load_tokens(corpus, "train", tokenizer)
    val_tokens = load_tokens(corpus, "validation", tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(config.seed)  # for the batches and nothing else
    run.start(tokens, val_tokens, optimizer, generator)
    run.log_baseline("counted bigrams", counted_bigram(tokens, val_tokens, tokenizer, corpus))
    for step in range(run.first_step, config.steps + 1):
        if step in run.evaluation_steps:
            scores = evaluate(model, val_tokens, config.context_length, corpus, limit=run.val_limit)
            run.log_evaluation(step, scores, generate(model, config, tokenizer, run.device))
            run.save_checkpoint(step)
        if run.interrupted:  # for example by Ctrl-C
            run.save_and_exit(step)
        if step == config.steps:  # one round more than updates: it only evaluates and saves
            break
        optimizer.zero_grad()
        x, y = run.to_device(*get_batch(tokens, config, generator))
        logits = model(x)  # (B, T, V)
        # Cross entropy: the mean of -ln p(next token), in nats.
        loss = F.cross_entropy(logits.flatten(0, -2), y.flatten())
        loss.backward()  # puts the gradient into .grad of each parameter
        run.average_gradients(model)  # over the processes, where there are several
        optimizer.step()
        run.log_step(loss.detach(), y.numel())
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

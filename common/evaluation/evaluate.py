"""The evaluation: one measure for every version, the same tokens each time, never random."""

import math
import sys

from common.errors import NotFinite, is_out_of_memory

import torch
import torch.nn.functional as F
from tqdm import tqdm

WINDOW_TOKENS = 2048  # tokens in the windows that go through the model together, at most
LOGIT_BYTES = 2**23  # and the bytes of their logits: 8 MiB, no more than training takes
LONG_WINDOWS = 65_536  # tokens that are evaluated in windows longer than the training context


@torch.no_grad()
def evaluate(
    model, tokens, context_length, corpus, split="validation", stride=None, limit=None, memory=1
):
    """How well the model predicts `tokens`, each of them once.

    model           idx (B, T) -> logits (B, T, V); it is put in evaluation mode and back
    tokens          the split's ids in order: a 1-D tensor or numpy array (memory-mapped or not)
    context_length  the windows' length T. They stand side by side: a window's first token is
                    predicted from one token of context, its last from T
    corpus, split   whose tokens they are: bits per byte = total nats / (ln 2 * bytes of the text),
                    perplexity per word = exp(total nats / words) where words are defined
    stride          slide the windows by this many tokens, 1 to T, instead of T, and count the last
                    `stride` predictions of each (all of the first window's): almost every token
                    is predicted from at least T - stride tokens of context. Costs T / stride times
                    as much.
    limit           evaluate the first `limit` tokens only (bytes are then scaled in proportion)
    memory          windows may together take so many times the memory that they usually do. That
                    is quicker where a pass has work that several windows share, such as a mask.

    Nothing stands before the very first token: it costs ln V, as every token would without a
    model. So the total is the length of a code from which the whole text can be rebuilt.
    Returns a dictionary: loss (nats per token), bits_per_byte, perplexity, word_perplexity,
    accuracy (top-1) and accuracy_top5. Raises NotFinite where the loss is not a number.
    """
    T = context_length
    stride = T if stride is None else stride
    n = len(tokens) if limit is None else min(limit, len(tokens))
    if n < 2 or not 1 <= stride <= T:
        raise ValueError(f"nothing to evaluate: {n} tokens, in windows of {T} by stride {stride}")
    n_bytes, n_words = corpus.n_bytes[split], corpus.words(split)
    share = n / len(tokens)  # of the split that is evaluated
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    totals = torch.zeros(3, dtype=torch.float64)  # what _score returns of a group of windows
    at_once = 1  # the first window tells how large the vocabulary is, and so how many fit
    # A window's inputs are tokens[i : i + T], its targets tokens[i + 1 : i + T + 1].
    starts = range(0, max(1, n - 1 - (T - stride)), stride)
    at = 0
    with tqdm(total=len(starts), desc="evaluating", delay=2, leave=False, disable=None) as bar:
        while at < len(starts):
            length = min(T, n - 1 - starts[at])  # the last window ends with the split
            group = [i for i in starts[at : at + at_once] if i + length < n]
            at += len(group)
            rows = torch.stack([_int64(tokens[i : i + length + 1]) for i in group]).to(device)
            logits = model(rows[:, :-1])  # (B, T, V)
            skip = 0 if group[0] == 0 else T - stride
            totals += _score(logits[:, skip:], rows[:, 1:][:, skip:])
            vocab_size = logits.shape[-1]
            at_once = max(1, min(LOGIT_BYTES // (4 * vocab_size), WINDOW_TOKENS) * memory // T)
            bar.update(len(group))
    model.train(was_training)
    nats, top1, top5 = totals.tolist()
    nats += math.log(vocab_size)
    if math.isnan(nats):
        raise NotFinite(f"the validation loss became {nats}: try a lower --learning-rate")
    return {
        "loss": nats / n,
        "bits_per_byte": nats / (math.log(2) * n_bytes * share),
        "perplexity": _exp(nats / n),
        "word_perplexity": _exp(nats / (n_words * share)) if n_words else None,
        "accuracy": top1 / (n - 1),
        "accuracy_top5": top5 / (n - 1),
    }


def evaluate_long_contexts(model, tokens, config, corpus, run):
    """Bits per byte at 1, 2, 4 and 8 times the training context: windows side by side, sliding.

    Side by side, a longer window leaves fewer tokens with little context: does more context help?
    Sliding by half a window, most tokens have at least half of it: is far context harmful?
    Learned positions end with the context, so they have the first row alone. Long windows cost a
    lot, so only the first LONG_WINDOWS tokens of a long split are evaluated, the same in each row.
    Where there is no memory for them the table ends before, and the run goes on to its end.
    """
    for times in (1,) if config.position == "learned" else (1, 2, 4, 8):
        T = times * config.context_length
        # The first row's memory counts as the run's.
        about = {"limit": LONG_WINDOWS, "memory": 1 if times == 1 else 16}
        try:
            rows = [evaluate(model, tokens, T, corpus, stride=s, **about) for s in (T, T // 2 or 1)]
        except (MemoryError, RuntimeError) as error:
            if times == 1 or not is_out_of_memory(error):
                raise
            print(f"not enough memory for windows of {T:,} tokens", file=sys.stderr)
            break
        run.log_long_context(times, T, *(row["bits_per_byte"] for row in rows))


def _exp(x):
    return math.exp(min(x, 700))  # a model gone wrong gets a huge perplexity, not an overflow


def _int64(row):
    """A slice of the split, a tensor or a memory-mapped numpy array, as an int64 tensor."""
    return row if torch.is_tensor(row) else torch.from_numpy(row.astype("int64"))


def _score(logits, y):
    """(3,) float64: the summed nats, and the hits among the best one and among the best five."""
    logits, y = logits.flatten(0, 1).float(), y.flatten()  # (N, V), (N,)
    nats = F.cross_entropy(logits, y, reduction="none").cpu().double().sum()
    best = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == y[:, None]  # (N, 5)
    return torch.tensor([nats, best[:, 0].sum(), best.sum()], dtype=torch.float64)

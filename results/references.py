"""The reference rows under the tables: what counting the same tokens reaches, without a model."""

import math
import time

from common.data import load_corpus, token_file
from common.errors import UserError
from common.evaluation import counted_ngrams
from common.files import write_json
from common.tokenizers import load_tokenizer
from common.training.result import Data
from results import store
from results.store import Counted, Reference, reference_path

ORDERS = {2: "bigrams, counted", 5: "5-grams, counted"}


def references(data_dir: str = ""):
    """Count what the tables show under the versions: bigrams and 5-grams of both corpora.

    The tokens are those of v1's published runs, as of all versions from v1 on.

    Args:
        data_dir: where WikiText lies, if not on the hub
    """
    for name in store.CORPORA:
        runs = store.load_results(f"v1-{name}")
        if not runs:
            raise UserError(f"no run of v1 on {name} is published")
        vocab_size = runs[min(runs)].config["vocab_size"]
        corpus = load_corpus(name, data_dir or None if name != "sample" else None)
        reference = counted(corpus, load_tokenizer("bpe", corpus, vocab_size))
        write_json(reference_path(name), reference)
        for row in reference.rows:
            print(f"{name}: {row.name}: {row.val_bits_per_byte:.3f} bits per byte")


def counted(corpus, tokenizer):
    """Each of ORDERS, counted on the corpus' training split and evaluated on its validation split.

    Returns a Reference; bits per byte and word perplexity (None where words are not defined) are
    those of the models' evaluation.
    """
    split, rows = "validation", []
    train, validation = (token_file(corpus, s, tokenizer).memmap() for s in ("train", split))
    n_words = corpus.words(split)
    for order, name in ORDERS.items():
        began = time.perf_counter()
        bits = counted_ngrams(train, validation, tokenizer, corpus, order)
        seconds = round(time.perf_counter() - began, 3)
        nats = bits * math.log(2) * corpus.n_bytes[split]
        words = math.exp(nats / n_words) if n_words else None
        rows.append(
            Counted(
                name=name,
                order=order,
                val_bits_per_byte=bits,
                val_word_perplexity=words,
                seconds=seconds,
            )
        )
    sizes = {"train_bytes": corpus.n_bytes["train"], "val_bytes": corpus.n_bytes[split]}
    about = {key: getattr(tokenizer, key) for key in ("kind", "vocab_size", "sha256")}
    return Reference(
        data=Data(name=corpus.name, sha256=corpus.sha256, **sizes), tokenizer=about, rows=rows
    )

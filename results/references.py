"""The reference rows beneath the tables: what counting the same tokens reaches, no model at all."""

import math
import time

from results import tables as results
from common.data import load_corpus, token_file
from common.files import write_json
from common.evaluation.ngram import counting
from common.tokenizers import load_tokenizer

VOCAB_SIZES = {"sample": 2048, "wikitext-2": 4096}  # those of the tables' versions from v1 on
ORDERS = {2: "bigrams, counted", 5: "5-grams, counted"}


def references(data_dir: str = ""):
    """Count what the tables show beneath the versions: bigrams and 5-grams of both corpora.

    Args:
        data_dir: where WikiText lies, if not on the hub
    """
    for name, vocab_size in VOCAB_SIZES.items():
        corpus = load_corpus(name, data_dir or None if name != "sample" else None)
        tokenizer = load_tokenizer("bpe", corpus, vocab_size)
        reference = counted(corpus, tokenizer)
        path = results.ROOT / "results" / f"reference-{name}.json"
        path.parent.mkdir(exist_ok=True)
        write_json(path, reference)
        for row in reference["rows"]:
            print(f"{name}: {row['name']}: {row['val_bits_per_byte']:.3f} bits per byte")


def counted(corpus, tokenizer):
    """Each of ORDERS on the corpus' validation split, and what it was counted on, for a file.

    Bits per byte and word perplexity (None where words are not defined) as the judge has them.
    """
    split = "validation"
    train, validation = (token_file(corpus, s, tokenizer).memmap() for s in ("train", split))
    n_words, rows = corpus.words(split), []
    for order, name in ORDERS.items():
        began = time.perf_counter()
        bits = counting(train, validation, tokenizer, corpus, order)
        nats = bits * math.log(2) * corpus.n_bytes[split]
        rows.append({
            "name": name,
            "order": order,
            "val_bits_per_byte": bits,
            "val_word_perplexity": math.exp(nats / n_words) if n_words else None,
            "seconds": round(time.perf_counter() - began, 3),
        })  # fmt: skip
    data = {"name": corpus.name, "sha256": corpus.sha256}
    data |= {"train_bytes": corpus.n_bytes["train"], "val_bytes": corpus.n_bytes[split]}
    about = {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size}
    return {"data": data, "tokenizer": {**about, "sha256": tokenizer.sha256}, "rows": rows}

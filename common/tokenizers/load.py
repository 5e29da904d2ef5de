"""A tokenizer by its kind, trained once and kept in the cache, or from a saved file.

tokenizer = load_tokenizer("bpe", corpus, vocab_size=4096)
ids = tokenizer.encode("One morning")
"""

import hashlib
import os
import sys

from bpe_tokenizer import END_OF_TEXT, PATTERNS, BPETokenizer
from common.bpe.checks import read
from common.data.cache import cache_folder, made_once, progress_bar, slug
from common.errors import UserError

KINDS = ("bpe", "char", "word", "gpt2")
ENOUGH = 100_000_000  # bytes of training text that a vocabulary is made from, at most


def load_tokenizer(kind, corpus, vocab_size, pattern="gpt4", special_tokens=(END_OF_TEXT,)):
    """A tokenizer by its kind (bpe, char, word, gpt2), or from a saved vocabulary's path.

    The first three are trained on the corpus' training split (on its first 100 MB where it is
    longer) once, and kept in the cache. vocab_size counts everything; char takes the
    characters there are instead, and gpt2 is what it is. pattern: bpe only, gpt2, gpt4,
    whitespace or a regular expression.
    """
    if kind == "gpt2":
        from common.tokenizers.classes import GPT2Tokenizer

        return GPT2Tokenizer()
    if kind not in KINDS:
        return load_tokenizer_file(kind)
    if kind == "bpe" and vocab_size < 256 + len(special_tokens):
        raise UserError(f"--vocab-size {vocab_size} is too small for byte pairs: give 257 or more")
    about = [kind, tuple(special_tokens)]
    about += {"bpe": [vocab_size, pattern], "word": [vocab_size], "char": []}[kind]
    key = hashlib.sha256(f"1 {corpus.key('train')} {about}".encode()).hexdigest()[:24]
    path = cache_folder() / f"{slug(corpus.name)}-{kind}-{key}.json"

    def train(path):
        tokenizer = _train(kind, corpus, vocab_size, pattern, special_tokens)
        tokenizer.save(path)
        return tokenizer

    return made_once(path, load_tokenizer_file, train)


def _train(kind, corpus, vocab_size, pattern, special_tokens):
    total = corpus.n_bytes["train"]
    if total > ENOUGH:
        first = f"the first {ENOUGH // 10**6} MB of {total // 10**6} MB"
        print(f"the {kind} vocabulary is made from {first} of training text", file=sys.stderr)
    with progress_bar(f"{kind} vocabulary", min(total, ENOUGH)) as bar:
        texts = _first_bytes(corpus, bar)
        if kind == "bpe":
            pattern = PATTERNS.get(pattern, pattern)
            return BPETokenizer.train(texts, vocab_size, pattern, special_tokens)
        from common.tokenizers.classes import TRAINED

        return TRAINED[kind].train(texts, vocab_size, special_tokens)


def _first_bytes(corpus, bar):
    """The training split's pieces, up to the one in which ENOUGH bytes are reached."""
    n_bytes = 0
    for piece in corpus.checked_pieces("train", bar.update):
        yield piece
        n_bytes += len(piece.encode("utf-8"))
        if n_bytes >= ENOUGH:
            return


def load_tokenizer_file(path):
    """A saved vocabulary of any kind; a byte-level `tokenizer.json` of Hugging Face too."""
    if not os.path.exists(path):  # false for impossible names too
        raise UserError(f"--tokenizer {path} is neither a kind ({', '.join(KINDS)}) nor a file")
    content = read(path)
    if "kind" in content:
        from common.tokenizers.classes import read_saved

        return read_saved(path)
    if isinstance(content.get("model"), dict):
        return BPETokenizer.from_huggingface(path)
    return BPETokenizer.load(path)

"""A tokenizer by its kind, trained once and kept in the cache, or from a saved file.

tokenizer = load_tokenizer("bpe", corpus, vocab_size=4096)
ids = tokenizer.encode("One morning")
"""

import contextlib
import hashlib
import os
import sys
from pathlib import Path
from typing import Literal

from bpe_tokenizer import PATTERNS, BPETokenizer, TokenizerError
from common.data.cache import cache_folder, locked, progress_bar, slug
from common.errors import UserError
from common.tokenizers.classes import (
    END_OF_TEXT,
    FORMAT,
    UNKNOWN,
    CharTokenizer,
    GPT2Tokenizer,
    WordTokenizer,
)

import msgspec

KINDS = ("bpe", "char", "word", "gpt2")
ENOUGH = 100_000_000  # bytes of training text that a vocabulary is made from, at most
LARGEST_FILE = 1 << 28  # bytes; a vocabulary file above this is something else


def load_tokenizer(
    kind, corpus, vocab_size, pattern="gpt4", special_tokens=(END_OF_TEXT,), cache_dir=None
):
    """A tokenizer by its kind (bpe, char, word, gpt2), or from a saved vocabulary's path.

    The first three are trained on the corpus' training split (on its first 100 MB where it is
    longer) once, and kept in the cache. vocab_size counts everything; char takes the
    characters there are instead, and gpt2 is what it is. pattern: bpe only, gpt2, gpt4,
    whitespace or a regular expression.
    """
    kind = str(kind)
    if kind == "gpt2":
        return GPT2Tokenizer()
    if kind not in KINDS:
        return load_tokenizer_file(kind)
    special_tokens = (special_tokens,) if isinstance(special_tokens, str) else tuple(special_tokens)
    if kind == "bpe" and vocab_size < 256 + len(special_tokens):
        raise UserError(
            f"--vocab-size {vocab_size} is too small for byte pairs: 256 bytes and"
            f" {len(special_tokens)} special tokens come first"
        )
    about = [kind, special_tokens]
    about += {"bpe": [vocab_size, pattern], "word": [vocab_size], "char": []}[kind]
    key = hashlib.sha256(f"1 {corpus.key('train')} {about}".encode()).hexdigest()[:24]
    folder = cache_folder(cache_dir if cache_dir is not None else corpus.cache_dir)
    path = folder / f"{slug(corpus.name)}-{kind}-{key}.json"
    with locked(path):
        if path.exists():
            with contextlib.suppress(UserError):  # damaged: made again
                return load_tokenizer_file(path)
        tokenizer = _train(kind, corpus, vocab_size, pattern, special_tokens)
        try:
            tokenizer.save(path)
        except OSError as error:
            raise UserError(
                f"can't write {path}: {error.strerror or error}; free some space, or set"
                " LINEAGE_CACHE to another folder"
            ) from None
    return tokenizer


def _train(kind, corpus, vocab_size, pattern, special_tokens):
    total = corpus.n_bytes["train"]
    if total > ENOUGH:
        print(
            f"the {kind} vocabulary is made from the first {ENOUGH // 10**6} MB of"
            f" {total // 10**6} MB of training text",
            file=sys.stderr,
        )
    with progress_bar(f"{kind} vocabulary", min(total, ENOUGH)) as bar:
        texts = _first_bytes(corpus, bar)
        if kind == "char":
            return CharTokenizer.train(texts, special_tokens)
        if kind == "word":
            return WordTokenizer.train(texts, vocab_size, special_tokens)
        try:
            pattern = PATTERNS.get(pattern, pattern)
            return BPETokenizer.train(texts, vocab_size, pattern, special_tokens)
        except TokenizerError as error:
            raise UserError(str(error)) from None


def _first_bytes(corpus, bar):
    """The training split's pieces, up to the one in which ENOUGH bytes are reached."""
    n_bytes = 0
    for piece in corpus.checked_pieces("train", bar.update):
        yield piece
        n_bytes += len(piece.encode("utf-8"))
        if n_bytes >= ENOUGH:
            return


# ---- from a file ---------------------------------------------------------------------------------


class _Saved(msgspec.Struct):
    """A saved vocabulary of characters, of words or of GPT-2, which lists nothing."""

    version: Literal[1]
    kind: Literal["char", "word", "gpt2"]
    sha256: str
    special_tokens: list[str] = []
    vocab: list[str] = []


def load_tokenizer_file(path):
    """A saved vocabulary of any kind; a byte-level `tokenizer.json` of Hugging Face too."""
    path = Path(path)
    if not os.path.exists(path):  # false for impossible names too
        raise UserError(f"--tokenizer {path} is neither a kind ({', '.join(KINDS)}) nor a file")
    if not path.is_file() and not path.is_dir():  # a pipe, or a device without an end
        raise UserError(f"--tokenizer {path} is not a regular file")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path} is too large for a vocabulary")
        data = msgspec.json.decode(path.read_bytes())
        if isinstance(data, dict) and data.get("format") == FORMAT:
            return _from_content(path, msgspec.convert(data, _Saved))
        if isinstance(data, dict) and isinstance(data.get("model"), dict):
            return BPETokenizer.from_huggingface(path)
        return BPETokenizer.load(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except msgspec.ValidationError as error:
        raise UserError(f"{path} is damaged, or of a later version: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UserError(f"{path} is no saved vocabulary: not JSON, or cut short") from None
    except TokenizerError as error:
        raise UserError(str(error)) from None


def _from_content(path, saved):
    """The tokenizer, if the lists make one and their checksum fits."""
    if saved.kind == "gpt2":
        tokenizer = GPT2Tokenizer()
    else:
        names, different = saved.special_tokens, set(saved.vocab + saved.special_tokens)
        if len(different) < len(saved.vocab) + len(names) or UNKNOWN not in names:
            raise UserError(f"{path} is damaged: a token twice, or none for unknown text")
        if saved.kind == "char" and any(len(one) != 1 for one in saved.vocab):
            raise UserError(f"{path} is damaged: a character vocabulary lists characters")
        tokenizer = {"char": CharTokenizer, "word": WordTokenizer}[saved.kind](saved.vocab, names)
    if tokenizer.sha256 != saved.sha256:
        raise UserError(f"{path} was changed after it was saved: its checksum does not fit")
    return tokenizer

"""Characters, words and GPT-2's tokens behind one interface, that of BPETokenizer.

All have: kind, vocab_size, vocab, dtype, sha256, end_of_text, lossless, and encode, decode,
encode_stream, encode_corpus, save.
"""

import collections
import hashlib
import itertools
import json
import re
from typing import Literal

from bpe_tokenizer import END_OF_TEXT, BPETokenizer, check_text, documents
from common.bpe.checks import read
from common.errors import UserError
from common.files import write_json

import msgspec
import numpy as np

UNKNOWN = "<|unk|>"


class Tokenizer:
    """What the tokenizers of this file share. `vocab` is a list: id -> the string it shows.

    A class has its `kind`, and `pieces(text)`, the strings that a text is cut into.
    """

    lossless = False  # False: decode(encode(text)) may differ, so bits per byte do not compare

    def __init__(self, vocab, special_tokens):
        self.vocab = list(vocab) + list(special_tokens)
        self.special_tokens = {name: len(vocab) + i for i, name in enumerate(special_tokens)}
        # Specials stay out of the lookup: their spelling in a text is ordinary text.
        self.ids = {text: i for i, text in enumerate(vocab)}
        self.unknown = self.special_tokens.get(UNKNOWN)
        self.vocab_size = len(self.vocab)
        self.dtype = np.min_scalar_type(self.vocab_size - 1)  # the smallest that holds every id
        self.end_of_text = self.special_tokens.get(END_OF_TEXT)
        # Of all that decides which ids a text becomes.
        self.sha256 = hashlib.sha256(json.dumps(self._content()).encode()).hexdigest()

    def _content(self) -> dict:
        return {"kind": self.kind, "special_tokens": [*self.special_tokens], "vocab": [*self.ids]}

    def encode_stream(self, chunks, processes=None, end_of_text=False):
        """An array of ids for each chunk of text, in order; memory does not grow.

        end_of_text: put that id after each chunk. `processes` is there for the interface only.
        """
        end = [self.end_of_text] if end_of_text and self.end_of_text is not None else []
        for chunk in documents(chunks):
            yield np.array(self.encode(chunk) + end, dtype=self.dtype)

    encode_corpus = BPETokenizer.encode_corpus  # the arrays of encode_stream, end to end

    def encode(self, text: str) -> list[int]:
        get, unknown = self.ids.get, self.unknown
        return [get(piece, unknown) for piece in self.pieces(check_text(text))]

    def decode(self, ids) -> str:
        return "".join(self.vocab[i] for i in self._valid(ids))

    def _valid(self, ids):
        ids = list(map(int, ids))
        if wrong := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise UserError(f"{wrong[0]} is no token's id: ids go from 0 to {self.vocab_size - 1}")
        return ids

    def save(self, path):
        """Write the vocabulary as JSON that a person can read, one entry a line."""
        head = {"format": "lineage tokenizer", "version": 1, "sha256": self.sha256}
        write_json(path, head | {"special_tokens": [], "vocab": []} | self._content())


class CharTokenizer(Tokenizer):
    """One id for each character of the training text, in the order of their code points."""

    kind = "char"
    pieces = list

    @classmethod
    def train(cls, texts, vocab_size=None, special_tokens=(END_OF_TEXT,)):
        """All characters that there are, whatever the size."""
        return cls(sorted(set(itertools.chain.from_iterable(texts))), [UNKNOWN, *special_tokens])


class WordTokenizer(Tokenizer):
    """One id for each of the most frequent words and marks; the others are <|unk|>.

    A word takes the one space before it along, so decoding is joining, and known words come
    back exactly: "the cat , sat" is "the", " cat", " ,", " sat". An unknown word comes back as
    <|unk|>, after a space unless it opens a line.
    """

    kind = "word"
    # <unk> and @-@ are WikiText's own marks; 's and n't keep their apostrophe.
    PATTERN = r" ?<unk>| ?'(?:s|t|d|m|re|ve|ll)\b| ?\w+(?:['’]\w+)*| ?[^\w\s]+|\s"
    pieces = re.compile(PATTERN).findall

    @classmethod
    def train(cls, texts, vocab_size, special_tokens=(END_OF_TEXT,)):
        names = [UNKNOWN, *special_tokens]
        if vocab_size <= len(names):
            raise UserError(f"--vocab-size {vocab_size} has no room for words: use a larger one")
        counts = collections.Counter()
        for text in texts:
            counts.update(cls.pieces(text))
        words = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(words[: vocab_size - len(names)], names)

    def decode(self, ids):
        return re.sub(r"(?<=\S)<\|unk\|>", f" {UNKNOWN}", super().decode(ids))


class GPT2Tokenizer(Tokenizer):
    """GPT-2's 50,257 tokens, by tiktoken, which fetches their file on first use."""

    kind = "gpt2"
    lossless = True

    def __init__(self):
        try:
            import tiktoken

            self.encoding = tiktoken.get_encoding("gpt2")
        except ImportError:
            raise UserError("--tokenizer gpt2 needs tiktoken: pip install tiktoken") from None
        except Exception as error:  # whatever the download raises
            failed = f"tiktoken cannot get GPT-2's vocabulary ({type(error).__name__})"
            raise UserError(f"{failed}: check the network, or use --tokenizer bpe") from None
        ids = range(self.encoding.eot_token)  # which is the last one
        super().__init__([self.encoding.decode_single_token_bytes(i) for i in ids], [END_OF_TEXT])

    def _content(self):
        return {"kind": "gpt2", "vocab_size": self.vocab_size}

    def encode(self, text):
        return self.encoding.encode_ordinary(check_text(text))

    def decode(self, ids):
        return self.encoding.decode(self._valid(ids))


TRAINED = {"char": CharTokenizer, "word": WordTokenizer}


class _Saved(msgspec.Struct):
    """A saved vocabulary of characters, of words or of GPT-2, whose lists are empty."""

    format: Literal["lineage tokenizer"]
    version: Literal[1]
    kind: Literal["char", "word", "gpt2"]
    special_tokens: list[str]
    vocab: list[str]


def read_saved(path):
    """The tokenizer that Tokenizer.save wrote to a file. Raises UserError where the file is damaged
    or of another kind."""
    saved = read(path, "a vocabulary of this version", _Saved)
    if saved.kind == "gpt2":
        return GPT2Tokenizer()
    return TRAINED[saved.kind](saved.vocab, saved.special_tokens)

"""Every tokenizer behind one interface: byte pairs, characters, words, and GPT-2's tokens."""

from common.tokenizers.classes import (
    END_OF_TEXT,
    UNKNOWN,
    CharTokenizer,
    GPT2Tokenizer,
    WordTokenizer,
)
from common.tokenizers.load import KINDS, load_tokenizer, load_tokenizer_file

__all__ = [
    "END_OF_TEXT",
    "KINDS",
    "UNKNOWN",
    "CharTokenizer",
    "GPT2Tokenizer",
    "WordTokenizer",
    "load_tokenizer",
    "load_tokenizer_file",
]

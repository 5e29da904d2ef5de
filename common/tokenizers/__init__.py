"""Every tokenizer behind one interface."""

from common.tokenizers.load import (
    END_OF_TEXT,
    KINDS,
    UNKNOWN,
    CharTokenizer,
    GPT2Tokenizer,
    WordTokenizer,
    load_tokenizer,
    load_tokenizer_file,
)

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

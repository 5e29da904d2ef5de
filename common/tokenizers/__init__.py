"""Every tokenizer behind one interface: byte pairs, characters, words, and GPT-2's tokens."""

from bpe_tokenizer import END_OF_TEXT
from common.tokenizers.load import KINDS, load_tokenizer, load_tokenizer_file

__all__ = ["END_OF_TEXT", "KINDS", "load_tokenizer", "load_tokenizer_file"]

"""Corpora by name or by path, and their token files."""

from common.data.corpus import Corpus, articles, load_corpus
from common.data.own_text import SPLITS
from common.data.readable import detokenize
from common.data.tokens import TokenFile, token_file

__all__ = ["SPLITS", "Corpus", "TokenFile", "articles", "detokenize", "load_corpus", "token_file"]

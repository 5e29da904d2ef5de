"""Corpora by name or by path, and their token files."""

from common.data.corpus import SPLITS, Corpus
from common.data.load import load_corpus
from common.data.tokens import TokenFile, token_file

__all__ = ["SPLITS", "Corpus", "TokenFile", "load_corpus", "token_file"]

"""Corpora by name or by path, and their token files."""

from common.data.corpus import SPLITS, Corpus, articles, detokenize, load_corpus, token_file

__all__ = ["SPLITS", "Corpus", "articles", "detokenize", "load_corpus", "token_file"]

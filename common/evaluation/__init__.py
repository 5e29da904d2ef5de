"""How well a model predicts a text: bits per byte, and what counting reaches."""

from common.evaluation.evaluate import evaluate, evaluate_long_contexts
from common.evaluation.ngram import counted_bigram, counted_ngrams

__all__ = ["counted_bigram", "counted_ngrams", "evaluate", "evaluate_long_contexts"]

"""The README's pictures of one published model: what it reads, expects and knows of words."""

import hashlib
import re

from results import store
from results.attention import PROMPT, attention_of
from results.embeddings import (
    OTHER,
    embeddings_figure,
    frequent_words,
    kinds_of_words,
    on_a_plane,
)
from results.predictions import predictions_figure, predictions_of
from results.saved import load_run

PICTURED = "v4"  # whose published weights are shown


def model_pictures():
    """{file in results/: (what makes its figure, its data)}; empty without the weights.

    The data is the version, the prompt and the hash of the weights, from which all else follows.
    """
    weights = store.ROOT / "results" / "models" / f"{PICTURED}.safetensors"
    if not weights.exists():
        return {}
    data = PICTURED, PROMPT, hashlib.sha256(weights.read_bytes()).hexdigest()
    makers = {"attention": attention, "predictions": predictions, "embeddings": embeddings}
    return {f"{name}.svg": (make, *data) for name, make in makers.items()}


def attention(version, prompt, weights):
    """The head of v4 that finds what came after an earlier "old"."""
    return attention_of(load_run(version, "cpu"), prompt, layer=2, head=3)


def predictions(version, prompt, weights):
    rows = predictions_of(load_run(version, "cpu"), prompt, 3)
    return predictions_figure(rows, f"{version}: what comes next?")


def embeddings(version, prompt, weights):
    """Named are the kinds of words, the prompt's words, and as many others as leave it legible."""
    run = load_run(version, "cpu")
    names, vectors = frequent_words(run, 300)
    kinds = kinds_of_words(names, vectors, run.config.data)
    known = {name for name, kind in zip(names, kinds, strict=True) if kind != OTHER}
    said = known & set(re.findall(r"\w+", prompt))
    title = f"{version}: token embeddings"
    return embeddings_figure(*on_a_plane(vectors), names, kinds, 16, title, said, (7, 6))

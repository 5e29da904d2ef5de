"""v1_1's memory: a corpus six times as long takes no more of it."""

import os
from pathlib import Path

from common.data import load_corpus, token_file
from common.tokenizers import load_tokenizer

import pytest
from lineage import ROOT, UNCACHED, flags, load, python, read, story_file

LENGTHS = (8 * 10**6, 48 * 10**6)  # characters; even the first fills each buffer there is
TOKENS = 0.9 * (LENGTHS[1] - LENGTHS[0]) / 1e6  # MB that the longer one's add, at a byte each

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is Linux's"),
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A short and a long text, encoded beforehand: what is measured is training alone."""
    folder = tmp_path_factory.mktemp("bounded")
    line = story_file(folder).read_text(encoding="utf-8")
    paths = []
    for length in LENGTHS:
        paths.append(folder / f"{length}.txt")
        paths[-1].write_text(line * (length // len(line)), encoding="utf-8", newline="\n")
        corpus = load_corpus(paths[-1])
        tokenizer = load_tokenizer("char", corpus, 0)
        for split in ("train", "validation"):
            found = token_file(corpus, split, tokenizer)
        assert found.dtype.itemsize == 1
    return paths


def peak(version, text, out):
    """MB at the peak of a run in a process of its own.

    Few steps: each window that is read maps a few pages of the file, and those count here though
    the system can take them back. The heap's holes are left out, which differ by more than 10 MB
    from run to run.
    """
    settings = {"data": text, "tokenizer": "char", "out_dir": out, "steps": 4, "eval_every": 4}
    args = flags(load(version), **settings, context_length=64)
    python(ROOT / f"{version}.py", *args, GLIBC_TUNABLES=UNCACHED)
    result = read(out / "result.json")
    assert result["data"]["train_bytes"] > 0.8 * os.path.getsize(text)
    return result["peak_rss_mb"]


def growth(version, texts, tmp_path):
    short, long = (peak(version, text, tmp_path / text.stem) for text in texts)
    print(f"{version}: {short:.0f} MB, {long:.0f} MB")  # shown where an assertion fails
    return long - short


def test_memory_does_not_grow_with_the_corpus(texts, tmp_path):
    assert growth("v1_1", texts, tmp_path) < TOKENS / 2


def test_the_version_before_holds_all_tokens(texts, tmp_path):
    """The measure above can fail: v1 keeps them as int64, eight bytes each, and counts pairs."""
    assert growth("v1", texts, tmp_path) > 0.9 * 8 * TOKENS

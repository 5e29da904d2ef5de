"""Corpora by name or by path. Each kind has a module of its own, loaded when it is needed."""

import difflib
import os
import re
from pathlib import Path

from common.data.corpus import Corpus
from common.errors import UserError

WIKITEXT = ("wikitext-2", "wikitext-2-raw", "wikitext-103", "wikitext-103-raw")
NAMES = ("sample", *WIKITEXT, "copy")


def load_corpus(name, data_dir=None) -> Corpus:
    """A corpus by its name, or by the path of a text file, a table of texts or a folder of them.

    data_dir: a folder in the hub's own layout, read instead of the hub. For WikiText its
    default is the environment variable WIKITEXT_DIR, where that is set.
    Raises UserError for whatever cannot be found, reached or read.
    """
    corpus = _open(str(name), data_dir)
    for split, n_bytes in corpus.n_bytes.items():
        if not n_bytes:
            missing = f"no text is in the {split} split: use a longer text"
            raise UserError(f"{corpus.name}: {missing}. {corpus.note}")
    return corpus


def _open(name, data_dir):
    if name in WIKITEXT:
        from common.data.wikitext import wikitext

        return wikitext(name, data_dir)
    if name.startswith("hf:"):
        from common.data.hub import hub_corpus

        return hub_corpus(name, data_dir)
    found = None if name in NAMES else _find_text(name)
    if data_dir is not None:
        only = f"--data-dir is read for WikiText and hf:OWNER/NAME only, not for {name}"
        raise UserError(f"{only}: leave it out, or give the folder itself as --data")
    if name == "sample":
        from common.data.bundled import sample

        return sample()
    if name == "copy":
        from common.data.copying import copying_task

        return copying_task()
    from common.data.own_text import open_text

    return open_text(*found)


def _find_text(name):
    """(path, column) of a file or folder. FILE:COLUMN names a table's column."""
    for path, _, column in ((name, "", ""), name.rpartition(":")):
        if path and os.path.exists(path):
            return Path(path), column
    raise UserError(_not_found(name))


def _not_found(name):
    if page := re.match(r"https?://huggingface\.co/datasets/([\w.-]+/[\w.-]+)", name):
        return f"--data {name}: a dataset of the hub is called hf:{page[1]} here"
    if re.match(r"\w+://", name):
        return f"--data {name}: download it first, `curl -O {name}`, and give the file's name"
    if re.search(r"[/\\]|\.\w{1,8}$", name):
        return f"no such file or folder: {name}"
    near = difflib.get_close_matches(name, NAMES, n=1)
    guess = f"did you mean {near[0]}? Known are" if near else "known are"
    return f"unknown corpus {name!r}: {guess} {', '.join(NAMES)}, hf:OWNER/NAME and paths of texts"

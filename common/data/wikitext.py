"""WikiText-2 and -103 (Merity et al. 2016): articles of Wikipedia, with their own splits."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from common.data.corpus import SPLITS, Corpus
from common.data.hub import load_dataset, rows_of
from common.errors import UserError


def wikitext(name, data_dir) -> Corpus:
    """The corpus of this name, from the hub, from data_dir or from WIKITEXT_DIR.

    On the hub a blank line is the row '', in the official files it is " \\n". The line is put
    back, so that lengths and word counts are those of the published tables.
    """
    config = name + "-v1"
    default = os.path.expanduser(os.environ.get("WIKITEXT_DIR", ""))
    # A default, not an order: a folder without this configuration leaves it to the hub.
    if data_dir is None and default and Path(default, config).is_dir():
        data_dir = default
    splits = load_dataset("Salesforce/wikitext", config, data_dir)
    for split in SPLITS:
        if split not in splits or "text" not in splits[split].column_names:
            raise UserError(f"{name}: the {split} split or its text is missing: use a whole copy")

    reader = rows_of(name, splits, "text")

    def read(split):
        return articles(row or " \n" for row in reader.read(split, 0, reader.size(split)))

    memo = "wikitext " + " ".join(splits[split]._fingerprint for split in SPLITS)
    return Corpus(name, documents=True, read=read, counts_words=True, memo=memo)


def articles(lines) -> Iterator[str]:
    """Join WikiText's lines into articles. An article begins with " \\n", " = Title = \\n", " \\n".

    The blank lines matter: a table's legend may look like a title, but stands between others.
    """
    article, blank, title = [], False, False  # of the last two lines: is it blank, a title?
    for line in lines:
        if title and not line.strip() and len(article) > 2:
            yield "".join(article[:-2])
            article = article[-2:]
        title = blank and re.fullmatch(r" = (?!= ).+(?<! =) = \n", line) is not None
        blank = not line.strip()
        article.append(line)
    if article:
        yield "".join(article)

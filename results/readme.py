"""Writing the tables into README.md, results/README.md and results/benchmarks.md.

A table stands between two comments, `<!-- NAME: made by python -m results readme -->` and
`<!-- /NAME -->`; what lies between them is written from the files in results/, the rest by hand.
"""

import re

from common.errors import UserError
from common.files import atomic_write
from results import plan, store
from results.tables import EARLIER, lineage_table, short_lineage, short_wikitext
from results.variants import (
    claims_table,
    context_table,
    glimpses,
    own_runs,
    probes_table,
    samples,
    variants_table,
    vocabulary_table,
)

FILES = ("README.md", "results/README.md", "results/benchmarks.md")
MARKER = "<!-- {}: made by python -m results readme -->"
TABLES = {
    "lineage": short_lineage,
    "wikitext": short_wikitext,
    "glimpses": glimpses,
    "lineage-sample": lambda: lineage_table("sample"),
    "lineage-wikitext-2": lambda: lineage_table("wikitext-2"),
    "attention": lambda: variants_table("attention"),
    "dropout": lambda: variants_table("dropout"),
    "position": lambda: variants_table("position", also="v3"),
    "position-wikitext-2": lambda: variants_table("position", "wikitext-2", also="v3"),
    "recipe": lambda: variants_table("recipe", parameters=True),
    "recipe-wikitext-2": lambda: variants_table("recipe", "wikitext-2", parameters=True),
    "memory": lambda: variants_table("memory", "wikitext-2", parameters=True),
    "context": context_table,
    "vocabulary": vocabulary_table,
    "probes": probes_table,
    "longer": lambda: probes_table(plan.variants("longer")),
    "claims": claims_table,
    "samples": lambda: samples(own_runs()),
    "longer-sample": lambda: samples(plan.variants("longer")[1:]),
}


def table(name):
    """The text of the table `name`; of bench-NAME what the benchmark printed. Raises UserError."""
    if name in TABLES:
        text = TABLES[name]()
        return f"{text}\n\n{EARLIER}" if "†" in text else text
    path = store.ROOT / "results" / f"{name}.txt"
    if re.fullmatch(r"bench-[\w.-]+", name) and path.exists():
        return f"```\n{path.read_text(encoding='utf-8').rstrip()}\n```"
    raise UserError(f"no table is called {name}; there are {', '.join(TABLES)} and bench-NAME")


def rewritten(text, path):
    """A file's text with its tables written again. Raises UserError where one has no end."""
    for name in re.findall(MARKER.format(r"(\S+)"), text):
        begin, end = MARKER.format(name), f"<!-- /{name} -->"
        head, _, rest = text.partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            raise UserError(f"{path}: {begin} is never closed by {end}")
        text = f"{head}{begin}\n{table(name)}\n{end}{tail}"
    return text


def readme(pictures: bool = True):
    """Write the tables of README.md, results/README.md and results/benchmarks.md again.

    Args:
        pictures: draw the pictures in results/ again as well
    """
    paths = [store.ROOT / name for name in FILES]
    texts = {path: path.read_text(encoding="utf-8") for path in paths if path.exists()}
    new = {path: rewritten(text, path) for path, text in texts.items()}  # all or none
    for path, text in new.items():
        with atomic_write(path, "w") as file:
            file.write(text)
    if pictures:
        from results.plots import published

        published()

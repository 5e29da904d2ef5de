"""The tables of variants, of answers and claims, and the samples: as in results/tables.py, text."""

import math
import sys
import textwrap
from collections import Counter

import msgspec

from results import plan, store
from results.intervals import lossy_mark, median, spread
from results.store import load_results, markdown
from results.tables import change, mean_of


def variants_table(table, corpus="sample", also=""):
    """Bits per byte of the plan's variants of one kind, each compared with their base, which is
    the first row, and with one more published run, the version `also`.
    """
    lines, base = [], None
    for label, name in plan.variants(table, corpus):
        results = load_results(name)
        if results:
            line = [label, spread(results), change(base, results)]
            lines.append(line + [change(f"{also}-{corpus}", results)] * bool(also))
        base = base or name
    head = ["", "bits per byte (seeds)", *["Δ [95 %]"] * (1 + bool(also))]
    return markdown(head, lines)


def context_table():
    """v4's bits per byte at 1, 2, 4 and 8 times the training context, side by side / sliding."""
    lines = []
    for label, name in plan.variants("position"):
        rows = [row for result in load_results(name).values() for row in result.windows()]
        cells = []
        for times in (1, 2, 4, 8):
            found = [row for row in rows if row.times == times]
            pair = [mean_of([getattr(r, k) for r in found], 3) for k in ("side_by_side", "sliding")]
            cells.append(" / ".join(pair) if found else "–")
        if rows:
            lines.append([label, *cells])
    return markdown(["position", "1×", "2×", "4×", "8×"], lines)


def vocabulary_table():
    """v3 with vocabularies of several sizes: what compares, and beside it what does not."""
    rows = []
    names = [plan.planned(name) for name in ("v3-wikitext-2",)]
    names += [run for run in plan.PLAN if run.table == "vocabulary"]
    for run in names:
        results = load_results(run.name)
        if results:
            size = results[min(results)].tokenizer.vocab_size
            bits, nats = (median(results, key) for key in ("val_bits_per_byte", "val_loss"))
            read = median(results, "tokens_seen") * nats / (bits * math.log(2)) / 1e6
            row = [f"{median(results, 'params'):,.0f}", f"{nats:.3f}", spread(results)]
            rows.append((size, [f"{size:,}", *row, f"{read:.1f} MB"]))
    head = ["vocabulary", "parameters", "nats per token", "bits per byte (seeds)", "text seen"]
    return markdown(head, [row for _, row in sorted(rows)])


# ---- Questions and stories -----------------------------------------------------------------------


def own_runs():
    """The versions' runs on the sample and the longer one: [(label, name), ...]."""
    runs = [(version, f"{version}-sample") for version in store.versions()]
    return [*runs, *plan.variants("longer")[1:]]


def measured(key, alike, runs):
    """What published runs hold under a key: {label: [content of each seed]}.

    alike: content -> what has to be the same for contents to compare; the most common is shown,
    and how many others are left out is said on standard error.
    """
    found = {
        label: [c for r in load_results(name).values() if (c := getattr(r, key)) is not None]
        for label, name in runs
    }
    kinds = Counter(alike(content) for each in found.values() for content in each)
    if not kinds:
        return {}
    ((most, n),) = kinds.most_common(1)
    if n < kinds.total():
        print(f"{key}: {kinds.total() - n} runs were measured otherwise: left out", file=sys.stderr)
    found = {label: [c for c in each if alike(c) == most] for label, each in found.items()}
    return {label: each for label, each in found.items() if each}


def probes_table(runs=None):
    """Right answers to the questions, of the versions or of [(label, name), ...]."""
    from results.probes import table

    asked = measured("probes", lambda one: str(one.get("questions_sha256")), runs or own_runs())
    return _table_of(table, asked, "probe")


def claims_table():
    """Which claims of their own stories are true."""
    from results.claims import table

    keys = ("stories", "seed", "temperature")
    told = measured("claims", lambda one: str([one.get(key) for key in keys]), own_runs())
    return _table_of(table, told, "claims")


def _table_of(table, found, command):
    """The table of {label: [contents]}, or what makes it where there is none or an older form."""
    try:
        if found:
            return markdown(*table(found))
    except (msgspec.ValidationError, KeyError):
        pass
    return f"Not measured yet: `python -m results {command}`."


def first_text(result):
    """The first document of a run's sample."""
    return result.sample.split("\n\n")[0].strip()


def samples(runs):
    """The sample of each of [(label, name), ...], of its first seed, as a quotation."""
    blocks = []
    for label, name in runs:
        results = load_results(name)
        if results:
            result = results[min(results)]
            quote = "\n".join(f"> {line}" for line in first_text(result).splitlines())
            bits = f"{result.val_bits_per_byte:.3f}{lossy_mark([result])} bits per byte"
            blocks.append(f"**{label}**, {bits}, seed {result.seed}:\n\n{quote}")
    return "\n\n".join(blocks)


def glimpses(width=230):
    """The beginning of the first and the last version's sample."""
    rows = []
    known = [(v, found) for v in store.versions() if (found := load_results(f"{v}-sample"))]
    for version, results in known[:1] + known[1:][-1:]:
        result = results[min(results)]
        text = textwrap.shorten(first_text(result).replace("|", "\\|"), width, placeholder=" …")
        rows.append([f"`{version}`", f"{result.val_bits_per_byte:.3f}{lossy_mark([result])}", text])
    return markdown(["version", "bits per byte", "what it writes"], rows)

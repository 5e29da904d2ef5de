"""The tables of variants, of answers and claims, and the samples: as in results/tables.py, text."""

import contextlib
import math
import sys
import textwrap
from collections import Counter

from results import plan, store
from results.intervals import lossy_mark, mean, spread
from results.store import load_results, markdown
from results.tables import change, dagger, mean_of

import msgspec


def variants_table(table, corpus="sample", also="", parameters=False):
    """Bits per byte of the plan's variants of one kind, each compared with their base, which is
    the first row, and with one more published run, the version `also`; `parameters` counts them.
    """
    lines, base = [], None
    for label, name in plan.variants(table, corpus):
        results = load_results(name)
        if results:
            line = [label + dagger(plan.planned(name), results)]
            line += [spread(results), change(base, results)]
            line += [change(f"{also}-{corpus}", results)] * bool(also)
            lines.append(line + [f"{mean(results, 'params'):,.0f}"] * parameters)
        base = base or name
    head = ["", "bits per byte (seeds)", *["Δ [95 %]"] * (1 + bool(also))]
    return markdown(head + ["parameters"] * parameters, lines)


def context_table():
    """v4's bits per byte at 1, 2, 4 and 8 times the training context, side by side / sliding."""
    lines = []
    for label, name in plan.variants("position"):
        results = load_results(name)
        rows = [row for result in results.values() for row in result.windows()]
        cells = []
        for times in (1, 2, 4, 8):
            found = [row for row in rows if row.times == times]
            pair = [mean_of([getattr(r, k) for r in found], 3) for k in ("side_by_side", "sliding")]
            cells.append(" / ".join(pair) if found else "–")
        if rows:
            lines.append([label + dagger(plan.planned(name), results), *cells])
    return markdown(["position", "1×", "2×", "4×", "8×"], lines)


def vocabulary_table():
    """v3 with vocabularies of several sizes: what compares, and beside it what does not."""
    rows = []
    runs = [run for run in plan.PLAN if run.table == "vocabulary"]
    for run in [plan.planned("v3-wikitext-2"), *runs]:
        results = load_results(run.name)
        if results:
            size = results[min(results)].tokenizer.vocab_size
            bits, nats = (mean(results, key) for key in ("val_bits_per_byte", "val_loss"))
            read = mean(results, "tokens_seen") * nats / (bits * math.log(2)) / 1e6
            row = [f"{mean(results, 'params'):,.0f}", f"{nats:.3f}", spread(results)]
            rows.append((size, [f"{size:,}{dagger(run, results)}", *row, f"{read:.1f} MB"]))
    head = ["vocabulary", "parameters", "nats per token", "bits per byte (seeds)", "text seen"]
    return markdown(head, [row for _, row in sorted(rows)])


# ---- Questions and stories -----------------------------------------------------------------------


def own_runs():
    """The versions' own runs on the sample: [(label, name), ...]."""
    return [(version, f"{version}-sample") for version in store.versions()]


def measured_runs():
    """`own_runs` and the longer one."""
    return own_runs() + plan.variants("longer")[1:]


def measured(key, schema, alike, runs):
    """What published runs hold under a key: {label: [an object of the schema for each seed]}.

    Contents that are not of the schema, as older ones are not, don't count. alike: an object of
    the schema -> what has to be the same for contents to compare; the most common is shown, and
    how many others are left out is said on standard error.
    """
    found = []
    for label, name in runs:
        for result in load_results(name).values():
            with contextlib.suppress(msgspec.ValidationError):
                content = msgspec.convert(getattr(result, key), schema)
                found.append((label, content, alike(content)))
    kinds = Counter(kind for _, _, kind in found).most_common()
    if kinds[1:]:
        others = sum(n for _, n in kinds[1:])
        print(f"{key}: {others} runs were measured otherwise: left out", file=sys.stderr)
    shown = {}
    for label, content, kind in found:
        if kind == kinds[0][0]:
            shown.setdefault(label, []).append(content)
    return shown


def probes_table(runs=None):
    """Right answers to the questions, of the versions or of [(label, name), ...]."""
    from results import probes

    runs = runs or measured_runs()
    found = measured("probes", probes.Probes, lambda one: one.questions_sha256, runs)
    return markdown(*probes.table(found)) if found else NOT_YET.format("probe")


def claims_table():
    """Which claims of their own stories are true."""
    from results import claims

    def alike(one):
        return one.seed, one.temperature, one.without_slip[1]  # the last: how many stories

    found = measured("claims", claims.Claims, alike, measured_runs())
    return markdown(*claims.table(found)) if found else NOT_YET.format("claims")


NOT_YET = "Not measured yet: `python -m results {}`."


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
    return markdown(["version", "bits per byte, seed 1", "what it writes"], rows)

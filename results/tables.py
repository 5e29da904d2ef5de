"""The table of the finished runs in a folder, and those of the lineage, as text in Markdown.

An en dash stands where a run's file holds no such number.
"""

import statistics
import sys
from pathlib import Path

from common.errors import UserError
from results import plan, store
from results.intervals import delta, lossy_mark, mean, spread
from results.scripts import code_sha256, diff_size, idea
from results.store import load_results, markdown, read_references, read_result

# Word perplexities of others on WikiText-2's test split, each from the paper's own table.
ELSEWHERE = (
    "For orientation, word perplexities published for the test split: LSTM 99.3, with a continuous"
    " cache 68.9 ([Grave et al. 2016](https://arxiv.org/abs/1612.04426)); pointer sentinel LSTM"
    " 80.8 ([Merity et al. 2016](https://arxiv.org/abs/1609.07843)); AWD-LSTM 65.8"
    " ([Merity et al. 2017](https://arxiv.org/abs/1708.02182)); AWD-LSTM with a mixture of"
    " softmaxes 61.45 ([Yang et al. 2017](https://arxiv.org/abs/1711.03953)). Theirs are models of"
    " words, 33,278 of them; ours are of byte pairs, where a word's probability is the product of"
    " its tokens'."
)


# ---- The local runs ------------------------------------------------------------------------------


def local(folder: str = "runs"):
    """The table of the finished runs in a folder and in those below it.

    A damaged result is named on standard error and left out; the exit status is 2 only where no
    run is left to show.

    Args:
        folder: where the runs are
    """
    rows, damaged = [], []
    for path in sorted(Path(folder).rglob("result.json")):
        try:
            r = read_result(path)
        except UserError as error:
            damaged.append(error)
            continue
        bits = f"{r.val_bits_per_byte:.3f}{lossy_mark([r])}"
        numbers = [f"{r.params:,}", f"{r.tokens_per_second:,.0f}", f"{r.seconds:.0f} s"]
        rows.append([path.parent, r.version, r.data.name, r.seed, r.steps, bits, *numbers])
    if not rows:  # the last of the reasons ends the command
        no_run = UserError(f"no finished run in {folder}: make one with python v0.py")
        *damaged, last = damaged or [no_run]
    head = ["run", "version", "data", "seed", "steps", "bits per byte", "parameters"]
    if rows:
        print(markdown([*head, "tokens/s", "training"], rows, aligned=True), flush=True)
    for error in damaged:
        print(f"left out: {error}", file=sys.stderr)
    if not rows:
        raise last


# ---- The lineage ---------------------------------------------------------------------------------


def lineage(corpus):
    """The published versions of a corpus and their controls, in the order of the plan.

    Yields (planned run, {seed: Result}, name of the run that Δ is to, or None for the first). A
    version whose script is there and that is not in the plan comes last.
    """
    runs = [run for run in plan.PLAN if (run.corpus, run.table) == (corpus, "lineage")]
    planned = {run.version for run in runs if not run.variant}
    runs += [plan.Planned(f"{v}-{corpus}") for v in store.versions() if v not in planned]
    before = None
    for run in runs:
        results = load_results(run.name)
        if results:
            yield run, results, run.base or before
            before = before if run.variant else run.name


def _idea(run):
    """The first line of the script's docstring, without its name and the full stop."""
    return idea(run.version).partition(": ")[2].rstrip(".")


def lineage_rows(corpus):
    """Head and rows of the whole table: what each version is, what it costs, what it reaches, and
    by how much that is better than the run before. What counting reaches comes last.
    """
    rows, sample, last = [], corpus == "sample", None
    for run, results, base in lineage(corpus):
        first = results[min(results)]
        diff = diff_size(last, run.version) if last and not run.variant else ""
        last = last if run.variant else run.version
        rows.append(
            [
                f"`{run.version}`{dagger(run, results)}",
                run.label or _idea(run),
                diff,
                f"{first.params:,}",
                f"{first.tokens_seen / 1e6:.2f} M",
                spread(results),
                change(base, results),
                *((test_bits(results), above_entropy(results)) if sample else (words(results),)),
                *costs(run, results),
            ]
        )
    head = ["version", "the one idea", "diff", "parameters", "tokens", "bits per byte (seeds)"]
    head += ["Δ [95 %]"]
    head += ["test split", "above the entropy, sliding"] if sample else [WORDS]
    for name, bits, perplexity, seconds in counted_rows(corpus):
        scores = ["–", "–"] if sample else [f"{perplexity:.1f} / –" if perplexity else "–"]
        rows.append(["", name, "", "", "", f"{bits:.3f}", "", *scores, "", "", seconds])
    return [*head, "tokens/s", "peak MB", "seconds"], rows


def dagger(run, results):
    """A mark for a row of runs that an earlier version of the script made, "" where none is."""
    code = code_sha256(run.script_path())
    found = {result.environment.code_sha256 for result in results.values()}
    return " †" if found - {None, code} else ""


EARLIER = "† made by an earlier version of the script; `python -m results publish` makes it again."


def costs(run, results):
    """Tokens per second, memory and seconds of training of the first seed, which is run alone;
    nothing of a control, which may have been made with other programs running, or of a row that
    another machine made than its version's own.
    """
    first, own = results[min(results)], load_results(f"{run.version}-{run.corpus}")
    elsewhere = own and machines([own[min(own)]]) != machines([first])
    if run.label.startswith("control") or elsewhere:
        return ["", "", ""]
    return [
        f"{first.tokens_per_second:,.0f}",
        f"{first.peak_rss_mb:.0f}",
        f"{first.seconds:.0f}",
    ]


WORDS = "word perplexity, validation / test"


def lineage_table(corpus):
    """`lineage_rows` in Markdown, and what the numbers are."""
    runs = [(run, results) for run, results, _ in lineage(corpus) if any(costs(run, results))]
    found = [results[min(results)] for _, results in runs]
    if not found:
        return "No run is published yet."
    torch, dtypes = (
        " and ".join(sorted({getattr(result.environment, key) for result in found}))
        for key in ("torch", "dtype")
    )
    notes = [
        "Mean ± standard deviation, number of seeds in brackets. Δ is the mean difference of the"
        " same seeds, with its 95 % confidence interval, to the run that it names; n.s. where that"
        " contains zero. Speed, memory and seconds of training are those of the first seed, on"
        f" {machines(found)}, torch {torch}, {dtypes}; memory is the whole run's.",
        entropy_note() if corpus == "sample" else f"{counting_note()} {ELSEWHERE}",
    ]
    return "\n\n".join([markdown(*lineage_rows(corpus)), *notes])


def short_lineage():
    """The README's first table: the versions on the sample, what they cost and what they reach."""
    rows = [
        [
            f"`{run.version}`{dagger(run, results)}",
            _idea(run),
            f"{results[min(results)].params:,}",
            spread(results),
            change(base, results),
            f"{results[min(results)].seconds:.0f}",
        ]
        for run, results, base in lineage("sample")
        if not run.variant
    ]
    head = ["version", "the one idea", "parameters", "bits per byte (seeds)", "Δ [95 %]", "seconds"]
    lowest = ["", "lower bound: the entropy of the text", "", f"{store.entropy():.3f}", "", ""]
    return markdown(head, [*rows, lowest]) if rows else "No run is published yet."


def short_wikitext():
    """The README's table of WikiText-2: the versions, the longer run and the counted 5-grams.

    Versions between two others, such as v1_1, are left out.
    """
    rows = [
        [f"`{run.version}`{dagger(run, found)}", run.label, spread(found), words(found)]
        + costs(run, found)[2:]
        for run, found, _ in lineage("wikitext-2")
        if run.variant in ("", "long") and "_" not in run.version
    ]
    for name, bits, perplexity, seconds in counted_rows("wikitext-2")[-1:]:
        rows.append(["", name, f"{bits:.3f}", f"{perplexity:.1f} / –", seconds])
    table = markdown(["version", "", "bits per byte (seeds)", WORDS, "seconds"], rows)
    return f"{table}\n\n{counting_note()}"


def change(base, results):
    """Δ to the published run `base`, which it names, as text; "" where nothing is claimed."""
    text = delta(load_results(base), results) if base else ""
    return f"{text} to {_short(base)}" if text else ""


def _short(name):
    """v2 for v2-sample, v1_1-control for v1_1-sample-control."""
    version, _, rest = name.partition("-")
    for corpus in store.CORPORA:
        rest = rest.removeprefix(corpus)
    return f"`{version}{rest}`"


def mean_of(values, digits):
    """The mean of those that are not None as text, an en dash where there are none."""
    values = [value for value in values if value is not None]
    return f"{statistics.fmean(values):.{digits}f}" if values else "–"


def test_bits(results):
    scores = [result.test_scores() for result in results.values()]
    return mean_of([found and found.bits_per_byte for found in scores], 3)


def words(results):
    """Word perplexity on the validation and on the test split: the seeds' means."""
    validation = [result.val_word_perplexity for result in results.values()]
    scores = [result.test_scores() for result in results.values()]
    test = [found and found.word_perplexity for found in scores]
    return f"{mean_of(validation, 1)} / {mean_of(test, 1)}"


def above_entropy(results):
    """How far the bits per byte with sliding windows lie above the sample's entropy."""
    found = [result.sliding_bits() for result in results.values()]
    return mean_of([bits and bits - store.entropy() for bits in found], 3)


def entropy_note():
    """A sentence on how much of the distance to the entropy is the cut between windows."""
    text = (
        f"The entropy of the validation split is {store.entropy():.3f} bits per byte, that of the"
        f" test split {store.entropy('test'):.3f}."
    )
    for run, results, _ in reversed(list(lineage("sample"))):
        if not run.variant and all(result.sliding_bits() for result in results.values()):
            side = mean(results, "val_bits_per_byte")
            sliding = statistics.fmean(result.sliding_bits() for result in results.values())
            gap, cut = side - store.entropy(), side - sliding
            return (
                f"{text} Windows side by side cut stories in two: of the {gap:.3f} by which"
                f" {run.version} lies above the entropy, {cut:.3f} ({cut / gap:.0%}) are that cut,"
                f" and {gap - cut:.3f} are left with windows that slide by half their length."
            )
    return text


def counting_note():
    """A sentence on which versions on WikiText-2 are better than counted 5-grams."""
    rows = read_references("wikitext-2")
    if not rows:
        return ""
    counted = min(row.val_bits_per_byte for row in rows)
    bits = {}
    for run, results, _ in lineage("wikitext-2"):
        if run.variant in ("", "long"):
            label = ", ".join(part for part in (run.version, run.label) if part)
            label += ", one seed" * (len(results) == 1)
            bits[label] = mean(results, "val_bits_per_byte")
    better = [f"{label} ({value:.3f})" for label, value in bits.items() if value < counted]
    if not better:
        return f"Counted 5-grams ({counted:.3f}) beat every run of the table."
    if len(better) == len(bits):
        return f"Every run of the table beats counted 5-grams ({counted:.3f})."
    return f"Better than counted 5-grams ({counted:.3f}): {'; '.join(better)}. The rest is worse."


def counted_rows(corpus):
    """What counting the same tokens reaches: [(name, bits per byte, word perplexity, seconds)]."""
    rows = []
    for run in list(load_results(f"v0-{corpus}").values())[:1]:  # the seeds count the same
        for name, bits in run.references.items():
            rows.append((f"{name}, of v0's tokens, Kneser-Ney smoothing", bits, None, ""))
    for row in read_references(corpus):
        name = f"{row.name}, of v1's tokens, Kneser-Ney smoothing"
        rows.append((name, row.val_bits_per_byte, row.val_word_perplexity, f"{row.seconds:.1f}"))
    return rows


def machines(found):
    """What results were made on: GPUs, or the CPU's name and threads."""
    names = set()
    for e in (result.environment for result in found):
        names.add(f"{e.processor if e.device == 'cpu' else e.device} with {e.threads} threads")
    return " and ".join(sorted(names))

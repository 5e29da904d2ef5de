"""The published runs, one table: what each is called, how it is made and what is measured.

A version whose script is there needs one line here, `*version("v5", "--steps 2000")`. The order is
that of the rows in the tables.
"""

from typing import NamedTuple

from common.errors import UserError

THREE, FIVE = (1, 2, 3), (1, 2, 3, 4, 5)
# What is measured after the training: the key in the published file, which is also the name of
# the file in the run's folder, and the command of `python -m results` that writes it.
MEASUREMENTS = {"evaluation": "evaluate", "probes": "probe", "claims": "claims"}
ALL = tuple(MEASUREMENTS)


class Planned(NamedTuple):
    version: str
    corpus: str  # sample or wikitext-2
    variant: str = ""
    flags: str = ""  # besides --data, --seed and --out-dir
    seeds: tuple = THREE
    measured: tuple = ()  # keys of MEASUREMENTS
    label: str = ""  # the row's text in a table; without it the script's own idea
    base: str = ""  # the name that Δ is to; without it the version before
    table: str = "lineage"
    script: str = ""  # where it is not the version's own

    @property
    def name(self):
        return "-".join(part for part in self[:3] if part)

    def script_path(self):
        """The script, from the project's folder."""
        return self.script or f"{self.version}.py"

    def arguments(self):
        """All of the command line but --seed and --out-dir, as a list."""
        corpus = [] if self.corpus == "sample" else ["--data", self.corpus]
        return [*corpus, *self.flags.split()]

    def settings(self):
        """The arguments as {setting: value}, both as text: {"n_head": "4", "compile": "False"}."""
        args, found = self.arguments(), {}
        while args:
            key = args.pop(0).removeprefix("--").replace("-", "_")
            if args and not args[0].startswith("--"):
                found[key] = args.pop(0)
            else:
                found[key.removeprefix("no_")] = str(not key.startswith("no_"))
        return found


def version(name, wikitext_flags=""):
    """A version's own runs: five seeds on the sample, three on WikiText-2."""
    return (
        Planned(name, "sample", seeds=FIVE, measured=ALL),
        Planned(name, "wikitext-2", flags=wikitext_flags, measured=("evaluation",)),
    )


# v2 -> v3 changes two things, the depth and the recipe that trains it: a control for each.
DEPTH = "--warmup-steps 0 --clip-norm 1e9 --weight-decay 0 --no-cosine-decay"
RECIPE = "--n-layer 1"
DEPTH_LABEL = "control: two blocks, trained as v2 is: depth without the recipe"
RECIPE_LABEL = "control: one block, trained as v3 is: the recipe without depth"
TABLE_STEPS, BLOCK_STEPS = "--steps 250", "--steps 2000"  # on WikiText-2

PLAN = (
    *version("v0"),
    Planned(
        "v1",
        "sample",
        "control",
        "--vocab-size 512 --split-pattern whitespace --no-end-of-text",
        label="control: batches alone, with v0's tokenizer",
        base="v0-sample",
    ),
    *version("v1", TABLE_STEPS),
    *version("v1_1", TABLE_STEPS),
    Planned(
        "v1_1",
        "sample",
        "control",
        "--batch-size 4 --grad-accum 1 --steps 2000",
        label="control: with v2's batches and steps",
        base="v1_1-sample",
    ),
    *version("v2", BLOCK_STEPS),
    Planned("v3", "sample", "recipe", RECIPE, label=RECIPE_LABEL, base="v2-sample"),
    Planned("v3", "sample", "depth", DEPTH, label=DEPTH_LABEL, base="v2-sample"),
    Planned(
        "v3",
        "wikitext-2",
        "recipe",
        f"{BLOCK_STEPS} {RECIPE}",
        label=RECIPE_LABEL,
        base="v2-wikitext-2",
    ),
    Planned(
        "v3",
        "wikitext-2",
        "depth",
        f"{BLOCK_STEPS} {DEPTH}",
        label=DEPTH_LABEL,
        base="v2-wikitext-2",
    ),
    *version("v3", BLOCK_STEPS),
    *version("v4", BLOCK_STEPS),
    Planned(
        "v4",
        "wikitext-2",
        "long",
        "--n-layer 4 --steps 3600",
        (1,),
        ("evaluation",),
        label="four blocks and 3,600 steps",
        base="v4-wikitext-2",
    ),
    Planned(
        "v4",
        "sample",
        "long",
        "--data more.txt --steps 13500",
        (1,),
        ALL,
        label="v4, trained for longer on more stories",
        base="v4-sample",
        table="longer",
    ),
    Planned(
        "v2",
        "sample",
        "dot",
        label="dot: softmax of plain dot products, nothing projected",
        base="v2-sample",
        table="attention",
        script="results/ablations/v2_dot.py",
    ),
    Planned(
        "v2",
        "sample",
        "mean",
        label="mean: the uniform mean of everything before",
        base="v2-sample",
        table="attention",
        script="results/ablations/v2_mean.py",
    ),
    Planned(
        "v3",
        "sample",
        "dropout",
        "--dropout 0.1",
        label="dropout 0.1",
        base="v3-sample",
        table="dropout",
    ),
    *(
        Planned(
            "v4",
            "sample",
            kind,
            f"--position {kind}",
            measured=("evaluation",),
            label=label,
            base="v4-sample",
            table="position",
        )
        for kind, label in (
            ("rope", "RoPE"),
            ("sinusoidal", "sinusoidal"),
            ("learned", "learned"),
            ("none", "none"),
        )
    ),
    Planned(
        "v4",
        "wikitext-2",
        "rope",
        f"{BLOCK_STEPS} --position rope",
        measured=("evaluation",),
        label="RoPE",
        base="v4-wikitext-2",
        table="position",
    ),
    *(
        Planned(
            "v3",
            "wikitext-2",
            f"vocab-{size}",
            f"{BLOCK_STEPS} --vocab-size {size}",
            label=f"{size:,}",
            base="v3-wikitext-2",
            table="vocabulary",
        )
        for size in (512, 1024, 16384)
    ),
)
BASE_LABELS = {  # what the base itself is called in a table of variants
    "attention": "full: query, key and value projections",
    "dropout": "dropout 0",
    "position": "ALiBi",
    "longer": "v4",
}

# What makes more.txt, whose stories are read about twice by the longer run.
MORE_TEXT = "data/world.py --bytes 30000000 --seed 2 --recaps --out more.txt".split()


def planned(name):
    """The plan's run of a name, or None."""
    return next((run for run in PLAN if run.name == name), None)


def variants(table, corpus="sample"):
    """The rows of a table of variants, [(label, name), ...], their common base first."""
    runs = [run for run in PLAN if (run.table, run.corpus) == (table, corpus)]
    if not runs:
        raise UserError(f"no run on {corpus} is planned for a table {table!r}")
    base = (BASE_LABELS[table], runs[0].base)
    return [base, *((run.label, run.name) for run in runs)]

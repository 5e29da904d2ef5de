"""The published runs, one table: what each is called, how it is made and what is measured.

A version whose script is there needs one line here, `*version("v5", "--steps 2000"),`. The order is
that of the rows in the tables.
"""

from typing import NamedTuple

from results import store

# What is measured after the training: the key in the published file, which is also the name of
# the file in the run's folder, and the command of `python -m results` that writes it. Longer
# windows are not evaluated again: v4 and later versions do so at the end of a run.
MEASUREMENTS = {"evaluation": "evaluate --times 1", "probes": "probe", "claims": "claims"}
BOTH_SPLITS, ALL = ("evaluation",), tuple(MEASUREMENTS)


class Planned(NamedTuple):
    """One line of the plan."""

    name: str  # VERSION-CORPUS or VERSION-CORPUS-VARIANT
    flags: str = ""  # besides --data wikitext-2, --seed and --out-dir
    label: str = ""  # the row's text in a table; without it the script's own idea
    base: str = ""  # the name of the run that Δ is to; without it the version before
    table: str = "lineage"
    seeds: tuple = (1, 2, 3)
    measured: tuple = ()  # keys of MEASUREMENTS
    script: str = ""  # from the project's folder; without it the version's own

    @property
    def version(self):
        return self.name.partition("-")[0]

    @property
    def corpus(self):
        return "sample" if self.name.split("-")[1] == "sample" else "wikitext-2"

    @property
    def variant(self):
        return self.name.removeprefix(f"{self.version}-{self.corpus}").removeprefix("-")

    def script_path(self):
        """The script's file."""
        return store.ROOT / (self.script or f"{self.version}.py")

    def arguments(self):
        """All of the command line but --seed and --out-dir, as a list."""
        data = [] if self.corpus == "sample" else ["--data", self.corpus]
        return data + self.flags.split()

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
    """A version's own runs on the sample and on WikiText-2."""
    return (
        Planned(f"{name}-sample", measured=ALL),
        Planned(f"{name}-wikitext-2", wikitext_flags, measured=BOTH_SPLITS),
    )


def depth_and_recipe(corpus, flags=""):
    """v2 -> v3 changes two things, the depth and the recipe that trains it: a control for each."""
    plain = f"{flags} --warmup-steps 0 --clip-norm 1e9 --weight-decay 0 --no-cosine-decay"
    depth = "control: v3's depth without schedule, clipping and weight decay"
    recipe = "control: v3's recipe with one block"
    return (
        Planned(f"v3-{corpus}-depth", plain, depth, f"v2-{corpus}"),
        Planned(f"v3-{corpus}-recipe", f"{flags} --n-layer 1", recipe, f"v2-{corpus}"),
    )


def attention(kind, label):
    script = f"results/ablations/v2_{kind}.py"
    return Planned(f"v2-sample-{kind}", "", label, "v2-sample", "attention", script=script)


def position(kind, label, corpus="sample", flags=""):
    flags = f"{flags} --position {kind}"
    base = f"v4-{corpus}"
    return Planned(f"{base}-{kind}", flags, label, base, "position", measured=BOTH_SPLITS)


def vocabulary(size):
    flags, base = f"{BLOCK} --vocab-size {size}", "v3-wikitext-2"
    return Planned(f"{base}-vocab-{size}", flags, f"{size:,}", base, "vocabulary")


SHORT = "--no-long-contexts"  # their table is of the kinds of position
AS_V4 = (  # v5 so is v4
    "--norm layer --mlp gelu --bias --no-qk-norm --n-kv-head 4 --optimizer adamw "
    "--learning-rate 0.002 "
)
RECIPE = {  # v4 with one part of v5: what the table calls it, which of those flags are left out
    "rate": ("control: v4, learning rate 0.006", "--learning-rate 0.002 "),
    "rms": ("RMSNorm", "--norm layer "),
    "swiglu": ("SwiGLU", "--mlp gelu "),
    "nobias": ("no biases", "--bias "),
    "qknorm": ("query-key normalization", "--no-qk-norm "),
    "gqa": ("grouped-query attention", "--n-kv-head 4 "),
    "muon": (
        "Muon, with learning rate 0.006 of AdamW",
        "--optimizer adamw --learning-rate 0.002 ",
    ),
}


def recipe(corpus, steps, kinds, batches=""):
    """v4 for as long as v5 takes, whose steps take longer, and v4 with parts of v5."""
    base = f"v4-{corpus}"
    label = f"v4, trained as long as v5 takes: {steps:,} steps"
    rows = [(f"{base}-time", f"{batches}--steps {steps} {SHORT}", label)]
    for kind in kinds:
        label, left_out = RECIPE[kind]
        flags = AS_V4.replace(left_out, "")
        rows.append((f"v5-{corpus}-{kind}", f"{batches}{flags}{SHORT}", label))
    return [Planned(*row, base, "recipe") for row in rows]


def without_muon(corpus, label, kind="adamw", flags=""):
    """v4 with the part Muon, but for AdamW in Muon's place, at v4's learning rate."""
    as_v4 = AS_V4.replace("--optimizer adamw --learning-rate 0.002 ", "")
    flags = f"{flags} {as_v4}--muon-learning-rate 0.002 {SHORT}".strip()
    return Planned(
        *(f"v5-{corpus}-{kind}", flags, label, f"v4-{corpus}", "recipe"),
        script="results/ablations/v5_adamw.py",
    )


def memory(kind, label, flags="", script=""):
    flags, base = " ".join(f"{BLOCK} {flags} {SHORT}".split()), "v6-wikitext-2"
    return Planned(f"{base}-{kind}", flags, label, base, "memory", script=script)


ADAMW = "control: AdamW at 0.002 in Muon's place, 0.006 elsewhere"
TABLE, BLOCK = "--steps 1000", "--batch-size 8"  # on WikiText-2: 4.1 million tokens each
V0_TOKENIZER = "--vocab-size 512 --split-pattern whitespace --no-end-of-text"
V2_BATCHES = "--batch-size 4 --grad-accum 1 --steps 2000"
VALUES = "results/ablations/v6_values.py"
TUNED = (  # v6 at its best on WikiText-2
    "--batch-size 8 --learning-rate 0.008 --muon-learning-rate 0.015 --weight-decay 0.03 "
    "--n-layer 3 --no-qk-norm --ngram-rows 262144 --ngram-dropout 0.2 --steps 3300"
)
PLAN = (
    *version("v0"),
    Planned("v1-sample-control", V0_TOKENIZER, "control: with v0's tokenizer", "v0-sample"),
    *version("v1", TABLE),
    *version("v1_1", TABLE),
    Planned("v1_1-sample-control", V2_BATCHES, "control: v2's batches and steps", "v1_1-sample"),
    *version("v2", BLOCK),
    *depth_and_recipe("sample"),
    *depth_and_recipe("wikitext-2", BLOCK),
    *version("v3", BLOCK),
    *version("v4", BLOCK),
    *version("v5", BLOCK),
    *version("v6", BLOCK),
    Planned(
        "v4-wikitext-2-long",
        "--batch-size 8 --n-layer 4 --steps 3600",
        "four blocks, trained for longer",
        "v4-wikitext-2",
        seeds=(1,),
        measured=BOTH_SPLITS,
    ),
    Planned(
        "v6-wikitext-2-long",
        f"{TUNED} {SHORT}",
        "three blocks, tuned",
        "v6-wikitext-2",
        measured=BOTH_SPLITS,
    ),
    Planned(
        "v4-sample-long",
        "--data more.txt --steps 13500",
        "v4, trained for longer on more stories",
        "v4-sample",
        "longer",
        seeds=(1,),
        measured=ALL,
    ),
    attention("dot", "dot: softmax of plain dot products, no query, key or value projections"),
    attention("mean", "mean: the uniform mean of everything up to itself"),
    Planned("v3-sample-dropout", "--dropout 0.1", "dropout 0.1", "v3-sample", "dropout"),
    position("rope", "RoPE"),
    position("sinusoidal", "sinusoidal"),
    position("learned", "learned"),
    position("none", "none"),
    position("rope", "RoPE", "wikitext-2", BLOCK),
    *recipe("sample", 3100, RECIPE),
    without_muon("sample", ADAMW),
    *recipe("wikitext-2", 2500, ("rate", "swiglu", "qknorm", "muon"), f"{BLOCK} "),
    without_muon("wikitext-2", ADAMW, flags=BLOCK),
    without_muon(
        "wikitext-2", f"{ADAMW}: 2,500 steps", "adamw-time", flags=f"{BLOCK} --steps 2500"
    ),
    memory("triples", "pairs and triples", "--ngram-max 3"),
    memory("head", "added before the output head", "--ngram-at head"),
    memory("values", "added to the values of attention", script=VALUES),
    memory("gate", "with a gate", "--ngram-gate"),
    memory("small", "1,024 rows", "--ngram-rows 1024"),
    *(vocabulary(size) for size in (512, 1024, 16384)),
)
BASE_LABELS = {  # what the base itself is called in a table of variants
    "attention": "full: query, key and value projections",
    "dropout": "dropout 0",
    "position": "ALiBi",
    "longer": "v4",
    "recipe": "v4",
    "memory": "pairs, added to the token embedding",
}

# What makes more.txt, whose stories are read about twice by the longer run.
MORE_TEXT = "data/world.py --bytes 30000000 --seed 2 --recaps --out more.txt".split()


def planned(name):
    """The plan's run of a name, or None."""
    return next((run for run in PLAN if run.name == name), None)


def variants(table, corpus="sample"):
    """The rows of a table of variants, [(label, name), ...], their common base first.

    Empty where no run of the corpus is planned for that table.
    """
    runs = [run for run in PLAN if (run.table, run.corpus) == (table, corpus)]
    bases = [(BASE_LABELS[table], run.base) for run in runs[:1]]
    whole = [("v5: all of them", f"v5-{corpus}")] * (table == "recipe")
    return [*bases, *((run.label, run.name) for run in runs), *whole]

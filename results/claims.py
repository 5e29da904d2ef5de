"""Claims: is what a model's stories say true of the stories themselves?"""

import dataclasses
import math
import statistics
from collections import Counter

from common.files import write_json
from data.reader import KINDS, Reader
from results.commands import RunNames
from results.probes import open_sample_runs
from results.saved import evaluating
from results.store import markdown

import msgspec
from scipy.stats import binomtest, t
from tqdm import tqdm

LONGEST = 500  # tokens of a story; hardly any of the world's reaches it before its questions
FEWEST = 50  # claims of a row in a column: below, a share says nothing
COLUMNS = ("true claims", "names", "things", "holders", "places")


class Claims(msgspec.Struct):
    """The content of claims.json; pairs are (how many, out of how many)."""

    version: str
    seed: int  # of the sampling
    temperature: float
    without_slip: tuple[int, int]  # stories
    unread: tuple[int, int]  # sentences
    true: dict[str, tuple[int, int]]  # kind -> claims


def check(stories, **about):
    """The Claims of stories, a list of texts; `about`: version, seed and temperature."""
    readers = [Reader().story(story) for story in stories]
    claims = [(kind, true) for reader in readers for kind, true, _ in reader.claims]
    claimed = Counter(kind for kind, _ in claims)
    right = Counter(kind for kind, true in claims if true)
    unread = sum(reader.unread for reader in readers)
    return Claims(
        without_slip=(sum(map(has_no_slip, readers)), len(readers)),
        unread=(unread, unread + sum(reader.read for reader in readers)),
        true={kind: (right[kind], claimed[kind]) for kind in KINDS},
        **about,
    )


def has_no_slip(reader):
    """Whether a story makes claims, all of them true, and was read completely."""
    return bool(reader.claims) and all(true for _, true, _ in reader.claims) and not reader.unread


# ---- The table -----------------------------------------------------------------------------------


def table(found):
    """Head and rows of the table of {label: [the Claims, seed by seed]}."""
    shared = min((len(seeds) for seeds in found.values() if len(seeds) >= 3), default=3)
    rows, before = [], []
    for label, seeds in found.items():
        seeds = seeds[:shared]
        slips = [share(*one.without_slip) for one in seeds]
        change = "" if len(seeds) < 3 or len(before) < 3 else difference(before, slips)
        totals = [tuple(map(sum, zip(*one.true.values(), strict=True))) for one in seeds]
        pairs = [totals, *([one.true[kind] for one in seeds] for kind in COLUMNS[1:])]
        cells = [cell(each, FEWEST) for each in (*pairs, [one.unread for one in seeds])]
        without = cell([one.without_slip for one in seeds])
        rows.append([f"{label} ({len(seeds)})", without, change, *cells])
        before = slips
    head = ["stories of (seeds)", "without a slip", "Δ to the row above", *COLUMNS, "unread"]
    return head, rows


def cell(pairs, fewest=1):
    """'62 % [55, 69]' of the (how many, out of how many) of each seed; '–' of fewer than that."""
    count, n = map(sum, zip(*pairs, strict=True))
    if n < fewest:
        return "–"
    shares = [share(*pair) for pair in pairs if pair[1]]
    if len(shares) < 3:
        middle = share(count, n)
        low, high = (100 * end for end in binomtest(count, n).proportion_ci(method="wilson"))
    else:
        middle, half = interval(shares)
        low, high = max(0, middle - half), min(100, middle + half)
    return f"{middle:.0f} % [{low:.0f}, {high:.0f}]"


def difference(before, after):
    """'+12 [+3, +21]' per cent: of the shares of the same seeds."""
    middle, half = interval([b - a for a, b in zip(before, after, strict=True)])
    return f"{middle:+.0f} [{middle - half:+.0f}, {middle + half:+.0f}]"


def interval(values):
    """The mean and half the width of its 95 % interval, by Student's t."""
    width = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), float(width)


def share(count, n):
    return 100 * count / n


# ---- The command ---------------------------------------------------------------------------------


def claims(
    runs: RunNames,
    stories: int = 50,
    seed: int = 1,
    temperature: float = 0.8,
    device: str = "auto",
):
    """Check what finished runs' stories claim; print a table, write claims.json into their folders.

    Every run samples stories of the sample's world, which data/reader.py reads: everything that a
    sentence says of what came before is a claim, true or false. A story without a slip makes
    claims, all of them true, and has no sentence that the world's patterns can't read. Claims of
    whose a thing is count there and among the true claims, but are too few for a column of their
    own.

    Of several seeds the table has the mean share with its 95 % interval (Student's t), and the mean
    difference to the row above, seed by seed. Rows with three seeds or more all use the same seeds,
    as many as the row with fewest has. Of fewer seeds: the share of all, with Wilson's interval,
    which for claims is somewhat too narrow, since those of one story depend on each other.

    Args:
        runs: folders of finished runs on the sample
        stories: how many each run samples
        seed: of the sampling
        temperature: of the sampling; 0 is greedy
        device: auto, cpu, cuda or mps
    """
    found = {}
    for folder, label, run in open_sample_runs(runs, device):
        seeds = tqdm(range(seed, seed + stories), desc=label, leave=False, disable=None)
        with evaluating(run.model):
            texts = [sample(run, each, temperature) for each in seeds]
        checked = check(texts, version=run.version, seed=seed, temperature=temperature)
        write_json(folder / "claims.json", checked)
        found[label] = [checked]
    print(markdown(*table(found), aligned=True))


def sample(run, seed, temperature):
    """One story of a run's model, from the word "One" to its first blank line."""
    config = dataclasses.replace(
        run.config,
        prompt="One",
        seed=seed,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=LONGEST,
    )
    return run.module.generate(run.model, config, run.tokenizer, run.device).split("\n\n")[0]

"""Made-up results of a project in place of this one, for the tests of what reads and draws them."""

import json

from lineage import ROOT, read
from matplotlib.colors import to_rgb

SHA = "a" * 64


def write(path, content):
    """A file that holds a text, or a value as JSON, in a folder that is made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def made_up(version, seed, bits, **changes):
    """A run's result.json, after v2's published one. Changes of a part that is a dictionary are
    merged into it; settings are replaced as a whole."""
    whole = read(ROOT / "results" / "v2-sample-seed1.json")
    for key in ("checksum", "curve", "evaluation", "probes", "claims"):
        whole.pop(key, None)
    environment = {"threads": 2, "torch": "2.13.0", "dtype": "float32", "code_sha256": None}
    known = {"version": version, "idea": f"the idea of {version}", "seed": seed}
    known |= {"val_bits_per_byte": bits, "sample": f"A story of {version}.\n\nAnother one."}
    known |= {"data": {"name": "sample", "sha256": SHA}, "tokenizer": {"sha256": SHA}}
    known |= {"config": {"seed": seed, "dropout": 0.0, "data": "sample"}}
    for key, value in [*known.items(), ("environment", environment), *changes.items()]:
        merge = isinstance(value, dict) and isinstance(whole.get(key), dict) and key != "config"
        whole[key] = {**whole[key], **value} if merge else value
    return whole


def put(project, name, bits, **changes):
    """Published files of a name for seeds 1, 2, ... with these bits per byte."""
    for seed, value in enumerate(bits, 1):
        given = {"version": name.partition("-")[0], "seed": seed, "bits": value, **changes}
        write(project / "results" / f"{name}-seed{seed}.json", made_up(**given))


def metrics(bits, seconds=10):
    """Lines of metrics.jsonl, or a published curve, with these bits per byte."""
    scores = {"val_loss": 1.0, "val_perplexity": 2.7, "val_word_perplexity": None}
    scores |= {"train_loss": 1.0, "val_accuracy": 0.5, "val_accuracy_top5": 0.6}
    return [
        {"step": 100 * i, "tokens": 2_000_000 * i, "seconds": seconds * i, **scores}
        | {"val_bits_per_byte": value}
        for i, value in enumerate(bits)
    ]


def put_run(folder, version="v2", bits=(2.0, 1.0), **settings):
    """A stopped run's settings and evaluations, the last of them half written: its folder."""
    config = {"seed": 1, "data": "sample", **settings}
    write(folder / "config.json", {"version": version, "config": config})
    lines = "".join(json.dumps(row) + "\n" for row in metrics(bits))
    write(folder / "metrics.jsonl", lines + '{"step": 3')
    return str(folder)


def scores(bits, words=None):
    """How well a split was predicted, as `python -m results evaluate` writes it."""
    shares = {"accuracy": 0.5, "accuracy_top5": 0.5, "word_perplexity": words}
    return {"loss": 1.0, "bits_per_byte": bits, "perplexity": 2.0, **shares}


def evaluation(side, sliding, test, words=None):
    """An evaluation.json with these bits per byte: of the validation split twice, of the test."""
    split = {"tokens": 9, "side_by_side": scores(side), "sliding": scores(sliding)}
    splits = {"validation": split, "test": {**split, "side_by_side": scores(test, words)}}
    return {"version": "v", "splits": splits, "windows": []}


def luminance(colour):
    """Relative luminance, as WCAG 2 defines it."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

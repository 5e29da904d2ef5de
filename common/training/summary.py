"""What a finished run leaves and says: result.json, model.safetensors, loss.png, the last lines.

And what it was made on: processor, memory, commit.
"""

import contextlib
import hashlib
import json
import platform
import re
import subprocess
import sys
import warnings
from pathlib import Path

from common.cli import quote
from common.config import refuse_other_run
from common.data.cache import REPOSITORY
from common.errors import UserError
from common.files import atomic_write, read_json, write_json
from common.training.checkpoint import load
from common.training.folder import BEST
from common.training.result import Result

import msgspec
import torch


def finish_run(run, scores):
    """Write the files of a finished run; return the lines to print.

    scores: the last evaluation, of the whole validation split.
    """
    values = result_of(run, scores)
    result = msgspec.convert(values, Result)
    share_weights(run)
    write_json(run.folder / "result.json", values)
    draw_curve(run)
    return describe_result(run, result)


def is_finished(run):
    """Whether the run that is resumed has its result already; then that is left as it was measured,
    and a line says so.
    """
    path = run.folder / "result.json"
    if not path.exists():
        return False
    try:
        result = read_json(path, "a run's result", Result)
        named = result.version, {**result.config, "seed": result.seed}
        refuse_other_run(path, named, (run.version, run.settings()))
    except UserError as error:
        run.log.say(f"{path} is written again: {error}")
        return False
    if run.writes and not (run.folder / "loss.png").exists():  # killed before it was drawn
        draw_curve(run)
    finished = f"the run in {run.folder.path} is finished, nothing is left to do"
    run.log.say(f"{finished}: give more --steps to train on, or --sample-only")
    return True


def command(run, flag):
    """The command line that resumes the run, or samples from it, where the user is."""
    line = f"python {quote(sys.argv[0])} {flag}"
    if run.folder.path == Path("runs", run.version):
        return line
    return f"{line} --out-dir {quote(str(run.folder.path))}"


def draw_curve(run):
    """loss.png; where it can't be drawn, say so: the result is written already."""
    try:
        with atomic_write(run.folder / "loss.png") as file:
            title = f"{run.version} on {run.corpus.name}" + " (lossy)" * (not run.log.lossless)
            draw_loss(run.log.metrics, file, title, run.corpus.entropy.get("validation"))
    except Exception as error:  # whatever a backend raises
        run.log.say(f"loss.png could not be drawn: {error}")


def result_of(run, scores):
    """The values of the run's Result."""
    log, corpus, tokenizer = run.log, run.corpus, run.tokenizer
    on_gpu = run.device.type == "cuda"
    data = {"name": corpus.name, "sha256": corpus.sha256}
    sizes = {"train_bytes": corpus.n_bytes["train"], "val_bytes": corpus.n_bytes["validation"]}
    about = {name: getattr(tokenizer, name) for name in ("kind", "vocab_size", "sha256")}
    environment = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name() if on_gpu else run.device.type,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "dtype": str(run.dtype).removeprefix("torch."),
        "commit": commit(),
        "script_sha256": hashlib.sha256(run.source).hexdigest(),
    }
    return {
        "version": run.version,
        "idea": run.idea,
        "seed": run.config.seed,
        "data": data | sizes,
        "tokenizer": {**about, "lossless": log.lossless},
        "config": run.settings(),
        "params": sum(p.numel() for p in run.model.parameters()),
        "steps": run.config.steps,
        "tokens_seen": log.tokens,
        "train_loss": log.metrics[-1]["train_loss"],
        **{f"val_{name}": value for name, value in scores.items()},
        "best_step": log.best_step,
        "seconds": round(log.seconds, 3),
        "tokens_per_second": round(log.tokens / max(log.seconds, 1e-9), 1),
        "peak_rss_mb": peak_rss_mb(),
        "peak_gpu_mb": torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None,
        "environment": environment,
        "sample": log.sample,
        **run.extra,
    }


def share_weights(run):
    """The best weights as model.safetensors: a file that other programs read, without pickle.

    Its metadata holds the version, the vocabulary's hash, the step and the settings.
    """
    from safetensors.torch import save

    best = load(run, BEST)
    metadata = {name: str(best[name]) for name in ("version", "tokenizer", "step")}
    metadata["config"] = json.dumps(best["config"])
    weights = {name: value.contiguous() for name, value in best["state"]["model"].items()}
    with atomic_write(run.folder / "model.safetensors") as file:
        file.write(save(weights, metadata))


def describe_result(run, result):
    """The lines that a run ends with; the last one names a command to try next."""
    words, entropy = result.val_word_perplexity, run.corpus.entropy.get("validation")
    per_word = f", {words:,.1f} per word" if words else ""
    lossy = "" if result.tokenizer.lossless else " (lossy: what becomes <|unk|> costs too little)"
    bound = f" (the text's entropy is {entropy:.3f})" if entropy else ""
    perplexity = f"perplexity {result.val_perplexity:,.1f} per token{per_word}"
    likely = f"the right token is the most likely one in {result.val_accuracy:.1%} of places"
    bits = f"{run.version} on {result.data.name}: {result.val_bits_per_byte:.3f} bits per byte"
    speed = f"{result.seconds:.0f} s of training, {result.tokens_per_second:,.0f} tokens/s"
    files = f"peak memory {result.peak_rss_mb:.0f} MB; its files are in {run.folder.path}"
    sampling = f"--prompt={quote(run.config.prompt)} --temperature 0.5 --n-samples 3"
    return [
        f"\n{result.sample}\n",
        f"{perplexity}; {likely}, among the five most likely in {result.val_accuracy_top5:.1%}",
        f"{bits}{lossy}{bound}, {speed}, {files}",
        f"next: {command(run, '--sample-only')} {sampling}",
    ]


def draw_loss(metrics, path, title, entropy):
    """Training and validation loss against steps, from the lines of metrics.jsonl.

    path: a file's name, or a binary file. entropy: that of the corpus in bits per byte, the lower
    bound of the expected loss; None where it is unknown.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    bits = metrics[-1]["val_bits_per_byte"] / metrics[-1]["val_loss"]  # per nat and token
    for name, label, marker in (("train_loss", "training", ""), ("val_loss", "validation", "o")):
        rows = [row for row in metrics if row[name] is not None]
        losses = [row[name] * bits for row in rows]
        axes.plot([row["step"] for row in rows], losses, label=label, marker=marker)
    if entropy:
        axes.axhline(entropy, color="black", linestyle=":", label="entropy of the text")
    axes.set(xlabel="step", ylabel="bits per byte", yscale="log", title=title)
    axes.title.set_parse_math(False)  # a $ in a name is a $
    axes.legend()
    with warnings.catch_warnings(action="ignore"):  # of letters that the font lacks
        figure.savefig(path, format="png", dpi=120)


def peak_rss_mb():
    """The most resident memory this process has held so far, in MB (10^6 bytes)."""
    if peak := _told_by_linux("/proc/self/status", "VmHWM"):
        return int(peak.split()[0]) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        import psutil  # Windows

        return psutil.Process().memory_info().peak_wset / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, elsewhere KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def processor():
    """The CPU's name, as far as the system tells it."""
    named = _told_by_linux("/proc/cpuinfo", "model name")  # on ARM there are no names
    return named or platform.processor() or platform.machine()


def _told_by_linux(path, name):
    """The first value of this name in one of Linux's files of names and values, or None."""
    if not Path(path).exists():
        return None
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    found = re.search(rf"^{name}\s*:(.*)$", text, re.MULTILINE)
    return found and found[1].strip()


def commit():
    """The checkout's commit, with a + where its files have changed since, or None outside git."""
    if not Path(REPOSITORY, ".git").exists():
        return None  # a copy in another project's checkout, whose commit would be named
    command = ["git", "-C", REPOSITORY, *"describe --always --exclude=* --abbrev=40".split()]
    with contextlib.suppress(OSError):
        done = subprocess.run([*command, "--dirty=+"], capture_output=True, encoding="utf-8")
        return done.stdout.strip() or None

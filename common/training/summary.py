"""What a finished run leaves and says: result.json, model.safetensors, loss.png, the last lines."""

import hashlib
import json
import shlex
from pathlib import Path

from common.cli import default_folder
from common.config import differences
from common.data.cache import REPOSITORY
from common.errors import UserError
from common.files import atomic_write, read_json, write_json
from common.training.checkpoint import load
from common.training.curve import draw_loss
from common.training.environment import describe_environment, peak_gpu_mb, peak_rss_mb
from common.training.folder import BEST
from common.training.result import Result

import msgspec


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
        if differences(named, (run.version, run.settings())):
            raise UserError(f"{path} is of another run")
    except UserError as error:
        run.log.say(f"{error}; it is written again")
        return False
    if result.steps != run.config.steps:
        return False  # of fewer steps, before it was given more
    if run.writes and not (run.folder / "loss.png").exists():  # killed before it was drawn
        draw_curve(run)
    finished = f"the run in {run.folder.path} is finished, nothing is left to do"
    run.log.say(f"{finished}: give more --steps to train on, or --sample-only")
    return True


def command(run, flag):
    """The command line that resumes the run, or samples from it, in the project's folder."""
    home = REPOSITORY if run.script.is_relative_to(REPOSITORY) else run.script.parent
    script, data = run.script.relative_to(home).as_posix(), run.config.data
    line = f"python {script} {flag}"
    if run.folder.path != Path(default_folder(run.version, run.config)):
        return f"{line} --out-dir {shlex.quote(str(run.folder.path))}"
    return line if data == "sample" else f"{line} --data {shlex.quote(data)}"


def entropy_of(corpus):
    """The entropy of the validation split in bits per byte, where it is known."""
    return corpus.floor and corpus.floor["validation"]


def draw_curve(run):
    """loss.png; where it can't be drawn, say so: the result is written already."""
    try:
        with atomic_write(run.folder / "loss.png") as file:
            title = f"{run.version} on {run.corpus.name}" + " (lossy)" * (not run.log.lossless)
            draw_loss(run.log.metrics, file, title, entropy_of(run.corpus))
    except Exception as error:  # whatever a backend raises
        run.log.say(f"loss.png could not be drawn: {error}")


def result_of(run, scores):
    """The values of the run's Result."""
    log, corpus, tokenizer = run.log, run.corpus, run.tokenizer
    script_sha256 = hashlib.sha256(run.source).hexdigest()
    data = {"name": corpus.name, "sha256": corpus.sha256}
    sizes = {"train_bytes": corpus.n_bytes["train"], "val_bytes": corpus.n_bytes["validation"]}
    about = {name: getattr(tokenizer, name) for name in ("kind", "vocab_size", "sha256")}
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
        "best_step": log.best["step"],
        "seconds": round(log.seconds, 3),
        "tokens_per_second": round(log.tokens / max(log.seconds, 1e-9), 1),
        "peak_rss_mb": peak_rss_mb(),
        "peak_gpu_mb": peak_gpu_mb(run.device),
        "environment": describe_environment(run.device, run.dtype, script_sha256),
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
    words, entropy = result.val_word_perplexity, entropy_of(run.corpus)
    per_word = f", {words:,.1f} per word" if words else ""
    lossy = "" if result.tokenizer.lossless else " (lossy: what becomes <|unk|> costs too little)"
    bound = f" (the corpus' entropy is {entropy:.3f})" if entropy else ""
    perplexity = f"perplexity {result.val_perplexity:,.1f} per token{per_word}"
    likely = f"the right token is the most likely one in {result.val_accuracy:.1%}"
    bits = f"{run.version} on {result.data.name}: {result.val_bits_per_byte:.3f} bits per byte"
    speed = f"{result.seconds:.0f} s of training, {result.tokens_per_second:,.0f} tokens/s"
    files = f"peak memory {result.peak_rss_mb:.0f} MB; its files are in {run.folder.path}"
    sampling = f"--prompt={shlex.quote(run.config.prompt)} --temperature 0.5 --n-samples 3"
    return [
        f"\n{result.sample}\n",
        f"{perplexity}; {likely}, among the five most likely in {result.val_accuracy_top5:.1%}",
        f"{bits}{lossy}{bound}, {speed}, {files}",
        f"next: {command(run, '--sample-only')} {sampling}",
    ]

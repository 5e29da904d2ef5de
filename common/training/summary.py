"""What a finished run leaves and says: result.json, model.safetensors, loss.png, the last lines."""

import hashlib
import json
import shlex
from pathlib import Path

from common.cli import default_folder
from common.config import differences
from common.errors import UserError
from common.files import atomic_write, read_json, write_json
from common.training.checkpoints import BEST
from common.training.curve import draw_loss
from common.training.environment import describe_environment, peak_rss_mb
from common.training.result import Result

import msgspec
import torch


def finish_run(run, scores):
    """Write the files of a finished run; return the lines to print.

    scores: the last evaluation, of the whole validation split.
    """
    entropy = run.corpus.floor and run.corpus.floor["validation"]
    result = result_of(run, scores)
    share_weights(run)
    write_json(run.folder / "result.json", result)
    draw_curve(run)
    return describe_result(result, entropy, run.folder.path)


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
    run.log.say(
        f"the run in {run.folder.path} is finished, nothing is left to do: give more --steps"
        f" to train on, or --sample-only to continue a prompt"
    )
    return True


def how_to_go_on(run):
    """The command line that resumes the run."""
    home = Path(default_folder(run.version, run.config))
    out = "" if run.folder.path == home else f" --out-dir {shlex.quote(str(run.folder.path))}"
    data = f" --data {shlex.quote(run.config.data)}"
    data = "" if run.config.data == "sample" or out else data
    return f"python {run.script.name} --resume{data}{out}"


def draw_curve(run):
    """loss.png; where it can't be drawn, say so: the result is written already."""
    entropy = run.corpus.floor and run.corpus.floor["validation"]
    try:
        with atomic_write(run.folder / "loss.png") as file:
            title = f"{run.version} on {run.corpus.name}" + " (lossy)" * (not run.log.lossless)
            draw_loss(run.log.metrics, file, title, entropy)
    except Exception as error:  # whatever a backend raises
        run.log.say(f"loss.png could not be drawn: {error}")


def result_of(run, scores):
    """The run's Result."""
    log, corpus, tokenizer = run.log, run.corpus, run.tokenizer
    n_bytes, on_gpu = corpus.n_bytes, run.device.type == "cuda"
    script_sha256 = hashlib.sha256(run.source).hexdigest()
    result = {
        "version": run.version,
        "idea": run.idea,
        "seed": run.config.seed,
        "data": {
            "name": corpus.name,
            "sha256": corpus.sha256,
            "train_bytes": n_bytes["train"],
            "val_bytes": n_bytes["validation"],
        },
        "tokenizer": {
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.sha256,
            "lossless": run.log.lossless,
        },
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
        "peak_gpu_mb": torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None,
        "environment": describe_environment(run.device, run.dtype, script_sha256),
        "sample": log.sample,
        **run.extra,
    }
    return msgspec.convert(result, Result)


def share_weights(run):
    """The best weights as model.safetensors: a file that other programs read, without pickle.

    Its metadata holds the version, the vocabulary's hash, the step and the settings.
    """
    from safetensors.torch import save

    best = run.checkpoints.load(BEST)
    metadata = {name: str(best[name]) for name in ("version", "tokenizer", "step")}
    metadata["config"] = json.dumps(best["config"])
    weights = {name: value.contiguous() for name, value in best["state"]["model"].items()}
    with atomic_write(run.folder / "model.safetensors") as file:
        file.write(save(weights, metadata))


def describe_result(result, entropy, folder):
    """The lines that a run ends with; the last one names a command to try next."""
    words = result.val_word_perplexity
    per_word = f", {words:,.1f} per word" if words else ""
    lossy = "" if result.tokenizer.lossless else " (lossy: what becomes <|unk|> costs too little)"
    bound = f" (the corpus' entropy is {entropy:.3f})" if entropy else ""
    version, prompt = result.version, shlex.quote(result.config["prompt"])
    at_home = Path(f"runs/{version}") == Path(folder)
    where = "" if at_home else f" --out-dir {shlex.quote(str(folder))}"
    return [
        f"\n{result.sample}\n",
        f"perplexity {result.val_perplexity:,.1f} per token{per_word}; the right token is the most"
        f" likely one in {result.val_accuracy:.1%}, among the five most likely in"
        f" {result.val_accuracy_top5:.1%}",
        f"{version} on {result.data.name}: {result.val_bits_per_byte:.3f} bits per byte"
        f"{lossy}{bound}, {result.seconds:.0f} s of training,"
        f" {result.tokens_per_second:,.0f} tokens/s, peak memory {result.peak_rss_mb:.0f} MB;"
        f" its files are in {folder}",
        f"next: python {version}.py --sample-only{where} --prompt {prompt} --temperature 0.5"
        f" --n-samples 3",
    ]

"""Making the published runs: what is missing or outdated is run, measured and written to results/.

A run that is stopped is resumed by the next call, and one that ended while it was measured is not
trained again.
"""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from statistics import median

from common.cli import read_config
from common.config import refuse_other_run
from common.errors import UserError
from common.files import LARGEST_VOCABULARY, atomic_write, read_bytes, read_json, write_json
from results import plan, store
from results.scripts import code_sha256
from results.store import read_points, read_result, refuse_misnamed, result_path

import msgspec

# A result's `seconds` are of training alone. With evaluation the whole is taken to be 1.25 times as
# long; to start, to read the text and to sample take some seconds more.
EVALUATED, STARTED = 1.25, 5


def publish(
    only: str = "", seeds: tuple[int, ...] = (), again: bool = False, dry_run: bool = False
):
    """Make the published runs that are missing or outdated, one after the other.

    A published file is outdated where the code of its script, its settings or the sample's text
    have changed since, or where something that the plan measures is missing. The tables take
    seconds and memory from the first seed: with --seeds 1 nothing else should be running.

    Args:
        only: part of the names to make; without it all of the plan
        seeds: only these seeds
        again: make those that are up to date again as well, on this machine
        dry_run: say what would be made and why, and how long it takes
    """
    jobs = [
        (run, seed)
        for run in plan.PLAN
        for seed in run.seeds
        if only in run.name and (not seeds or seed in seeds)
    ]
    if not jobs:
        which = " and one of those seeds" * bool(seeds)
        raise UserError(f"no planned run has {only!r} in its name{which}")
    reasons = {job: reason for job in jobs if (reason := _reason(*job, again))}
    print(f"{len(jobs) - len(reasons)} of {len(jobs)} runs are up to date; {len(reasons)} to make")
    for (name, reason), n in Counter((job[0].name, why) for job, why in reasons.items()).items():
        print(f"  {name}: {reason} ({n})")
    wanted = {result_path(run.name, seed).name for run in plan.PLAN for seed in run.seeds}
    here = (store.ROOT / "results").glob("v*-seed*.json")
    if (extra := sorted({path.name for path in here} - wanted)) and not only:
        print(f"in results/ but no longer planned: {', '.join(extra)}")
    times, began = _expected(reasons), time.monotonic()
    for number, job in enumerate(reasons):
        print(_time_left(times, number, time.monotonic() - began), flush=True)
        if dry_run:
            return
        print(f"[{number + 1}/{len(reasons)}] {job[0].name}, seed {job[1]}", flush=True)
        _make(*job)


# ---- What there is to do -------------------------------------------------------------------------


def _reason(run, seed, again=False):
    """Why a run has to be made, in words; "" where its published file is up to date."""
    path, script = result_path(run.name, seed), run.script_path()
    if not path.exists():
        return "missing"
    result = read_result(path)
    refuse_misnamed(path, run.name, result)
    lacking = [key for key in ("curve", *run.measured) if getattr(result, key) is None]
    if _keeps_weights(run, seed) and not _weights(run).with_suffix(".safetensors").exists():
        lacking.append("weights")
    here = again and _is_published(result, _folder(run, seed))
    reasons = {
        "made by other code": result.environment.code_sha256 != code_sha256(script),
        "made with other settings": not _has_settings(result.config, run, seed),
        "made from another text": result.data.name == "sample"
        and result.data.sha256 != store.sample_info().get("sha256"),
        f"without its {', '.join(lacking)}": bool(lacking),
        "to be made again": again and not here,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _keeps_weights(run, seed):
    return (run.corpus, run.variant, seed) == ("sample", "", 1)


def _weights(run):
    """The files of a version's weights and vocabulary, without their endings."""
    return store.ROOT / "results" / "models" / run.version


def _folder(run, seed):
    return store.ROOT / "runs" / "published" / f"{run.name}-seed{seed}"


def _is_of_code(folder, script):
    """Whether the run in a folder was made by this code, whatever its comments said."""
    with contextlib.suppress(UserError):
        return code_sha256(folder / "script.py") == code_sha256(script)
    return False


def _has_settings(config, run, seed):
    """Whether a run's settings are those that the plan gives it."""
    wanted = {**run.settings(), "seed": str(seed)}
    return all(_is_value(config.get(key), text) for key, text in wanted.items())


def _is_value(value, text):
    """Whether a setting is what the command line says: 1e9 is 1000000000.0, False is False."""
    with contextlib.suppress(ValueError, TypeError):
        return float(value) == float(text)
    return str(value) == text


def _is_finished(folder, run, seed):
    """Whether the run in a folder is this one, made by today's code, and has ended."""
    if not (folder / "result.json").exists():
        return False
    result = read_result(folder / "result.json")
    return _has_settings(result.config, run, seed) and _is_of_code(folder, run.script_path())


def _is_unfinished(folder, run, seed):
    """Whether the run in a folder is this one, made by today's code, and was stopped."""
    if (folder / "result.json").exists() or not (folder / "checkpoint.pt").exists():
        return False
    with contextlib.suppress(UserError):  # damaged: begin again
        _, config = read_config(folder / "config.json")
        return _has_settings(config, run, seed) and _is_of_code(folder, run.script_path())
    return False


def _is_published(result, folder):
    """Whether a published file was made of the run that lies in a folder here."""
    path = folder / "result.json"
    here = read_result(path) if path.exists() else None
    keys = ("val_bits_per_byte", "seconds")
    return here is not None and all(getattr(here, k) == getattr(result, k) for k in keys)


# ---- Making a run --------------------------------------------------------------------------------


def _make(run, seed):
    folder, script = _folder(run, seed), run.script_path()
    if not _is_finished(folder, run, seed):
        if "more.txt" in run.flags and not _has_more_text():
            if _call(plan.MORE_TEXT):
                raise UserError("more.txt could not be written")
        resume = _is_unfinished(folder, run, seed)
        given = ["--resume"] if resume else [*run.arguments(), "--seed", str(seed)]
        home = folder.relative_to(store.ROOT).as_posix()  # result.json names no other path
        if _call([str(script), "--out-dir", home, *given]):
            raise UserError(f"{run.name}, seed {seed} stopped; give the same command to go on")
        for key in plan.MEASUREMENTS:  # of weights before
            (folder / f"{key}.json").unlink(missing_ok=True)
    for key in run.measured:
        if not (folder / f"{key}.json").exists():
            command, *options = plan.MEASUREMENTS[key].split()
            if _call(["-m", "results", command, str(folder), *options]):
                raise UserError(f"{run.name}, seed {seed}: {command} stopped; give the same again")
    _write(run, seed, folder, script)


def _write(run, seed, folder, script):
    """The published file of a finished run, and of the versions' first seeds the weights."""
    result = read_result(folder / "result.json")
    result.environment.code_sha256 = code_sha256(script)
    result.curve = read_points(folder)
    content = msgspec.to_builtins(result)
    for key in run.measured:  # whole, with what only the command itself reads
        content[key] = read_json(folder / f"{key}.json", f"what {plan.MEASUREMENTS[key]} measured")
    path = result_path(run.name, seed)
    path.parent.mkdir(exist_ok=True)
    if _keeps_weights(run, seed):
        keep_weights(folder, _weights(run))
    write_json(path, content)


def keep_weights(folder, stem):
    """A run's weights in float16 as STEM.safetensors, its vocabulary as STEM-tokenizer.json."""
    from safetensors import safe_open
    from safetensors.torch import save

    stem.parent.mkdir(parents=True, exist_ok=True)
    path = folder / "model.safetensors"
    vocabulary = read_bytes(folder / "tokenizer.json", LARGEST_VOCABULARY)
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name).half() for name in file.offset_keys()}
        metadata = file.metadata()
    if "config" in metadata:
        named = metadata.get("version"), json.loads(metadata["config"])
        refuse_other_run(path, named, read_config(folder / "config.json"))
    with atomic_write(stem.with_suffix(".safetensors")) as file:
        file.write(save(weights, metadata))
    with atomic_write(f"{stem}-tokenizer.json") as file:
        file.write(vocabulary)


def _call(arguments):
    """The exit status of a Python program. What stops this process stops that one too, and is
    waited for: a run that is stopped saves first.
    """
    process = subprocess.Popen([sys.executable, *arguments], cwd=store.ROOT)
    try:
        return process.wait()
    except (KeyboardInterrupt, SystemExit) as stop:
        # Ctrl-C and the end of a terminal have reached both, and a second signal would keep the run
        # from saving.
        if getattr(stop, "code", None) == 128 + signal.SIGTERM:
            process.terminate()
        process.wait()
        raise


def _has_more_text():
    """Whether more.txt is there, made by the plan's command and by today's world."""
    with contextlib.suppress(UserError):
        about = read_json(store.ROOT / "more.json", "what world.py noted of a text")
        wanted = " ".join(["python", *plan.MORE_TEXT]), store.sample_info().get("format")
        same = (about.get("command"), about.get("format")) == wanted
        return same and (store.ROOT / "more.txt").exists()
    return False


# ---- How long it takes ---------------------------------------------------------------------------


def _expected(jobs):
    """The seconds that each of [(run, seed), ...] will take, a first guess; None: nothing is known.

    From the training times in results/: of the same name, else of the same version, else of all.
    """
    found = {}
    for path in sorted((store.ROOT / "results").glob("v*-seed*.json")):
        with contextlib.suppress(UserError):  # a damaged file says nothing of time
            name, seconds = path.name.rpartition("-seed")[0], read_result(path).seconds
            for key in (name, name.partition("-")[0], ""):
                found.setdefault(key, []).append(seconds)
    keys = [(run.name, run.version, "") for run, _ in jobs]
    nearest = [next((found[key] for key in three if key in found), None) for three in keys]
    return [known and median(known) * EVALUATED + STARTED for known in nearest]


def _time_left(times, done, elapsed):
    """How long runs expected to take `times` still take, in words, after the first `done` of them
    took `elapsed` seconds: the others are taken to be as much slower or faster as those.
    """
    if None in times and not done:
        return "how long that takes is known after the first"
    times = [1] * len(times) if None in times else times
    left = sum(times[done:]) * (elapsed / sum(times[:done]) if done else 1)
    minutes = max(1, round(left / 60))
    return f"about {minutes} min left" if done else f"about {minutes} min, by those in results/"

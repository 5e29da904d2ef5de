"""A finished run, opened again: its settings, its vocabulary and its best weights.

from results import load_run
run = load_run("runs/v4")  # or load_run("v4"): the published run
print(run.module.generate(run.model, run.config, run.tokenizer, run.device))
"""

import contextlib
import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from common.cli import config_from, read_config
from common.config import LATER
from common.errors import UserError
from common.tokenizers import load_tokenizer_file
from common.training.checkpoint import read_checkpoint
from common.training.machine import pick_device
from common.training.result import Result
from results.store import ROOT, read_result, result_path, script_of, versions

import torch
from safetensors import SafetensorError, safe_open


@dataclass
class SavedRun:
    folder: Path  # of a published run it does not exist
    label: str  # the folder's name, or the version
    version: str
    module: ModuleType  # the version's script: its Config, LanguageModel, generate
    config: Any  # the script's Config
    result: Result
    tokenizer: Any
    model: torch.nn.Module  # on `device`, in evaluation mode
    device: torch.device


def load_script(path):
    """A Python file as a module of its own, read again at each call.

    An ablation imports its version and changes it: that one is its own, too.
    """
    before = {name: sys.modules.pop(name) for name in versions() if name in sys.modules}
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.update({name: old for name, old in before.items() if name != path.stem})
    return module


def read_settings(folder):
    """(version, settings) of a run's config.json. Raises UserError where there is no run."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise UserError(f"no run in {folder}: make one, python v0.py --out-dir {folder}")
    version, settings = read_config(path)
    script_of(version)
    return version, settings


def read_weights(path):
    """A published file of weights, as `read_checkpoint` returns a checkpoint. Raises UserError."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.offset_keys()}
        settings = LATER | json.loads(about["config"])
        return {**about, "config": settings, "state": {"model": weights}}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} can't be read as published weights: {error}") from None


def load_run(run, device="auto"):
    """A finished run as a SavedRun; the model is built by the version's own script.

    run: a run's folder, of which the weights are those of the best evaluation; or a version, as
    "v4": its published run on the sample with seed 1, whose weights are in results/models.
    device: auto, cpu, cuda or mps. The settings are checked as --resume checks them. Raises
    UserError where there is no run, one that is not finished, or files that are damaged or don't
    belong together.
    """
    folder = Path(run)
    if str(run) in versions() and not os.path.exists(run):
        folder = ROOT / "results" / "models" / run
        weights, vocabulary = Path(f"{folder}.safetensors"), Path(f"{folder}-tokenizer.json")
        path = result_path(f"{run}-sample", 1)
        version, checkpoint = str(run), read_weights(weights)
        settings = checkpoint["config"]
    else:
        version, settings = read_settings(folder)
        weights, vocabulary = folder / "best.pt", folder / "tokenizer.json"
        path = folder / "result.json"
        if not path.exists():
            raise UserError(
                f"the run in {folder} is not finished; go on with it:"
                f" python {version}.py --resume --out-dir {folder}"
            )
        checkpoint = read_checkpoint(weights)
    result, tokenizer = read_result(path), load_tokenizer_file(vocabulary)
    module = load_script(script_of(version))
    config = config_from(module.Config, settings, folder / "config.json")
    for file, found, wanted in (
        (weights, checkpoint.get("version"), version),
        (weights, checkpoint.get("tokenizer"), tokenizer.sha256),
        (weights, checkpoint["config"].get("seed"), config.seed),
        (path, result.version, version),
        (path, result.seed, config.seed),
        (path, result.tokenizer.sha256, tokenizer.sha256),
    ):
        if found != wanted:
            raise UserError(f"{file} is of another run than the files that belong to it")
    device = pick_device(device)
    model = module.LanguageModel(config, tokenizer.vocab_size)
    try:
        model.load_state_dict(checkpoint["state"]["model"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{weights} doesn't fit {version}.py: {reason}") from None
    model, label = model.to(device).eval(), folder.resolve().name
    return SavedRun(folder, label, version, module, config, result, tokenizer, model, device)


@contextlib.contextmanager
def evaluating(model):
    """Evaluation mode and no gradients for a while; the mode is put back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield next(model.parameters()).device
    finally:
        model.train(was_training)

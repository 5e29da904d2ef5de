"""A finished run, opened again: its settings, its vocabulary and its best weights.

from results import load_run
run = load_run("runs/v4")
print(run.module.generate(run.model, run.config, run.tokenizer, run.device))
"""

import contextlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from common.cli import config_from, read_config
from common.config import refuse_other_run
from common.errors import UserError
from common.tokenizers import load_tokenizer_file
from common.training.checkpoint import read_checkpoint
from common.training.machine import pick_device
from common.training.result import Result
from results.store import read_result, script_of, versions

import torch


@dataclass
class SavedRun:
    folder: Path
    label: str  # the folder's name
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


def load_run(folder, device="auto"):
    """The finished run in `folder` as a SavedRun; the model is built by the version's own script.

    device: auto, cpu, cuda or mps. The weights are those of the best evaluation. config.json is
    checked as --resume checks it. Raises UserError where there is no run, one that is not
    finished, or files that are damaged or don't belong together.
    """
    folder = Path(folder)
    version, settings = read_settings(folder)
    if not (folder / "result.json").exists():
        raise UserError(
            f"the run in {folder} is not finished; go on with it:"
            f" python {version}.py --resume --out-dir {folder}"
        )
    result = read_result(folder / "result.json")
    module = load_script(script_of(version))
    config = config_from(module.Config, settings, folder / "config.json")
    tokenizer = load_tokenizer_file(folder / "tokenizer.json")
    checkpoint = read_checkpoint(folder / "best.pt")
    best = checkpoint["version"], checkpoint["config"]
    refuse_other_run(folder / "best.pt", best, (version, settings))
    for name, found, wanted in (
        ("best.pt", checkpoint["data"], result.data.sha256),
        ("best.pt", checkpoint["tokenizer"], tokenizer.sha256),
        ("result.json", result.tokenizer.sha256, tokenizer.sha256),
    ):
        if found != wanted:
            raise UserError(f"{folder / name} is of another run than the folder's other files")
    device = pick_device(device)
    model = module.LanguageModel(config, tokenizer.vocab_size)
    try:
        model.load_state_dict(checkpoint["state"]["model"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{folder / 'best.pt'} doesn't fit {version}.py: {reason}") from None
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

"""A finished run, opened again: its settings, its vocabulary and its best weights.

from results import load_run
run = load_run("runs/v4")  # or load_run("v4"): the published run
print(run.module.generate(run.model, run.config, run.tokenizer, run.device))
"""

import contextlib
import importlib.util
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from common.cli import config_from, read_config
from common.config import refuse_other_run
from common.data import load_corpus
from common.data.load import NAMES
from common.errors import UserError
from common.tokenizers import load_tokenizer_file
from common.training.checkpoint import fitting, read_checkpoint
from common.training.machine import pick_device, prepare
from common.training.result import Result
from common.training.vocabulary import saved_tokenizer
from results.scripts import code_sha256
from results.store import ROOT, no_run, read_result, result_path, script_of, versions

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

    def corpus(self, data_dir=""):
        """What the run was trained on. data_dir: where it lies, if not where the run found it.
        Raises UserError where that is another text."""
        name, where = self.config.data, data_dir or self.config.data_dir or None
        if data_dir and name not in NAMES and not name.startswith("hf:"):
            name, where = data_dir, None  # the user's own text
        try:
            corpus = load_corpus(name, where)
        except UserError as error:
            advice = "" if data_dir else "; --data-dir says where the run's text is now"
            raise UserError(f"{error}{advice}") from None
        if corpus.sha256 != self.result.data.sha256:
            raise UserError(f"{name} is another text than {self.folder} was trained on")
        return corpus


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
        raise no_run(folder)
    version, settings = read_config(path)
    script_of(version)
    return version, settings


def load_run(folder, device="auto"):
    """The finished run in `folder` as a SavedRun; the model is built by the version's own script.

    folder: a version's name, as v4, where no folder is called so, is its `published_run`. device:
    auto, cpu, cuda or mps. The weights are those of the best evaluation. config.json is
    checked as --resume checks it. Raises UserError where there is no run, one that is not
    finished, or files that are damaged or don't belong together.
    """
    if str(folder) in versions() and not os.path.exists(folder):
        return published_run(str(folder), device)
    folder = Path(folder)
    version, settings = read_settings(folder)
    if not (folder / "result.json").exists():
        raise UserError(
            f"the run in {folder} is not finished; go on with it:"
            f" python {version}.py --resume --out-dir {folder}"
        )
    result = read_result(folder / "result.json")
    script, own = script_of(version), folder / "script.py"
    with contextlib.suppress(UserError):  # it is damaged, or not there
        if code_sha256(own) != code_sha256(script):
            print(f"{own} differs from {script.name}, which is used", file=sys.stderr)
    module = load_script(script)
    config = config_from(module.Config, settings, folder / "config.json")
    checkpoint = read_checkpoint(folder / "best.pt")
    tokenizer = saved_tokenizer(folder, checkpoint)
    best = checkpoint["version"], checkpoint["config"]
    refuse_other_run(folder / "best.pt", best, (version, settings))
    for name, found, wanted in (
        ("best.pt", checkpoint["data"], result.data.sha256),
        ("result.json", result.tokenizer.sha256, tokenizer.sha256),
    ):
        if found != wanted:
            raise UserError(f"{folder / name} is of another run than the folder's other files")
    state = checkpoint["state"]["model"]
    return _saved_run(folder, version, module, config, result, tokenizer, state, device, "best.pt")


def load_own_run(folder, device):
    """`load_run` of a folder alone, into which what is measured can be written."""
    read_settings(folder)
    return load_run(folder, device)


def published_run(version, device):
    """A version's published run on the sample with seed 1, with the weights in results/models."""
    folder, path = ROOT / "results" / "models" / version, result_path(f"{version}-sample", 1)
    weights = f"{version}.safetensors"
    try:
        with safe_open(folder.with_name(weights), "pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.offset_keys()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder.with_name(weights)} can't be read as weights: {error}") from None
    result, module = read_result(path), load_script(script_of(version))
    config = config_from(module.Config, read_config(path)[1], path)
    tokenizer = load_tokenizer_file(folder.with_name(f"{version}-tokenizer.json"))
    hashes = {about.get("tokenizer"), tokenizer.sha256, result.tokenizer.sha256}
    if len(hashes) > 1 or about.get("version") != version:
        raise UserError(f"{path} and the files of {version} in {folder.parent} are of several runs")
    return _saved_run(folder, version, module, config, result, tokenizer, state, device, weights)


def _saved_run(folder, version, module, config, result, tokenizer, state, device, weights):
    """The SavedRun of these parts; state: the weights, which lie in the file called `weights`."""
    device = pick_device(device)
    model = module.LanguageModel(config, tokenizer.vocab_size)
    prepare(model, replace(config, compile=False), device)  # the kernels that the run had
    with fitting(folder / weights):
        model.load_state_dict(state)
    label = folder.resolve().name
    return SavedRun(folder, label, version, module, config, result, tokenizer, model.eval(), device)


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

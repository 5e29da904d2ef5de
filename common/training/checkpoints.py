"""The checkpoints of one run: which one is good, what goes into it, and going on from it."""

import dataclasses
import os
import sys

from common.cli import read_config
from common.config import refuse_other_run
from common.errors import UserError
from common.training.checkpoint import (
    fitting,
    get_state,
    is_finite,
    read_checkpoint,
    set_state,
    write_checkpoint,
)
from common.training.folder import CHECKPOINTS, MEASURED
from common.training.processes import gather, rank, world_size

import torch

BEST = ("best.pt", *CHECKPOINTS)  # the best weights where they were kept, else the last


class Checkpoints:
    """checkpoint.pt, the one before it, and best.pt in the folder of a run of `version`."""

    def __init__(self, folder, version, config):
        self.folder, self.version, self.config = folder, version, config
        self.whole = True  # whether checkpoint.pt could be read

    def load(self, names):
        """The first whole one of these files as a dictionary. Raises UserError where there is none,
        or where it was made with other settings than the run's."""
        problems = []
        for name in names:
            path = self.folder / name
            if not os.path.lexists(path):
                continue
            try:
                checkpoint = read_checkpoint(path)
            except UserError as error:
                problems.append(str(error))
                self.whole = self.whole and name != CHECKPOINTS[0]
                continue
            if problems and rank() == 0:
                print(f"{problems[0]}; {path} is used instead", file=sys.stderr)
            # --resume and --sample-only take the saved settings. The checkpoint's copy of them
            # decides: config.json may have been edited, or be of another run.
            settings = dataclasses.asdict(self.config)
            if self.config.sample_only:  # the command line's seed is another matter
                settings["seed"] = read_config(self.folder / "config.json")[1]["seed"]
            found = checkpoint["version"], checkpoint["config"]
            refuse_other_run(path, found, (self.version, settings))
            return checkpoint
        if problems:
            raise UserError(problems[0])
        raise UserError(
            f"no checkpoint in {self.folder.path}: the run ended before its first; train again,"
            f" without --resume or --sample-only"
        )

    def save(self, names, state, log, device, writes):
        """checkpoint.pt, whole or not at all; the one before is kept as checkpoint.previous.pt.

        names   what tells whose checkpoint it is: version, tokenizer, data, step, config
        state   {name: module, optimizer or generator}
        Where the last evaluation was the best so far, its weights are kept as best.pt too. All
        processes call this; one of them writes.
        """
        own = {"torch": torch.get_rng_state(), "loss_sum": float(log.loss_sum)}
        if device.type != "cpu":
            own[device.type] = torch.get_device_module(device).get_rng_state()
        own_of_each = gather(own)  # a list: dropout draws differently in each process
        if not writes:
            return
        evaluated = log.metrics[-1]["step"] if log.metrics else -1
        content = {
            **names,
            "run": {**log.state(), "evaluated": evaluated},
            "generators": own_of_each,
            "state": {name: get_state(part) for name, part in state.items()},
        }
        # A damaged checkpoint.pt must not take the place of the good one before it.
        previous = self.folder / CHECKPOINTS[1] if self.whole else None
        write_checkpoint(self.folder / CHECKPOINTS[0], content, previous)
        self.whole = True
        if names["step"] == evaluated == log.best["step"]:
            for name in MEASURED:  # that was of the weights before
                (self.folder / name).unlink(missing_ok=True)
            best = {**names, "state": {"model": content["state"]["model"]}}
            write_checkpoint(self.folder / "best.pt", best)

    def restore(self, checkpoint, state, log, device):
        """Put a checkpoint's state back; return its step and the last step that was evaluated."""
        step, folder = checkpoint["step"], self.folder.path
        if step > self.config.steps:
            raise UserError(
                f"the run in {folder} is at step {step} already; --steps {self.config.steps} would"
                f" go back: give more steps, or train again in another --out-dir"
            )
        for name, part in state.items():
            set_state(part, checkpoint["state"].get(name), folder)
        with fitting(folder):
            saved, processes = checkpoint["run"], checkpoint["generators"]
            log.restore(saved)
            log.loss_sum = sum(one["loss_sum"] for one in processes) / len(processes)
            if len(processes) == world_size():
                own = processes[rank()]
                log.loss_sum = float(own["loss_sum"])
                torch.set_rng_state(own["torch"])
                if device.type in own:
                    torch.get_device_module(device).set_rng_state(own[device.type])
            else:
                log.say(
                    f"trained by {len(processes)} processes so far, now by {world_size()}: the"
                    " batches stay the same, what dropout drops does not"
                )
            evaluated = int(saved["evaluated"])
        log.say(f"resuming {folder} at step {step}")
        return step, evaluated

    def load_best_weights(self, model, checkpoint):
        """Put the weights of a checkpoint into the model. Raises UserError where they don't fit."""
        set_state(model, checkpoint["state"].get("model"), self.folder.path)
        if not is_finite(model.state_dict()):
            raise UserError(f"the weights in {self.folder.path} are not finite: train again")

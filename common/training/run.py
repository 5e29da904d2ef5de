"""A run's folder: settings, metrics, checkpoints, samples, curve and result, and how to resume.

The training loop stands in the scripts. What stands here is everything that must not be lost and
is no lesson: atomic files, the checkpoint, the clock, the progress bar, Ctrl-C.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pickle
import platform
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from common.cli import SAFE_TO_CHANGE
from common.data import detokenize
from common.training.distributed import gather, mean_over_processes, rank, to_device, world_size
from common.errors import NotFinite, UserError
from common.files import atomic_write, failures_told, write_json
from common.training.memory import describe_model, estimate_memory, free_memory, keep_freed_memory
from common.tokenizers import END_OF_TEXT, load_tokenizer, load_tokenizer_file

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")  # the newest first
# What commands of common/ found in a finished run, of its best weights.
ASKED = "probes.json diagnostics.json claims.json heldout.json".split()
FILES = [  # in the order in which an old run is moved aside: while config.json stands, it is a run
    *"checkpoint.previous.pt checkpoint.pt best.pt model.safetensors metrics.jsonl".split(),
    *"samples.txt loss.png script.py tokenizer.json result.json".split(),
    *ASKED,
    "config.json",
]


def pick_device(name):
    """The torch device for --device: auto takes CUDA, then MPS, then the CPU."""
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # a device like meta can't give numbers back
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} can't be used here: {reason}; try --device cpu") from None
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # what is asked of "the" GPU is asked of this one
    return device


def compile_if_asked(model, config, device):
    """torch.compile the model in place for --compile; where that fails, say why and go on."""
    if not config.compile or config.sample_only:
        return
    try:
        model.compile()
        B = config.batch_size // world_size()
        rows = torch.zeros(B, config.context_length + 1, dtype=torch.long)
        x, _ = to_device(rows[:, :-1], rows[:, 1:], device)  # laid out as batches are
        with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            loss = model(x).float().sum()
        loss.backward()
        model.zero_grad()
    except Exception as error:  # whatever the compiler raises, the model itself still works
        model._compiled_call_impl = None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(f"--compile is not possible here, going on without: {reason}", file=sys.stderr)


class Run:
    """One training run in its folder `config.out_dir`, held by a lock while it lasts.

    run = Run(config, __file__, __doc__)   nothing is written yet
    step = run.start(tokens, tokenizer, state)  writes the settings, or restores the checkpoint
    run.due(step)                          is it time to evaluate?
    run.record(step, scores, sample)       a line in metrics.jsonl, the sample in samples.txt
    run.count(loss, tokens)                after every batch
    run.done(step, state)                  saves after an evaluation and after Ctrl-C; ends the loop
    run.finish(...)                        result.json and loss.png

    `state` is a dictionary name -> anything with state_dict() or get_state(): model, optimizer,
    generators. Raises UserError where the folder is in use, unwritable or holds another run.
    """

    def __init__(self, config, script, description):
        self.config, self.script = config, Path(script)
        self.version = self.script.stem
        self.idea = description.strip().splitlines()[0].partition(": ")[2].rstrip(".")
        self.folder = Path(config.out_dir)
        self.lock, self.interrupted, self.recorded = None, None, -1
        self.tokens, self.seconds, self.clock = 0, 0.0, None
        self.loss_sum, self.loss_count, self.best = 0.0, 0, {"step": None, "loss": None}
        self.metrics, self.bar, self.extra, self.notes = [], None, {}, []
        self.samples, self.sample, self.state, self.old_handlers = "", "", {}, {}
        self.step, self.last_loss, self.whole = 0, None, True
        self.device, self.peak = torch.device("cpu"), None
        # WikiText spaces its punctuation: people get to see it as it is usually written.
        self.readable = detokenize if config.data.startswith("wikitext") else str
        self.writes = rank() == 0 and not config.sample_only  # of several processes, the first
        if self.writes:
            self._take_folder()
        try:
            if config.resume:
                self.saved = self.load()
            if config.sample_only:  # the best weights where they were kept, else the last
                self.saved = self.load(("best.pt", *CHECKPOINTS))
        except UserError:
            self.close()
            raise

    # -- opening the folder ------------------------------------------------------------------

    def _take_folder(self):
        try:
            created = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = FileLock(self.folder / ".lock")
            self.lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"another run is writing to {self.folder}: wait for it or give another --out-dir"
            ) from None
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"can't write to the folder {self.folder}: {reason}; give another --out-dir"
            ) from None
        self.created = created

    def close(self):
        """Release the folder; one that was made for nothing is removed again."""
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)
        self.old_handlers = {}
        if self.bar is not None:
            self.bar.close()
        if self.lock is not None and self.lock.is_locked:
            # While it is held, or the next run's might go; Windows removes it when it is released.
            with contextlib.suppress(OSError):
                (self.folder / ".lock").unlink(missing_ok=True)
            self.lock.release()
            with contextlib.suppress(OSError):
                for path in self.created:  # the run's folder, then those above it
                    path.rmdir()  # raises OSError, and so ends this, where something is in it
        self._compiled(True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.close()
        # The judge, or the draw of a token from the logits: neither knows the step.
        if isinstance(error, NotFinite) or "probability tensor contains" in str(error):
            raise UserError(self._not_finite("the validation loss is not finite")) from None

    def _refuse_changes(self, saved):
        """--resume and --sample-only take the saved settings; a change is refused.

        The checkpoint's copy of them decides: config.json may have been edited or damaged.
        """
        now = dataclasses.asdict(self.config)
        changed = [k for k in now if now[k] != saved.get(k) and k not in SAFE_TO_CHANGE]
        if changed:
            what = ", ".join(f"{k} is {saved.get(k)!r}, not {now[k]!r}" for k in changed)
            raise UserError(
                f"the run in {self.folder} was made with other settings: {what}. Leave those flags"
                f" out (or put its config.json back), or train anew in another --out-dir"
            )

    def load_tokenizer(self, corpus):
        """The saved run's tokenizer with --resume or --sample-only, else the one asked for."""
        config = self.config
        if config.resume or config.sample_only:
            path = self.folder / "tokenizer.json"
            if not path.exists():
                raise UserError(f"{path} is missing: put it back, or train anew")
            tokenizer = load_tokenizer_file(path)
            if self.saved["tokenizer"] != tokenizer.sha256:
                raise UserError(
                    f"the checkpoint in {self.folder} was trained with another vocabulary than its"
                    f" tokenizer.json holds: put the right file back, or train anew"
                )
            return tokenizer
        special = (END_OF_TEXT,) if config.end_of_text else ()
        pattern = config.split_pattern
        tokenizer = load_tokenizer(config.tokenizer, corpus, config.vocab_size, pattern, special)
        if corpus.note:
            self.notes.append(f"{corpus.name}: {corpus.note}")
        if tokenizer.kind == "bpe" and tokenizer.vocab_size < config.vocab_size:
            self.notes.append(
                f"vocabulary: {tokenizer.vocab_size:,} ids of {config.vocab_size:,}, since every"
                " chunk of the text is one token by then"
            )
        return tokenizer

    def start(self, tokens, tokenizer, state):
        """Begin in an empty folder, or go on from the checkpoint; returns the step to go on from.

        A run that stood in the folder before is moved aside, never overwritten.
        """
        if len(tokens) <= self.config.context_length:
            raise UserError(
                f"the training text has {len(tokens)} tokens, too few for a context of"
                f" {self.config.context_length}: give a longer text or a smaller --context-length"
            )
        for note in self.notes:
            self._say(note)
        self.state, self.device = state, next(state["model"].parameters()).device
        if self.config.resume:
            self.step = self._restore(state)
            self._leave_if_finished()
        elif self.writes:
            self._move_aside()
            with atomic_write(self.folder / "script.py") as file:
                file.write(self.script.read_bytes())
            for half in self.folder.glob("tokenizer.json.*.tmp"):  # of a start that was killed
                half.unlink()
            with failures_told(self.folder / "tokenizer.json"):
                tokenizer.save(self.folder / "tokenizer.json")
        fused = state["optimizer"].defaults.get("fused")
        self.estimate = estimate_memory(state["model"], self.config, self.device, fused)
        self.extra["memory_estimate_mb"] = self.estimate
        needed = sum(self.estimate.values()) if self.device.type == "cpu" else 0
        if keep_freed_memory(needed):
            self._say(
                f"memory is short ({needed:.0f} MB a step, {free_memory():.0f} MB free): steps give"
                " back what they free at once, and take longer"
            )
        if rank() and not self.config.resume:  # dropout that each process draws for itself
            torch.manual_seed(self.config.seed + rank())
        self.tokenizer_row = {
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.sha256,
            "lossless": getattr(tokenizer, "lossless", True),  # else bits per byte leave some out
        }
        if self.writes:
            settings = {"version": self.version, "config": self._settings()}
            write_json(self.folder / "config.json", settings)
            lines = "".join(json.dumps(row) + "\n" for row in self.metrics)
            # After a kill they may hold more than the checkpoint knows of, or half a line.
            for name, text in (("metrics.jsonl", lines), ("samples.txt", self.samples)):
                with atomic_write(self.folder / name, "w") as file:
                    file.write(text)
        handlers = (signal.SIGINT, signal.SIGTERM)
        self.old_handlers = {number: signal.signal(number, self._stop) for number in handlers}
        self.bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            unit="step",
            disable=None if self.writes else True,  # None: shown on a terminal only
            dynamic_ncols=True,
        )
        return self.step

    def _settings(self):
        return {**dataclasses.asdict(self.config), "resume": False, "sample_only": False}

    def _leave_if_finished(self):
        """A finished run is left as it is: its result was measured when it ran."""
        path = self.folder / "result.json"
        if self.step < self.config.steps or not path.exists():
            return
        from results.tables import read_result

        try:
            if read_result(path).get("steps") != self.step:
                return  # of fewer steps, before it was given more
        except UserError as error:
            self._say(f"{error}; it is written anew")
            return
        self._say(
            f"the run in {self.folder} is finished, nothing is left to do: give more --steps to"
            f" train on, or --sample-only to continue a prompt"
        )
        self.close()
        sys.exit(0)

    def _move_aside(self):
        """Move what an older run left to FOLDER.1, or the first number that is free.

        A kill halfway leaves some of it here and some there; the next run then moves the rest.
        """
        old = [name for name in FILES if (self.folder / name).exists()]
        if not old:
            return
        home = self.folder if self.folder.name.strip(".") else self.folder.resolve()
        number = 1
        while Path(f"{home}.{number}").exists():
            number += 1
        if number > 1 and _is_half_moved(Path(f"{home}.{number - 1}"), old):
            number -= 1
        aside = Path(f"{home}.{number}")
        with failures_told(aside):
            aside.mkdir(exist_ok=True)
            for name in old:
                os.replace(self.folder / name, aside / name)
        print(f"the run that was in {self.folder} is now in {aside}")

    # -- the loop's own calls ----------------------------------------------------------------

    def due(self, step):
        """True every eval_every steps, before the first and after the last: time to evaluate."""
        due = step % self.config.eval_every == 0 or step == self.config.steps
        if due and step > self.recorded:
            self._stop_clock()
            self._refuse_weights()
            return True
        return False

    def count(self, loss, tokens):
        """Note the loss (a scalar tensor, nats per token) of a batch of so many tokens.

        On a GPU the loss is only added up, since reading it would make the CPU wait.
        """
        precise = torch.float32 if loss.device.type == "mps" else torch.float64  # MPS has no double
        self.loss_sum = self.loss_sum + loss.detach().to(precise)
        self.loss_count += 1
        self.tokens += tokens * world_size()
        if loss.device.type == "cpu":
            self.last_loss = loss.item()
            self._refuse_nan(self.last_loss)

    def _refuse_nan(self, loss):
        if not math.isfinite(loss):
            raise UserError(self._not_finite(f"the loss became {loss}"))

    def _refuse_weights(self):
        """A gradient that is not finite spoils the weights, not this step's loss: look at both."""
        if not _is_finite(self.state["model"].state_dict()):
            raise UserError(self._not_finite("weights became nan or infinite"))

    def _not_finite(self, what):
        rate = self.config.learning_rate
        if "optimizer" in self.state:  # a schedule's rate of this very step
            rate = self.state["optimizer"].param_groups[0]["lr"]
        return (
            f"{what} after step {self.step} with learning rate {rate:g}: try a lower"
            f" --learning-rate. The last good checkpoint is kept in {self.folder}"
        )

    def describe(self, model):
        """Say how many parameters the model has, by module, and what memory a step needs."""
        for line in describe_model(model, self.estimate):
            self._say(line)

    def reference(self, name, bits_per_byte):
        """Note what a simpler method reaches on the same tokens, beside this run's number."""
        self.extra.setdefault("references", {})[name] = bits_per_byte
        self._say(f"{name}: {bits_per_byte:.3f} bits per byte")

    def note_peak(self):
        """The peak memory is what the run needed up to here."""
        self.peak = peak_rss_mb()

    def extrapolation(self, times, T, side_by_side, sliding):
        """Note bits per byte of windows of T tokens, so many times the training context.

        Ends the process where it was told to stop: the last step is saved, --resume comes here.
        """
        if self.interrupted is not None:
            self._leave(self.config.steps)
        if times == 1:
            self._say("bits per byte beyond the training context:")
            self._say("  times  tokens  side by side  sliding")
        self._say(f"  {times:>5}  {T:>6}  {side_by_side:>12.3f}  {sliding:>7.3f}")
        row = {"times": times, "context": T, "side_by_side": side_by_side, "sliding": sliding}
        self.extra.setdefault("extrapolation", []).append(row)

    def record(self, step, scores, sample):
        """Write the evaluation's line to metrics.jsonl and its sample to samples.txt."""
        sample = self.readable(sample)
        train_loss = None
        if self.loss_count:
            train_loss = mean_over_processes(self.loss_sum) / self.loss_count
            self._refuse_nan(train_loss)
        self._refuse_nan(scores["loss"])
        line = {
            "step": step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "train_loss": train_loss,
            **{f"val_{name}": value for name, value in scores.items()},
        }
        self.metrics.append(line)
        text = f"--- step {step} ---\n{sample}\n\n"
        if self.writes:
            self._append("metrics.jsonl", json.dumps(line) + "\n")
            self._append("samples.txt", text)
        self.sample, self.samples = sample, self.samples + text
        trained = "" if train_loss is None else f"train {train_loss:.3f}, "
        self._say(
            f"step {step:>6}: {trained}val {scores['loss']:.3f} nats per token,"
            f" {scores['bits_per_byte']:.3f} bits per byte"
        )
        self.loss_sum, self.loss_count, self.recorded = 0.0, 0, step
        if self.best["loss"] is None or scores["loss"] < self.best["loss"]:
            self.best = {"step": step, "loss": scores["loss"]}
        self._notice_overfitting()

    def _notice_overfitting(self):
        """Say once when validation has been rising for two evaluations while training falls."""
        rows = [row for row in self.metrics if row["step"] >= self.best["step"]]
        if len(rows) != 3 or rows[0]["train_loss"] is None:
            return
        if rows[2]["train_loss"] < rows[1]["train_loss"] < rows[0]["train_loss"]:
            self._say(
                f"overfitting: validation has risen from {rows[0]['val_loss']:.3f} (step"
                f" {rows[0]['step']}) to {rows[2]['val_loss']:.3f} while training falls; more"
                f" text, more --dropout where there is one, or fewer --steps"
            )

    def _say(self, text):
        if self.writes:
            tqdm.write(text, file=sys.stderr)

    def done(self, step, state):
        """True after the last step. Saves after each evaluation, and when told to stop."""
        self._show_progress(step)
        stopping = self.interrupted is not None
        if world_size() > 1:  # a signal may reach some processes a step before the others
            asked = step == self.recorded or step % 10 == 0  # to ask each other takes time
            stopping = asked and mean_over_processes(stopping) > 0
        if step == self.recorded or stopping:
            self._stop_clock()
            self._save(step, state)
        if step == self.recorded == self.best["step"]:
            self._save_best(state["model"])
        if stopping and step < self.config.steps:
            self._leave(step)
        if step >= self.config.steps:
            return True
        if self.clock is None:
            self._compiled(True)
            self.clock = time.perf_counter()
        return False

    def _compiled(self, wanted):
        """With --compile the steps alone run compiled. An evaluation's sizes, a sample's many
        lengths among them, would be compiled one by one, for longer than a short run trains."""
        if self.config.compile and hasattr(torch.compiler, "set_stance"):  # torch 2.6 or newer
            torch.compiler.set_stance("default" if wanted else "force_eager")

    def _leave(self, step):
        """End the process, which was told to stop, and say how to go on."""
        self.close()
        number = self.interrupted or signal.SIGTERM
        name = signal.Signals(number).name
        at_home = self.folder == Path("runs") / self.version
        out = "" if at_home else f" --out-dir {shlex.quote(str(self.folder))}"
        go_on = f"python {self.script.name} --resume{out}"
        self._say(f"{name}: saved at step {step}; go on with: {go_on}")
        sys.exit(128 + number)

    def _show_progress(self, step):
        self.step = step
        if not self.bar.disable and self.last_loss is not None and step % 10 == 0:
            speed = self.tokens / max(self._seconds(), 1e-9)
            self.bar.set_postfix_str(f"loss {self.last_loss:.3f}, {speed:,.0f} tokens/s", False)
        self.bar.update(step - self.bar.n)

    def finish(self, model, corpus, device):
        """Write model.safetensors, loss.png and result.json, print the row, release the folder.

        result.json comes last: where it is, the run is complete.
        """
        if not self.writes:
            return
        from results.plots import loss_curve

        last, on_gpu = self.metrics[-1], device.type == "cuda"
        n_bytes = corpus.n_bytes
        result = {
            "version": self.version,
            "idea": self.idea,
            "seed": self.config.seed,
            "data": {
                "name": corpus.name,
                "sha256": corpus.sha256,
                "train_bytes": n_bytes["train"],
                "val_bytes": n_bytes["validation"],
            },
            "tokenizer": self.tokenizer_row,
            "config": self._settings(),
            "params": sum(p.numel() for p in model.parameters()),
            "steps": last["step"],
            "tokens_seen": self.tokens,
            "train_loss": last["train_loss"],
            **{key: value for key, value in last.items() if key.startswith("val_")},
            "best_step": self.best["step"],
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens / max(self.seconds, 1e-9), 1),
            "peak_rss_mb": self.peak or peak_rss_mb(),
            "peak_gpu_mb": torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None,
            "environment": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "device": torch.cuda.get_device_name() if on_gpu else device.type,
                "processor": processor(),
                "threads": torch.get_num_threads(),
                "dtype": self.config.dtype,
                "commit": _commit(),
                "script_sha256": hashlib.sha256(self.script.read_bytes()).hexdigest(),
            },
            "sample": self.sample,
            **self.extra,
        }
        self._share_weights()
        floor = corpus.floor and corpus.floor["validation"]
        loss_curve(self.metrics, self.folder / "loss.png", title=self.version, floor=floor)
        write_json(self.folder / "result.json", result)
        self.close()
        print(f"\n{self.sample}\n")
        words = result["val_word_perplexity"]
        per_word = f", {words:,.1f} per word" if words else ""
        print(
            f"perplexity {result['val_perplexity']:,.1f} per token{per_word}; the right token comes"
            f" first in {result['val_accuracy']:.1%}, among the first five in"
            f" {result['val_accuracy_top5']:.1%}"
        )
        above = f" (entropy floor {floor:.3f})" if floor else ""
        memory = result["peak_rss_mb"]
        print(
            f"{self.version} on {corpus.name}: {result['val_bits_per_byte']:.3f} bits per byte"
            f"{above}, {self.seconds:.0f} s of training, {result['tokens_per_second']:,.0f}"
            f" tokens/s, peak memory {memory:.0f} MB; all of it in {self.folder}"
        )
        return result

    # -- checkpoints -------------------------------------------------------------------------

    def _save(self, step, state):
        """checkpoint.pt, whole or not at all; the one before is kept as checkpoint.previous.pt."""
        self._refuse_weights()
        own = {"torch": torch.get_rng_state(), "loss_sum": float(self.loss_sum)}
        if self.device.type != "cpu":
            own[self.device.type] = torch.get_device_module(self.device).get_rng_state()
        own_of_each = gather(own)  # a list: dropout draws differently in each process
        if not self.writes:
            return
        checkpoint = {
            **self._names(step),
            "run": {
                "tokens": self.tokens,
                "seconds": self.seconds,
                "loss_count": self.loss_count,
                "recorded": self.recorded,
                "best": self.best,
                "metrics": self.metrics,
                "sample": self.sample,
                "samples": self.samples,
            },
            "generators": own_of_each,
            "state": {name: _get_state(part) for name, part in state.items()},
        }
        # A damaged checkpoint.pt must not take the place of the good one before it.
        previous = self.folder / CHECKPOINTS[1] if self.whole else None
        with atomic_write(self.folder / CHECKPOINTS[0], previous=previous) as file:
            torch.save({**checkpoint, "sha256": digest(checkpoint)}, file)
        self.whole = True

    def _names(self, step):
        sha256 = self.tokenizer_row["sha256"]
        names = {"version": self.version, "tokenizer": sha256, "step": step}
        return {**names, "config": self._settings()}

    def _save_best(self, model):
        """Keep the weights as best.pt, beside the last checkpoint; --sample-only takes them."""
        if self.writes:
            best = {**self._names(self.recorded), "state": {"model": model.state_dict()}}
            for name in ASKED:  # that was of the weights before
                (self.folder / name).unlink(missing_ok=True)
            with atomic_write(self.folder / "best.pt") as file:
                torch.save({**best, "sha256": digest(best)}, file)

    def _share_weights(self):
        """The best weights as model.safetensors: a file that other programs read, without pickle.

        Its metadata holds the version, the vocabulary's hash, the step and the settings.
        """
        from safetensors.torch import save

        best = self.load(("best.pt", *CHECKPOINTS))
        metadata = {name: str(best[name]) for name in ("version", "tokenizer", "step")}
        metadata["config"] = json.dumps(best["config"])
        weights = {name: value.contiguous() for name, value in best["state"]["model"].items()}
        with atomic_write(self.folder / "model.safetensors") as file:
            file.write(save(weights, metadata))

    def load(self, names=CHECKPOINTS):
        """The first whole checkpoint of this run as a dictionary. Raises UserError where there is
        none, or where it was made with other settings than the run's."""
        problems = []
        for name in names:
            path = self.folder / name
            if not path.exists():
                continue
            try:
                checkpoint = read_checkpoint(path)
            except UserError as error:
                problems.append(str(error))
                self.whole = self.whole and name != CHECKPOINTS[0]
                continue
            if problems and rank() == 0:
                print(f"{problems[0]}; {path} is used instead", file=sys.stderr)
            if checkpoint["version"] != self.version:
                raise UserError(
                    f"{path} was written by {checkpoint['version']}.py, not by {self.version}.py"
                )
            self._refuse_changes(checkpoint["config"])
            return checkpoint
        if problems:
            raise UserError(problems[0])
        raise UserError(
            f"no checkpoint in {self.folder}: the run ended before its first; train anew, without"
            f" --resume or --sample-only"
        )

    def load_weights(self, model, tokenizer):
        """The weights for --sample-only into the model: the best where kept, else the last."""
        _set_state(model, self.saved["state"].get("model"), self.folder)
        if not _is_finite(model.state_dict()):
            raise UserError(f"the weights in {self.folder} are not finite numbers: train anew")

    def _restore(self, state):
        checkpoint, self.saved = self.saved, None
        step = checkpoint["step"]
        if step > self.config.steps:
            raise UserError(
                f"the run in {self.folder} is at step {step} already; --steps {self.config.steps}"
                f" would go back: give more steps, or train anew in another --out-dir"
            )
        for name, part in state.items():
            _set_state(part, checkpoint["state"].get(name), self.folder)
        with _fits(self.folder):
            saved, processes = checkpoint["run"], checkpoint["generators"]
            self.tokens, self.seconds = int(saved["tokens"]), float(saved["seconds"])
            self.loss_count, self.recorded = int(saved["loss_count"]), int(saved["recorded"])
            self.loss_sum = sum(one["loss_sum"] for one in processes) / len(processes)
            self.best = {name: saved["best"][name] for name in ("step", "loss")}
            self.metrics = [{"step": row["step"], **row} for row in saved["metrics"]]
            self.sample, self.samples = str(saved["sample"]), str(saved["samples"])
            if len(processes) == world_size():
                own = processes[rank()]
                self.loss_sum = own["loss_sum"]
                torch.set_rng_state(own["torch"])
                if self.device.type in own:
                    torch.get_device_module(self.device).set_rng_state(own[self.device.type])
            else:
                self._say(f"trained by {len(processes)} processes so far, now by {world_size()}:")
                self._say("the batches stay the same, what dropout drops does not")
        self._say(f"resuming {self.folder} at step {step}")
        return step

    # -- files -------------------------------------------------------------------------------

    def _append(self, name, text):
        with failures_told(self.folder / name):
            with open(self.folder / name, "a", encoding="utf-8", newline="\n") as file:
                file.write(text)

    # -- clock and signals -------------------------------------------------------------------

    def _seconds(self):
        return self.seconds + (time.perf_counter() - self.clock if self.clock is not None else 0)

    def _stop_clock(self):
        if self.clock is not None:
            if self.device.type != "cpu":  # what was asked of the GPU so far counts too
                torch.get_device_module(self.device).synchronize()
            self.seconds, self.clock = self._seconds(), None
        self._compiled(False)  # what is not timed is no step

    def _stop(self, number, frame):
        if self.interrupted is not None:  # the second time: at once
            raise KeyboardInterrupt
        self.interrupted = number
        print("\nstopping after this step (again to stop at once)", file=sys.stderr)


def read_checkpoint(path):
    """A checkpoint's dictionary: tensors and plain values only, so that no code in it can run.

    The file is a zip archive; its checksums and one of our own tell whether it is whole. It is read
    only if its parts are no longer than the file, so it takes no more memory than disk. Raises
    UserError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise UserError(f"{path} is compressed: checkpoints of this project are not")
            if sum(part.file_size for part in parts) > os.path.getsize(path):
                raise UserError(f"{path} claims to hold more than its own length")
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(f"{path} is damaged (the checksum of {damaged} is wrong)")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError:  # torch's own message tells how to run the code all the same
        raise UserError(
            f"{path} holds more than tensors and plain values: it was not read, and no code in it"
            f" was run"
        ) from None
    except zipfile.BadZipFile:
        raise UserError(f"{path} is not a whole checkpoint (cut short, or another file)") from None
    except Exception as error:  # whatever the readers of archives raise where bytes have changed
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} can't be read as a checkpoint: {reason}") from None
    kinds = {"version": str, "tokenizer": str, "step": int, "config": dict, "state": dict}
    found = checkpoint if isinstance(checkpoint, dict) else {}
    wrong = [name for name, kind in kinds.items() if type(found.get(name)) is not kind]
    if wrong:
        raise UserError(f"{path} is not a checkpoint of this project: see its {', '.join(wrong)}")
    if checkpoint.pop("sha256", None) != digest(checkpoint):
        raise UserError(f"{path} is damaged (its own checksum is wrong)")
    return checkpoint


def digest(value):
    """The hash of nested dictionaries and lists of tensors and plain values.

    An archive's checksums protect its parts, but not its directory: a flipped bit there can make
    torch read zeros for a tensor.
    """
    hashed = hashlib.sha256()

    def add(part):
        if torch.is_tensor(part):
            hashed.update(f"{part.dtype} {tuple(part.shape)}".encode())
            hashed.update(part.detach().cpu().flatten().view(torch.uint8).numpy())
        elif isinstance(part, dict):
            add([*part.keys(), *part.values()])
        elif isinstance(part, (list, tuple)):
            hashed.update(str(len(part)).encode())
            for one in part:
                add(one)
        else:
            hashed.update(f"{part!r};".encode())

    add(value)
    return hashed.hexdigest()


def _is_half_moved(aside, names):
    """Does that folder hold the first part of a run of which these names are the rest?"""
    there = {path.name for path in aside.iterdir()} if aside.is_dir() else {""}
    return there <= set(FILES[:-1]) - set(names)  # config.json would have come last


def _is_finite(weights):
    return all(bool(value.isfinite().all()) for value in weights.values())


def _get_state(part):
    return part.state_dict() if hasattr(part, "state_dict") else part.get_state()


def _set_state(part, value, folder):
    with _fits(folder):
        part.load_state_dict(value) if hasattr(part, "state_dict") else part.set_state(value)


@contextlib.contextmanager
def _fits(folder):
    """Tell in one line that a checkpoint, though whole, holds something else than was expected."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a value of another kind leads to
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise UserError(f"the checkpoint in {folder} doesn't fit this model: {reason}") from None


def peak_rss_mb():
    """The most resident memory this process has held so far, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource  # macOS counts in bytes
    except ImportError:
        import psutil  # Windows

        return psutil.Process().memory_info().peak_wset / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def processor():
    """The CPU's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():  # Linux; on ARM it has no names
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit():
    """The checkout's commit, with a + where files have changed since, or None outside git."""
    here = Path(__file__).parent
    try:
        git, options = ["git", "-C", str(here)], {"capture_output": True, "encoding": "utf-8"}
        head = subprocess.run([*git, "rev-parse", "HEAD"], **options)
        if head.returncode:
            return None
        changed = subprocess.run([*git, "status", "--porcelain"], **options)
        return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
    except OSError:
        return None

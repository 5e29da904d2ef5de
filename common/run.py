"""A run's folder: settings, metrics, checkpoints, samples, curve and result, and how to resume.

The training loop stands in the scripts. What stands here is everything that must not be lost and
is no lesson: atomic files, the checkpoint, the clock, the progress bar, Ctrl-C.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
import platform
import shlex
import shutil
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
from common.distributed import gather, mean_over_processes, rank, world_size
from common.errors import UserError
from common.files import atomic_write
from common.memory import describe_model, estimate_memory
from common.tokenizers import END_OF_TEXT, load_tokenizer, load_tokenizer_file

FILES = (
    "config.json metrics.jsonl checkpoint.pt checkpoint.previous.pt best.pt samples.txt loss.png"
    " script.py tokenizer.json result.json probes.json diagnostics.json"
).split()


def pick_device(name):
    """The torch device for --device: auto takes CUDA, then MPS, then the CPU."""
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} can't be used here: {reason}; try --device cpu") from None
    return device


def compile_if_asked(model, config, device):
    """torch.compile the model in place for --compile; where that fails, say why and go on."""
    if not config.compile:
        return
    try:
        model.compile()
        idx = torch.zeros(2, config.context_length, dtype=torch.long, device=device)
        model(idx).sum().backward()
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
        self.step, self.last_loss = 0, None
        # WikiText spaces its punctuation: people get to see it as it is usually written.
        self.readable = detokenize if config.data.startswith("wikitext") else str
        if config.resume or config.sample_only:
            self._refuse_changes()
        self.writes = rank() == 0 and not config.sample_only  # of several processes, the first
        if self.writes:
            self._take_folder()

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
        if self.bar is not None:
            self.bar.close()
        if self.lock is not None and self.lock.is_locked:
            self.lock.release()
            with contextlib.suppress(OSError):
                (self.folder / ".lock").unlink(missing_ok=True)
                for path in self.created:  # the run's folder, then those above it
                    path.rmdir()  # raises OSError, and so ends this, where something is in it

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _refuse_changes(self):
        """--resume and --sample-only take the saved settings; a change is refused."""
        saved = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))["config"]
        now = dataclasses.asdict(self.config)
        changed = [k for k in now if now[k] != saved.get(k) and k not in SAFE_TO_CHANGE]
        if changed:
            what = ", ".join(f"{k} is {saved.get(k)!r}, not {now[k]!r}" for k in changed)
            raise UserError(
                f"the run in {self.folder} was made with other settings: {what}."
                f" Leave those flags out, or train anew in another --out-dir"
            )

    def load_tokenizer(self, corpus):
        """The saved run's tokenizer with --resume or --sample-only, else the one asked for."""
        config = self.config
        if config.resume or config.sample_only:
            return load_tokenizer_file(self.folder / "tokenizer.json")
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
        step = 0
        if self.config.resume:
            step = self._restore(tokenizer, state)
        elif self.writes:
            self._move_aside()
            shutil.copyfile(self.script, self.folder / "script.py")
            tokenizer.save(self.folder / "tokenizer.json")
        if rank() and not self.config.resume:  # dropout that each process draws for itself
            torch.manual_seed(self.config.seed + rank())
        self.tokenizer_row = {
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.sha256,
            "lossless": getattr(tokenizer, "lossless", True),  # else bits per byte leave some out
        }
        settings = {**dataclasses.asdict(self.config), "resume": False, "sample_only": False}
        if self.writes:
            self._write_json("config.json", {"version": self.version, "config": settings})
            self._rewrite_metrics()
        handlers = (signal.SIGINT, signal.SIGTERM)
        self.old_handlers = {number: signal.signal(number, self._stop) for number in handlers}
        self.bar = tqdm(
            total=self.config.steps,
            initial=step,
            unit="step",
            disable=None if self.writes else True,  # None: shown on a terminal only
            dynamic_ncols=True,
        )
        return step

    def _move_aside(self):
        old = [self.folder / name for name in FILES if (self.folder / name).exists()]
        if (self.folder / "config.json") not in old:
            return
        number = 1
        while Path(f"{self.folder}.{number}").exists():
            number += 1
        aside = Path(f"{self.folder}.{number}")
        aside.mkdir()
        for path in old:
            os.replace(path, aside / path.name)
        print(f"the run that was in {self.folder} is now in {aside}")

    # -- the loop's own calls ----------------------------------------------------------------

    def due(self, step):
        """True every eval_every steps, before the first and after the last: time to evaluate."""
        due = step % self.config.eval_every == 0 or step == self.config.steps
        if due and step > self.recorded:
            self._stop_clock()
            return True
        return False

    def count(self, loss, tokens):
        """Note the loss (a scalar tensor, nats per token) of a batch of so many tokens.

        On a GPU the loss is only added up, since reading it would make the CPU wait.
        """
        self.loss_sum = self.loss_sum + loss.detach().double()
        self.loss_count += 1
        self.tokens += tokens * world_size()
        if loss.device.type == "cpu":
            self.last_loss = loss.item()
            self._refuse_nan(self.last_loss)

    def _refuse_nan(self, loss):
        if loss - loss != 0:  # true for NaN and for both infinities
            raise UserError(
                f"the loss became {loss} after step {self.step} with learning rate"
                f" {self.config.learning_rate:g}: try a lower --learning-rate. The last good"
                f" checkpoint is kept in {self.folder}"
            )

    def describe(self, model):
        """Say how many parameters the model has, by module, and what memory a step needs."""
        device = next(model.parameters()).device
        self.extra["memory_estimate_mb"] = estimate_memory(model, self.config, device)
        for line in describe_model(model, self.extra["memory_estimate_mb"]):
            self._say(line)

    def reference(self, name, bits_per_byte):
        """Note what a simpler method reaches on the same tokens, beside this run's number."""
        self.extra.setdefault("references", {})[name] = bits_per_byte
        self._say(f"{name}: {bits_per_byte:.3f} bits per byte")

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
        if self.writes:
            self._append("metrics.jsonl", json.dumps(line) + "\n")
            self._append("samples.txt", f"--- step {step} ---\n{sample}\n\n")
        self.sample = sample
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
            stopping = mean_over_processes(stopping) > 0
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
            self.clock = time.perf_counter()
        return False

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
        """Write result.json and loss.png, print the row, release the folder."""
        if not self.writes:
            return
        from common.plots import loss_curve

        last = self.metrics[-1]
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
            "config": dataclasses.asdict(self.config),
            "params": sum(p.numel() for p in model.parameters()),
            "steps": last["step"],
            "tokens_seen": self.tokens,
            "train_loss": last["train_loss"],
            **{key: value for key, value in last.items() if key.startswith("val_")},
            "best_step": self.best["step"],
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens / max(self.seconds, 1e-9), 1),
            "peak_rss_mb": peak_rss_mb(),
            "environment": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
                "threads": torch.get_num_threads(),
                "dtype": self.config.dtype,
                "commit": _commit(),
                "script_sha256": hashlib.sha256(self.script.read_bytes()).hexdigest(),
            },
            "sample": self.sample,
            **self.extra,
        }
        self._write_json("result.json", result)
        floor = corpus.floor and corpus.floor["validation"]
        loss_curve(self.metrics, self.folder / "loss.png", title=self.version, floor=floor)
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)
        self.close()
        print(f"\n{self.sample}\n")
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
        """checkpoint.pt, whole or not at all; the one before stays until the new one is there."""
        generators = {"torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            generators["cuda"] = torch.cuda.get_rng_state()
        generators = gather(generators)  # a list: dropout draws differently in each process
        if not self.writes:
            return
        checkpoint = {
            **self._names(step),
            "run": {
                "tokens": self.tokens,
                "seconds": self.seconds,
                "loss_sum": float(self.loss_sum),
                "loss_count": self.loss_count,
                "recorded": self.recorded,
                "best": self.best,
            },
            "generators": generators,
            "state": {name: _get_state(part) for name, part in state.items()},
        }
        previous = self.folder / "checkpoint.previous.pt"
        with atomic_write(self.folder / "checkpoint.pt", previous=previous) as file:
            torch.save(checkpoint, file)
        with contextlib.suppress(OSError):
            previous.unlink(missing_ok=True)

    def _names(self, step):
        sha256 = self.tokenizer_row["sha256"]
        return {"version": self.version, "tokenizer": sha256, "step": step}

    def _save_best(self, model):
        """Keep the weights as best.pt, beside the last checkpoint; --sample-only takes them."""
        if self.writes:
            with atomic_write(self.folder / "best.pt") as file:
                weights = {"state": {"model": model.state_dict()}}
                torch.save({**self._names(self.recorded), **weights}, file)

    def load(self, names=("checkpoint.pt", "checkpoint.previous.pt")):
        """The newest whole checkpoint as a dictionary. Raises UserError where there is none."""
        problems = []
        for name in names:
            path = self.folder / name
            if not path.exists():
                continue
            try:
                checkpoint = read_checkpoint(path)
            except UserError as error:
                problems.append(str(error))
                continue
            if problems:
                print(f"{problems[0]}; the checkpoint before it is used", file=sys.stderr)
            if checkpoint["version"] != self.version:
                raise UserError(
                    f"{path} was written by {checkpoint['version']}.py, not by {self.version}.py"
                )
            return checkpoint
        if problems:
            raise UserError(problems[0])
        raise UserError(f"no checkpoint in {self.folder}: train first, without --resume")

    def load_weights(self, model, tokenizer):
        """The weights for --sample-only into the model: the best where kept, else the last."""
        checkpoint = self.load(("best.pt", "checkpoint.pt", "checkpoint.previous.pt"))
        self._check_vocabulary(checkpoint, tokenizer)
        _set_state(model, checkpoint["state"]["model"], self.folder)

    def _check_vocabulary(self, checkpoint, tokenizer):
        if checkpoint["tokenizer"] != tokenizer.sha256:
            raise UserError(
                f"the checkpoint in {self.folder} was trained with another vocabulary than its"
                f" tokenizer.json holds: put the right file back, or train anew"
            )

    def _restore(self, tokenizer, state):
        checkpoint = self.load()
        self._check_vocabulary(checkpoint, tokenizer)
        step = checkpoint["step"]
        if step > self.config.steps:
            raise UserError(
                f"the run in {self.folder} is at step {step} already; --steps {self.config.steps}"
                f" would go back: give more steps, or train anew in another --out-dir"
            )
        for name, part in state.items():
            _set_state(part, checkpoint["state"][name], self.folder)
        generators = checkpoint["generators"]
        if len(generators) == world_size():
            torch.set_rng_state(generators[rank()]["torch"])
            if "cuda" in generators[rank()] and torch.cuda.is_available():
                torch.cuda.set_rng_state(generators[rank()]["cuda"])
        else:
            self._say(f"trained by {len(generators)} processes so far, now by {world_size()}:")
            self._say("the batches stay the same, what dropout drops does not")
        for name, value in checkpoint["run"].items():
            setattr(self, name, value)
        self._read_metrics()
        self._say(f"resuming {self.folder} at step {step}")
        return step

    # -- files -------------------------------------------------------------------------------

    def _read_metrics(self):
        """The lines up to the checkpoint; what a killed run wrote after it is dropped."""
        self.metrics, self.sample = [], ""
        path = self.folder / "metrics.jsonl"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break  # a line that was being written when the run was killed
            if row["step"] <= self.recorded:
                self.metrics.append(row)
        path = self.folder / "samples.txt"
        samples = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        head = f"--- step {self.recorded} ---\n"
        if head in samples:
            kept, _, rest = samples.rpartition(head)
            self.sample = rest.split("\n\n--- step ")[0].removesuffix("\n\n")
            samples = kept + head + self.sample + "\n\n"
        self.samples = samples

    def _rewrite_metrics(self):
        lines = "".join(json.dumps(row) + "\n" for row in self.metrics)
        with atomic_write(self.folder / "metrics.jsonl", "w") as file:
            file.write(lines)
        with atomic_write(self.folder / "samples.txt", "w") as file:
            file.write(getattr(self, "samples", ""))

    def _append(self, name, text):
        try:
            with open(self.folder / name, "a", encoding="utf-8", newline="\n") as file:
                file.write(text)
        except OSError as error:
            raise UserError(
                f"can't write {self.folder / name}: {error.strerror}; the last checkpoint is kept:"
                f" make room, then go on with --resume"
            ) from None

    def _write_json(self, name, value):
        with atomic_write(self.folder / name, "w") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.write("\n")

    # -- clock and signals -------------------------------------------------------------------

    def _seconds(self):
        return self.seconds + (time.perf_counter() - self.clock if self.clock is not None else 0)

    def _stop_clock(self):
        if self.clock is not None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # what was asked of the GPU so far counts too
            self.seconds, self.clock = self._seconds(), None

    def _stop(self, number, frame):
        if self.interrupted is not None:  # the second time: at once
            raise KeyboardInterrupt
        self.interrupted = number
        print("\nstopping after this step (again to stop at once)", file=sys.stderr)


def read_checkpoint(path):
    """A checkpoint's dictionary: tensors and plain values only, so that no code in it can run.

    The file is a zip archive; its own checksums tell whether it is whole. Raises UserError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(f"{path} is damaged (the checksum of {damaged} is wrong)")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"version", "tokenizer", "step", "state"} - set(checkpoint)
    except zipfile.BadZipFile:
        raise UserError(f"{path} is not a whole checkpoint (cut short, or another file)") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} can't be read as a checkpoint: {reason}") from None
    if missing:
        raise UserError(f"{path} is not a checkpoint of this project: it lacks {sorted(missing)}")
    return checkpoint


def _get_state(part):
    return part.state_dict() if hasattr(part, "state_dict") else part.get_state()


def _set_state(part, value, folder):
    try:
        part.load_state_dict(value) if hasattr(part, "state_dict") else part.set_state(value)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
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


def _commit():
    """The checkout's commit, with a + where files have changed since, or None outside git."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        if head.returncode:
            return None
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
        return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
    except OSError:
        return None

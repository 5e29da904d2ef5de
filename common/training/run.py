"""A run: its folder, its checkpoints, its log, and the machine that it computes on.

The training loop stands in the scripts. What stands here must not be lost and is no lesson.
"""

import dataclasses
import hashlib
import json
import os
import shlex
import signal
import sys
from pathlib import Path

from common.cli import default_folder, version_of
from common.config import SAFE_TO_CHANGE
from common.data import detokenize
from common.errors import NotFinite, UserError
from common.files import atomic_write, read_json, write_errors, write_json
from common.tokenizers import END_OF_TEXT, load_tokenizer, load_tokenizer_file
from common.training import log as logging
from common.training.checkpoint import (
    fitting,
    get_state,
    is_finite,
    read_checkpoint,
    set_state,
    write_checkpoint,
)
from common.training.curve import draw_loss
from common.training.environment import describe_environment, peak_rss_mb
from common.training.folder import CHECKPOINTS, MEASURED, RunFolder
from common.training.machine import pick_device, pick_dtype, prepare, to_device
from common.training.memory import describe_model, estimate_memory, keep_freed_memory
from common.training.processes import (
    average_gradients,
    gather,
    join_processes,
    mean_over_processes,
    rank,
    world_size,
)
from common.training.result import Result
from common.training.signals import StopSignals

import msgspec
import torch

BUNDLED = ("sample", "copy", "wikitext-")


class Run:
    """One training run in its folder `config.out_dir`, held by a lock while it lasts.

    with Run(config, __file__, __doc__) as run:   the folder and the device; nothing is written yet
        run.load_tokenizer(corpus)                the saved one, or one trained on the corpus
        run.prepare(model)                        device, --dtype, --compile, ...
        run.start(...)                            writes the settings, or restores the checkpoint
        run.first_step, run.evaluation_steps      where the loop begins, when it evaluates
        run.log_step(...), run.log_evaluation(...), run.save_checkpoint(step)
        run.interrupted, run.save_and_exit(step)  a signal wants the run to stop
        run.finish(scores)                        result.json and loss.png

    Raises UserError where the folder is in use, unwritable or holds another run.
    """

    def __init__(self, config, script, description):
        self.config, self.script = config, Path(script)
        self.source = self.script.read_bytes()  # what runs, whatever becomes of the file
        self.version = self.script.stem
        self.idea = description.strip().splitlines()[0].partition(": ")[2].rstrip(".")
        self.device = join_processes(pick_device(config.device), config)
        self.dtype = pick_dtype(config.dtype, self.device)
        self.folder = RunFolder(config.out_dir)
        self.signals, self.interrupted = StopSignals(), False
        self.first_step, self.evaluation_steps, self.step = 0, set(), 0
        self.extra, self.notes = {}, []
        self.whole = True  # whether checkpoint.pt could be read
        # WikiText spaces its punctuation: people get to see it as it is usually written.
        self.readable = detokenize if config.data.startswith("wikitext") else str
        self.writes = rank() == 0 and not config.sample_only  # of several processes, the first
        self.log = logging.Log(self.folder, self.writes)
        if self.writes:
            self.folder.take()
        try:
            if config.resume:
                self.saved = self._load(CHECKPOINTS)
            if config.sample_only:  # the best weights where they were kept, else the last
                self.saved = self._load(("best.pt", *CHECKPOINTS))
        except UserError:
            self.close()
            raise

    def close(self):
        """Give back the signals and the folder."""
        self.signals.restore()
        self.log.close()
        self.folder.release()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.close()
        # The evaluation, or the draw of a token from the logits: neither knows the step.
        if isinstance(error, NotFinite) or "probability tensor contains" in str(error):
            raise UserError(self._not_finite("the validation loss is not finite")) from None

    # -- before the loop -------------------------------------------------------------------------

    def load_tokenizer(self, corpus):
        """The saved run's tokenizer with --resume or --sample-only, else the one of the settings.

        Without a --prompt it also takes over one that suits the corpus.
        """
        self.corpus, config = corpus, self.config
        if config.resume or config.sample_only:
            path = self.folder / "tokenizer.json"
            if not path.exists():
                raise UserError(f"{path} is missing: put it back, or train again")
            self.tokenizer = load_tokenizer_file(path)
            if self.saved["tokenizer"] != self.tokenizer.sha256:
                raise UserError(
                    f"the checkpoint in {self.folder.path} was trained with another vocabulary than"
                    f" its tokenizer.json holds: put the right file back, or train again"
                )
            if corpus is not None and self.saved.get("data", corpus.sha256) != corpus.sha256:
                raise UserError(
                    f"the run in {self.folder.path} was trained on another text than"
                    f" {corpus.name} holds now: put that text back, or train again"
                )
            return self.tokenizer
        config.prompt = config.prompt or getattr(corpus, "default_prompt", "One morning")
        special = (END_OF_TEXT,) if config.end_of_text else ()
        self.tokenizer = load_tokenizer(
            config.tokenizer, corpus, config.vocab_size, config.split_pattern, special
        )
        if corpus.note:
            self.notes.append(f"{corpus.name}: {corpus.note}")
        size = self.tokenizer.vocab_size
        if config.tokenizer == "bpe" and size < config.vocab_size:
            self.notes.append(
                f"vocabulary: {size:,} tokens of {config.vocab_size:,}, since every chunk of the"
                " text is one token by then"
            )
        return self.tokenizer

    def prepare(self, model):
        """The model on its device, with its training steps in the number format of the settings,
        compiled or with activation checkpointing where the settings say so."""
        self.model = prepare(model, self.config, self.device)
        if self.config.sample_only:
            set_state(model, self.saved["state"].get("model"), self.folder.path)
            if not is_finite(model.state_dict()):
                raise UserError(f"the weights in {self.folder.path} are not finite: train again")
        return model

    def start(self, tokens, val_tokens, optimizer, generator):
        """Begin in an empty folder, or go on from the checkpoint.

        A run that stood in the folder before is moved aside, never overwritten.
        """
        T = self.config.context_length
        if len(tokens) <= T:
            raise UserError(
                f"the training text has {len(tokens)} tokens, too few for a context of {T}: give a"
                " longer text or a smaller --context-length"
            )
        for note in self.notes:
            self.log.say(note)
        self.optimizer = optimizer
        self.state = {"model": self.model, "optimizer": optimizer, "batches": generator}
        last_evaluated = -1
        if self.config.resume:
            last_evaluated = self._restore()
            self._leave_if_finished()
        elif self.writes:
            self._begin_folder()
        if self.config.dtype == "auto":
            self.log.say(f"training steps compute in {str(self.dtype).removeprefix('torch.')}")
        self._estimate_memory()
        if rank() and not self.config.resume:  # dropout that each process draws for itself
            torch.manual_seed(self.config.seed + rank())
        steps = logging.evaluation_steps(self.config)
        self.evaluation_steps = {step for step in steps if step > last_evaluated}
        self.val_limit = logging.evaluation_limit(self.config, len(val_tokens))
        # The last evaluation is of the whole split, but of a user's text no longer than training.
        bundled = self.config.data.startswith(BUNDLED)
        read = self.config.steps * logging.tokens_per_step(self.config)
        self.final_limit = len(val_tokens) if bundled else min(len(val_tokens), max(read, T + 1))
        if self.val_limit < len(val_tokens):
            self.log.say(
                f"evaluations along the way are on the first {self.val_limit / len(val_tokens):.0%}"
                " of the validation split"
            )
        self.signals.install()
        self.log.open(self.config)

    def _begin_folder(self):
        self.folder.move_older_run_aside()
        with atomic_write(self.folder / "script.py") as file:
            file.write(self.source)
        for half in self.folder.path.glob("tokenizer.json.*.tmp"):  # of a start that was killed
            half.unlink()
        with write_errors(self.folder / "tokenizer.json"):
            self.tokenizer.save(self.folder / "tokenizer.json")
        settings = {"version": self.version, "config": self._settings()}
        write_json(self.folder / "config.json", settings)

    def _estimate_memory(self):
        keep_freed_memory()
        estimate = estimate_memory(self.model, self.config, self.device)
        self.extra["memory_estimate_mb"] = estimate
        for line in describe_model(self.model, estimate):
            self.log.say(line)

    def _settings(self):
        return {**dataclasses.asdict(self.config), "resume": False, "sample_only": False}

    def _leave_if_finished(self):
        """A finished run is left as it is: its result was measured when it ran."""
        path = self.folder / "result.json"
        if self.first_step < self.config.steps or not path.exists():
            return
        try:
            if read_json(path, "a run's result", Result).steps != self.first_step:
                return  # of fewer steps, before it was given more
        except UserError as error:
            self.log.say(f"{error}; it is written again")
            return
        self.log.say(
            f"the run in {self.folder.path} is finished, nothing is left to do: give more --steps"
            f" to train on, or --sample-only to continue a prompt"
        )
        self.close()
        sys.exit(0)

    # -- in the loop -----------------------------------------------------------------------------

    def to_device(self, x, y):
        """The batch on the run's device; of several processes each takes its share of the rows."""
        return to_device(x, y, self.device)

    def average_gradients(self, model):
        """Replace each gradient by its mean over the processes, where there are several."""
        average_gradients(model)

    def log_step(self, loss, tokens):
        """Note a step: its loss (a scalar tensor, nats per token) and how many tokens it read."""
        self.log.step(loss, tokens)
        self.step += 1
        self._check_finite("the loss", self.log.last_loss)
        stopping = self.signals.received is not None
        if world_size() > 1:  # a signal may reach some processes a step before the others, and
            agree = self.step % 10 == 0  # it takes time to agree
            stopping = agree and mean_over_processes(stopping) > 0
        self.interrupted = stopping

    def log_baseline(self, name, bits_per_byte):
        """Note what a simpler method reaches on the same tokens."""
        self.extra.setdefault("references", {})[name] = bits_per_byte
        self.log.say(f"{name}: {bits_per_byte:.3f} bits per byte")

    def log_evaluation(self, step, scores, sample):
        """Note an evaluation: the scores and a sample, on the screen and in the folder's files."""
        self._refuse_weights()
        train_loss = self.log.mean_loss()
        self._check_finite("the loss", train_loss)
        self._check_finite("the validation loss", scores["loss"])
        self.log.evaluation(step, scores, train_loss, self.readable(sample))

    def log_long_context(self, times, T, side_by_side, sliding):
        """Note bits per byte of windows of T tokens, so many times the training context.

        Exits where a signal wants the run to stop: the last step is saved, --resume comes here.
        """
        if self.signals.received is not None:
            self._exit(self.config.steps)
        if times == 1:
            self.extra["extrapolation"] = []
            self.extra["peak_rss_mb"] = peak_rss_mb()  # eight times the context is another matter
            self.log.say("bits per byte beyond the training context:")
            self.log.say("  times  tokens  side by side  sliding")
        self.log.say(f"  {times:>5}  {T:>6}  {side_by_side:>12.3f}  {sliding:>7.3f}")
        row = {"times": times, "context": T, "side_by_side": side_by_side, "sliding": sliding}
        self.extra["extrapolation"].append(row)

    def save_checkpoint(self, step):
        """checkpoint.pt, whole or not at all; the one before is kept as checkpoint.previous.pt.

        Where the last evaluation was the best so far, its weights are kept as best.pt too.
        """
        self._refuse_weights()
        own = {"torch": torch.get_rng_state(), "loss_sum": float(self.log.loss_sum)}
        if self.device.type != "cpu":
            own[self.device.type] = torch.get_device_module(self.device).get_rng_state()
        own_of_each = gather(own)  # a list: dropout draws differently in each process
        if self.writes:
            evaluated = self.log.metrics[-1]["step"] if self.log.metrics else -1
            content = {
                **self._names(step),
                "run": {**self.log.state(), "evaluated": evaluated},
                "generators": own_of_each,
                "state": {name: get_state(part) for name, part in self.state.items()},
            }
            # A damaged checkpoint.pt must not take the place of the good one before it.
            previous = self.folder / CHECKPOINTS[1] if self.whole else None
            write_checkpoint(self.folder / CHECKPOINTS[0], content, previous)
            self.whole = True
            if step == evaluated == self.log.best["step"]:
                for name in MEASURED:  # that was of the weights before
                    (self.folder / name).unlink(missing_ok=True)
                best = {**self._names(step), "state": {"model": self.model.state_dict()}}
                write_checkpoint(self.folder / "best.pt", best)
        self.log.start_clock()

    def save_and_exit(self, step):
        """Save, say how to go on and end the program with the signal's exit status."""
        self.save_checkpoint(step)
        self._exit(step)

    def _exit(self, step):
        self.close()
        number = self.signals.received or signal.SIGTERM
        home = Path(default_folder(version_of(type(self.config)), self.config))
        out = "" if self.folder.path == home else f" --out-dir {shlex.quote(str(self.folder.path))}"
        data = "" if self.config.data == "sample" or out else f" --data {self.config.data}"
        go_on = f"python {self.script.name} --resume{data}{out}"
        self.log.say(f"{signal.Signals(number).name}: saved at step {step}; go on with: {go_on}")
        sys.exit(128 + number)

    def _names(self, step):
        names = {"version": self.version, "tokenizer": self.tokenizer.sha256, "step": step}
        return {**names, "data": self.corpus.sha256, "config": self._settings()}

    def _check_finite(self, what, loss):
        rate = self.optimizer.param_groups[0]["lr"]
        logging.check_finite(loss, self.step, rate, self.folder.path, what)

    def _refuse_weights(self):
        """A gradient that is not finite spoils the weights, not this step's loss: look at both."""
        if not is_finite(self.model.state_dict()):
            raise UserError(self._not_finite("weights became nan or infinite"))

    def _not_finite(self, what):
        return (
            f"{what} after step {self.step}: try a lower --learning-rate. The last good checkpoint"
            f" is kept in {self.folder.path}"
        )

    # -- after the loop --------------------------------------------------------------------------

    def finish(self, scores):
        """Write model.safetensors, result.json and loss.png, print the row, release the folder.

        scores: the last evaluation, of the whole validation split.
        """
        if not self.writes:
            return
        log, last, on_gpu = self.log, self.log.metrics[-1], self.device.type == "cuda"
        corpus, n_bytes = self.corpus, self.corpus.n_bytes
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
            "tokenizer": {
                "kind": self.tokenizer.kind,
                "vocab_size": self.tokenizer.vocab_size,
                "sha256": self.tokenizer.sha256,
                "lossless": getattr(self.tokenizer, "lossless", True),
            },
            "config": self._settings(),
            "params": sum(p.numel() for p in self.model.parameters()),
            "steps": last["step"],
            "tokens_seen": log.tokens,
            "train_loss": last["train_loss"],
            **{f"val_{name}": value for name, value in scores.items()},
            "best_step": log.best["step"],
            "seconds": round(log.seconds, 3),
            "tokens_per_second": round(log.tokens / max(log.seconds, 1e-9), 1),
            "peak_rss_mb": peak_rss_mb(),
            "peak_gpu_mb": torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None,
            "environment": describe_environment(
                self.device, self.dtype, hashlib.sha256(self.source).hexdigest()
            ),
            "sample": log.sample,
            **self.extra,
        }
        self._share_weights()
        write_json(self.folder / "result.json", msgspec.convert(result, Result))
        entropy = corpus.floor and corpus.floor["validation"]
        try:
            with atomic_write(self.folder / "loss.png") as file:
                draw_loss(log.metrics, file, f"{self.version} on {corpus.name}", entropy)
        except Exception as error:  # whatever a backend raises: the result is written already
            log.say(f"loss.png could not be drawn: {error}")
        self.close()
        print("\n".join(describe_result(result, log.sample, entropy, self.folder.path)))

    def _share_weights(self):
        """The best weights as model.safetensors: a file that other programs read, without pickle.

        Its metadata holds the version, the vocabulary's hash, the step and the settings.
        """
        from safetensors.torch import save

        best = self._load(("best.pt", *CHECKPOINTS))
        metadata = {name: str(best[name]) for name in ("version", "tokenizer", "step")}
        metadata["config"] = json.dumps(best["config"])
        weights = {name: value.contiguous() for name, value in best["state"]["model"].items()}
        with atomic_write(self.folder / "model.safetensors") as file:
            file.write(save(weights, metadata))

    def print_samples(self, model, tokenizer, generate):
        """Print config.n_samples continuations of the prompt, each from a seed of its own."""
        for i in range(self.config.n_samples):
            config = dataclasses.replace(self.config, seed=self.config.seed + i)
            if self.config.n_samples > 1:
                print(f"--- seed {config.seed} ---")
            print(self.readable(generate(model, config, tokenizer, self.device)), flush=True)

    # -- checkpoints -----------------------------------------------------------------------------

    def _load(self, names):
        """The first whole checkpoint of this run as a dictionary. Raises UserError where there is
        none, or where it was made with other settings than the run's."""
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
            if checkpoint["version"] != self.version:
                raise UserError(
                    f"{path} was written by {checkpoint['version']}.py, not by {self.version}.py"
                )
            self._refuse_changes(checkpoint["config"])
            return checkpoint
        if problems:
            raise UserError(problems[0])
        raise UserError(
            f"no checkpoint in {self.folder.path}: the run ended before its first; train again,"
            f" without --resume or --sample-only"
        )

    def _refuse_changes(self, saved):
        """--resume and --sample-only take the saved settings; a change is refused.

        The checkpoint's copy of them decides: config.json may have been edited or damaged.
        """
        now = dataclasses.asdict(self.config)
        safe = SAFE_TO_CHANGE | ({"seed"} if self.config.sample_only else set())
        changed = [k for k in now if k not in safe and now[k] != saved.get(k)]
        if changed:
            what = ", ".join(f"{k} is {saved.get(k)!r}, not {now[k]!r}" for k in changed)
            raise UserError(
                f"the run in {self.folder.path} was made with other settings: {what}. Leave those"
                f" flags out (or put its config.json back), or train again in another --out-dir"
            )

    def _restore(self):
        """Put the checkpoint's state back; return the last step that was evaluated."""
        checkpoint, self.saved = self.saved, None
        step, folder = checkpoint["step"], self.folder.path
        if step > self.config.steps:
            raise UserError(
                f"the run in {folder} is at step {step} already; --steps {self.config.steps} would"
                f" go back: give more steps, or train again in another --out-dir"
            )
        for name, part in self.state.items():
            set_state(part, checkpoint["state"].get(name), folder)
        with fitting(folder):
            saved, processes = checkpoint["run"], checkpoint["generators"]
            self.log.restore(saved)
            self.log.loss_sum = sum(one["loss_sum"] for one in processes) / len(processes)
            if len(processes) == world_size():
                own = processes[rank()]
                self.log.loss_sum = own["loss_sum"]
                torch.set_rng_state(own["torch"])
                if self.device.type in own:
                    torch.get_device_module(self.device).set_rng_state(own[self.device.type])
            else:
                self.log.say(
                    f"trained by {len(processes)} processes so far, now by {world_size()}: the"
                    " batches stay the same, what dropout drops does not"
                )
            evaluated = int(saved["evaluated"])
        self.first_step = self.step = step
        self.log.say(f"resuming {folder} at step {step}")
        return evaluated


def describe_result(result, sample, entropy, folder):
    """The lines that a run ends with; the last one names a command to try next."""
    words = result["val_word_perplexity"]
    per_word = f", {words:,.1f} per word" if words else ""
    lossy = "" if result["tokenizer"]["lossless"] else " (lossy: what <|unk|> hides costs nothing)"
    bound = f" (the corpus' entropy is {entropy:.3f})" if entropy else ""
    version = result["version"]
    home = Path(f"runs/{version}") == Path(folder)
    where = "" if home else f" --out-dir {shlex.quote(str(folder))}"
    return [
        f"\n{sample}\n",
        f"perplexity {result['val_perplexity']:,.1f} per token{per_word}; the right token is the"
        f" most likely one in {result['val_accuracy']:.1%}, among the five most likely in"
        f" {result['val_accuracy_top5']:.1%}",
        f"{version} on {result['data']['name']}: {result['val_bits_per_byte']:.3f} bits per byte"
        f"{lossy}{bound}, {result['seconds']:.0f} s of training,"
        f" {result['tokens_per_second']:,.0f} tokens/s, peak memory {result['peak_rss_mb']:.0f} MB;"
        f" its files are in {folder}",
        f'next: python {version}.py --sample-only{where} --prompt "{result["config"]["prompt"]}"'
        f" --temperature 0.5 --n-samples 3",
    ]

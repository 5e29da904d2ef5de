"""A run: its folder, its checkpoints, its log, and the machine that it computes on.

The training loop stands in the scripts. What stands here must not be lost and is no lesson.
"""

import contextlib
import dataclasses
import signal
import sys
from pathlib import Path

from common.cli import handle_signals
from common.data import token_file
from common.data.load import NAMES, WIKITEXT
from common.data.readable import detokenize
from common.errors import NotFinite, UserError
from common.files import read_bytes
from common.training import checkpoint, machine, summary
from common.training import log as logging
from common.training.folder import BEST, CHECKPOINTS, RunFolder
from common.training.processes import average_gradients, gather, join_processes, rank, world_size
from common.training.vocabulary import new_tokenizer, note_last_space, saved_tokenizer

import torch


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
        self.config, self.version = config, Path(script).stem
        self.source = Path(script).read_bytes()  # what runs, whatever becomes of the file
        # With python -OO there is no docstring, and so no idea.
        self.idea = (description or "").strip().partition("\n")[0].partition(": ")[2].rstrip(".")
        self.device = join_processes(machine.pick_device(config.device), config)
        self.dtype = machine.pick_dtype(config.dtype, self.device)
        self.folder = RunFolder(config.out_dir)
        self.first_step, self.evaluation_steps, self.step = 0, set(), 0
        self.extra, self.notes = {}, []
        self.readable = detokenize if config.data in WIKITEXT else str  # for samples
        self.writes = rank() == 0 and not config.sample_only  # of several processes, the first
        self.log = logging.Log(self.folder, self.version, config.seed, self.writes)
        self.signal, self.interrupted, self._handlers = None, False, {}
        self.whole = True  # whether checkpoint.pt could be read
        if self.writes:
            self.folder.take("" if config.data in NAMES else config.data)

    def close(self):
        """Give back the signals and the folder."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self.log.bar.close()
        self.folder.release()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.close()
        # The evaluation, or logits from which no token can be sampled: neither knows the step.
        if isinstance(error, NotFinite) or "dimension 0 with size 0" in str(error):
            self._refuse("the validation loss is not finite")

    def _refuse(self, what, rate=""):
        """Raise UserError: the loss or the weights are no numbers any more."""
        advice = "try a lower --learning-rate. The last good checkpoint is kept in"
        raise UserError(f"{what} after step {self.step}{rate}: {advice} {self.folder.path}")

    # -- before the loop -------------------------------------------------------------------------

    def load_tokenizer(self, corpus):
        """The saved run's tokenizer with --resume or --sample-only, else the one of the settings.

        Without a --prompt it also takes over one that suits the corpus.
        """
        self.corpus, config = corpus, self.config
        if config.resume or config.sample_only:
            best = checkpoint.load(self, BEST)  # another run's is noticed now, not at the end
            self.saved = checkpoint.load(self, CHECKPOINTS) if config.resume else best
            self.tokenizer = saved_tokenizer(self.folder.path, self.saved, corpus)
            config.prompt = config.prompt or best["config"]["prompt"]
            with contextlib.suppress(UserError):  # it is damaged, or gone
                if read_bytes(own := self.folder / "script.py") != self.source and rank() == 0:
                    print(f"{own} differs from {self.version}.py, which is used", file=sys.stderr)
        else:
            config.prompt = config.prompt or corpus.facts.prompt
            self.tokenizer, self.notes = new_tokenizer(config, corpus)
        if corpus is not None and not self.tokenizer.lossless:
            file = token_file(corpus, "validation", self.tokenizer, note=False)
            self.log.lossless = not file.unknown_share
        if rank() == 0:
            note_last_space(config.prompt, self.tokenizer)
        return self.tokenizer

    def prepare(self, model):
        """The model on its device, with its training steps in the number format of the settings,
        compiled or with activation checkpointing where the settings say so."""
        self.model = machine.prepare(model, self.config, self.device)
        if self.config.sample_only:
            with checkpoint.fitting(self.folder.path):
                checkpoint.set_state(model, self.saved["state"].get("model"))
            if not checkpoint.is_finite(model.state_dict()):
                raise UserError(f"the weights in {self.folder.path} are not finite: train again")
        return model

    def start(self, tokens, val_tokens, optimizer, generator):
        """Begin in an empty folder, or go on from the checkpoint. A run that stood in the folder
        before is moved aside, never overwritten."""
        config, n_val, T = self.config, len(val_tokens), self.config.context_length
        if len(tokens) <= T:
            few = f"the training text has {len(tokens)} tokens, too few for a context of {T}"
            raise UserError(f"{few}: give a longer text or a smaller --context-length")
        for note in self.notes:
            self.log.say(note)
        self.optimizers = optimizer if isinstance(optimizer, list) else [optimizer]
        self.state = {"model": self.model, "batches": generator}
        for i, each in enumerate(self.optimizers, 1):
            self.state["optimizer" if i == 1 else f"optimizer {i}"] = each
        if rank() and not config.resume:  # dropout that each process draws for itself
            torch.manual_seed(config.seed + rank())
        # Before the checkpoint's random numbers are put back: on MPS this draws some of them.
        estimate = machine.estimate_memory(self.model, config, self.device, self.optimizers)
        if config.resume:
            self.first_step = self.step = checkpoint.restore(self, self.saved)
            before, self.saved = self.saved["config"]["steps"], None  # as large as the model
            if before != config.steps:
                become = f"{before:,} steps become {config.steps:,}"
                self.log.say(f"{become}: a learning rate that decays goes on along the new length")
            if self.step == config.steps and summary.is_finished(self):
                sys.exit(0)
        if self.writes:  # when it goes on, too: the next --resume goes on to as many steps
            self.folder.begin(self)
        if config.dtype == "auto":
            self.log.say(f"training steps compute in {str(self.dtype).removeprefix('torch.')}")
        machine.keep_freed_memory()
        self.extra["memory_estimate_mb"] = estimate
        for line in machine.describe_model(self.model, estimate):
            self.log.say(line)
        evaluated = {row["step"] for row in self.log.metrics}
        self.evaluation_steps = logging.evaluation_steps(config) - evaluated
        # A run that goes on keeps its part, unless it is too small now: losses of one part compare.
        self.val_limit = max(self.log.val_limit, logging.evaluation_limit(config, n_val))
        if self.val_limit > self.log.val_limit:
            self.log.val_limit, self.log.alike = self.val_limit, len(self.log.metrics)
        # The last evaluation is of the whole split, but of a user's text no longer than training.
        read = config.steps * logging.tokens_per_step(config)
        self.final_limit = n_val if config.data in NAMES else min(n_val, max(read, T + 1))
        if self.val_limit < n_val:
            part = f"the first {100 * self.val_limit / n_val:.2g} % of the validation split"
            self.log.say(f"evaluations along the way are on {part}")
        # Ctrl-C, a shutdown, a closed terminal; and what comes after Ctrl-Z or SIGSTOP.
        handlers = dict.fromkeys(("SIGINT", "SIGTERM", "SIGHUP"), self._stop)
        handlers["SIGCONT"] = lambda number, frame: self.log.start_clock()
        self._handlers = handle_signals(handlers)
        self.log.open(config)

    def settings(self):
        """The settings as they are saved: a run that is resumed later has the same."""
        return {**dataclasses.asdict(self.config), "resume": False, "sample_only": False}

    # -- in the loop -----------------------------------------------------------------------------

    def to_device(self, x, y):
        """The batch on the run's device; of several processes each takes its share of the rows."""
        return machine.to_device(x, y, self.device)

    average_gradients = staticmethod(average_gradients)

    def log_step(self, loss, tokens):
        """Note one step: its loss (a scalar tensor, nats per token) and how many tokens it read."""
        self.log.step(loss, tokens)
        self.step += 1
        self._check_finite("the loss", self.log.last_loss)
        self.interrupted = self.signal is not None or self.log.reader_left
        # A signal may reach some processes one step before the others, and it takes time to agree.
        if world_size() > 1:
            self.interrupted = self.step % 10 == 0 and any(gather(self.interrupted))

    def _stop(self, number, frame):
        """The first signal stops the run after its step, the second at once."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        with contextlib.suppress(OSError):  # the terminal may be what has gone
            print("\nstopping after this step (again to stop at once)", file=sys.stderr)

    def log_baseline(self, name, bits_per_byte):
        """Note what a simpler method reaches on the same tokens."""
        self.extra.setdefault("references", {})[name] = bits_per_byte
        self.log.say(f"{name}: {bits_per_byte:.3f} {self.log.unit} of the whole validation split")

    def log_evaluation(self, step, scores, sample):
        """Note an evaluation: the scores and a sample, on the screen and in the folder's files."""
        train_loss = self.log.mean_loss()
        self._check_finite("the loss", train_loss)
        self._check_finite("the validation loss", scores["loss"])
        self.log.evaluation(step, scores, train_loss, self.readable(sample))

    def log_long_context(self, times, T, side_by_side, sliding):
        """Note bits per byte of windows of T tokens, so many times the training context.

        Exits where a signal wants the run to stop: the last step is saved, --resume comes here.
        """
        if self.signal is not None:
            self._exit(self.config.steps)
        if times == 1:
            self.extra["extrapolation"] = []
            # Eight times the context is another matter.
            self.extra["peak_rss_mb"] = summary.peak_rss_mb()
            self.log.say(f"{self.log.unit} beyond the training context:")
            self.log.say("  times  tokens  side by side  sliding")
        self.log.say(f"  {times:>5}  {T:>6}  {side_by_side:>12.3f}  {sliding:>7.3f}")
        row = {"times": times, "context": T, "side_by_side": side_by_side, "sliding": sliding}
        self.extra["extrapolation"].append(row)

    def save_checkpoint(self, step):
        """Save all that the run needs to go on from here, and the weights if they are the best.

        A gradient that is not finite spoils the weights, not its own step's loss: look at both.
        """
        if not checkpoint.is_finite(self.model.state_dict()):
            self._refuse("weights became nan or infinite")
        checkpoint.save(self, step)
        self.log.start_clock()

    def save_and_exit(self, step):
        """Save, say how to go on and end the program with the signal's exit status."""
        self.save_checkpoint(step)
        self._exit(step)

    def _exit(self, step):
        self.close()
        number = self.signal or signal.SIGTERM
        if self.log.reader_left:
            number = getattr(signal, "SIGPIPE", number)
        name, go_on = signal.Signals(number).name, summary.command(self, "--resume")
        self.log.say(f"{name}: saved at step {step}; go on with: {go_on}")
        sys.exit(128 + number)

    def _check_finite(self, what, loss):
        if loss is not None and not abs(loss) < float("inf"):
            rate = f" with learning rate {self.optimizers[0].param_groups[0]['lr']:g}"
            self._refuse(f"{what} became {loss}", rate)

    # -- after the loop --------------------------------------------------------------------------

    def finish(self, scores):
        """Write result.json of the last evaluation, `scores`, that of the whole validation split,
        model.safetensors and loss.png; print the row; release the folder."""
        if self.writes:
            lines = summary.finish_run(self, scores)
            self.close()
            print("\n".join(lines))

    def print_samples(self, model, tokenizer, generate):
        """Print continuations of the prompt; with --interactive, of each prompt that is typed."""
        from common.training import samples  # which a run that trains does not need

        if self.config.interactive and rank() == 0:
            samples.interact(self, model, tokenizer, generate)
        elif rank() == 0:
            samples.continue_prompt(self, model, tokenizer, generate, self.config)

"""What a run says and writes down: a line and a sample per evaluation, a progress bar."""

import json
import statistics
import sys
import textwrap
import time

from common.cli import discard_output
from common.files import atomic_write
from common.training.processes import gather, world_size
from common.training.result import Amount, Count, Point

import msgspec
import torch
from tqdm import tqdm

SAMPLE_WIDTH = 96  # characters of a sample that are shown while a run trains


class SavedLog(msgspec.Struct):
    """What a checkpoint holds of a Log."""

    tokens: Count
    seconds: Amount
    loss_count: Count
    metrics: list[Point]
    sample: str
    samples: str
    val_limit: Count = 0  # tokens of the validation split that evaluations along the way are on
    alike: Count = 0  # from which row of `metrics` on


class Log:
    """metrics.jsonl and samples.txt in a folder, and the same on the screen.

    Only training steps count as training time: the clock runs from the end of one step, or of what
    came between, to the end of the next step. It stands still while the machine sleeps, and starts
    again where the process was stopped and goes on.
    """

    def __init__(self, folder, version, seed, writes):
        self.folder, self.writes = folder, writes
        self.run = {"version": version, "seed": seed}  # each line of metrics.jsonl names it
        self.metrics, self.samples, self.sample = [], "", ""
        self.tokens, self.seconds, self.val_limit, self.alike = 0, 0.0, 0, 0
        self.loss_sum, self.loss_count, self.last_loss = 0.0, 0, None
        self.bar, self._mark = tqdm(disable=True), None  # until training begins
        self.reader_left = False  # of what is printed
        self.lossless = True  # False: some of the validation split becomes <|unk|>

    @property
    def unit(self):
        return "bits per byte" if self.lossless else "bits per byte (lossy)"

    @property
    def best_step(self):
        """The step with the lowest loss so far, of losses that compare; untrained weights are never
        the best."""
        trained = self.metrics[max(1, self.alike) :] or self.metrics[-1:]
        return min(trained, key=lambda row: row["val_loss"])["step"]

    def open(self, config):
        """Write the files as far as they are known, and show the bar."""
        self._write()
        total, hidden = config.steps * tokens_per_step(config), None if self.writes else True
        options = {"initial": self.tokens, "unit": "token", "unit_scale": True}
        # disable=None: it is shown on a terminal only.
        self.bar = tqdm(total=total, disable=hidden, dynamic_ncols=True, **options)
        self.start_clock()

    def start_clock(self):
        """What came before this moment, an evaluation for instance, is no training time."""
        self._mark = time.perf_counter()

    def step(self, loss, tokens):
        """Note the loss (a scalar tensor, nats per token) of one step, and the tokens it read.

        On a GPU the loss is only added up, since reading it would make the CPU wait.
        """
        now = time.perf_counter()
        self.seconds, self._mark = self.seconds + now - self._mark, now
        precise = torch.float32 if loss.device.type == "mps" else torch.float64  # MPS has no double
        self.loss_sum = self.loss_sum + loss.to(precise)
        self.loss_count += 1
        self.tokens += tokens * world_size()
        if loss.device.type == "cpu":
            self.last_loss = loss.item()
            self.bar.set_postfix_str(f"loss {self.last_loss:.3f}", refresh=False)
        self.bar.update(tokens * world_size())

    def mean_loss(self):
        """The mean training loss since the last evaluation, or None before the first step."""
        if not self.loss_count:
            return None
        return statistics.fmean(gather(float(self.loss_sum))) / self.loss_count

    def evaluation(self, step, scores, train_loss, sample):
        """Write the evaluation's line to metrics.jsonl and its sample to samples.txt."""
        line = {**self.run, "step": step, "tokens": self.tokens, "seconds": round(self.seconds, 3)}
        line |= {"train_loss": train_loss, **{f"val_{name}": v for name, v in scores.items()}}
        self.metrics.append(line)
        self.sample, self.samples = sample, f"{self.samples}--- step {step} ---\n{sample}\n\n"
        self._write()
        trained = "" if train_loss is None else f"train {train_loss:.3f}, "
        bits = f"{scores['bits_per_byte']:.3f} {self.unit}"
        self.say(f"step {step:>6}: {trained}val {scores['loss']:.3f} nats per token, {bits}")
        self.say(f"             {textwrap.shorten(sample, SAMPLE_WIDTH, placeholder=' …')}")
        self.loss_sum, self.loss_count = 0.0, 0
        self._notice_overfitting()

    def _notice_overfitting(self):
        """Say once when validation has risen twice in a row while training fell."""
        if len(self.metrics) < self.alike + 3:
            return
        before, middle, now = ((row["val_loss"], row["train_loss"]) for row in self.metrics[-3:])
        lowest = min(row["val_loss"] for row in self.metrics)
        if lowest == before[0] < middle[0] <= now[0] and now[1] < middle[1]:
            risen = f"from {before[0]:.3f} (step {self.metrics[-3]['step']}) to {now[0]:.3f}"
            advice = "give more text, more --dropout where there is one, or fewer --steps"
            self.say(f"overfitting: validation has risen {risen} while training falls; {advice}")

    def _write(self):
        """The two files, as far as they are known: after a kill there may be more than that."""
        if self.writes:
            lines = "".join(json.dumps(row) + "\n" for row in self.metrics)
            for name, text in (("metrics.jsonl", lines), ("samples.txt", self.samples)):
                with atomic_write(self.folder / name, "w") as file:
                    file.write(text)

    def say(self, text):
        """A line for people, on standard error, above the bar. Where its reader has left, a pipe to
        `head` or a closed terminal, `reader_left` is set.
        """
        if self.writes:
            try:
                tqdm.write(text, file=sys.stderr)
            except OSError:
                self.reader_left = True
                discard_output()

    # -- in checkpoints

    def state(self):
        return {name: getattr(self, name) for name in SavedLog.__struct_fields__}

    def restore(self, saved):
        """Put a checkpoint's `state` back. Raises ValidationError for values of other kinds."""
        msgspec.convert(saved, SavedLog)
        vars(self).update({name: saved.get(name, 0) for name in SavedLog.__struct_fields__})


def tokens_per_step(config):
    """Tokens that one update reads: sequences x length x micro-batches."""
    rows = getattr(config, "batch_size", 1) * getattr(config, "grad_accum", 1)
    return rows * config.context_length


def evaluation_steps(config):
    """The steps after which a run evaluates: every --eval-every, or about ten, dense at the start.

    The first is 0, before any training, the last is config.steps.
    """
    if config.eval_every:
        return {*range(0, config.steps, config.eval_every), config.steps}
    shares = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1)
    return {0, *(round(share * config.steps) for share in shares)}


def evaluation_limit(config, n_tokens):
    """How many tokens of the validation split an evaluation along the way predicts.

    All evaluations together predict about a tenth of the tokens that training reads, and each at
    least one window.
    """
    budget = config.steps * tokens_per_step(config) // 10
    share = budget // len(evaluation_steps(config))
    return min(n_tokens, max(share, config.context_length + 1))

"""Samples on the screen while they are written: of one prompt, or of prompt after prompt."""

import contextlib
import copy
import dataclasses
import importlib
import sys

from common.config import check_settings
from common.errors import UserError
from common.training.vocabulary import note_last_space

HOW = """Type how a text begins. An empty line asks for the same again, of the next seeds.
Ctrl-C stops a sample, Ctrl-D ends."""


class Printed(list):
    """A prompt's ids, printed as text; so is each id that is appended to them.

    readable: text -> the text as people usually write it. It needs whole lines.
    """

    def __init__(self, ids, decode, readable):
        super().__init__(ids)
        self.decode, self.readable, self.n_shown = decode, readable, 0
        self.show()

    def append(self, i):
        super().append(i)
        self.show()

    def show(self, ended=False):
        """Print what is not on the screen yet: of a part of a character nothing until it is whole,
        and nothing of a line that may still be changed, unless the text has ended."""
        text = self.decode(self)
        if not ended:
            whole_lines = text[: text.rfind("\n") + 1]
            text = text.rstrip("\ufffd") if self.readable is str else whole_lines
        text = self.readable(text)
        print(text[self.n_shown :], end="\n" if ended else "", flush=True)
        self.n_shown = max(self.n_shown, len(text))


def continue_prompt(run, model, tokenizer, generate, config):
    """Print config.n_samples continuations of the prompt, of the seeds from config.seed on."""

    def encode(text):  # to the ids that it returns, `generate` appends those that it samples
        printing.ids = Printed(tokenizer.encode(text), tokenizer.decode, run.readable)
        return printing.ids

    printing = copy.copy(tokenizer)
    printing.encode = encode
    for seed in range(config.seed, config.seed + config.n_samples):
        if config.n_samples > 1:
            print(f"--- seed {seed} ---")
        generate(model, dataclasses.replace(config, seed=seed), printing, run.device)
        printing.ids.show(ended=True)


def interact(run, model, tokenizer, generate):
    """Continue each line that is typed, until there are no more."""
    with contextlib.suppress(ImportError):  # not on Windows: arrow keys edit and recall a line
        importlib.import_module("readline")
    print(HOW, file=sys.stderr)
    config = run.config
    while True:
        try:
            line = input("> ")
        except (EOFError, IsADirectoryError):  # of standard input
            print()
            return
        seed = run.config.seed if line else config.seed + config.n_samples
        config = dataclasses.replace(config, prompt=line or config.prompt, seed=seed)
        try:
            check_settings({"prompt": config.prompt})
            note_last_space(config.prompt, tokenizer)
            continue_prompt(run, model, tokenizer, generate, config)
        except UserError as error:
            print(error, file=sys.stderr)
        except KeyboardInterrupt:
            print()

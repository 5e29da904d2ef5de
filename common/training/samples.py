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


def print_samples(run, model, tokenizer, generate):
    """Print continuations of the prompt; with --interactive, of each prompt that is typed."""
    if run.config.interactive:
        interact(run, model, tokenizer, generate)
    else:
        continue_prompt(run, model, tokenizer, generate, run.config.prompt, run.config.seed)


def continue_prompt(run, model, tokenizer, generate, prompt, seed):
    """Print run.config.n_samples continuations of the prompt, of the seeds from `seed` on."""

    def encode(text):  # to the ids that it returns, `generate` appends those that it samples
        printing.ids = Printed(tokenizer.encode(text), tokenizer.decode, run.readable)
        return printing.ids

    printing = copy.copy(tokenizer)
    printing.encode = encode
    for number in range(run.config.n_samples):
        config = dataclasses.replace(run.config, prompt=prompt, seed=seed + number)
        if run.config.n_samples > 1:
            print(f"--- seed {config.seed} ---")
        generate(model, config, printing, run.device)
        printing.ids.show(ended=True)


def interact(run, model, tokenizer, generate):
    """Continue each line that is typed, until there are no more."""
    with contextlib.suppress(ImportError):  # not on Windows: arrow keys edit and recall a line
        importlib.import_module("readline")
    print(HOW, file=sys.stderr)
    prompt, seed = run.config.prompt, run.config.seed
    while True:
        try:
            line = input("> ")
        except (EOFError, IsADirectoryError):  # of standard input
            print()
            return
        seed = run.config.seed if line else seed + run.config.n_samples
        prompt = line or prompt
        try:
            check_settings({"prompt": prompt})
            note_last_space(prompt, tokenizer)
            continue_prompt(run, model, tokenizer, generate, prompt, seed)
        except UserError as error:
            print(error, file=sys.stderr)
        except KeyboardInterrupt:
            print()

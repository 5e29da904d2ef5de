"""Commands of other programs than the scripts, made from functions."""

import functools
import sys
from pathlib import Path
from typing import Annotated

from common.cli import at_home, prepare_arguments
from common.config import check_settings

import tyro

# Arguments of commands: a run's folder or a published run's name, and several of them.
RunName = Annotated[str, tyro.conf.arg(metavar="RUN")]
RunNames = Annotated[tuple[str, ...], tyro.conf.arg(metavar="[RUN ...]")]


def run_command(what, description, args=None, prog=None):
    """Run a function, or one of a dictionary of them by its name, with arguments from the command
    line: its required arguments are positional, the others flags, its docstring their help. A
    flag has the range that it has everywhere.
    """
    args = sys.argv[1:] if args is None else args
    prepare_arguments(args)
    settings = {"description": description, "config": (tyro.conf.PositionalRequiredArgs,)}
    settings["prog"] = prog or f"python {Path(sys.argv[0]).name}"
    if isinstance(what, dict):
        commands = {name: _later(function) for name, function in what.items()}
        args = args or ["--help"]
        chosen = tyro.extras.subcommand_cli_from_dict(commands, args=args, **settings)
    else:
        chosen = tyro.cli(_later(what), args=args, **settings)
    check_settings(chosen.keywords)
    chosen()


def _later(function):
    """A function of the same arguments that only returns the call: first the whole command line is
    looked at, then the function is called, which may print."""

    @functools.wraps(function)
    def call(**given):
        return functools.partial(function, **{k: at_home(k, v) for k, v in given.items()})

    return call

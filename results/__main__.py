"""Published and local runs: tables, comparisons, measurements and pictures.

Without a command: the table of the runs in runs/.
"""

import importlib
import os
import sys

from common.cli import run_main
from results.commands import run_command

# The module of each command, imported when it is called, and what --help says of it. The function
# there has the command's name; a dictionary in its place holds commands of its own.
COMMANDS = {
    "local": ("tables", "the table of the finished runs in runs/"),
    "compare": ("compare", "what changed from one run to another"),
    "check": ("compare", "does a run agree with the published ones?"),
    "evaluate": ("evaluate", "both splits, sliding and longer windows"),
    "probe": ("probes", "questions with known answers"),
    "claims": ("claims", "are the stories true to themselves?"),
    "plot": ("plots", "pictures: curves, context, attention and others"),
    "page": ("page", "the lineage as one HTML page"),
    "publish": ("publish", "make the published runs that are missing or outdated"),
    "readme": ("readme", "write the tables of README.md and results/"),
    "references": ("references", "count the n-grams under the tables"),
}


def stub(summary):
    """A function in place of a command that is not called now, for the list in --help."""

    def command():
        pass

    command.__doc__ = summary
    return command


def main():
    args = sys.argv[1:]
    if not args or args[0].startswith("--") and args[0] != "--help":
        args = ["local", *args]
    if args[0] in COMMANDS:
        module = importlib.import_module(f"results.{COMMANDS[args[0]][0]}")
        what, prog = getattr(module, args[0]), f"python -m results {args[0]}"
        description = module.__doc__ if isinstance(what, dict) else None
        run_command(what, description, args[1:], prog=prog)
    else:
        commands = {each: stub(summary) for each, (_, summary) in COMMANDS.items()}
        run_command(commands, __doc__, args, prog="python -m results")


if __name__ == "__main__":
    sys.argv[0] = "results"  # what messages name
    # Pictures are written, not shown; matplotlib ends a program where this names no way to show.
    os.environ.pop("MPLBACKEND", None)
    run_main(main)

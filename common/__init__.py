"""What is the same in every version and is not a lesson: corpora, tokenizers, evaluation."""

import sys


def _say_stopped(kind, error, traceback):
    """Ctrl-C while modules are still being imported: `run_main` can't catch it yet."""
    if kind is KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


if sys.excepthook is sys.__excepthook__:  # a notebook or a debugger has its own
    sys.excepthook = _say_stopped

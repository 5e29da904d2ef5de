"""The errors that are meant for people, and the one that every system words in its own way."""

import re


class UserError(ValueError):
    """One line that says what is wrong and what to do about it.

    A command catches it at its outermost level, prints the line on stderr and exits with
    status 2. Anything else that is raised is a fault of the program and keeps its traceback.
    """


class NotFinite(UserError):
    """A loss that is NaN or infinite, from where the step and the learning rate are not known."""


def is_out_of_memory(error):
    """torch has an error of its own for GPUs only; on CPUs it is known by its words, by system."""
    words = "out of memory|can't allocate memory|not enough memory|size calculation overflowed"
    return isinstance(error, MemoryError) or bool(re.search(words, str(error)))

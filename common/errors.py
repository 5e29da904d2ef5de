"""The errors that are meant for people, and what the errors of others say."""

import re


class UserError(ValueError):
    """One line that says what is wrong and what to do about it.

    A command catches it at its outermost level, prints the line on stderr and exits with
    status 2. Anything else that is raised is a fault of the program and keeps its traceback.
    """


class NotFinite(UserError):
    """A loss that is NaN or infinite, from where the step and the learning rate are not known."""


def reason_of(error, line=0):
    """What an error of the system or of a library says, in one line: its first, or that one."""
    said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return said.splitlines()[line].strip()


def is_out_of_memory(error):
    """torch has an error of its own for GPUs only; on CPUs it is known by its words, by system."""
    words = "out of memory|can't allocate memory|not enough memory|size calculation overflowed"
    return isinstance(error, MemoryError) or bool(re.search(words, str(error)))

"""The one error that is meant for people."""


class UserError(ValueError):
    """One line that says what is wrong and what to do about it.

    A command catches it at its outermost level, prints the line on stderr and exits with
    status 2. Anything else that is raised is a fault of the program and keeps its traceback.
    """


class NotFinite(UserError):
    """A loss that is NaN or infinite, from where the step and the learning rate are not known."""

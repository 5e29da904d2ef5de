"""Signals that ask a run to stop: it saves after its step, and leaves."""

import contextlib
import signal
import sys

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, a shutdown, a closed terminal


class StopSignals:
    """Notes the first signal in `received`; the second ends the program at once.

    continued: called when the process goes on after it was stopped (Ctrl-Z, SIGSTOP).
    """

    def __init__(self, continued):
        self.received, self.continued = None, continued
        self._before = {}

    def install(self):
        """Handle the signals from now on. In a thread, which can't, they stay as they are, and
        everywhere those that are ignored, as nohup has it.
        """
        handlers = {name: self.handle for name in NAMES} | {"SIGCONT": self.handle_continued}
        with contextlib.suppress(ValueError):
            for name, handler in handlers.items():
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, handler)

    def restore(self):
        """Give the signals back to their handlers from before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def handle(self, number, frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        with contextlib.suppress(OSError):  # the terminal may be what has gone
            print("\nstopping after this step (again to stop at once)", file=sys.stderr)

    def handle_continued(self, number, frame):
        self.continued()

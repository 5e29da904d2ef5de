"""Signals that ask a run to stop: it saves after its step, and leaves."""

import contextlib
import signal
import sys

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, a shutdown, a closed terminal


class StopSignals:
    """Notes the first signal in `received`; the second ends the program at once."""

    def __init__(self):
        self.received = None
        self._before = {}

    def install(self):
        """Handle the signals from now on. In a thread, which can't, they stay as they are."""
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        with contextlib.suppress(ValueError):
            for number in numbers:
                self._before[number] = signal.signal(number, self.handle)

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

"""Encoding by several processes."""

import os
import pickle
import signal
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context

from common.bpe.checks import TokenizerError

_encoder = None  # of a worker process, which remembers what it has met


def _start(pickled_encoder):
    global _encoder
    # For numpy, which comes with the encoder: threads that are not used here would keep the other
    # processes waiting while they start.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is theirs, too: end at once, silently
    _encoder = pickle.loads(pickled_encoder)


def _encode(block, ends):
    return _encoder.encode_block(block, ends)


def encode_blocks(encoder, blocks, processes, ends):
    """An iterator of arrays: what encoder.encode_block(block, ends) gives for each block."""
    from unittest.mock import patch  # which the other processes do not need

    # An executor's own map would take the whole iterable at once: keep a few blocks in flight.
    # "spawn" is the one way to start a process that is safe with threads, on any system.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _start, (pickle.dumps(encoder),))
    try:
        first = list(islice(blocks, processes))
        # These blocks, submitted at once, start the processes. Each would begin by running the main
        # script, up to its guard, and all that this imports: where it has no name and no file,
        # there is none.
        with patch.multiple("__main__", create=True, __spec__=None, __file__=None):
            in_flight = deque(pool.submit(_encode, block, ends) for block in first)
        for block in blocks:
            in_flight.append(pool.submit(_encode, block, ends))
            if len(in_flight) > 4 * processes:
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()
    except BrokenProcessPool:
        raise TokenizerError("a process that shared the work has died: too little memory") from None
    finally:
        pool.shutdown(cancel_futures=True)

"""Encoding by several processes."""

from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context

from common.bpe.checks import TokenizerError

_encode_in_this_worker = None  # in a worker process: a function of a block


def _start_worker(encoder, ends):
    global _encode_in_this_worker
    _encode_in_this_worker = partial(encoder.encode_block, ends=ends)


def _encode_in_worker(block):
    return _encode_in_this_worker(block)


def encode_blocks(encoder, blocks, processes, ends):
    """An iterator of arrays: what encoder.encode_block(block, ends) gives for each block.

    This process is one of them: it encodes where the others have enough to do, while they start
    for instance.
    """
    # An executor's own map would take the whole iterable at once: keep a few blocks in flight.
    # "spawn" is the one way to start a process that is safe with threads, on any system.
    others = processes - 1
    with ProcessPoolExecutor(
        others, get_context("spawn"), initializer=_start_worker, initargs=(encoder, ends)
    ) as pool:
        in_flight = deque()
        try:
            for block in blocks:
                if sum(not future.done() for future in in_flight) < 2 * others:
                    in_flight.append(pool.submit(_encode_in_worker, block))
                else:
                    in_flight.append(Future())
                    in_flight[-1].set_result(encoder.encode_block(block, ends))
                while in_flight and (in_flight[0].done() or len(in_flight) > 4 * processes):
                    yield in_flight.popleft().result()
            while in_flight:
                yield in_flight.popleft().result()
        except BrokenProcessPool:
            raise TokenizerError(
                "a process that shared the work has died: too little memory, or the script that"
                ' asks for processes lacks `if __name__ == "__main__":`'
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)

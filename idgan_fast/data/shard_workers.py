"""Shards written by several processes, which end with this one, however it ends."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from idgan_fast.data.shards import GOES_ON, Job, Stopped, write_part
from idgan_fast.errors import UserError

_worker: tuple[Job, Any] | None = None  # in a worker process: its job; the images done by part, then the stop flag


def _begin_worker(job: Any, counts: Any) -> None:
    """A signal to the whole group is the main process's to handle; a worker ends with it, however it ends."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = pickle.loads(job.raw), counts


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _part_in_worker(slot: int, part: int) -> None:
    assert _worker is not None
    job, counts = _worker

    def tick(done: int) -> bool:
        counts[slot] = done
        return not counts[-1]

    write_part(job, part, tick)


def in_processes(job: Job, parts: Sequence[int], workers: int, tick: Callable[[int], bool]) -> None:
    """Write the parts in worker processes. tick: as in `write_part`, for all of them together."""
    context = multiprocessing.get_context("spawn")
    counts = context.RawArray("q", len(parts) + 1)  # without locks, which a killed worker might hold
    shared = context.RawArray("c", pickle.dumps(job))  # through a pipe, one worker would wait for the other
    with ProcessPoolExecutor(workers, context, _begin_worker, (shared, counts)) as pool:
        try:
            if os.name == "posix":  # workers inherit it, and none is interrupted while it imports
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                waiting = {pool.submit(_part_in_worker, slot, part) for slot, part in enumerate(parts)}
            finally:
                if os.name == "posix":
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            while waiting:
                done, waiting = wait(waiting, 0.2, FIRST_COMPLETED)
                if not tick(sum(counts[:-1])):
                    raise Stopped
                for future in done:
                    future.result()
        except BrokenProcessPool as error:
            if not tick(0):  # a signal to the whole group
                raise Stopped from error
            reason = "a worker process was killed; fewer --workers need less memory"
            raise UserError(f"pack: {reason}, and {GOES_ON}") from error
        finally:
            counts[-1] = 1
            pool.shutdown(cancel_futures=True)

"""A generator whose items are made in a thread while the ones before are used."""

import atexit
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def in_background(items: Iterable[T], depth: int) -> Iterator[T]:
    """The items, at most `depth` of them made ahead in a thread, which ends with this generator.

    What the thread raises is raised here.
    """
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not stop.is_set():
            try:
                return made.put((item, error), timeout=0.1)
            except queue.Full:
                pass

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
        except BaseException as error:
            put(None, error)

    def end() -> None:
        stop.set()
        thread.join()

    thread = threading.Thread(target=work, name="idgan-fast pictures", daemon=True)
    atexit.register(end)  # a thread that is within C++ as the interpreter ends would abort the process
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # which holds this frame: else what it names would live until the cycle is found
            yield item
    finally:
        atexit.unregister(end)
        end()

"""SIGINT, SIGTERM and SIGHUP become a flag that the training loop reads between two iterations."""

import signal
from types import FrameType
from typing import Any


class StopSignal:
    """A context manager that is true once a signal has come. A second signal ends the process at once."""

    CAUGHT = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in self.CAUGHT:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, which stays so
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def output_closed(self) -> None:
        """Stop as for a signal: whoever read standard output has gone."""
        self.received = self.received or signal.SIGPIPE

    def __bool__(self) -> bool:
        return self.received is not None

"""What a person sees while a run goes on: a progress bar on a terminal, and plain lines elsewhere."""

import contextlib
import errno
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from idgan_fast import startup
from idgan_fast.errors import printable

QUIET_SECONDS = 10.0  # between two plain lines


def format_time(seconds: float) -> str:
    """Format as 0:05, 12:34 or 1:23:45, to the nearest second."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class _RichConsole(RichConsole):
    def on_broken_pipe(self) -> None:
        """Rich would end the process here; called while the BrokenPipeError is handled."""
        raise


class TaskProgress:
    """The progress of a task, as a context manager. `update` takes the newest numbers.

    A task that `says_its_end` has a line at its end; of another one nothing stays, and nothing shows while it is quick.
    """

    def __init__(
        self, console: "Console", name: str, *, start: int, total: int, batch_size: int, says_its_end: bool = True
    ) -> None:
        self.name, self.start, self.total, self.batch_size = name, start, total, batch_size
        self._console, self._says_its_end = console, says_its_end
        self._began = self._last_line = time.monotonic()
        self._text = ""
        self._bar: Progress | None = None
        if console.rich.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            )
            self._bar = Progress(*columns, console=console.rich, expand=True, transient=not says_its_end)
            self._task = self._bar.add_task(name, total=total, completed=start, text="")

    def __enter__(self) -> "TaskProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def images_per_second(self, done: int) -> float:
        """Return the rate since the task was begun or resumed."""
        return (done - self.start) * self.batch_size / max(time.monotonic() - self._began, 1e-9)

    def aside(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` images are measured or drawn for `what`, while the task itself stands still."""
        if self._bar is not None:
            self._bar.update(self._task, text=f"{what} {done}/{total}")
        elif time.monotonic() - self._last_line > QUIET_SECONDS:
            self._last_line = time.monotonic()
            self._console.line(f"{what} {done}/{total}")

    def update(self, done: int, values: Mapping[str, str] | None = None) -> None:
        """Show that `done` steps of the task are over. values: replace the numbers that are shown."""
        if values is not None:
            self._text = "  ".join(f"{name} {value}" for name, value in values.items())
        speed = self.images_per_second(done)
        ended = done == self.total and self._says_its_end
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=f"{speed:.0f} images/s  {self._text}")
        elif ended or (time.monotonic() - self._last_line > QUIET_SECONDS and done < self.total):
            self._last_line = time.monotonic()
            left = format_time((self.total - done) * self.batch_size / max(speed, 1e-9))
            numbers = f"{speed:.{0 if speed >= 10 else 1}f} images/s  ETA {left}  {self._text}"
            self._console.line(f"{self.name} {done}/{self.total}  {numbers}".rstrip())


class Console:
    """Lines on standard output, and a progress display for each stage.

    on_closed: is called once whoever read standard output has gone; nothing is shown from then on.
    """

    def __init__(self, on_closed: Callable[[], None] = lambda: None) -> None:
        self.rich = _RichConsole(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.closed = False
        self._on_closed = on_closed
        self._stage: TaskProgress | None = None
        self._aside: TaskProgress | None = None

    def line(self, text: str) -> None:
        """Print a line at once; names in it may be anything (`printable`)."""
        try:
            self.rich.print(printable(text))
            sys.stdout.flush()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # a pipe whose reader has ended, a terminal that is gone
                raise
            self.closed = True
            startup.drop_output()
            self._on_closed()

    @contextlib.contextmanager
    def stage(self, name: str, *, start: int, total: int, batch_size: int) -> Iterator[TaskProgress]:
        """Show the progress of a stage of `total` iterations, `start` of which are over."""
        with TaskProgress(self, name, start=start, total=total, batch_size=batch_size) as self._stage:
            try:
                yield self._stage
            finally:
                self._stage = None

    def aside(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` images are measured or drawn for `what`, within a stage or outside of one."""
        if self._stage is not None:
            self._stage.aside(what, done, total)
            return
        if self._aside is None or self._aside.name != what:
            self.close()
            self._aside = TaskProgress(self, what, start=0, total=total, batch_size=1, says_its_end=False).__enter__()
        self._aside.update(done)
        if done == total:
            self.close()

    def close(self) -> None:
        """Remove what `aside` shows."""
        if self._aside is not None:
            self._aside.__exit__()
        self._aside = None

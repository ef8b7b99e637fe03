"""What a person sees while a run goes on: a progress bar on a terminal, and plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

QUIET_SECONDS = 10.0  # between two plain lines


def format_time(seconds: float) -> str:
    """Format as 0:05, 12:34 or 1:23:45, to the nearest second."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class StageProgress:
    """The progress of one stage, as a context manager. `update` takes the newest numbers."""

    def __init__(self, console: RichConsole, name: str, *, start: int, total: int, batch_size: int) -> None:
        self.name, self.start, self.total, self.batch_size = name, start, total, batch_size
        self._began = self._last_line = time.monotonic()
        self._text = ""
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            )
            self._bar = Progress(*columns, console=console, expand=True)
            self._task = self._bar.add_task(name, total=total, completed=start, text="")

    def __enter__(self) -> "StageProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def images_per_second(self, done: int) -> float:
        """Return the rate since the stage was begun or resumed."""
        return (done - self.start) * self.batch_size / max(time.monotonic() - self._began, 1e-9)

    def update(self, done: int, values: Mapping[str, str] | None = None) -> None:
        """Show that `done` iterations of the stage are over. values: replace the numbers that are shown."""
        if values is not None:
            self._text = "  ".join(f"{name} {value}" for name, value in values.items())
        speed = self.images_per_second(done)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=f"{speed:.0f} images/s  {self._text}")
        elif time.monotonic() - self._last_line > QUIET_SECONDS or done == self.total:
            self._last_line = time.monotonic()
            left = format_time((self.total - done) * self.batch_size / max(speed, 1e-9))
            print(f"{self.name} {done}/{self.total}  {speed:.0f} images/s  ETA {left}  {self._text}", flush=True)


class Console:
    """Lines on standard output, and a progress display for each stage."""

    def __init__(self) -> None:
        self._rich = RichConsole(highlight=False, markup=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Print a line at once."""
        self._rich.print(text)
        sys.stdout.flush()

    def stage(self, name: str, *, start: int, total: int, batch_size: int) -> StageProgress:
        """Make the progress display of a stage of `total` iterations, `start` of which are over."""
        return StageProgress(self._rich, name, start=start, total=total, batch_size=batch_size)

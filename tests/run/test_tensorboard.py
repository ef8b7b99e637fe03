"""TensorBoard shows every point of a run that was resumed, whatever the clock did in between."""

import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from idgan_fast.run.folder import RunFolder


def train(path: Path, start: int, stop: int, value: float) -> None:
    """A part of a run that logs the iterations after `start` up to `stop`."""
    folder = RunFolder(path)
    folder.rewind("vae", start)
    for iteration in range(start + 1, stop + 1):
        folder.log("vae", iteration, {"loss": value})
    folder.close()


def points(path: Path) -> list[tuple[int, float]]:
    shown = EventAccumulator(str(path / "tensorboard" / "vae"))
    shown.Reload()
    return [(event.step, event.value) for event in shown.Scalars("vae/loss")]


@pytest.mark.parametrize("clocks", [(2000, 1000, 900), (1000, 1000, 1000), (1000, 2000, 1500), (1000, 2000, 3000)])
def test_a_clock_that_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clocks: tuple[int, ...]) -> None:
    began = time.time()
    for part, clock in enumerate(clocks):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda clock=clock: began + clock)
            train(tmp_path, 10 * part, 10 * part + 15, float(part))
    expected = [(step, float(min((step - 1) // 10, 2))) for step in range(1, 36)]
    assert points(tmp_path) == expected


def test_event_files_keep_their_names_where_the_clock_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.time()
    train(tmp_path, 0, 3, 1.0)
    (first,) = (tmp_path / "tensorboard" / "vae").iterdir()
    monkeypatch.setattr(time, "time", lambda: began + 100)
    train(tmp_path, 3, 6, 1.0)
    assert first in set((tmp_path / "tensorboard" / "vae").iterdir())

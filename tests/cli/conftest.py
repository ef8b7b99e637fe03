"""Runs that take a second: what they measure and draw at their end is little."""

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from idgan_fast import train
from idgan_fast.data import dsprites
from idgan_fast.evaluation import codes, drawing
from idgan_fast.run import trainer
from tests.common import TINY

draw_canvases_once = cache(dsprites._draw_canvases)


@pytest.fixture(scope="module", autouse=True)
def little_to_measure_and_draw() -> Iterator[None]:
    """One test of a whole run draws the curves, which take longer than the rest of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "ENCODED", 64)
        patch.setattr(trainer, "ENCODED_WITH_FACTORS", 64)
        patch.setattr(codes, "READ_BACK", 128)
        patch.setattr(drawing, "curves", lambda rows: Figure(figsize=(1, 1)))
        patch.setattr(dsprites, "_draw_canvases", draw_canvases_once)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, little_to_measure_and_draw: None) -> Path:
    """The folder of a run with the settings TINY, which stays as it is: tests take a copy, `finished_run`."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train.main([*TINY, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def finished_run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a run with the settings TINY that has reached its end."""
    return Path(shutil.copytree(trained, tmp_path / "run"))

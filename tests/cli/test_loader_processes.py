"""Faults within the torch loader's processes: what went wrong is raised, and no process is left."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data import batches
from idgan_fast.data.images import ImageFiles
from idgan_fast.errors import UserError
from tests.common import TINY_IMAGES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    for i in range(6):
        pixels = torch.randint(256, (70, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        Image.fromarray(pixels.numpy()).save(path / f"{i}.png")
    return path


class Failing(ImageFiles):
    """Raises `error` for the third batch."""

    error: Exception

    def __getitem__(self, indices: list[int] | Tensor) -> Tensor:
        self.count = getattr(self, "count", 0) + 1
        if self.count == 3:
            raise self.error
        return super().__getitem__(indices)


def no_process_is_left() -> bool:
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not multiprocessing.active_children()


@pytest.mark.parametrize(
    "error",
    [UserError("data: of one line"), OSError(5, "Input/output error", "a.png"), MemoryError("of numpy")],
    ids=type,
)
def test_an_error_in_a_worker_arrives_as_it_is(error: Exception, folder: Path) -> None:
    dataset = Failing(folder, 64, ImagesConfig(cache_gib=0.0))
    dataset.error = error
    with pytest.raises(type(error)) as caught:
        list(islice(batches(dataset, 2, seed=0, start=0, workers=2), 20))
    assert str(caught.value) == str(error)
    assert no_process_is_left()


def test_a_fault_of_the_code_keeps_its_traceback(folder: Path) -> None:
    dataset = Failing(folder, 64, ImagesConfig(cache_gib=0.0))
    dataset.error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="Original Traceback"):
        list(islice(batches(dataset, 2, seed=0, start=0, workers=1), 20))
    assert no_process_is_left()


def test_a_worker_that_is_killed(folder: Path) -> None:
    source = batches(ImageFiles(folder, 64, ImagesConfig(cache_gib=0.0)), 2, seed=0, start=0, workers=2)
    next(source)
    worker = multiprocessing.active_children()[0]
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="fewer --workers") as caught:
        list(islice(source, 200))
    assert "\n" not in str(caught.value)
    assert no_process_is_left()


def test_workers_end_with_the_generator(folder: Path) -> None:
    source = batches(ImageFiles(folder, 64, ImagesConfig(cache_gib=0.0)), 2, seed=0, start=0, workers=2)
    next(source)
    assert len(multiprocessing.active_children()) == 2
    source.close()
    assert no_process_is_left()


def train_until(fault: Callable[[subprocess.Popen], None], folder: Path, run: Path) -> tuple[int, str]:
    """Train with two loader processes, do something at the first checkpoint; exit status and standard error."""
    options = ["--data", str(folder), "--images.cache-gib", "0", "--workers", "2", "--loader", "torch"]
    command = [sys.executable, "-m", "idgan_fast.train", *TINY_IMAGES, *options, "--vae.iters", "100000", "--out", run]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(run.glob("checkpoints/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    fault(process)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def test_the_data_goes_away_in_mid_run(folder: Path, tmp_path: Path) -> None:
    status, errors = train_until(lambda _: shutil.rmtree(folder), folder, tmp_path / "run")
    (line,) = errors.splitlines()
    assert status == 2
    assert line.startswith("error: data: ")

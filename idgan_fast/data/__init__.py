"""Data sets, and the one way from them to batches on the device.

Both loaders give the same batches for the same seed and start: torch's, and DALI's to within rounding.
"""

import signal
from collections.abc import Generator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from idgan_fast.config.settings import Config
from idgan_fast.data import dali
from idgan_fast.data.dsprites import DSprites, DSpritesFile
from idgan_fast.data.images import ImageFiles
from idgan_fast.data.order import IndexBatches
from idgan_fast.data.pixels import to_signed, to_unit
from idgan_fast.errors import UserError

__all__ = ["Dataset", "IndexBatches", "batches", "choose_loader", "open_data", "to_signed", "to_unit"]


class Dataset(Protocol):
    """Images by index. What a data set of ours offers to the loaders, the run and the evaluation."""

    name: str
    """What the images are, for a line to the user."""
    channels: int
    fingerprint: str
    """Equal for equal images in equal order."""
    skipped: dict[str, str]
    """The reason for each image that could not be used, by its path."""
    shorter_side: int | None
    """Of the first image that was read, in pixels; None where none was read from a file."""

    @property
    def cached(self) -> bool:
        """Whether the images need no decoding."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: list[int] | Tensor) -> Tensor:
        """uint8 [N, channels, H, W]."""

    def changed(self) -> list[str]:
        """The names of images whose files are not what they were when the data set was opened."""

    def factors(self, indices: Tensor) -> np.ndarray | None:
        """The index of each true factor of variation, int [N, F]; None where the factors are not known."""


def open_data(config: Config, size: int) -> Dataset:
    """The run's images at size x size. Raises UserError where there are none."""
    if config.dataset == "dsprites":
        if config.loader == "dali":
            raise UserError("--loader dali: dSprites are drawn, not decoded; leave --loader out")
        return DSprites() if config.data is None else DSpritesFile(Path(config.data))
    assert config.data is not None  # arguments.check has seen to it
    # Whoever asks for DALI gets it, also for images that fit in memory.
    images = replace(config.images, cache_gib=0.0) if config.loader == "dali" else config.images
    return ImageFiles(Path(config.data), size, images)


def choose_loader(config: Config, device: torch.device) -> tuple[str, str]:
    """ "dali" or "torch", for images that are not kept in memory, and why.

    Raises UserError where DALI was asked for and cannot be used.
    """
    if config.loader == "torch":
        return "torch", "as asked"
    reason = dali.why_not(device)
    if reason is None:
        return "dali", "as asked" if config.loader == "dali" else "it is installed"
    if config.loader == "dali":
        raise UserError(f"--loader dali: {reason}")
    return "torch", f"not dali, since {reason}"


class _Fetch:
    """What a loader process runs: batches, each with the images first skipped on the way; or what went wrong."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.reported: set[str] = set()

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, dict[str, str]] | Exception:
        try:
            batch = self.dataset[indices]
        except (UserError, OSError, MemoryError) as error:  # as they are: DataLoader's would be wrapped in a traceback
            return error
        new = {path: reason for path, reason in self.dataset.skipped.items() if path not in self.reported}
        self.reported.update(new)
        return batch, new


def _ignore_signals(_worker: int) -> None:
    """A signal to the whole process group is the main process's to handle; workers end with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def batches(
    dataset: Dataset,
    batch_size: int,
    seed: int,
    start: int,
    workers: int,
    *,
    pin_memory: bool = False,
    rank: int = 0,
    world: int = 1,
) -> Generator[Tensor, None, None]:
    """Endless uint8 batches [N, C, H, W], from batch number `start` on, by torch's DataLoader.

    workers: processes that decode; none where the images are in memory already. They end with the generator. rank,
    world: as in `IndexBatches`. `dataset.skipped` is kept up to date here, whichever process met the image. Raises
    what reading raised, and UserError if a worker was killed.
    """
    loader: DataLoader[tuple[Tensor, dict[str, str]]] = DataLoader(
        _Fetch(dataset),  # type: ignore[arg-type]
        sampler=IndexBatches(len(dataset), batch_size, seed, start, rank, world),
        batch_size=None,
        num_workers=0 if dataset.cached else workers,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
    )
    others = set(active_children())
    source = iter(loader)
    processes = set(active_children()) - others
    try:
        while True:
            try:
                result = next(source)
            # What DataLoader raises for a worker that was killed, also while it hands its batch over
            except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
                if not processes or str(error).startswith("Caught"):  # a fault of this code, with its traceback
                    raise
                reason = " ".join(str(error).split()) if isinstance(error, RuntimeError) else "a loader process ended"
                raise UserError(f"data: {reason}; fewer --workers need less memory") from error
            if isinstance(result, Exception):
                raise result
            batch, skipped = result
            dataset.skipped.update(skipped)
            yield batch
    finally:
        if processes:
            cast(Any, source)._shutdown_workers()  # what its deletion does, which a traceback would put off
        for process in processes:  # what hangs in a read ignores SIGTERM, and would be joined for ever
            process.kill()

"""Data sets, and the one way from them to batches on the device.

A data set has `name`, `channels`, `fingerprint` (equal for equal pictures in equal order), `__len__` and
`__getitem__(indices) -> uint8 [N, C, H, W]`. Another loader (DALI, say) replaces `batches`: it must yield the same
batches for the same seed and start.
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from idgan_fast.config import Config
from idgan_fast.data.dsprites import DSprites, DSpritesFile
from idgan_fast.data.images import ImageFiles
from idgan_fast.errors import UserError


class Dataset(Protocol):
    name: str
    channels: int
    fingerprint: str

    def __len__(self) -> int: ...
    def __getitem__(self, indices: list[int] | Tensor) -> Tensor: ...


def open_data(config: Config, size: int) -> Dataset:
    """The run's pictures at size x size. Raises UserError where there are none."""
    if config.dataset == "dsprites":
        return DSprites() if config.data is None else DSpritesFile(Path(config.data))
    assert config.data is not None  # arguments.check has seen to it
    return ImageFiles(Path(config.data), size, config.images)


class IndexBatches(Sampler[list[int]]):
    """Endless batches of indices; a pure function of (length, batch size, seed), so a run resumes at any batch.

    Each epoch is a fresh permutation; a batch may run over the end of one into the next.
    """

    def __init__(self, length: int, batch_size: int, seed: int, start: int = 0) -> None:
        self.length, self.batch_size, self.seed, self.start = length, batch_size, seed, start

    def _epoch(self, epoch: int) -> Tensor:
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.length, generator=rng)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, offset = divmod(self.start * self.batch_size, self.length)
        order = self._epoch(epoch)
        while True:
            while len(order) - offset < self.batch_size:
                epoch += 1
                order, offset = torch.cat([order[offset:], self._epoch(epoch)]), 0
            yield order[offset : offset + self.batch_size].tolist()
            offset += self.batch_size


class _Fetch:
    """What a loader process runs: batches, and the pictures that were skipped for the first time on the way."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.reported: set[str] = set()

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, dict[str, str]]:
        batch = self.dataset[indices]
        skipped = getattr(self.dataset, "skipped", {})
        new = {path: reason for path, reason in skipped.items() if path not in self.reported}
        self.reported.update(new)
        return batch, new


def _ignore_signals(_worker: int) -> None:
    """A signal to the whole process group is the main process's to handle; workers end with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def batches(
    dataset: Dataset, batch_size: int, seed: int, start: int, workers: int, pin_memory: bool = False
) -> Iterator[Tensor]:
    """Endless uint8 batches [N, C, H, W], from batch number `start` on.

    workers: processes that decode; none where the pictures are in memory already. `dataset.skipped` is kept up to
    date here, whichever process met the picture. Raises UserError if a worker is killed.
    """
    in_memory = getattr(dataset, "cached", True)
    loader: DataLoader[tuple[Tensor, dict[str, str]]] = DataLoader(
        _Fetch(dataset),  # type: ignore[arg-type]
        sampler=IndexBatches(len(dataset), batch_size, seed, start),
        batch_size=None,
        num_workers=0 if in_memory else workers,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
    )
    source = iter(loader)
    while True:
        try:
            batch, skipped = next(source)
        except RuntimeError as error:  # what DataLoader raises for a worker that was killed
            raise UserError(f"data: {' '.join(str(error).split())}; fewer --workers need less memory") from error
        if skipped:
            dataset.skipped.update(skipped)  # type: ignore[attr-defined]
        yield batch


def to_unit(batch: Tensor, device: torch.device) -> Tensor:
    """uint8 -> float32 in [0, 1] on the device: what the VAE sees."""
    return batch.to(device, non_blocking=True).float().div_(255)


def to_signed(batch: Tensor, device: torch.device, flip: Tensor | None, noise: Tensor | None) -> Tensor:
    """uint8 -> float32 in [-1, 1] on the device: what the discriminator sees.

    flip: bool [N], which pictures to mirror. noise: U[0, 1) of the batch's shape, scaled here to U[0, 1/128)
    (dequantisation, in the units of [-1, 1]).
    """
    x = batch.to(device, non_blocking=True).float().div_(127.5).sub_(1)
    if flip is not None:
        x = torch.where(flip[:, None, None, None], x.flip(3), x)
    if noise is not None:
        x = x.add_(noise, alpha=1 / 128)
    return x

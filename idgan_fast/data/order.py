"""Which images make which batch: a pure function of a few numbers, so that a run resumes at any batch."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler


class IndexBatches(Sampler[list[int]]):
    """Endless batches of indices; a pure function of (length, batch size, seed), from batch number `start` on.

    Each epoch is a fresh permutation; a batch may run over the end of one into the next. `world` processes share the
    images, and this is number `rank` of them: their batches of one number, one after the other, are the batch that a
    single process with world * batch_size would have, so that each image comes once an epoch.
    """

    def __init__(self, length: int, batch_size: int, seed: int, start: int = 0, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"IndexBatches: rank must be from 0 to {world - 1} for world {world}, got {rank}")
        self.length, self.batch_size, self.seed, self.start = length, batch_size, seed, start
        self.rank, self.world = rank, world

    def from_batch(self, start: int) -> "IndexBatches":
        return IndexBatches(self.length, self.batch_size, self.seed, start, self.rank, self.world)

    def _epoch(self, epoch: int) -> Tensor:
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.length, generator=rng)

    def __iter__(self) -> Iterator[list[int]]:
        world_batch = self.batch_size * self.world
        epoch, offset = divmod(self.start * world_batch, self.length)
        order = self._epoch(epoch)
        while True:
            while len(order) - offset < world_batch:
                epoch += 1
                order, offset = torch.cat([order[offset:], self._epoch(epoch)]), 0
            own = offset + self.rank * self.batch_size
            yield order[own : own + self.batch_size].tolist()
            offset += world_batch

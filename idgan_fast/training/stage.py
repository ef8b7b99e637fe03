"""What the trainer asks of a stage: it calls nothing else, and knows no metric by its name."""

from typing import Any, Protocol

import torch
from torch import Tensor


class Stage(Protocol):
    """Networks, optimizers and random state that `iters` steps train. Iterations count from 0."""

    name: str
    iters: int
    batch_size: int
    may_overflow: frozenset[str]
    """Metrics that may be infinite under fp16: the loss scale then leaves the update out."""

    @property
    def rng(self) -> torch.Generator:
        """The source of every random number that a step takes."""

    def step(self, batch: Tensor, iteration: int) -> dict[str, Tensor]:
        """Train on uint8 images [batch_size, C, S, S]. Returns detached metrics, on the device."""

    def log_values(self, metrics: dict[str, Tensor], iteration: int) -> dict[str, Any]:
        """The columns of stats.jsonl: a step's metrics as numbers and lists, and what the schedule had for it."""

    def collapsed(self, values: dict[str, Any], iteration: int) -> bool:
        """Whether `log_values` show that the code has collapsed, at an iteration when it should not have."""

    def weights(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint holds of the stage, under "rng" the random state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over all of `state_dict` but the random state, which another kind of device cannot take."""

"""What the trainer asks of a stage: it calls nothing else, and knows no metric by its name."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from idgan_fast.training.optimizers import Adam, RMSprop
from idgan_fast.training.precision import LossScale


class Stage(ABC):
    """Networks, optimizers and random state that `iters` steps train. Iterations count from 0."""

    name: str
    may_overflow: frozenset[str] = frozenset()
    """Metrics that may be infinite under fp16: the loss scale then leaves the update out."""
    parts: tuple[str, ...]
    """The attributes whose state a checkpoint holds."""
    iters: int
    batch_size: int
    rng: torch.Generator
    """The source of every random number that a step takes."""
    scale: LossScale

    @abstractmethod
    def step(self, batch: Tensor, iteration: int) -> dict[str, Tensor]:
        """Train on uint8 images [batch_size, C, S, S]. Returns detached metrics, on the device."""

    @abstractmethod
    def log_values(self, metrics: dict[str, Tensor], iteration: int) -> dict[str, Any]:
        """The columns of stats.jsonl: a step's metrics as numbers and lists, and what the schedule had for it."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""

    def collapsed(self, values: dict[str, Any], iteration: int) -> bool:
        """Whether `log_values` show that the code has collapsed, at an iteration when it should not have."""
        return False

    def apply(self, optimizer: RMSprop | Adam, gradients: Sequence[Tensor], lr: float | Tensor) -> None:
        """An optimizer's step with the gradients of a scaled loss; where one overflows, the scale alone changes."""
        gradients, overflow = self.scale.unscaled(gradients)
        optimizer.step(gradients, lr, overflow)
        self.scale.update(overflow)

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint holds of the stage, under "rng" the random state."""
        return {**{name: getattr(self, name).state_dict() for name in self.parts}, "rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over all of `state_dict` but the random state, which another kind of device cannot take."""
        for name in self.parts:
            getattr(self, name).load_state_dict(state[name])

"""The activations of `bias_act`: value, derivatives of first and second order, and the peers' default constants."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


@dataclass(frozen=True)
class Activation:
    """An activation of v, its derivatives of first and second order, and the peers' default constants."""

    func: Callable[[Tensor, float], Tensor]
    first: Callable[[Tensor, float], Tensor]
    second: Callable[[Tensor], Tensor] | None = None  # None: 0 almost everywhere
    def_alpha: float = 0.0
    def_gain: float = 1.0


def _step(v: Tensor, below: float) -> Tensor:
    return torch.where(v > 0, torch.ones_like(v), torch.full_like(v, below))


def _selu_negative(v: Tensor) -> Tensor:
    return SELU_SCALE * SELU_ALPHA * torch.where(v > 0, 0, v).exp()


def _swish_second(v: Tensor) -> Tensor:
    s = v.sigmoid()
    return s * (-v).sigmoid() * (2 + v * (1 - 2 * s))


activation_funcs: dict[str, Activation] = {
    "linear": Activation(lambda v, a: v, lambda v, a: torch.ones_like(v)),
    "relu": Activation(lambda v, a: v.relu(), lambda v, a: _step(v, 0.0), def_gain=math.sqrt(2)),
    "lrelu": Activation(
        lambda v, a: F.leaky_relu(v, a), lambda v, a: _step(v, a), def_alpha=0.2, def_gain=math.sqrt(2)
    ),
    "tanh": Activation(
        lambda v, a: v.tanh(), lambda v, a: 1 - v.tanh() ** 2, lambda v: -2 * v.tanh() * (1 - v.tanh() ** 2)
    ),
    "sigmoid": Activation(
        lambda v, a: v.sigmoid(),
        lambda v, a: v.sigmoid() * (-v).sigmoid(),
        lambda v: v.sigmoid() * (-v).sigmoid() * (1 - 2 * v.sigmoid()),
    ),
    "elu": Activation(
        lambda v, a: F.elu(v),
        lambda v, a: torch.where(v > 0, 0, v).exp(),
        lambda v: torch.where(v > 0, 0, torch.where(v > 0, 0, v).exp()),
    ),
    "selu": Activation(
        lambda v, a: F.selu(v),
        lambda v, a: torch.where(v > 0, torch.full_like(v, SELU_SCALE), _selu_negative(v)),
        lambda v: torch.where(v > 0, 0, _selu_negative(v)),
    ),
    "softplus": Activation(
        lambda v, a: F.softplus(v), lambda v, a: v.sigmoid(), lambda v: v.sigmoid() * (-v).sigmoid()
    ),
    "swish": Activation(
        lambda v, a: F.silu(v),
        lambda v, a: v.sigmoid() * (1 + v * (-v).sigmoid()),
        _swish_second,
        def_gain=math.sqrt(2),
    ),
}

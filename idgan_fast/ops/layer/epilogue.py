"""What follows a layer's convolution: the operands that the custom ops styled_epilogue* and styled_layer* share."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.ops._resampling import NO_PADDING
from idgan_fast.ops._tensors import laid_out_like

Phases = tuple[Tensor, ...]  # one whole image, or even and odd rows of even and odd columns: ee, eo, oe, oo
SCHEMA = (
    "Tensor? f, Tensor? scale, Tensor? noise, Tensor? strength, Tensor? b, Tensor? next_styles, "
    "SymInt[] padding, float fir_gain, float slope, float gain, float? clamp"
)


class Epilogue(NamedTuple):
    """u = FIR(y), v = u scale + noise strength + b, z = clamp(gain lrelu(v), -clamp, clamp), out = z next_styles.

    The fields are in the order of the custom ops' arguments; what is None is left out.
    f, padding, fir_gain: a filter as in `upfirdn2d`, its padding (x0, x1, y0, y1) and its gain.
    scale, next_styles: [N, C]. noise: [N or 1, 1, H', W'] or [H', W']. strength: one element. b: [C].
    slope: of lrelu below 0, at least 0.
    """

    f: Tensor | None = None
    scale: Tensor | None = None
    noise: Tensor | None = None
    strength: Tensor | None = None
    b: Tensor | None = None
    next_styles: Tensor | None = None
    padding: Sequence[int] = NO_PADDING
    fir_gain: float = 1.0
    slope: float = 1.0
    gain: float = 1.0
    clamp: float | None = None

    @property
    def vectors(self) -> tuple[Tensor | None, ...]:
        return self.scale, self.noise, self.strength, self.b, self.next_styles

    @property
    def numbers(self) -> tuple[Any, ...]:
        return self.padding, self.fir_gain, self.slope, self.gain, self.clamp

    @property
    def noise_step(self) -> int:
        """Elements from one sample's noise to the next one's."""
        return 0 if self.noise is None or self.noise.shape[0] == 1 else self.noise[0].numel()


def whole(y: Sequence[Tensor]) -> Tensor:
    """The image of its phases."""
    if len(y) == 1:
        return y[0]
    even, odd = _interleaved(y[0], y[1], 3), _interleaved(y[2], y[3], 3)
    return _interleaved(even, odd, 2)


def phases(y: Tensor, count: int) -> Phases:
    """The inverse of `whole`: of `count` parts, new tensors in y's layout."""
    if count == 1:
        return (y,)
    parts = [y[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return tuple([laid_out_like(part, y) for part in parts])


def _interleaved(even: Tensor, odd: Tensor, dim: int) -> Tensor:
    size = even.shape[dim] + odd.shape[dim]
    odd = F.pad(odd, [0, 0] * (3 - dim) + [0, even.shape[dim] - odd.shape[dim]])
    return torch.stack((even, odd), dim + 1).flatten(dim, dim + 1).narrow(dim, 0, size)

"""The arguments of the epilogue of a StyleGAN2 layer, which the kernels styled_epilogue* and styled_layer* take."""

from typing import NamedTuple

from torch import Tensor


class Epilogue(NamedTuple):
    """v = y scale + noise strength + b, z = clamp(gain lrelu(v)), out = z next_styles; what is None is left out.

    scale, next_styles: [N, C]; noise: [N or 1, 1, H, W]; strength: []; b: [C]; in the type of the arithmetic.
    """

    scale: Tensor | None = None
    noise: Tensor | None = None
    strength: Tensor | None = None
    b: Tensor | None = None
    next_styles: Tensor | None = None
    slope: float = 1.0
    gain: float = 1.0
    clamp: float | None = None

    @property
    def noise_step(self) -> int:
        """Elements from one sample's noise to the next one's."""
        return 0 if self.noise is None or self.noise.shape[0] == 1 else self.noise[0].numel()

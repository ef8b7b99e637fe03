"""Bias, upsampling, leaky ReLU with gain and clamp, downsampling: StyleGAN3's alias-free non-linearity."""

import math

from torch import Tensor

from idgan_fast.ops._tensors import check_images
from idgan_fast.ops.bias_act import biased
from idgan_fast.ops.upfirdn2d import Pair, check_filter, resample, scaling


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Pair = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = "auto",
) -> Tensor:
    """upfirdn2d(lrelu(upfirdn2d(x + b, fu, up, padding, gain up^2)) * gain, clamped, fd, down); arXiv 2106.12423.

    x: [N, C, H, W]. b: [C] or None. fu, fd: filters as in `upfirdn2d`. padding: by the upsampled image.
    clamp: bound of the leaky ReLU's result times gain, None for none. Gradients of every order, by x and b.
    Returns [N, C, H', W'] of x's dtype and memory format. Raises TypeError, ValueError: one line on the argument.
    """
    function = "filtered_lrelu"
    check_images(function, x)
    check_filter(function, "fu", fu)
    check_filter(function, "fd", fd)
    up_x, up_y = scaling(function, "up", up)
    x = biased(function, x, b, 1, "linear", None, None, None, impl)
    x = resample(function, x, fu, up, 1, padding, flip_filter, up_x * up_y, impl)
    x = biased(function, x, None, 1, "lrelu", slope, gain, clamp, impl)
    return resample(function, x, fd, 1, down, 0, flip_filter, 1, impl)

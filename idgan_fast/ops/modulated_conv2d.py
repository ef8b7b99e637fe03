"""Modulated convolution: each sample scales the weight's input channels by its style, and may demodulate.

With w' = weight * styles[n], the output conv(x, w') / |w'| equals d * conv(x * styles, weight): the weight is shared,
and d[n, o] = rsqrt(sum_i styles[n, i]^2 sum_k weight[o, i, k]^2 + 1e-8) is one small matrix product.
Source: Karras et al., Analyzing and Improving the Image Quality of StyleGAN (arXiv 1912.04958), equations 1 to 3.
"""

import math

import torch
from torch import Tensor

from idgan_fast.ops._tensors import accumulation, autocasting, check_floating, check_images, no_autocast
from idgan_fast.ops.styled_layer import Resampling, styled_layer
from idgan_fast.ops.upfirdn2d import Pair, check_filter
from idgan_fast.ops.weight_square_sum import weight_square_sum

EPS = 1e-8


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Pair = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused_modconv: bool = True,
    impl: str = "auto",
) -> Tensor:
    """conv2d_resample of x with weight * styles, demodulated, plus noise; as in stylegan2-ada.

    x: [N, I, H, W]. weight: [O, I, kh, kw], cast to x's dtype for the convolution. styles: [N, I], and noise:
    [N, 1, H', W'] or [H', W'], used in float32 (float64 for float64), as the demodulation coefficients are.
    up, down, padding, resample_filter, flip_weight: as in `conv2d_resample`.
    fused_modconv: accepted for callers that pass it; both values give the same result from shared weights.
    float16 with demodulation scales weight and styles into range by powers of two first, which demodulation cancels.
    Under autocast x is cast to its dtype, and the rest as above.
    Returns [N, O, H', W'] in the dtype of x. Gradients of every order, by x, weight, styles and noise.
    Raises TypeError, ValueError: one line on the argument. BackendError: impl cannot run here.
    """
    function = "modulated_conv2d"
    check_operands(function, x, weight, styles)
    check_filter(function, "resample_filter", resample_filter)
    x = autocast(x)
    with no_autocast(x.device.type):
        factor = None
        if demodulate:
            styles, factor = normalized(styles, x.dtype)
        weight, scale = prepared(function, weight, styles, factor, x.dtype, demodulate, impl)
        resampling = Resampling(resample_filter, up, down, padding, flip_weight)
        tensors = (scale, noise, None, None, None)
        return styled_layer(function, x, weight, styles, resampling, tensors, 1.0, 1.0, None, impl)


def demodulation(function: str, weight: Tensor, styles: Tensor, eps: Tensor | float, impl: str) -> Tensor:
    """rsqrt(sum over i and k of (weight[o, i, k] styles[n, i])^2 + eps): [O, I, kh, kw], [N, I] -> [N, O]."""
    return (styles.square() @ weight_square_sum(function, weight, impl).t() + eps).rsqrt()


def normalized(t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """For float16, a weight or styles with each leading row brought near 1 by a power of two, and these powers.

    Demodulation cancels the factor, so that it counts as a constant in the gradients; a power of two rounds nothing.
    """
    if dtype != torch.float16 or t.numel() == 0:
        return t, None
    t = t.float()
    largest = t.detach().abs().amax(tuple(range(1, t.ndim)), keepdim=True)
    factor = torch.ldexp(torch.ones_like(largest), -torch.frexp(largest).exponent)
    return t * factor, factor


def prepared(
    function: str,
    weight: Tensor,
    styles: Tensor,
    styles_factor: Tensor | None,
    dtype: torch.dtype,
    demodulate: bool,
    impl: str,
) -> tuple[Tensor, Tensor | None]:
    """The weight to convolve with in `dtype`, and the demodulation coefficients [N, O] of it or None.

    styles_factor: [N, 1] by which `normalized` multiplied the styles, or None.
    """
    if not demodulate:
        return weight.to(dtype), None
    weight, styles = weight.to(accumulation(dtype)), styles.to(accumulation(dtype))
    eps: Tensor | float = EPS
    if dtype == torch.float16:
        weight, factor = normalized(weight, dtype)
        root = 2 ** (int(math.prod(weight.shape[1:])).bit_length() // 2)  # about the square root of the fan-in
        weight = weight / root
        if factor is not None:
            eps = EPS * (factor.reshape(1, -1) / root).square()
        if styles_factor is not None:
            eps = eps * styles_factor.square()
    return weight.to(dtype), demodulation(function, weight, styles, eps, impl)


def autocast(x: Tensor) -> Tensor:
    """x in the dtype that autocast gives a convolution; double stays double, as autocast has it."""
    device = x.device.type
    if autocasting(device) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(device))
    return x


def check_operands(function: str, x: Tensor, weight: Tensor, styles: Tensor) -> None:
    check_images(function, x)
    check_floating(function, "weight", weight)
    check_floating(function, "styles", styles)
    n, i = x.shape[:2]
    if weight.ndim != 4 or weight.shape[1] != i:
        raise ValueError(
            f"{function}: weight must be [O, {i}, kh, kw] for x {tuple(x.shape)}, got {tuple(weight.shape)}"
        )
    if styles.shape != (n, i):
        raise ValueError(f"{function}: styles must be [{n}, {i}] for x {tuple(x.shape)}, got {tuple(styles.shape)}")

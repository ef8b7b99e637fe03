"""Modulated convolution: each sample scales the weight's input channels by its style, and may demodulate.

With w' = weight * styles[n], the output conv(x, w') / |w'| equals d * conv(x * styles, weight): the weight is shared,
and d[n, o] = rsqrt(sum_i styles[n, i]^2 sum_k weight[o, i, k]^2 + 1e-8) is one small matrix product.
Source: Karras et al., Analyzing and Improving the Image Quality of StyleGAN (arXiv 1912.04958), equations 1 to 3.
"""

import torch
from torch import Tensor

from idgan_fast.ops._tensors import accumulation, check_floating, check_images
from idgan_fast.ops.conv2d_resample import resampled
from idgan_fast.ops.fma import fma
from idgan_fast.ops.upfirdn2d import Pair, check_filter

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

    x: [N, I, H, W]. weight: [O, I, kh, kw], styles: [N, I], both cast to x's dtype after the demodulation
    coefficients are found in float32. noise: [N, 1, H', W'] or [H', W'], cast to x's dtype.
    up, down, padding, resample_filter, flip_weight: as in `conv2d_resample`.
    fused_modconv: accepted for callers that pass it; both values give the same result from shared weights.
    float16 with demodulation scales weight and styles by their largest values first, which demodulation cancels.
    Under autocast x is cast to its dtype, and the rest as above.
    Returns [N, O, H', W'] in the dtype of x. Gradients of every order, by x, weight, styles and noise.
    Raises TypeError, ValueError: one line on the argument. BackendError: impl cannot run here.
    """
    check_operands("modulated_conv2d", x, weight, styles)
    check_filter("modulated_conv2d", "resample_filter", resample_filter)
    x = autocast(x)
    with torch.autocast(x.device.type, enabled=False):
        weight, styles, scale = prepared(weight, styles, x.dtype, demodulate)
        x = modulate(x, styles)
        y = resampled(
            "modulated_conv2d", x, weight.to(x.dtype), resample_filter, up, down, padding, 1, flip_weight, False, impl
        )
        return scaled_with_noise("modulated_conv2d", y, scale, noise)


def modulate(x: Tensor, styles: Tensor) -> Tensor:
    """x [N, I, H, W] times styles [N, I], in the dtype of x."""
    return x * styles.to(x.dtype)[:, :, None, None]


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """rsqrt(sum over i and k of (weight[o, i, k] styles[n, i])^2 + 1e-8): [O, I, kh, kw], [N, I] -> [N, O]."""
    return (styles.square() @ weight.square().sum((2, 3)).t() + EPS).rsqrt()


def prepared(
    weight: Tensor, styles: Tensor, dtype: torch.dtype, demodulate: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weight and styles to compute with in `dtype`, and the demodulation coefficients [N, O]."""
    weight, styles = weight.to(accumulation(dtype)), styles.to(accumulation(dtype))
    if not demodulate:
        return weight, styles, None
    if dtype == torch.float16 and weight.numel() and styles.numel():
        weight = weight / (weight.abs().amax((1, 2, 3), keepdim=True) * weight[0].numel() ** 0.5)
        styles = styles / styles.abs().amax(1, keepdim=True)
    return weight, styles, demodulation(weight, styles)


def autocast(x: Tensor) -> Tensor:
    """x in the dtype that autocast gives a convolution; double stays double, as autocast has it."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
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


def scaled_with_noise(function: str, y: Tensor, scale: Tensor | None, noise: Tensor | None) -> Tensor:
    """y [N, O, H, W] times scale [N, O] plus noise, in the dtype of y; None leaves a term out."""
    if noise is not None:
        check_noise(function, noise, y)
        noise = noise.to(y.dtype)
    if scale is None:
        return y if noise is None else y + noise
    scale = scale.to(y.dtype)[:, :, None, None]
    return y * scale if noise is None else fma(y, scale, noise)


def check_noise(function: str, noise: Tensor, y: Tensor) -> None:
    check_floating(function, "noise", noise)
    n, _, h, w = y.shape
    if tuple(noise.shape) not in ((n, 1, h, w), (1, 1, h, w), (h, w)):
        raise ValueError(f"{function}: noise must be [{n}, 1, {h}, {w}] or [{h}, {w}], got {tuple(noise.shape)}")

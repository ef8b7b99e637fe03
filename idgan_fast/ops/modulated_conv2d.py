"""Modulated convolution: each sample scales the weight's input channels by its style, and may demodulate.

With w' = weight * styles[n], the output conv(x, w') / |w'| equals d * conv(x * styles, weight): the weight is shared,
and d[n, o] = rsqrt(sum_i styles[n, i]^2 sum_k weight[o, i, k]^2 + 1e-8) is one small matrix product.
Source: Karras et al., Analyzing and Improving the Image Quality of StyleGAN (arXiv 1912.04958), equations 1 to 3.
"""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.ops import _host
from idgan_fast.ops._errors import ArgumentValueError, public
from idgan_fast.ops._registry import Case, Operator
from idgan_fast.ops._resampling import Pair, check_filter
from idgan_fast.ops._tensors import accumulation, autocasting, check_floating, check_images, no_autocast
from idgan_fast.ops.layer.composition import Resampling, apply_layer
from idgan_fast.ops.layer.epilogue import Epilogue
from idgan_fast.ops.upfirdn2d import blur_filter, plain_upfirdn2d
from idgan_fast.ops.weight_square_sum import weight_square_sum

EPS = 1e-8


@public
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
    [N, 1, H', W'] or [H', W'], used in float32 (float64 for float64), as the demodulation coefficients are. None of
    them may be float64 where x is not.
    up, down, padding, resample_filter, flip_weight: as in `conv2d_resample`.
    fused_modconv: accepted for callers that pass it; both values give the same result from shared weights.
    float16 with demodulation scales weight and styles into range by powers of two first, which demodulation cancels.
    Under autocast x is cast to its dtype, and the rest as above.
    Returns [N, O, H', W'] in the dtype of x. Gradients of every order, by x, weight, styles and noise.
    Raises TypeError, ValueError: one line on the argument. BackendError: impl cannot run here.
    """
    y = _host.modulated_conv2d(
        x, weight, styles, noise, up, down, padding, resample_filter, demodulate, flip_weight, impl
    )
    if y is not None:
        return y
    check_operands(x, weight, styles)
    check_filter("resample_filter", resample_filter)
    x = cast_to_autocast_dtype(x)
    with no_autocast(x.device.type):
        factors = None
        if demodulate:
            styles, factors = normalize_rows(styles, x.dtype)
        weight, scale = weight_and_demodulation(weight, styles, factors, x.dtype, demodulate=demodulate, impl=impl)
        resampling = Resampling(resample_filter, up, down, padding, flip_weight)
        return apply_layer(x, weight, styles, resampling, Epilogue(scale=scale, noise=noise), impl=impl)


def demodulation(weight: Tensor, styles: Tensor, eps: Tensor | float, *, impl: str) -> Tensor:
    """rsqrt(sum over i and k of (weight[o, i, k] styles[n, i])^2 + eps): [O, I, kh, kw], [N, I] -> [N, O]."""
    return (styles.square() @ weight_square_sum(weight, impl).t() + eps).rsqrt()


def normalize_rows(t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Scales each row of a weight or of styles to about 1 by an exact power of two, where `dtype` is float16.

    Returns (scaled, factors); factors is None where nothing was scaled. Demodulation cancels the factors, so that they
    count as constants in the gradients.
    """
    if dtype != torch.float16 or t.numel() == 0:
        return t, None
    t = t.float()
    largest = t.detach().abs().amax(tuple(range(1, t.ndim)), keepdim=True)
    factors = torch.ldexp(torch.ones_like(largest), -torch.frexp(largest).exponent)
    return t * factors, factors


def weight_and_demodulation(
    weight: Tensor,
    styles: Tensor,
    style_factors: Tensor | None,
    dtype: torch.dtype,
    *,
    demodulate: bool,
    impl: str,
) -> tuple[Tensor, Tensor | None]:
    """The weight to convolve with in `dtype`, and the demodulation coefficients [N, O] of it or None.

    style_factors: [N, 1], those that `normalize_rows` multiplied the styles by, or None.
    """
    if not demodulate:
        return weight.to(dtype), None
    weight, styles = weight.to(accumulation(dtype)), styles.to(accumulation(dtype))
    eps: Tensor | float = EPS
    if dtype == torch.float16:
        weight, factors = normalize_rows(weight, dtype)
        root = 2 ** (int(math.prod(weight.shape[1:])).bit_length() // 2)  # about the square root of the fan-in
        weight = weight / root
        if factors is not None:
            eps = EPS * (factors.reshape(1, -1) / root).square()
        if style_factors is not None:
            eps = eps * style_factors.square()
    return weight.to(dtype), demodulation(weight, styles, eps, impl=impl)


def cast_to_autocast_dtype(x: Tensor) -> Tensor:
    """x in the dtype that autocast gives a convolution; double stays double, as autocast has it."""
    device = x.device.type
    if autocasting(device) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(device))
    return x


def check_operands(x: Tensor, weight: Tensor, styles: Tensor) -> None:
    check_images(x)
    check_floating("weight", weight, x)
    check_floating("styles", styles, x)
    n, i = x.shape[:2]
    if weight.ndim != 4 or weight.shape[1] != i or weight.numel() == 0:
        raise ArgumentValueError(
            f"weight must be [O, {i}, kh, kw], not empty, for x {tuple(x.shape)}, got {tuple(weight.shape)}"
        )
    if styles.shape != (n, i):
        raise ArgumentValueError(f"styles must be [{n}, {i}] for x {tuple(x.shape)}, got {tuple(styles.shape)}")


def plain_modulated_conv2d(x: Tensor, weight: Tensor, styles: Tensor, f: Tensor | None = None, up: int = 1) -> Tensor:
    """As StyleGAN code without kernels writes it, with a weight for each sample; demodulated, k odd and padded."""
    n, i, h, w = x.shape
    o, _, k, _ = weight.shape
    w_n = weight[None] * styles.reshape(n, 1, i, 1, 1)
    w_n = w_n * (w_n.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, n * i, h, w)
    if up == 1:
        y = F.conv2d(x, w_n.reshape(n * o, i, k, k), padding=k // 2, groups=n)
        return y.reshape(n, o, *y.shape[2:])
    assert f is not None
    w_t = w_n.transpose(1, 2).flip((3, 4)).reshape(n * i, o, k, k)
    y = F.conv_transpose2d(x, w_t, stride=up, groups=n)
    y = y.reshape(n, o, *y.shape[2:])
    return plain_upfirdn2d(y, f, padding=_after_transposed(k, f, up), gain=up * up)


def plain_shared_modulated_conv2d(
    x: Tensor, weight: Tensor, styles: Tensor, f: Tensor | None = None, up: int = 1
) -> Tensor:
    """The same with one weight for all samples: the style scales x, the demodulation the result."""
    n, i = x.shape[:2]
    k = weight.shape[2]
    w_n = weight[None] * styles.reshape(n, 1, i, 1, 1)
    d = (w_n.square().sum((2, 3, 4)) + 1e-8).rsqrt()
    x = x * styles[:, :, None, None]
    if up == 1:
        y = F.conv2d(x, weight, padding=k // 2)
    else:
        assert f is not None
        y = F.conv_transpose2d(x, weight.transpose(0, 1).flip((2, 3)), stride=up)
        y = plain_upfirdn2d(y, f, padding=_after_transposed(k, f, up), gain=up * up)
    return y * d[:, :, None, None]


def _after_transposed(k: int, f: Tensor, up: int) -> tuple[int, int, int, int]:
    p0 = (f.shape[0] + up - 1) // 2 + k // 2 - (k - 1)
    p1 = (f.shape[0] - up) // 2 + k // 2 - (k - up)
    return p0, p1, p0, p1


PLAIN_FORMS = (plain_modulated_conv2d, plain_shared_modulated_conv2d)


def layer_shapes(channels: int, size: int, up: int) -> tuple[tuple[int, ...], ...]:
    """Of cases: x, weight, styles, noise, its strength, bias; as many channels out as in."""
    n, c = 2, channels
    return (n, c, size, size), (c, c, 3, 3), (n, c), (n, 1, size * up, size * up), (), (c,)


def _cases(device: str, channels: int, size: int) -> Iterator[Case]:
    f = blur_filter(device)
    for up in (1, 2):
        ours = partial(modulated_conv2d, up=up, padding=1, resample_filter=f)
        shapes = layer_shapes(channels, size, up)[:3]
        yield Case(f"modulated_conv2d up={up}", shapes, ours, tuple(partial(p, f=f, up=up) for p in PLAIN_FORMS))


OPERATOR = Operator("modulated_conv2d", cases=_cases)

"""A whole StyleGAN2 layer: modulated convolution, resampling, noise, bias, activation, gain and clamp."""

from collections.abc import Sequence

from torch import Tensor

from idgan_fast.ops._tensors import check_floating, no_autocast
from idgan_fast.ops.bias_act import biased, checked, negative_slope
from idgan_fast.ops.modulated_conv2d import autocast, check_operands, normalized, prepared
from idgan_fast.ops.styled_epilogue import modulate
from idgan_fast.ops.styled_layer import Resampling, styled_layer
from idgan_fast.ops.upfirdn2d import check_filter, setup_filter


def styled_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    noise_strength: Tensor | None = None,
    bias: Tensor | None = None,
    up: int = 1,
    resample_filter: Tensor | Sequence[float] = (1, 3, 3, 1),
    demodulate: bool = True,
    act: str = "lrelu",
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
    next_styles: Tensor | None = None,
) -> Tensor:
    """clamp(gain * act(modulated convolution of x + noise_strength * noise + bias)); arXiv 1912.04958, figure 2.

    x: [N, I, H, W]. weight: [O, I, k, k], k odd, padded by k // 2. styles: [N, I]. bias: [O] or None.
    noise: [N, 1, H up, W up] or [H up, W up], or None; noise_strength: a scalar tensor or None for 1.
    up: int. resample_filter: taps (made into a filter at each call) or a filter as in `upfirdn2d`.
    act, gain, clamp: as in `bias_act`. next_styles: as in `chained_styled_conv2d`, whose chain this layer begins.
    Autocast and float16: as in `modulated_conv2d`. In the half types all that
    follows the convolution is computed in float32 and, but for the smooth activations, rounded once.
    Returns [N, O, H up, W up] in the dtype of x. Gradients of every order by every tensor but the filter.
    Raises TypeError, ValueError: one line on the argument. BackendError: impl cannot run here.
    """
    check_operands("styled_conv2d", x, weight, styles)
    x = autocast(x)
    factor = None
    with no_autocast(x.device.type):
        if demodulate:
            styles, factor = normalized(styles, x.dtype)
    return _layer(
        "styled_conv2d", x, weight, styles, styles, factor, noise, noise_strength, bias, next_styles, up,
        resample_filter, demodulate, act, gain, clamp, impl,
    )  # fmt: skip


def chained_styled_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    noise_strength: Tensor | None = None,
    bias: Tensor | None = None,
    next_styles: Tensor | None = None,
    up: int = 1,
    resample_filter: Tensor | Sequence[float] = (1, 3, 3, 1),
    demodulate: bool = True,
    act: str = "lrelu",
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """A layer in a chain: `styled_conv2d` of an x that carries its style already, and that applies the next one's.

    x: [N, I, H, W], multiplied by `styles` [N, I], which serve for the demodulation alone.
    next_styles: [N, O] or None: the result is multiplied by them, in the pass that writes it. It is what the next
    layer takes as x, so that a chain reads and writes each activation once less:

        h = chained_styled_conv2d(x * styles1[:, :, None, None], weight1, styles1, next_styles=styles2)
        y = chained_styled_conv2d(h, weight2, styles2)

    In float16 divide a demodulated layer's styles by each sample's largest before you use them: demodulation cancels
    the factor, up to its epsilon, and the activations stay in range.
    The other arguments, the result, gradients and errors: as in `styled_conv2d`.
    """
    check_operands("chained_styled_conv2d", x, weight, styles)
    return _layer(
        "chained_styled_conv2d", autocast(x), weight, None, styles, None, noise, noise_strength, bias, next_styles, up,
        resample_filter, demodulate, act, gain, clamp, impl,
    )  # fmt: skip


def _layer(
    function: str,
    x: Tensor,
    weight: Tensor,
    prologue: Tensor | None,
    styles: Tensor,
    factor: Tensor | None,
    noise: Tensor | None,
    noise_strength: Tensor | None,
    bias: Tensor | None,
    next_styles: Tensor | None,
    up: int,
    resample_filter: Tensor | Sequence[float],
    demodulate: bool,
    act: str,
    gain: float | None,
    clamp: float | None,
    impl: str,
) -> Tensor:
    """prologue: the styles, where x does not carry them yet."""
    kh, kw = weight.shape[2:]
    if kh % 2 == 0 or kw % 2 == 0:
        raise ValueError(f"{function}: weight must have an odd kernel, got {kh} x {kw}")
    if bias is not None:
        check_floating(function, "bias", bias)
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"{function}: bias must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    if noise_strength is not None:
        check_floating(function, "noise_strength", noise_strength)
        if noise is None or noise_strength.numel() != 1:
            shape = tuple(noise_strength.shape)
            raise ValueError(f"{function}: noise_strength must be a scalar that comes with noise, got shape {shape}")
    if next_styles is not None:
        check_floating(function, "next_styles", next_styles)
        wanted = (x.shape[0], weight.shape[0])
        if next_styles.shape != wanted:
            raise ValueError(f"{function}: next_styles must be {list(wanted)}, got {tuple(next_styles.shape)}")
    with no_autocast(x.device.type):
        weight, scale = prepared(function, weight, styles, factor, x.dtype, demodulate, impl)
        f = None
        if up != 1:
            f = resample_filter if isinstance(resample_filter, Tensor) else setup_filter(resample_filter, x.device)
            check_filter(function, "resample_filter", f)
        resampling = Resampling(f, up, 1, (kw // 2, kw // 2, kh // 2, kh // 2))
        _, alpha, gain, clamp = checked(function, x, None, 1, act, None, gain, clamp)
        slope = negative_slope(act, alpha)
        after = (1.0, 1.0, None) if slope is None else (slope, gain, clamp)
        tensors = (scale, noise, noise_strength, bias, None if slope is None else next_styles)
        out = styled_layer(function, x, weight, prologue, resampling, tensors, *after, impl)
        if slope is not None:
            return out
        out = biased(function, out, None, 1, act, alpha, gain, clamp, impl)
        return out if next_styles is None else modulate(function, out, next_styles, impl)

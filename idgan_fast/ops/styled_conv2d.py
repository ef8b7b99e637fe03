"""A whole StyleGAN2 layer: modulated convolution, resampling, noise, bias, activation, gain and clamp."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import maybe_current_level
from torch.utils._python_dispatch import _disable_current_modes

from idgan_fast.ops import _host
from idgan_fast.ops._errors import ArgumentValueError, public
from idgan_fast.ops._registry import Case, Operator
from idgan_fast.ops._resampling import check_filter
from idgan_fast.ops._tensors import check_floating, no_autocast
from idgan_fast.ops.bias_act import bias_act, check_arguments, negative_slope, plain_bias_act
from idgan_fast.ops.layer.composition import Resampling, apply_layer
from idgan_fast.ops.layer.epilogue import Epilogue
from idgan_fast.ops.layer.styled_epilogue import modulate
from idgan_fast.ops.modulated_conv2d import (
    PLAIN_FORMS,
    cast_to_autocast_dtype,
    check_operands,
    layer_shapes,
    normalize_rows,
    weight_and_demodulation,
)
from idgan_fast.ops.upfirdn2d import blur_filter, setup_filter


@public
def styled_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    noise_strength: Tensor | None = None,
    bias: Tensor | None = None,
    next_styles: Tensor | None = None,
    *,
    up: int = 1,
    resample_filter: Tensor | Sequence[float] = (1, 3, 3, 1),
    demodulate: bool = True,
    act: str = "lrelu",
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """clamp(gain * act(modulated convolution of x + noise_strength * noise + bias)); arXiv 1912.04958, figure 2.

    x: [N, I, H, W]. weight: [O, I, k, k], k odd, padded by k // 2. styles: [N, I]. bias: [O] or None.
    noise: [N, 1, H up, W up] or [H up, W up], or None; noise_strength: a scalar tensor or None for 1.
    up: int. resample_filter: taps (made into a filter at each call) or a filter as in `upfirdn2d`.
    act, gain, clamp: as in `bias_act`. next_styles: [N, O] or None, as in `chained_styled_conv2d`.
    Autocast and float16: as in `modulated_conv2d`. In the half types all that follows the convolution is computed
    in float32 and, but for the smooth activations, rounded once.
    Returns [N, O, H up, W up] in the dtype of x. Gradients of every order by every tensor but the filter.
    Raises TypeError, ValueError: one line on the argument. BackendError: impl cannot run here.
    """
    f = _taps(resample_filter, up)
    y = _host.styled_conv2d(
        x, weight, styles, noise, noise_strength, bias, next_styles, up, f, demodulate, act, gain, clamp, False, impl
    )
    if y is not None:
        return y
    check_operands(x, weight, styles)
    x, factors = cast_to_autocast_dtype(x), None
    with no_autocast(x.device.type):
        if demodulate:
            styles, factors = normalize_rows(styles, x.dtype)
    options = _Options(up, resample_filter, demodulate, act, gain, clamp, impl)
    epilogue = Epilogue(noise=noise, strength=noise_strength, b=bias, next_styles=next_styles)
    return _layer(x, weight, styles, factors, epilogue, options, carries_styles=False)


@public
def chained_styled_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    noise_strength: Tensor | None = None,
    bias: Tensor | None = None,
    next_styles: Tensor | None = None,
    *,
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
    f = _taps(resample_filter, up)
    y = _host.styled_conv2d(
        x, weight, styles, noise, noise_strength, bias, next_styles, up, f, demodulate, act, gain, clamp, True, impl
    )
    if y is not None:
        return y
    check_operands(x, weight, styles)
    options = _Options(up, resample_filter, demodulate, act, gain, clamp, impl)
    epilogue = Epilogue(noise=noise, strength=noise_strength, b=bias, next_styles=next_styles)
    return _layer(cast_to_autocast_dtype(x), weight, styles, None, epilogue, options, carries_styles=True)


def _taps(resample_filter: Tensor | Sequence[float], up: int) -> Any:
    """The filter that the host library is given."""
    if up == 1 or isinstance(resample_filter, Tensor):
        return None if up == 1 else resample_filter
    if type(resample_filter) is tuple and not torch.compiler.is_compiling() and maybe_current_level() is None:
        return _filter_of(resample_filter)
    return resample_filter


@lru_cache(16)
def _filter_of(taps: tuple[float, ...]) -> Tensor:
    with torch.inference_mode(False), _disable_current_modes():
        return setup_filter(taps)


class _Options(NamedTuple):
    up: int
    resample_filter: Tensor | Sequence[float]
    demodulate: bool
    act: str
    gain: float | None
    clamp: float | None
    impl: str


def _layer(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    style_factors: Tensor | None,
    epilogue: Epilogue,
    options: _Options,
    *,
    carries_styles: bool,
) -> Tensor:
    """carries_styles: whether x has been multiplied by the styles."""
    up, resample_filter, demodulate, act, gain, clamp, impl = options
    _check_vectors(x, weight, epilogue)
    with no_autocast(x.device.type):
        weight, scale = weight_and_demodulation(
            weight, styles, style_factors, x.dtype, demodulate=demodulate, impl=impl
        )
        f = None
        if up != 1:
            f = resample_filter if isinstance(resample_filter, Tensor) else setup_filter(resample_filter, x.device)
            check_filter("resample_filter", f)
        kh, kw = weight.shape[2:]
        resampling = Resampling(f, up, 1, (kw // 2, kw // 2, kh // 2, kh // 2))
        _, alpha, gain, clamp = check_arguments(x, None, 1, act, None, gain, clamp)
        slope = negative_slope(act, alpha)
        epilogue, prologue = epilogue._replace(scale=scale), None if carries_styles else styles
        if slope is not None:
            epilogue = epilogue._replace(slope=slope, gain=gain, clamp=clamp)
            return apply_layer(x, weight, prologue, resampling, epilogue, impl=impl)
        y = apply_layer(x, weight, prologue, resampling, epilogue._replace(next_styles=None), impl=impl)
        y = bias_act(y, act=act, gain=gain, clamp=clamp, impl=impl)
        return y if epilogue.next_styles is None else modulate(y, epilogue.next_styles, impl)


def _check_vectors(x: Tensor, weight: Tensor, epilogue: Epilogue) -> None:
    _, noise, strength, bias, next_styles = epilogue.vectors
    kh, kw = weight.shape[2:]
    if kh % 2 == 0 or kw % 2 == 0:
        raise ArgumentValueError(f"weight must have an odd kernel, got {kh} x {kw}")
    if bias is not None:
        check_floating("bias", bias, x)
        if bias.shape != weight.shape[:1]:
            raise ArgumentValueError(f"bias must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    if strength is not None:
        check_floating("noise_strength", strength, x)
        if noise is None or strength.numel() != 1:
            shape = tuple(strength.shape)
            raise ArgumentValueError(f"noise_strength must be a scalar that comes with noise, got shape {shape}")
    if next_styles is not None:
        check_floating("next_styles", next_styles, x)
        wanted = (x.shape[0], weight.shape[0])
        if next_styles.shape != wanted:
            raise ArgumentValueError(f"next_styles must be {list(wanted)}, got {tuple(next_styles.shape)}")


def plain_styled_conv2d(
    x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor, strength: Tensor, b: Tensor,
    *, f: Tensor, up: int, clamp: float, modulated: Callable[..., Tensor] = PLAIN_FORMS[0],
) -> Tensor:  # fmt: skip
    """As StyleGAN code without kernels writes it."""
    return plain_bias_act(modulated(x, weight, styles, f, up) + noise * strength, b, clamp=clamp)


def _cases(device: str, channels: int, size: int) -> Iterator[Case]:
    f = blur_filter(device)
    for up in (1, 2):
        ours = partial(styled_conv2d, up=up, resample_filter=f, clamp=1.5)
        plain = tuple(partial(plain_styled_conv2d, f=f, up=up, clamp=1.5, modulated=m) for m in PLAIN_FORMS)
        yield Case(f"styled_conv2d up={up}", layer_shapes(channels, size, up), ours, plain)


def _chained_cases(device: str, channels: int, size: int) -> Iterator[Case]:
    """From x without to a result with its style, as the first of two layers."""
    f = blur_filter(device)
    for up in (1, 2):

        def ours(x: Tensor, weight: Tensor, styles: Tensor, *others: Tensor, up: int = up) -> Tensor:
            x = x * styles[:, :, None, None]
            return chained_styled_conv2d(x, weight, styles, *others, up=up, resample_filter=f, clamp=1.5)

        def plain(*tensors: Tensor, up: int = up, modulated: Callable[..., Tensor]) -> Tensor:
            *layer, next_styles = tensors
            return (
                plain_styled_conv2d(*layer, f=f, up=up, clamp=1.5, modulated=modulated) * next_styles[:, :, None, None]
            )

        shapes = (*layer_shapes(channels, size, up), (2, channels))
        yield Case(
            f"chained_styled_conv2d up={up}", shapes, ours, tuple(partial(plain, modulated=m) for m in PLAIN_FORMS)
        )


Operator("styled_conv2d", cases=_cases)
Operator("chained_styled_conv2d", cases=_chained_cases)

"""Small arguments of every low-level operator, drawn at random: what a kernel is checked with before it is used."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from idgan_fast.ops import bias_lrelu, styled_epilogue
from idgan_fast.ops._resampling import output_size
from idgan_fast.ops._tensors import accumulation, memory_format
from idgan_fast.ops.activations import activation_funcs

SHAPES = ((2, 64, 33, 40), (1, 5, 7, 9))  # several tiles of a kernel, and less than one
LARGE = (4, 64, 96, 96)  # where a program of a FIR goes down several rows
WIDE = (4, 160, 64, 64)  # where a layer's convolution takes its largest tiles, several along every axis
PADDING, GAIN = [2, 1, 2, 1], 1.5
LEAKY = (0.2, 1.4, 1.0)  # slope, gain, and a clamp that binds


def of(name: str, dtype: torch.dtype, layout: torch.memory_format) -> Iterator[tuple[Any, ...]]:
    """Arguments of the low-level operator `name`, on the CPU; images in `dtype` and `layout`."""
    fir = name in ("upfirdn2d", "styled_epilogue_fwd", "styled_epilogue_bwd")
    layer = name in ("styled_layer_fwd", "styled_layer_bwd") and layout == torch.channels_last
    larger = (LARGE,) if fir else (WIDE,) if layer else ()
    for shape in (*SHAPES, *larger) if dtype == torch.float16 else SHAPES:
        x = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
        yield from _OF[name](x)


def _bias(x: Tensor) -> Tensor:
    return torch.randn(x.shape[1], dtype=accumulation(x.dtype))


def _bias_lrelu_fwd(x: Tensor) -> Iterator[tuple]:
    yield x, _bias(x), 1, *LEAKY


def _bias_lrelu_bwd(x: Tensor) -> Iterator[tuple]:
    y = bias_lrelu._forward_reference(x, _bias(x), 1, *LEAKY)
    yield torch.randn_like(x), y, 1, *LEAKY, True


def _bias_act_fwd(x: Tensor) -> Iterator[tuple]:
    for act in activation_funcs:
        yield x, _bias(x), 1, act, *LEAKY


def _bias_act_bwd(x: Tensor) -> Iterator[tuple]:
    for act in activation_funcs:
        yield torch.randn_like(x), x, _bias(x), 1, act, *LEAKY[:2], None, True


def _bias_act_bwd2(x: Tensor) -> Iterator[tuple]:
    for act, spec in activation_funcs.items():
        if spec.second is not None:
            tensors = (torch.randn_like(x), _bias(x), torch.randn_like(x), x, _bias(x))
            yield *tensors, 1, act, *LEAKY[:2], None, True


def _weight_square_sum(x: Tensor) -> Iterator[tuple]:
    yield (x[:, :, :3, :3].contiguous(memory_format=memory_format(x)),)


def _upfirdn2d(x: Tensor) -> Iterator[tuple]:
    for f, up, down in (
        (torch.rand(4, 4), 1, 1),
        (torch.rand(4, 4), 2, 1),
        (torch.rand(4), 1, 2),
        (torch.rand(12), 2, 2),
        (None, 2, 1),
    ):
        yield x, f, [up, up], [down, down], [2, 3, 1, 4] if f is not None else [0, 0, 0, 0], False, GAIN


def _steps(t: Tensor, step: float) -> Tensor:
    return (t / step).round() * step


def _layer(x: Tensor, f: Tensor | None) -> tuple[tuple, tuple]:
    """For an x in steps of 1/8 all values before the activation are odd multiples of 1/512, and so none of them lies
    within rounding of a kink, on whose other side a kernel that computes them again might find it.
    """
    height, width = x.shape[2:] if f is None else output_size(x.shape, f, (1, 1), (1, 1), PADDING)
    wide = accumulation(x.dtype)
    scale = _steps(torch.rand(x.shape[:2], dtype=wide) + 0.5, 1 / 4)
    noise = _steps(torch.randn(x.shape[0], 1, height, width, dtype=wide), 1 / 8)
    b, next_styles = _steps(_bias(x), 1 / 8) + 1 / 512, torch.rand(x.shape[:2], dtype=wide) + 0.5
    return (f, scale, noise, torch.tensor(0.5, dtype=wide), b, next_styles), (PADDING, GAIN, *LEAKY)


def _styled_epilogue_fwd(x: Tensor) -> Iterator[tuple]:
    x = _steps(x, 1 / 8)
    for f in (_steps(torch.rand(4, 4), 1 / 4), None):
        tensors, numbers = _layer(x, f)
        for next_styles in (tensors[-1], None):
            yield [x], *tensors[:-1], next_styles, *numbers


def _styled_epilogue_bwd(x: Tensor) -> Iterator[tuple]:
    for y, *rest in _styled_epilogue_fwd(x):
        out = styled_epilogue.forward_reference(y, *rest)
        yield torch.randn_like(out), y, out, *rest, [1, 1, 1, 1, int(rest[5] is not None)]


def _styled_layer_fwd(x: Tensor) -> Iterator[tuple]:
    """All forms, with a weight of each size, styles that come with x and that do not, and a next style."""
    (n, c), wide = x.shape[:2], accumulation(x.dtype)
    for form, k in (("same", 3), ("same", 1), ("composite", 3), ("transposed", 3)):
        f = None if form == "same" else torch.rand(4, 4)
        size = x.shape[2:] if f is None else [2 * s for s in x.shape[2:]]
        weight = (torch.randn(2 * c, c, k, k) / (k * k * c) ** 0.5).to(x.dtype)
        styles, scale, next_styles = (torch.rand(n, size, dtype=wide) + 0.5 for size in (c, 2 * c, 2 * c))
        noise, b = torch.randn(n, 1, *size, dtype=wide), torch.randn(2 * c, dtype=wide)
        numbers = ([int(f is not None)] * 4, 1.0 if f is None else 0.5, *LEAKY, form, True)
        strength = torch.tensor(0.5, dtype=wide)
        yield x, weight, styles, scale, noise, strength, b, None, f, *numbers
        yield x, weight, None, scale, noise, None, None, next_styles, f, *numbers


def _styled_layer_bwd(x: Tensor) -> Iterator[tuple]:
    forward = import_module("idgan_fast.ops.styled_layer").LOW_LEVEL[0].reference
    for *tensors, padding, fir_gain, slope, gain, clamp, form, keep in _styled_layer_fwd(x):
        numbers = (padding, fir_gain, slope, gain, clamp, form)
        out, z = forward(*tensors, *numbers, keep)
        want = [int(t is not None) for t in tensors[:-1]]
        yield torch.randn_like(out), *tensors, z if z.numel() else out, *numbers, want


_FILTERED = ([2, 2], [2, 2], [9, 8, 9, 8])


def _filtered_lrelu_fwd(x: Tensor) -> Iterator[tuple]:
    yield x, _bias(x), torch.rand(12), torch.rand(12), *_FILTERED, 1.4, 0.2, 1.0, False, True


def _filtered_lrelu_linear(x: Tensor) -> Iterator[tuple]:
    forward = import_module("idgan_fast.ops.filtered_lrelu")._forward_reference
    (arguments,) = _filtered_lrelu_fwd(x)
    _, codes = forward(*arguments)
    fu, fd, up, down, padding = arguments[2:7]
    middle = output_size(x.shape, fu, up, (1, 1), padding)
    yield x, codes, list(middle), fu, fd, up, down, padding, [0, 0, 0, 0], 1.4, 0.2, False


_OF = {
    "bias_lrelu_fwd": _bias_lrelu_fwd,
    "bias_lrelu_bwd": _bias_lrelu_bwd,
    "bias_act_fwd": _bias_act_fwd,
    "bias_act_bwd": _bias_act_bwd,
    "bias_act_bwd2": _bias_act_bwd2,
    "weight_square_sum": _weight_square_sum,
    "upfirdn2d": _upfirdn2d,
    "styled_epilogue_fwd": _styled_epilogue_fwd,
    "styled_epilogue_bwd": _styled_epilogue_bwd,
    "styled_layer_fwd": _styled_layer_fwd,
    "styled_layer_bwd": _styled_layer_bwd,
    "filtered_lrelu_fwd": _filtered_lrelu_fwd,
    "filtered_lrelu_linear": _filtered_lrelu_linear,
}

"""Upsample by zero insertion, pad or crop, filter by a FIR, keep every down-th pixel; and its usual special cases."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.ops import _dispatch, _host
from idgan_fast.ops._autograd import as_function, without_autocast
from idgan_fast.ops._errors import ArgumentValueError, public
from idgan_fast.ops._registry import Case, CustomOp, Operator
from idgan_fast.ops._resampling import (
    Pair,
    adjoint_padding,
    check_filter,
    check_size,
    output_size,
    padded_for,
    paddings,
    scaling,
    taps_of,
)
from idgan_fast.ops._tensors import accumulation, check_images, laid_out_like, padded


@public
def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """Insert up - 1 zeros after each pixel, pad, convolve with f, keep every down-th pixel, multiply by gain.

    x: [N, C, H, W], float16, bfloat16, float32 or float64; the half types accumulate in float32.
    f: None (a single tap), [k] (applied along both axes) or [fh, fw]; float32 or a half type, without gradient.
    up, down: int or [x, y]. padding: int, [x, y] or [x0, x1, y0, y1], by the upsampled image; negative values crop.
    flip_filter: False convolves, True correlates. impl: auto (or cuda), native, triton, reference (or ref).
    Returns [N, C, (H upy + y0 + y1 - fh) // downy + 1, likewise W], of x's dtype and memory format. The gradient by
    x is the same operator with up and down exchanged and the filter flipped, so every order of it exists.
    Raises TypeError, ValueError: one line on the argument. BackendError: impl cannot run here.
    """
    y = _host.upfirdn2d(x, f, up, down, padding, flip_filter, gain, False, impl)
    if y is not None:
        return y
    check_images(x)
    check_filter("f", f)
    up_xy, down_xy, pad = scaling("up", up), scaling("down", down), paddings(padding)
    check_size(x.shape, f, up_xy, down_xy, pad)
    backend = _dispatch.choose(OPERATOR, x.device, impl)
    f = None if f is None else taps_of(f, x.device)
    return fir_resample(x, f, up_xy, down_xy, pad, bool(flip_filter), float(gain), backend)


@public
def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """Filter x with f; padding 0 keeps the size. Arguments, result and errors as for `upfirdn2d`."""
    y = _host.upfirdn2d(x, f, 1, 1, padding, flip_filter, gain, True, impl)
    if y is not None:
        return y
    return upfirdn2d(x, f, 1, 1, padded_for(f, 1, 1, padding), flip_filter, gain, impl)


@public
def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """Upsample x by `up`, its mean kept; padding 0 gives exactly `up` times the size. Otherwise as `upfirdn2d`."""
    y = _host.upfirdn2d(x, f, up, 1, padding, flip_filter, gain, True, impl)
    if y is not None:
        return y
    up_x, up_y = scaling("up", up)
    return upfirdn2d(x, f, up, 1, padded_for(f, up, 1, padding), flip_filter, gain * up_x * up_y, impl)


@public
def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """Downsample x by `down`; padding 0 divides the size by it. Otherwise as `upfirdn2d`."""
    y = _host.upfirdn2d(x, f, 1, down, padding, flip_filter, gain, True, impl)
    if y is not None:
        return y
    return upfirdn2d(x, f, 1, down, padded_for(f, 1, down, padding), flip_filter, gain, impl)


@public
def setup_filter(
    f: Any,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """A filter for `upfirdn2d` from taps: a number, a list, an array or a tensor; [k] or [fh, fw].

    normalize: taps sum to 1. gain: factor of the whole filter. separable: keep a 1-D filter 1-D; by default from
    8 taps on, a shorter one becomes its outer product. Returns a new float32 tensor; None gives a single tap.
    """
    on = f.device if isinstance(f, Tensor) else "cpu"  # not the default device, which a caller may have set
    f = torch.as_tensor(1.0 if f is None else f, dtype=torch.float32, device=on).detach().clone()
    if f.ndim > 2 or f.numel() == 0:
        raise ArgumentValueError(f"f must be 1-D or 2-D with at least one tap, got shape {tuple(f.shape)}")
    f = f.reshape(1) if f.ndim == 0 else f
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    if separable and f.ndim == 2:
        raise ArgumentValueError(f"a separable f must be 1-D, got shape {tuple(f.shape)}")
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(tuple(range(f.ndim)))
    return (f * gain ** (f.ndim / 2)).to(device)


def reference(
    x: Tensor,
    f: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    n, c, h, w = x.shape
    (up_x, up_y), (down_x, down_y) = up, down
    size = output_size(x.shape, f, up, down, padding)
    if n * c == 0 or min(size) == 0:
        return x.new_zeros(n, c, *size)
    y = x.to(accumulation(x.dtype))
    if up_x > 1 or up_y > 1:  # a pixel becomes up_y x up_x, zeros but for the first
        y = F.pad(y.reshape(n, c, h, 1, w, 1), (0, up_x - 1, 0, 0, 0, up_y - 1))
        y = y.reshape(n, c, h * up_y, w * up_x)
    y = padded(y, padding)
    if f is None:
        y = y[:, :, ::down_y, ::down_x] * gain
    else:
        taps = f.to(y.dtype) if flip_filter else f.to(y.dtype).flip(tuple(range(f.ndim)))
        if f.ndim == 2:
            y = F.conv2d(y, (taps * gain).expand(c, 1, -1, -1), stride=(down_y, down_x), groups=c)
        else:
            y = F.conv2d(y, (taps * gain).expand(c, 1, 1, -1), stride=(1, down_x), groups=c)
            y = F.conv2d(y, taps[:, None].expand(c, 1, -1, 1), stride=(down_y, 1), groups=c)
    return laid_out_like(y.to(x.dtype), x)


def _samples(x: Tensor) -> Iterator[tuple]:
    for f, up, down in (
        (torch.rand(4, 4), 1, 1),
        (torch.rand(4, 4), 2, 1),
        (torch.rand(4), 1, 2),
        (torch.rand(12), 2, 2),
        (None, 2, 1),
    ):
        yield x, f, [up, up], [down, down], [2, 3, 1, 4] if f is not None else [0, 0, 0, 0], False, 1.5


LARGE_IMAGE = (4, 64, 96, 96)  # where a program of a FIR goes down several rows

_resample = CustomOp(
    "upfirdn2d",
    "(Tensor x, Tensor? f, SymInt[] up, SymInt[] down, SymInt[] padding, bool flip_filter, float gain) -> Tensor",
    reference,
    _samples,
    sample_shape=LARGE_IMAGE,
)


class _Upfirdn2d(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(x: Tensor, f: Tensor | None, *args: Any) -> Tensor:
        *numbers, backend = args
        return _resample(backend, x, f, *numbers)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, f, *ctx.parameters = inputs
        ctx.save_for_backward(f)
        ctx.size, ctx.out_size = x.shape[2:], output.shape[2:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        (f,) = ctx.saved_tensors
        up, down, padding, flip_filter, gain, backend = ctx.parameters
        padding = adjoint_padding(ctx.size, ctx.out_size, f, up, down, padding)
        dx = fir_resample(dy, f, down, up, padding, not flip_filter, gain, backend)
        return dx, None, None, None, None, None, None, None


fir_resample = as_function(_Upfirdn2d)
"""(x, f, (up x, up y), (down x, down y), (x0, x1, y0, y1), flip_filter, gain, backend) -> y; nothing is checked."""


def plain_upfirdn2d(
    x: Tensor, f: Tensor, up: int = 1, down: int = 1, padding: tuple = (0, 0, 0, 0), gain: float = 1
) -> Tensor:
    """As StyleGAN code without kernels writes it, in the tensors' own dtype."""
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, h * up, w * up)
    x = F.pad(x, list(padding))
    taps = (f * gain).flip((0, 1)).to(x.dtype)[None, None].expand(c, 1, -1, -1)
    return F.conv2d(x, taps, groups=c)[:, :, ::down, ::down]


def blur_filter(device: torch.device | str = "cpu") -> Tensor:
    """[1, 3, 3, 1], normalized, 2-D: that of StyleGAN2."""
    return setup_filter([1.0, 3.0, 3.0, 1.0], device)


def _cases(device: str, channels: int, size: int) -> Iterator[Case]:
    """For a filter of 4 taps the paddings are those that keep the image centered."""
    f = blur_filter(device)
    plain = partial(plain_upfirdn2d, f=f)
    shapes = ((2, channels, size, size),)
    yield Case("upsample2d", shapes, partial(upsample2d, f=f), (partial(plain, up=2, padding=(2, 1, 2, 1), gain=4),))
    yield Case("downsample2d", shapes, partial(downsample2d, f=f), (partial(plain, down=2, padding=(1, 1, 1, 1)),))
    yield Case("filter2d", shapes, partial(filter2d, f=f), (partial(plain, padding=(2, 1, 2, 1)),))


OPERATOR = Operator("upfirdn2d", (_resample,), _cases)

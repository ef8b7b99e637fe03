"""A convolution with FIR upsampling before it or FIR downsampling after it, in the cheapest order of the two."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.ops import _dispatch
from idgan_fast.ops._errors import ArgumentTypeError, ArgumentValueError, public
from idgan_fast.ops._registry import Case, Operator
from idgan_fast.ops._resampling import Pair, check_filter, filter_size, padded_for, paddings, taps_of
from idgan_fast.ops._tensors import autocasting, check_floating, check_images, memory_format, padded
from idgan_fast.ops.conv2d_gradfix import conv2d, conv_transpose2d, gated
from idgan_fast.ops.layer import styled_epilogue
from idgan_fast.ops.layer.epilogue import Epilogue, Phases
from idgan_fast.ops.layer.styled_epilogue import apply_epilogue
from idgan_fast.ops.upfirdn2d import blur_filter, plain_upfirdn2d, upfirdn2d
from idgan_fast.ops.winograd_conv2d import is_faster, winograd_conv2d


@public
def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Pair = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    impl: str = "auto",
) -> Tensor:
    """upfirdn2d(x, f, up, gain up^2), convolution with w, upfirdn2d(.., f, down); the whole keeps the image centered.

    x: [N, I, H, W]. w: [O, I / groups, kh, kw], of x's dtype. f: as in `upfirdn2d`. up, down: positive ints.
    padding: int, [x, y] or [x0, x1, y0, y1], by the upsampled image. flip_weight: True correlates, as torch does.
    Filter and convolution commute, so the work is done at the smaller of the two sizes: for `down` the filter comes
    first and the convolution takes the stride; for `up` a transposed convolution comes first and the filter last.
    Returns [N, O, H', W']. Raises TypeError, ValueError: one line on the argument.
    """
    y, fir_padding = convolve_before_fir(
        x, w, f, up, down, padding, groups=groups, flip_weight=flip_weight, flip_filter=flip_filter, impl=impl
    )
    if fir_padding is None:
        return y[0]
    if len(y) == 1:
        return upfirdn2d(y[0], f, 1, 1, fir_padding, flip_filter, up * up, impl)
    assert f is not None
    taps = f.flip(tuple(range(f.ndim))) if flip_filter else f
    return apply_epilogue(y, Epilogue(taps_of(taps, x.device), padding=fir_padding, fir_gain=up * up), impl=impl)


def convolve_before_fir(
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    padding: Pair,
    *,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    impl: str = "auto",
) -> tuple[Phases, tuple[int, int, int, int] | None]:
    """`conv2d_resample` but for the final FIR filter. Returns (y, fir_padding); None if no filter is left.

    y is the whole result, or its phases, which the filter of the styled epilogue reads.
    """
    pad = check_convolution(x, w, f, up, down, padding, groups)
    _dispatch.check_impl(impl)
    kh, kw = w.shape[2:]
    if up == 1 and down == 1:
        if groups == 1 and pad == (1, 1, 1, 1) and is_faster(x, w, impl):
            return (winograd_conv2d(x, gated(w if flip_weight else w.flip((2, 3))), impl),), None
        return (_padded_conv(x, w, pad, groups, flip_weight),), None
    x0, x1, y0, y1 = pad
    if up == 1:
        if kh == 1 and kw == 1:
            x = upfirdn2d(x, f, 1, down, (x0, x1, y0, y1), flip_filter, 1, impl)
            return (_padded_conv(x, w, (0, 0, 0, 0), groups, flip_weight),), None
        x = upfirdn2d(x, f, 1, 1, (x0, x1, y0, y1), flip_filter, 1, impl)
        return (conv2d(x, w if flip_weight else w.flip((2, 3)), stride=down, groups=groups),), None
    if kh == 1 and kw == 1:
        y = _padded_conv(x, w, (0, 0, 0, 0), groups, flip_weight)
        y = upfirdn2d(y, f, up, 1, (x0, x1, y0, y1), flip_filter, up * up, impl)
    else:
        around = (x0 - kw + 1, x1 - kw + up, y0 - kh + 1, y1 - kh + up)
        if down == 1 and f is not None and _by_phases(x, w, up, impl):
            return _transposed_by_phases(x, w if flip_weight else w.flip((2, 3)), groups), around
        y = conv_transpose2d(x, _transposed(w, groups, flip_weight), stride=up, groups=groups)
        if down == 1:
            return (y,), around
        y = upfirdn2d(y, f, 1, 1, around, flip_filter, up * up, impl)
    return (y if down == 1 else upfirdn2d(y, f, 1, down, 0, flip_filter, 1, impl),), None


def _by_phases(x: Tensor, w: Tensor, up: int, impl: str) -> bool:
    """Whether four convolutions are faster than a transposed one: on a CPU (measured: docs/performance.md)."""
    if up != 2 or x.device.type != "cpu" or x.numel() == 0 or min(w.shape[2:]) == 1:
        return False
    return _dispatch.choose(styled_epilogue.OPERATOR, x.device, impl) == "native"


def _transposed_by_phases(x: Tensor, w: Tensor, groups: int) -> Phases:
    """The transposed convolution of stride 2 with the flipped w [O, I / groups, kh, kw], as its four phases.

    Even rows of the result meet every other row of the weight, odd rows the others; columns likewise.
    """
    kh, kw = w.shape[2:]
    parts = []
    for row in (0, 1):
        for column in (0, 1):
            part = w[:, :, (kh - 1 - row) % 2 :: 2, (kw - 1 - column) % 2 :: 2]
            part = part.contiguous(memory_format=memory_format(w))
            parts.append(conv2d(x, part, padding=(part.shape[2] - 1, part.shape[3] - 1), groups=groups))
    return tuple(parts)


def _padded_conv(x: Tensor, w: Tensor, padding: tuple[int, int, int, int], groups: int, flip_weight: bool) -> Tensor:
    w = w if flip_weight else w.flip((2, 3))
    x0, x1, y0, y1 = padding
    if x0 == x1 >= 0 and y0 == y1 >= 0:
        return conv2d(x, w, padding=(y0, x0), groups=groups)
    return conv2d(padded(x, padding), w, groups=groups)


def _transposed(w: Tensor, groups: int, flip_weight: bool) -> Tensor:
    """[O, I / groups, kh, kw] -> [I, O / groups, kh, kw]; a transposed convolution convolves, it does not correlate."""
    o, i, kh, kw = w.shape
    w = w.reshape(groups, o // groups, i, kh, kw).transpose(1, 2).reshape(groups * i, o // groups, kh, kw)
    return w.flip((2, 3)) if flip_weight else w


def check_convolution(
    x: Tensor, w: Tensor, f: Tensor | None, up: int, down: int, padding: Pair, groups: int
) -> tuple[int, int, int, int]:
    """The whole padding (x0, x1, y0, y1) of the upsampled image."""
    check_images(x)
    check_floating("w", w)
    check_filter("f", f)
    for name, value in (("up", up), ("down", down), ("groups", groups)):
        if not isinstance(value, int) or value < 1:
            raise ArgumentValueError(f"{name} must be a positive int, got {value!r}")
    if w.ndim != 4 or x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        raise ArgumentValueError(
            f"w must be [O, {x.shape[1]} / groups, kh, kw] for x {tuple(x.shape)} and groups {groups}, "
            f"got {tuple(w.shape)}"
        )
    if min(x.shape[2:]) == 0:
        raise ArgumentValueError(f"x must have at least one pixel, got shape {tuple(x.shape)}")
    if w.numel() == 0:  # torch convolves no channels into a result of another shape
        raise ArgumentValueError(f"w must have at least one element, got shape {tuple(w.shape)} for x {tuple(x.shape)}")
    if x.device != w.device:
        raise ArgumentValueError(f"w must be on the device of x, {x.device}, got {w.device}: move one of them")
    if x.dtype != w.dtype and (not autocasting(x.device.type) or torch.float64 in (x.dtype, w.dtype)):
        raise ArgumentTypeError(f"x and w must have one dtype, got {x.dtype} and {w.dtype}: cast one to the other's")
    resampling = up > 1 or down > 1
    pad = padded_for(f, up, down, padding) if resampling else paddings(padding)
    (fh, fw), (kh, kw) = filter_size(f) if resampling else (1, 1), w.shape[2:]
    taps = 2 if up > 1 and down > 1 else 1  # the filter passes twice
    height = x.shape[2] * up + pad[2] + pad[3] - kh + 1 - taps * (fh - 1)
    width = x.shape[3] * up + pad[0] + pad[1] - kw + 1 - taps * (fw - 1)
    if height < 1 or width < 1:
        raise ArgumentValueError(
            f"the result must have at least one pixel, got {height} x {width} before downsampling from "
            f"x {tuple(x.shape)}, w {tuple(w.shape)}, padding {padding}: pad more"
        )
    return pad


def plain_conv2d_resample(x: Tensor, w: Tensor, f: Tensor) -> Tensor:
    """As StyleGAN code without kernels writes it: down by 2, k = 3, padding 1."""
    p0, p1 = (f.shape[0] - 1) // 2 + 1, (f.shape[0] - 2) // 2 + 1
    return F.conv2d(plain_upfirdn2d(x, f, padding=(p0, p1, p0, p1)), w, stride=2)


def _cases(device: str, channels: int, size: int) -> Iterator[Case]:
    f, shapes = blur_filter(device), ((2, channels, size, size), (channels, channels, 3, 3))
    ours = partial(conv2d_resample, f=f, down=2, padding=1)
    yield Case("conv2d_resample down=2", shapes, ours, (partial(plain_conv2d_resample, f=f),))


OPERATOR = Operator("conv2d_resample", cases=_cases)

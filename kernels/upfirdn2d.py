"""Zero insertion by up, padding, a FIR, every down-th pixel: y[o] = gain sum_k g[k] x[(o down + k - pad) / up], over
the k that divide; g is f, flipped unless FLIP.

x: [N, C, H, W], contiguous or channels_last, any floating type; accumulated in float32 (float64). Tiles as in _fir.py,
without strips: a program does 1024 outputs, each from the ceil(fh / up) x ceil(fw / up) taps that meet a pixel, so that
inserted zeros cost nothing. Without a change of size the kernel of styled_epilogue.py does it, with each input row
loaded once for all the outputs that it meets. A long filter that is given for one axis passes twice, through float32.
Bytes: x + y. Operations: 2 fh fw / up^2 an output. The gradient is the same operator.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels._common import acc_type, contiguous, dense, new_image, on_device_of, scalar
from idgan_fast.kernels._fir import strip_coordinates, strips_of
from idgan_fast.kernels.styled_epilogue import LONG, fir
from idgan_fast.ops._resampling import filter_size, output_size
from idgan_fast.ops._tensors import accumulation


@triton.jit
def first_tap(o, pad, UP: tl.constexpr, DOWN: tl.constexpr):
    """First tap of output o on an input pixel (not an inserted zero), and that pixel's index."""
    p = o * DOWN - pad
    tap = 0
    if UP > 1:
        tap = (UP - p % UP) % UP  # right for either sign of p % UP, which differs between a GPU and the interpreter
        p = (p + tap) // UP
    return tap, p


@triton.jit
def upfirdn2d_kernel(
    x, f, y,
    planes, channels, height, width, out_height, out_width, strips, row_blocks, column_blocks,
    pad_x, pad_y, gain: tl.float64,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr,
    FH: tl.constexpr, FW: tl.constexpr, FLIP: tl.constexpr, ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, STRIP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    _, _, _, _, in_plane, out_plane, oy, ox, step, exists, _, _ = strip_coordinates(
        planes, channels, height, width, out_height, out_width, strips, row_blocks, column_blocks,
        CHANNELS_LAST, STRIP, ROWS, COLUMNS,
    )  # fmt: skip
    tap_y, row = first_tap(oy, pad_y, UP_Y, DOWN_Y)
    tap_x, column = first_tap(ox, pad_x, UP_X, DOWN_X)
    total = tl.zeros((ROWS, COLUMNS), ACC)
    for j in range((FH + UP_Y - 1) // UP_Y):
        ky, iy = tap_y + j * UP_Y, row + j
        y_exists = exists & (ky < FH) & (iy >= 0) & (iy < height)
        for i in tl.static_range((FW + UP_X - 1) // UP_X):
            kx, ix = tap_x + i * UP_X, column + i
            mask = y_exists & (kx < FW) & (ix >= 0) & (ix < width)
            v = tl.load(x + in_plane + (iy.to(tl.int64) * width + ix) * step, mask=mask, other=0.0).to(ACC)
            if f is None:
                total += v
            else:
                tap = ky * FW + kx if FLIP else (FH - 1 - ky) * FW + (FW - 1 - kx)
                total = tl.fma(v, tl.load(f + tap, mask=(ky < FH) & (kx < FW), other=0.0).to(ACC), total)
    at = out_plane + (oy.to(tl.int64) * out_width + ox) * step
    tl.store(y + at, (total * scalar(gain, total)).to(y.dtype.element_ty), mask=exists & (oy < out_height))


def upfirdn2d(
    x: Tensor, f: Tensor | None, up: Sequence[int], down: Sequence[int], padding: Sequence[int], flip_filter: bool,
    gain: float,
) -> Tensor:  # fmt: skip
    x = dense(x)
    if f is not None and max(*up, *down) == 1:
        return fir(x, f, padding=padding, flip=flip_filter, gain=gain)
    if f is None or f.ndim == 2:
        return _filtered(x, f, up, down, padding, flip=flip_filter, gain=gain)
    acc_dtype = accumulation(x.dtype)
    if f.numel() <= LONG:
        f = torch.outer(f.to(acc_dtype), f.to(acc_dtype))
        return _filtered(x, f, up, down, padding, flip=flip_filter, gain=gain)
    rows = _filtered(x, f[None], (up[0], 1), (down[0], 1), (*padding[:2], 0, 0), flip=flip_filter, dtype=acc_dtype)
    pad_y = (0, 0, *padding[2:])
    return _filtered(rows, f[:, None], (1, up[1]), (1, down[1]), pad_y, flip=flip_filter, gain=gain, dtype=x.dtype)


def _filtered(
    x: Tensor, f: Tensor | None, up: Sequence[int], down: Sequence[int], padding: Sequence[int], *, flip: bool,
    gain: float = 1.0, dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """f: [fh, fw] or None. dtype: of the result, by default x's."""
    (fh, fw), (height, width) = filter_size(f), output_size(x.shape, f, up, down, padding)
    y = new_image(x, height, width, dtype)
    if y.numel() == 0:
        return y
    strips = strips_of(x, height, width, longest=1)
    with on_device_of(x):
        upfirdn2d_kernel[strips.grid](
            x, *contiguous(f), y, *strips.sizes, padding[0], padding[2], gain, UP_X=up[0], UP_Y=up[1], DOWN_X=down[0],
            DOWN_Y=down[1], FH=fh, FW=fw, FLIP=flip, ACC=acc_type(x.dtype), **strips.constants,
        )  # fmt: skip
    return y

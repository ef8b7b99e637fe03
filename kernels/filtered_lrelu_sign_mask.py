"""The sign mask of filtered_lrelu, 2 bits a pixel, and filtered_lrelu composed of the kernels of upfirdn2d.py.

z = clamp(gain lrelu(u)); a sign is 0 above 0, 1 below, 2 where the clamp binds: dz = du (gain, gain slope, 0)[sign].
u, z: [rows, width], float32 or float64, all planes of an image in the order of memory; sign_mask: uint8 [rows,
ceil(width / 4)], the left pixel in the low bits. A program does a tile [ROWS, COLUMNS] of pixels, four of a byte in one
thread's reach. Bytes: u + z + sign_mask. Operations: about 5 a pixel, in the type of u.
Composed is what a tile of filtered_lrelu.py does not hold: filters of two axes, float64, and filters or factors that
leave it too few outputs. The images between the kernels go through memory in float32 (float64).
Source: Karras et al., arXiv 2106.12423, appendix E.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels._activations import lrelu
from idgan_fast.kernels._common import clamped, on_device_of, scalar
from idgan_fast.kernels.upfirdn2d import upfirdn2d
from idgan_fast.ops._resampling import NO_PADDING, ONE
from idgan_fast.ops._tensors import accumulation

NEGATIVE, CLAMPED = tl.constexpr(1), tl.constexpr(2)
TILE = 1024


@triton.jit
def sign_of(u, z, clamp, HAS_CLAMP: tl.constexpr):
    """z: gain * lrelu(u), before the clamp."""
    sign = tl.where(u <= 0, NEGATIVE, 0)
    if HAS_CLAMP:
        sign = tl.where(tl.abs(z) >= scalar(clamp, z), CLAMPED, sign)
    return sign


@triton.jit
def pack_signs(sign, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """[ROWS, COLUMNS] signs as the bytes of four pixels each: [ROWS, COLUMNS / 4]."""
    four = tl.reshape(sign, (ROWS, COLUMNS // 4, 4)) << (2 * tl.arange(0, 4))[None, None, :]
    return tl.sum(four, 2).to(tl.uint8)


@triton.jit
def slope_of_sign(byte, column, gain, slope, like):
    """dz / du of the pixel in this column, whose sign is in the byte, in the type of `like`."""
    sign = byte.to(tl.int32) >> (column & 3) * 2 & 3
    below = scalar(gain, like) * scalar(slope, like)
    return tl.where(sign == 0, scalar(gain, like), tl.where(sign == NEGATIVE, below, 0.0))


@triton.jit
def filtered_lrelu_sign_mask_kernel(
    u, z, sign_mask, rows, width, column_blocks, gain: tl.float64, slope: tl.float64, clamp: tl.float64,
    HAS_CLAMP: tl.constexpr, FROM_MASK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """FROM_MASK: z = u times the slopes that the sign mask gives; otherwise z and, if wanted, the sign mask from u."""
    program = tl.program_id(0)
    row = (program // column_blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    first = program % column_blocks * COLUMNS
    column = first + tl.arange(0, COLUMNS)[None, :]
    row_bytes = (width + 3) // 4
    mask = (row < rows) & (column < width)
    v = tl.load(u + row * width + column, mask=mask, other=0.0)
    if FROM_MASK:
        byte = tl.load(sign_mask + row * row_bytes + column // 4, mask=mask, other=0)
        result = v * slope_of_sign(byte, column, gain, slope, v)
    else:
        result = lrelu(v, scalar(slope, v)) * scalar(gain, v)
        if sign_mask is not None:
            sign = tl.where(mask, sign_of(v, result, clamp, HAS_CLAMP), 0)
            byte = first // 4 + tl.arange(0, COLUMNS // 4)[None, :]
            at = row * row_bytes + byte
            tl.store(sign_mask + at, pack_signs(sign, ROWS, COLUMNS), mask=(row < rows) & (byte < row_bytes))
        if HAS_CLAMP:
            result = clamped(result, clamp)
    tl.store(z + row * width + column, result, mask=mask)


def filtered(
    x: Tensor, f: Tensor | None, *, up: Sequence[int] = ONE, down: Sequence[int] = ONE,
    padding: Sequence[int] = NO_PADDING, flip: bool, gain: float = 1.0,
) -> Tensor:  # fmt: skip
    """x itself where nothing is to be done."""
    if f is None and max(*up, *down) == 1 and not any(padding):
        return x if gain == 1 else x * gain
    return upfirdn2d(x, f, up, down, padding, flip, gain)


def lrelu_by_sign_mask(
    u: Tensor, sign_mask: Tensor | None, *, gain: float, slope: float, clamp: float | None, from_mask: bool
) -> Tensor:
    """z, of a contiguous u; a sign mask that is given is read (from_mask) or filled."""
    z = torch.empty_like(u)
    if u.numel() == 0:
        return z
    rows, width = u.numel() // u.shape[3], u.shape[3]
    columns = min(max(triton.next_power_of_2(width), 4), 256)
    column_blocks = triton.cdiv(width, columns)
    with on_device_of(u):
        filtered_lrelu_sign_mask_kernel[(triton.cdiv(rows, TILE // columns) * column_blocks,)](
            u, z, sign_mask, rows, width, column_blocks, gain, slope, clamp or 0.0,
            HAS_CLAMP=clamp is not None, FROM_MASK=from_mask, ROWS=TILE // columns, COLUMNS=columns,
        )  # fmt: skip
    return z


def composed(
    x: Tensor, b: Tensor | None, fu: Tensor | None, fd: Tensor | None, sign_mask: Tensor | None, *, from_mask: bool,
    up: Sequence[int], down: Sequence[int], padding: Sequence[int], padding_down: Sequence[int], gain: float,
    slope: float, clamp: float | None, flip: bool,
) -> Tensor:  # fmt: skip
    """x is contiguous. from_mask: the linear operator of the sign mask, which is otherwise filled where given."""
    v = x.to(accumulation(x.dtype))
    v = v if b is None else v + b[:, None, None]
    up_gain = 1.0 if from_mask else float(up[0] * up[1])
    u = filtered(v, fu, up=up, padding=padding, flip=flip, gain=up_gain)
    z = lrelu_by_sign_mask(u, sign_mask, gain=gain, slope=slope, clamp=clamp, from_mask=from_mask)
    return filtered(z, fd, down=down, padding=padding_down, flip=flip).to(x.dtype)

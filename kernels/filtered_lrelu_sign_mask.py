"""The codes of a leaky ReLU with gain and clamp, 2 bits a pixel, and filtered_lrelu of what one tile does not hold.

z = clamp(gain lrelu(u)); code 0 above 0, 1 below, 2 where the clamp binds, so that dz = du (gain, gain slope, 0)[code].
u, z: [rows, width], float32 or float64, all planes of an image in the order of memory; codes uint8 [rows,
ceil(width / 4)], the left pixel in the low bits. A program does a tile [ROWS, COLUMNS] of pixels, four of a byte in one
thread's reach. Bytes: u + z + codes. Between them run the kernels of upfirdn2d.py, through memory in float32 (float64).
Filters of two axes, float64, and filters or factors that leave a tile of filtered_lrelu.py nothing go this way.
Source: Karras et al., arXiv 2106.12423, appendix E.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels._activations import leaky
from idgan_fast.kernels._common import accumulation, clamped, on_device_of, scalar
from idgan_fast.kernels.upfirdn2d import upfirdn2d

ONE, NO_PADDING = (1, 1), (0, 0, 0, 0)
NEGATIVE, CLAMPED = tl.constexpr(1), tl.constexpr(2)
TILE = 1024


@triton.jit
def code_of(u, z, clamp, HAS_CLAMP: tl.constexpr):
    """z: gain * lrelu(u), before the clamp."""
    code = tl.where(u <= 0, NEGATIVE, 0)
    if HAS_CLAMP:
        code = tl.where(tl.abs(z) >= scalar(clamp, z), CLAMPED, code)
    return code


@triton.jit
def packed(code, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """[ROWS, COLUMNS] codes as the bytes of four pixels each: [ROWS, COLUMNS / 4]."""
    four = tl.reshape(code, (ROWS, COLUMNS // 4, 4)) << (2 * tl.arange(0, 4))[None, None, :]
    return tl.sum(four, 2).to(tl.uint8)


@triton.jit
def slope_of(code, gain, slope, like):
    """dz / du, in the type of `like`."""
    below = scalar(gain, like) * scalar(slope, like)
    return tl.where(code == 0, scalar(gain, like), tl.where(code == NEGATIVE, below, 0.0))


@triton.jit
def filtered_lrelu_sign_mask_kernel(
    u, z, codes, rows, width, column_blocks, gain: tl.float64, slope: tl.float64, clamp: tl.float64,
    HAS_CLAMP: tl.constexpr, FROM_CODES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """FROM_CODES: z = u times the slopes that the codes give; otherwise z and, if wanted, the codes from u."""
    program = tl.program_id(0)
    row = (program // column_blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    first = program % column_blocks * COLUMNS
    column = first + tl.arange(0, COLUMNS)[None, :]
    bytes_of_row = (width + 3) // 4
    mask = (row < rows) & (column < width)
    v = tl.load(u + row * width + column, mask=mask, other=0.0)
    if FROM_CODES:
        code = tl.load(codes + row * bytes_of_row + column // 4, mask=mask, other=0).to(tl.int32)
        result = v * slope_of(code >> (column & 3) * 2 & 3, gain, slope, v)
    else:
        result = leaky(v, scalar(slope, v)) * scalar(gain, v)
        if codes is not None:
            code = tl.where(mask, code_of(v, result, clamp, HAS_CLAMP), 0)
            byte = first // 4 + tl.arange(0, COLUMNS // 4)[None, :]
            at = row * bytes_of_row + byte
            tl.store(codes + at, packed(code, ROWS, COLUMNS), mask=(row < rows) & (byte < bytes_of_row))
        if HAS_CLAMP:
            result = clamped(result, clamp)
    tl.store(z + row * width + column, result, mask=mask)


def size_of(
    size: Sequence[int], f: Tensor | None, up: Sequence[int], down: Sequence[int], padding: Sequence[int]
) -> tuple[int, int]:
    """(height, width) of a filtered image; up, down: (x, y), padding: (x0, x1, y0, y1)."""
    fh, fw = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    height = (size[0] * up[1] + padding[2] + padding[3] - fh) // down[1] + 1
    return height, (size[1] * up[0] + padding[0] + padding[1] - fw) // down[0] + 1


def filtered(
    x: Tensor, f: Tensor | None, up: Sequence[int], down: Sequence[int], padding: Sequence[int], flip: bool,
    gain: float = 1.0,
) -> Tensor:  # fmt: skip
    """x itself where nothing is to be done."""
    if f is None and max(*up, *down) == 1 and not any(padding):
        return x if gain == 1 else x * gain
    return upfirdn2d(x, f, up, down, padding, flip, gain)


def through(
    u: Tensor, codes: Tensor | None, gain: float, slope: float, clamp: float | None, from_codes: bool
) -> Tensor:
    """z, of a contiguous u."""
    z = torch.empty_like(u)
    rows, width = u.numel() // u.shape[3], u.shape[3]
    columns = min(max(triton.next_power_of_2(width), 4), 256)
    column_blocks = triton.cdiv(width, columns)
    with on_device_of(u):
        filtered_lrelu_sign_mask_kernel[(triton.cdiv(rows, TILE // columns) * column_blocks,)](
            u, z, codes, rows, width, column_blocks, gain, slope, 0.0 if clamp is None else clamp,
            HAS_CLAMP=clamp is not None, FROM_CODES=from_codes, ROWS=TILE // columns, COLUMNS=columns,
        )  # fmt: skip
    return z


def composed_fwd(
    x: Tensor, b: Tensor | None, fu: Tensor | None, fd: Tensor | None, codes: Tensor | None, up: Sequence[int],
    down: Sequence[int], padding: Sequence[int], activation: tuple[float, float, float | None], flip: bool,
) -> Tensor:  # fmt: skip
    """x is contiguous; codes are filled where given; activation: gain, slope, clamp."""
    v = x.to(accumulation(x.dtype))
    v = v if b is None else v + b[:, None, None]
    u = filtered(v, fu, up, ONE, padding, flip, float(up[0] * up[1]))
    return filtered(through(u, codes, *activation, False), fd, ONE, down, NO_PADDING, flip).to(x.dtype)


def composed_linear(
    x: Tensor, codes: Tensor, fu: Tensor | None, fd: Tensor | None, up: Sequence[int], down: Sequence[int],
    padding: tuple[Sequence[int], Sequence[int]], gain: float, slope: float, flip: bool,
) -> Tensor:  # fmt: skip
    """padding: of both filters."""
    u = filtered(x.to(accumulation(x.dtype)), fu, up, ONE, padding[0], flip)
    return filtered(through(u, codes, gain, slope, None, True), fd, ONE, down, padding[1], flip).to(x.dtype)

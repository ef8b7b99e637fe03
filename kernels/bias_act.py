"""y = clamp(gain * act(x + b)): forward, backward with the gradient of the bias in the same pass, and its derivative.

x, y: any shape, float16, bfloat16, float32 or float64, dense in its memory format; b: [x.shape[dim]] in the type of the
arithmetic, which is float32 for the half types. A program does a tile, in the backward pass with a bias gradient eight
of them across the bias (bias_act_tiles.py); its sums go to a table of partial sums, which torch adds up in a
fixed order. `bias_lrelu` (linear, relu, lrelu) goes backward from y alone, the smooth activations from x. The second
derivative gives the gradients of <dx, ddx> + <db, ddb>: c act'(x + b) gain by dy, with c = ddx + ddb, and
c dy act''(x + b) gain by x, with its sums for b; both 0 where the clamp binds.
Bytes: forward x + y; backward dy + y (or x) + dx; second derivative ddx + dy + x + to_dy + to_x. Operations: about 6
(piecewise linear) to 40 an element, to 70 of the second derivative.
Source: Karras et al., arXiv 1912.04958.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels._activations import (
    act_gain_clamp,
    activation,
    clamp_backward,
    first_derivative,
    lrelu_backward,
    second_derivative,
)
from idgan_fast.kernels._common import acc_type, contiguous, dense, on_device_of, scalar
from idgan_fast.kernels.bias_act_tiles import STEPS, tile_origin, tiles_of
from idgan_fast.ops._tensors import accumulation, laid_out_like


@triton.jit
def vector_of_tile(b, r, c, rows, columns, BY_COLUMN: tl.constexpr):
    """A tile's part of b, to be broadcast over it."""
    if BY_COLUMN:
        part = tl.load(b + c, mask=c < columns, other=0.0)[None, :]
    else:
        part = tl.load(b + r, mask=r < rows, other=0.0)[:, None]
    return part


@triton.jit
def bias_act_fwd_kernel(
    x, b, y, rows, columns, column_blocks, alpha: tl.float64, gain: tl.float64, clamp: tl.float64,
    ACT: tl.constexpr, HAS_CLAMP: tl.constexpr, ACC: tl.constexpr,
    BY_COLUMN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, LONG_ROWS: tl.constexpr,
):  # fmt: skip
    batch, row, column, _ = tile_origin(rows, columns, column_blocks, 1, 1, BLOCK_ROWS, BLOCK_COLUMNS, LONG_ROWS)
    r = row + tl.arange(0, BLOCK_ROWS)
    c = column + tl.arange(0, BLOCK_COLUMNS)
    mask = (r < rows)[:, None] & (c < columns)[None, :]
    at = ((batch * rows + r) * columns)[:, None] + c[None, :]
    v = tl.load(x + at, mask=mask, other=0.0).to(ACC)
    if b is not None:
        v += vector_of_tile(b, r, c, rows, columns, BY_COLUMN)
    v = act_gain_clamp(v, alpha, gain, clamp, ACT, HAS_CLAMP)
    tl.store(y + at, v.to(y.dtype.element_ty), mask=mask)


@triton.jit
def act_backward(dy, s, alpha, gain, clamp, ACT: tl.constexpr, FROM_Y: tl.constexpr, HAS_CLAMP: tl.constexpr):
    """dy times the derivative, from s = y, or from s = x + b."""
    if FROM_Y:
        g = lrelu_backward(dy, s, alpha, gain, clamp, HAS_CLAMP)
    else:
        g = dy * scalar(gain, dy) * first_derivative(s, alpha, ACT)
        g = clamp_backward(g, activation(s, alpha, ACT) * scalar(gain, dy), clamp, HAS_CLAMP)
    return g


@triton.jit
def bias_act_bwd_kernel(
    dy, saved, b, ddx, ddb, dx, to_dy, sums, rows, columns, column_blocks,
    alpha: tl.float64, gain: tl.float64, clamp: tl.float64,
    ACT: tl.constexpr, FROM_Y: tl.constexpr, HAS_CLAMP: tl.constexpr, WANT_DB: tl.constexpr, ACC: tl.constexpr,
    BY_COLUMN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, LONG_ROWS: tl.constexpr,
    STEPS: tl.constexpr,
):  # fmt: skip
    """dx and its sums for b; with ddx, the gradients of <dx, ddx> + <db, ddb>: to_dy by dy, dx by x, the sums by b."""
    ROW_STEPS: tl.constexpr = STEPS if BY_COLUMN else 1
    COLUMN_STEPS: tl.constexpr = 1 if BY_COLUMN else STEPS
    batch, row, column, column_block = tile_origin(
        rows, columns, column_blocks, ROW_STEPS, COLUMN_STEPS, BLOCK_ROWS, BLOCK_COLUMNS, LONG_ROWS
    )
    r = row + tl.arange(0, BLOCK_ROWS)
    c = column + tl.arange(0, BLOCK_COLUMNS)
    total = tl.zeros((BLOCK_COLUMNS if BY_COLUMN else BLOCK_ROWS,), ACC)
    if b is not None:
        bias = vector_of_tile(b, r, c, rows, columns, BY_COLUMN)
    if ddb is not None:
        bias_cotangent = vector_of_tile(ddb, r, c, rows, columns, BY_COLUMN)
    for _ in range(STEPS):
        mask = (r < rows)[:, None] & (c < columns)[None, :]
        at = ((batch * rows + r) * columns)[:, None] + c[None, :]
        if ddx is not None:
            cotangent = tl.load(ddx + at, mask=mask, other=0.0).to(ACC)
        g = tl.load(dy + at, mask=mask, other=0.0).to(ACC)
        s = tl.load(saved + at, mask=mask, other=0.0).to(ACC)
        if b is not None:
            s += bias
        if ddx is None:
            g = act_backward(g, s, alpha, gain, clamp, ACT, FROM_Y, HAS_CLAMP)
        else:
            if ddb is not None:
                cotangent += bias_cotangent
            cotangent *= scalar(gain, cotangent)
            first = cotangent * first_derivative(s, alpha, ACT)
            g = cotangent * g * second_derivative(s, ACT)
            if HAS_CLAMP:
                y = activation(s, alpha, ACT) * scalar(gain, s)
                first = clamp_backward(first, y, clamp, HAS_CLAMP)
                g = clamp_backward(g, y, clamp, HAS_CLAMP)
            tl.store(to_dy + at, first.to(to_dy.dtype.element_ty), mask=mask)
        tl.store(dx + at, g.to(dx.dtype.element_ty), mask=mask)
        if WANT_DB:
            total += tl.sum(tl.where(mask, g, 0.0), 0 if BY_COLUMN else 1)
        if BY_COLUMN:
            r += BLOCK_ROWS
        else:
            c += BLOCK_COLUMNS
    if WANT_DB:
        if BY_COLUMN:
            tl.store(sums + (row // (BLOCK_ROWS * STEPS)).to(tl.int64) * columns + c, total, mask=c < columns)
        else:
            tl.store(sums + (batch * column_blocks + column_block) * rows + r, total, mask=r < rows)


def bias_act_fwd(
    x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    x = dense(x)
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    grid, sizes, constants, _ = tiles_of(x, None if b is None else dim)
    with on_device_of(x):
        bias_act_fwd_kernel[grid](
            x, *contiguous(b), y, *sizes, alpha, gain, clamp or 0.0, ACT=act,
            HAS_CLAMP=clamp is not None, ACC=acc_type(x.dtype), **constants,
        )  # fmt: skip
    return y


def bias_lrelu_fwd(x: Tensor, b: Tensor | None, dim: int, slope: float, gain: float, clamp: float | None) -> Tensor:
    return bias_act_fwd(x, b, dim, "lrelu", slope, gain, clamp)


def bias_act_bwd(
    dy: Tensor, x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None,
    want_db: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    _, dx, db = _backward(dy, x, b, dim, act=act, alpha=alpha, gain=gain, clamp=clamp, want_db=want_db)
    return dx, db


def bias_lrelu_bwd(
    dy: Tensor, y: Tensor, dim: int, slope: float, gain: float, clamp: float | None, want_db: bool
) -> tuple[Tensor, Tensor]:
    _, dx, db = _backward(
        dy, y, None, dim, act="lrelu", alpha=slope, gain=gain, clamp=clamp, want_db=want_db, from_y=True
    )
    return dx, db


def bias_act_bwd2(
    ddx: Tensor, ddb: Tensor | None, dy: Tensor, x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float,
    gain: float, clamp: float | None, want_db: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _backward(dy, x, b, dim, act=act, alpha=alpha, gain=gain, clamp=clamp, want_db=want_db, ddx=ddx, ddb=ddb)


def _backward(
    dy: Tensor, saved: Tensor, b: Tensor | None, dim: int, *, act: str, alpha: float, gain: float,
    clamp: float | None, want_db: bool, from_y: bool = False, ddx: Tensor | None = None, ddb: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """to_dy, empty without ddx, dx, and the sums for b, empty where not wanted: see the kernel."""
    saved = dense(saved)
    dy, dx, acc_dtype = laid_out_like(dy, saved), torch.empty_like(saved), accumulation(saved.dtype)
    to_dy, tile = saved.new_empty(0), None
    if ddx is not None:
        ddx, to_dy = laid_out_like(ddx, saved), torch.empty_like(saved)
        tile = 16 * 256 // saved.element_size()  # of five streams, 16 bytes of each for every thread
    if saved.numel() == 0:
        return to_dy, dx, saved.new_zeros(saved.shape[dim] if want_db else 0, dtype=acc_dtype)
    steps = STEPS if want_db else 1
    vector = dim if want_db or b is not None or ddb is not None else None
    grid, sizes, constants, sums_shape = tiles_of(saved, vector, steps=steps, tile=tile)
    sums = torch.empty(sums_shape if want_db else (0, 0), dtype=acc_dtype, device=saved.device)
    b, ddb = contiguous(b, ddb)
    with on_device_of(saved):
        bias_act_bwd_kernel[grid](
            dy, saved, b, ddx, ddb, dx, to_dy, sums, *sizes, alpha, gain, clamp or 0.0, ACT=act, FROM_Y=from_y,
            HAS_CLAMP=clamp is not None, WANT_DB=want_db, ACC=acc_type(saved.dtype), STEPS=steps, **constants,
        )  # fmt: skip
    return to_dy, dx, sums.sum(0)

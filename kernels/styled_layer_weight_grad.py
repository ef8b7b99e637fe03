"""The gradient of a convolution by its weight: an implicit GEMM whose sum goes over the pixels of all samples.

r[m, t, c] = sum over samples n, pixels p of a[n, p, m] b[n, stride p + t - pad, c]: of a layer without resampling a is
dy and b x, of a transposed convolution a is x and b dy; x is multiplied by its style as it is read.
a [N, M, H, W], b [N, C, H', W'] channels_last in float16 or bfloat16 (matrix units take TF32 along the sum alone, which
here goes over pixels that lie apart: float32 stays torch's), r [M, k k, C]. A program computes BLOCK_M channels of a
and BLOCK_N of the pairs (t, c) over a part of the pixels, in steps of BLOCK_K pixels of one sample; the parts go to a
table in float32 that torch adds up, in a fixed order. Bytes: a + b + parts r. Operations: 2 k k M C a pixel. Sums in
float32. Source: the derivative of equation 1 of Karras et al., arXiv 1912.04958.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels._common import contiguous, on_device_of
from idgan_fast.kernels.styled_layer_tiles import WEIGHT_GRAD_PROGRAMS, Shape, with_tile
from idgan_fast.ops.layer.conv_plan import SAME

SHORTEST = 8  # steps of a part, so that a table of parts stays small


@triton.jit
def styled_layer_weight_grad_kernel(
    a, b, styles, parts,
    c_a, c_b, rows, columns, b_height, b_width, steps, steps_of_sample, steps_of_part, m_blocks, n_blocks,
    K: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, STYLE_OF_A: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    part = (program // (m_blocks * n_blocks)).to(tl.int64)
    m = program // n_blocks % m_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    j = program % n_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    tap, c = j // c_b, j % c_b
    m_exists, n_exists = m < c_a, j < K * K * c_b
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)  # the longer axis first: matrix units take 64 rows and more
    first = part.to(tl.int32) * steps_of_part
    for step in range(first, tl.minimum(first + steps_of_part, steps)):
        sample = (step // steps_of_sample).to(tl.int64)
        pixel = step % steps_of_sample * BLOCK_K + tl.arange(0, BLOCK_K)
        py, px = pixel // columns, pixel % columns
        exists = pixel < rows * columns
        a_tile = tl.load(
            a + sample * rows * columns * c_a + pixel[:, None] * c_a + m[None, :],
            mask=exists[:, None] & m_exists[None, :], other=0.0,
        )  # fmt: skip
        iy = py[:, None] * STRIDE + (tap // K)[None, :] - PAD
        ix = px[:, None] * STRIDE + (tap % K)[None, :] - PAD
        inside = (iy >= 0) & (iy < b_height) & (ix >= 0) & (ix < b_width)
        b_tile = tl.load(
            b + sample * b_height * b_width * c_b + (iy * b_width + ix) * c_b + c[None, :],
            mask=exists[:, None] & inside & n_exists[None, :], other=0.0,
        )  # fmt: skip
        if styles is not None:
            if STYLE_OF_A:
                style = tl.load(styles + sample * c_a + m, mask=m_exists, other=0.0)
                a_tile = (a_tile.to(tl.float32) * style[None, :]).to(a.dtype.element_ty)
            else:
                style = tl.load(styles + sample * c_b + c, mask=n_exists, other=0.0)
                b_tile = (b_tile.to(tl.float32) * style[None, :]).to(b.dtype.element_ty)
        acc = tl.dot(tl.trans(b_tile), a_tile, acc)
    at = (part * c_a + m)[:, None] * (K * K * c_b) + j[None, :]
    tl.store(parts + at, tl.trans(acc), mask=m_exists[:, None] & n_exists[None, :])


def conv_weight_grad(dy: Tensor, x: Tensor, styles: Tensor | None, *, k: int, form: str) -> Tensor:
    """The gradient by a weight [O, I, k, k] in x's dtype, laid out as channels_last.

    dy: of the convolution's result; x: [N, I, H, W] without its style; styles: [N, I] in float32 or None.
    """
    dy, x = (t.contiguous(memory_format=torch.channels_last) for t in (dy, x))
    shape = weight_grad_shape(dy, x, k=k, form=form)
    parts = with_tile(shape, x.device, lambda tile: _parts(dy, x, styles, k=k, form=form, tile=tile))
    total = (parts[0] if len(parts) == 1 else parts.sum(0)).to(x.dtype)
    if form == SAME:
        return total.view(dy.shape[1], k, k, x.shape[1]).permute(0, 3, 1, 2)
    by_input = total.view(x.shape[1], k, k, dy.shape[1]).flip(1, 2)
    return by_input.permute(3, 0, 1, 2).contiguous(memory_format=torch.channels_last)


def _parts(dy: Tensor, x: Tensor, styles: Tensor | None, *, k: int, form: str, tile: dict[str, Any]) -> Tensor:
    """[parts of the sum, M, k k C]."""
    same = form == SAME
    a, b = (dy, x) if same else (x, dy)
    (n, c_a, rows, columns), taps = a.shape, k * k
    c_b, pixels = b.shape[1], rows * columns
    m_blocks, n_blocks = triton.cdiv(c_a, tile["BLOCK_M"]), triton.cdiv(taps * c_b, tile["BLOCK_N"])
    steps_of_sample = triton.cdiv(pixels, tile["BLOCK_K"])
    steps = n * steps_of_sample
    steps_of_part = max(triton.cdiv(steps, max(WEIGHT_GRAD_PROGRAMS // (m_blocks * n_blocks), 1)), min(steps, SHORTEST))
    parts = torch.empty(triton.cdiv(steps, steps_of_part), c_a, taps * c_b, dtype=torch.float32, device=a.device)
    with on_device_of(a):
        styled_layer_weight_grad_kernel[(len(parts) * m_blocks * n_blocks,)](
            a, b, *contiguous(styles), parts, c_a, c_b, rows, columns, *b.shape[2:],
            steps, steps_of_sample, steps_of_part, m_blocks, n_blocks, K=k, STRIDE=1 if same else 2,
            PAD=k // 2 if same else 0, STYLE_OF_A=not same, **tile,
        )  # fmt: skip
    return parts


def weight_grad_shape(dy: Tensor, x: Tensor, *, k: int, form: str) -> Shape:
    a, b = (dy, x) if form == SAME else (x, dy)
    return Shape("wgrad", form, k, a.shape[0], a.shape[1], k * k * b.shape[1], a.shape[2] * a.shape[3], x.dtype)

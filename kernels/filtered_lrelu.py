"""y = FIR_down(clamp(gain lrelu(up_x up_y FIR_up(x + b)))) in one kernel, and the linear operator of a sign mask.

x [N, C, H, W], y [N, C, H', W'], sign_mask uint8 [N, C, mid_h, ceil(mid_w / 4)], filters of one axis or None; half
types and float32; the rest is composed, by filtered_lrelu_sign_mask.py. A program computes STEP_Y x STEP_X outputs of a
plane. A FIR along an axis is a product with a banded matrix A or B, made of taps by index arithmetic: with X the input
tile, U = A_y X A_x^T [MID, MID], Z of U point by point, Y = B_y Z B_x^T; U never leaves the program. Bytes: x, y, a
byte for 4 pixels of U; of up = down = 2 and 12 taps x 2.4 times, mostly from caches; channels_last goes through copies
in NCHW. Operations of these: 1.9k an output, 13 times those of a loop over taps, each as three of the matrix units in
TF32 (AMD: one in float32): arithmetic bounds it, not memory. Float32 throughout, rounded once. An inf or NaN spreads
over its tile. Source: Karras et al., Alias-Free Generative Adversarial Networks, arXiv 2106.12423, section 3.2,
appendix E.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels import _common, filtered_lrelu_sign_mask
from idgan_fast.kernels._activations import lrelu
from idgan_fast.kernels._common import clamped, contiguous, on_device_of, scalar
from idgan_fast.kernels.filtered_lrelu_sign_mask import pack_signs, sign_of, slope_of_sign
from idgan_fast.ops._resampling import NO_PADDING, ONE, output_size
from idgan_fast.ops._tensors import memory_format

MID = 64  # pixels of the upsampled image along each axis of a tile: at least 64 for the matrix units of the H100
SHORTEST, LONGEST = 4, 32  # outputs of a tile along an axis: longer filters leave fewer, more do not fit in registers


@triton.jit
def band(f, tap, TAPS: tl.constexpr, FLIP: tl.constexpr):
    """The taps of a filter, 0 outside of it; without one a single 1."""
    inside = (tap >= 0) & (tap < TAPS)
    if f is None:
        taps = inside.to(tl.float32)
    else:
        taps = tl.load(f + (tap if FLIP else TAPS - 1 - tap), mask=inside, other=0.0).to(tl.float32)
    return taps


@triton.jit
def first_input(middle, pad, UP: tl.constexpr):
    """The first input pixel that the upsampled pixel `middle` may meet, and the tap that it meets it with."""
    last = middle - pad + UP - 1
    pixel = (last - (last % UP + UP) % UP) // UP  # right for either rounding of negative quotients
    return pixel, pixel * UP + pad - middle


@triton.jit
def filtered_lrelu_kernel(
    x, b, fu, fd, y, sign_mask,
    channels, height, width, mid_height, mid_width, out_height, out_width, blocks_y, blocks_x, pad_y, pad_x,
    down_pad_y, down_pad_x, up_gain: tl.float64, gain: tl.float64, slope: tl.float64, clamp: tl.float64,
    HAS_CLAMP: tl.constexpr, FROM_MASK: tl.constexpr,
    UP_Y: tl.constexpr, UP_X: tl.constexpr, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr,
    UP_TAPS_Y: tl.constexpr, UP_TAPS_X: tl.constexpr, DOWN_TAPS_Y: tl.constexpr, DOWN_TAPS_X: tl.constexpr,
    FLIP: tl.constexpr, STEP_Y: tl.constexpr, STEP_X: tl.constexpr, IN_Y: tl.constexpr, IN_X: tl.constexpr,
    OUT_Y: tl.constexpr, OUT_X: tl.constexpr, MID: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """FROM_MASK: z = u times the slopes that the sign mask gives, with padding before the second filter; otherwise the
    leaky ReLU of up_gain u, and, if wanted, its sign mask."""
    program = tl.program_id(0)
    plane = (program // blocks_x // blocks_y).to(tl.int64)  # it addresses
    block_y, block_x = program // blocks_x % blocks_y, program % blocks_x
    # The tile of the upsampled image from (middle_y, middle_x) on: [MID, MID].
    middle_y, middle_x = block_y * (STEP_Y * DOWN_Y), block_x * (STEP_X * DOWN_X)
    if FROM_MASK:
        middle_y -= down_pad_y
        middle_x -= down_pad_x
    first_y, shift_y = first_input(middle_y, pad_y, UP_Y)
    first_x, shift_x = first_input(middle_x, pad_x, UP_X)
    iy = first_y + tl.arange(0, IN_Y)[:, None]
    ix = first_x + tl.arange(0, IN_X)[None, :]
    inside = (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width)
    v = tl.load(x + plane * height * width + (iy * width + ix), mask=inside, other=0.0).to(tl.float32)
    if b is not None:
        v = tl.where(inside, v + tl.load(b + plane % channels), 0.0)
    middle = tl.arange(0, MID)
    tap_y = tl.arange(0, IN_Y)[None, :] * UP_Y + shift_y - middle[:, None]
    tap_x = tl.arange(0, IN_X)[:, None] * UP_X + shift_x - middle[None, :]
    by_row = tl.dot(band(fu, tap_y, UP_TAPS_Y, FLIP), v, input_precision=PRECISION)
    u = tl.dot(by_row, band(fu, tap_x, UP_TAPS_X, FLIP), input_precision=PRECISION)

    row, column = middle_y + middle[:, None], middle_x + middle[None, :]
    row_bytes = (mid_width + 3) // 4
    if FROM_MASK:  # beyond the edges the nearest sign, which meets no tap
        row = tl.minimum(tl.maximum(row, 0), mid_height - 1)
        column = tl.minimum(tl.maximum(column, 0), mid_width - 1)
        byte = tl.load(sign_mask + plane * mid_height * row_bytes + (row * row_bytes + column // 4))
        z = u * slope_of_sign(byte, column, gain, slope, u)
    else:
        u *= scalar(up_gain, u)
        z = lrelu(u, scalar(slope, u)) * scalar(gain, u)
        if sign_mask is not None:
            sign = tl.where((row < mid_height) & (column < mid_width), sign_of(u, z, clamp, HAS_CLAMP), 0)
            four = pack_signs(sign, MID, MID)
            # To this tile belong the pixels up to the next one; to the last one also those that no output meets.
            tile_y = tl.arange(0, MID)[:, None]
            tile_x = tl.arange(0, MID // 4)[None, :]
            byte = middle_x // 4 + tile_x
            mask = (middle_y + tile_y < mid_height) & (byte < row_bytes)
            mask &= (tile_y < STEP_Y * DOWN_Y) | (block_y == blocks_y - 1)
            mask &= (tile_x < STEP_X * DOWN_X // 4) | (block_x == blocks_x - 1)
            at = (middle_y + tile_y) * row_bytes + byte
            tl.store(sign_mask + plane * mid_height * row_bytes + at, four, mask=mask)
        if HAS_CLAMP:
            z = clamped(z, clamp)

    # The taps beyond the edges of the upsampled image are 0.
    out_y, out_x = tl.arange(0, OUT_Y)[:, None], tl.arange(0, OUT_X)[None, :]
    in_y, in_x = middle_y + middle, middle_x + middle
    tap_y = tl.where((in_y >= 0) & (in_y < mid_height), middle, -MID)[None, :] - out_y * DOWN_Y
    tap_x = tl.where((in_x >= 0) & (in_x < mid_width), middle, -MID)[:, None] - out_x * DOWN_X
    by_column = tl.dot(z, band(fd, tap_x, DOWN_TAPS_X, FLIP), input_precision=PRECISION)
    tile = tl.dot(band(fd, tap_y, DOWN_TAPS_Y, FLIP), by_column, input_precision=PRECISION)
    oy, ox = block_y * STEP_Y + out_y, block_x * STEP_X + out_x
    mask = (out_y < STEP_Y) & (oy < out_height) & (out_x < STEP_X) & (ox < out_width)
    tl.store(y + plane * out_height * out_width + (oy * out_width + ox), tile.to(y.dtype.element_ty), mask=mask)


class Axis(NamedTuple):
    """Of a tile along one axis: outputs, and the powers of two that hold its input pixels and its outputs."""

    step: int
    inputs: int
    outputs: int


@cache
def axis_of(up: int, down: int, up_taps: int, down_taps: int, unit: int) -> Axis | None:
    """The tile with the fewest operations an output; None where none has SHORTEST of them.

    Of MID upsampled pixels step down + down_taps - 1 are used: all that the outputs meet, and the rest of the image
    where this tile is the last one. unit: step down is a multiple of it.
    """
    costs: list[tuple[float, Axis]] = []
    for inputs in (16, 32):
        used = min(MID, inputs * up - up_taps + 1)
        step = min((used - down_taps + 1) // down, LONGEST)
        while step > 0 and step * down % unit:
            step -= 1
        if step >= SHORTEST:
            outputs = max(16, triton.next_power_of_2(step))
            costs.append(((inputs * (inputs + MID) + outputs * (outputs + MID)) / step**2, Axis(step, inputs, outputs)))
    return min(costs)[1] if costs else None


def tile_for(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, up: Sequence[int], down: Sequence[int]
) -> dict[str, Any] | None:
    """What the kernels take as constants; None for what they do not do."""
    upsampled_is_larger = up[0] * up[1] > 1  # else fusing saves little, and half of a tile would be empty
    if not upsampled_is_larger or x.dtype == torch.float64 or any(f is not None and f.ndim == 2 for f in (fu, fd)):
        return None
    up_taps, down_taps = (1 if f is None else f.numel() for f in (fu, fd))
    along_x = axis_of(up[0], down[0], up_taps, down_taps, 4)  # no two tiles share a byte of signs
    along_y = axis_of(up[1], down[1], up_taps, down_taps, 1)
    if along_x is None or along_y is None:
        return None
    constants = {"UP_X": up[0], "UP_Y": up[1], "DOWN_X": down[0], "DOWN_Y": down[1]}
    for axis, name in ((along_x, "X"), (along_y, "Y")):
        constants |= {f"STEP_{name}": axis.step, f"IN_{name}": axis.inputs, f"OUT_{name}": axis.outputs}
        constants |= {f"UP_TAPS_{name}": up_taps, f"DOWN_TAPS_{name}": down_taps}
    if _common.architecture(x.device).startswith("gfx"):
        return {**constants, "MID": MID, "PRECISION": "ieee", "num_warps": 4}
    # Left alone, the assembler spills a few bytes to get a third block onto a multiprocessor.
    return {**constants, "MID": MID, "PRECISION": "tf32x3", "num_warps": 4, "maxnreg": 255}


def filtered_lrelu_fwd(
    x: Tensor, b: Tensor | None, fu: Tensor | None, fd: Tensor | None, up: Sequence[int], down: Sequence[int],
    padding: Sequence[int], gain: float, slope: float, clamp: float | None, flip_filter: bool, want_sign_mask: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    middle = output_size(x.shape, fu, up, ONE, padding)
    mask_shape = (*x.shape[:2], middle[0], (middle[1] + 3) // 4)
    sign_mask = torch.empty(mask_shape if want_sign_mask else 0, dtype=torch.uint8, device=x.device)
    y = _filtered_lrelu(
        x, b, fu, fd, sign_mask if want_sign_mask else None, middle, from_mask=False, up=up, down=down, padding=padding,
        padding_down=NO_PADDING, gain=gain, slope=slope, clamp=clamp, flip=flip_filter,
    )  # fmt: skip
    return y, sign_mask


def filtered_lrelu_linear(
    x: Tensor, sign_mask: Tensor, middle: Sequence[int], fu: Tensor | None, fd: Tensor | None, up: Sequence[int],
    down: Sequence[int], padding: Sequence[int], padding_down: Sequence[int], gain: float, slope: float,
    flip_filter: bool,
) -> Tensor:  # fmt: skip
    return _filtered_lrelu(
        x, None, fu, fd, sign_mask, middle, from_mask=True, up=up, down=down, padding=padding,
        padding_down=padding_down, gain=gain, slope=slope, clamp=None, flip=flip_filter,
    )  # fmt: skip


def _filtered_lrelu(
    x: Tensor, b: Tensor | None, fu: Tensor | None, fd: Tensor | None, sign_mask: Tensor | None, middle: Sequence[int],
    *, from_mask: bool, up: Sequence[int], down: Sequence[int], padding: Sequence[int], padding_down: Sequence[int],
    gain: float, slope: float, clamp: float | None, flip: bool,
) -> Tensor:  # fmt: skip
    """middle: (height, width) of the upsampled image. from_mask: the sign mask is read, else filled where given."""
    layout, x = memory_format(x), x.contiguous()
    b, fu, fd, sign_mask = contiguous(b, fu, fd, sign_mask)
    n, c, height, width = x.shape
    out = output_size((n, c, *middle), fd, ONE, down, padding_down)
    tile = tile_for(x, fu, fd, up, down)
    if tile is None:
        y = filtered_lrelu_sign_mask.composed(
            x, b, fu, fd, sign_mask, from_mask=from_mask, up=up, down=down, padding=padding, padding_down=padding_down,
            gain=gain, slope=slope, clamp=clamp, flip=flip,
        )  # fmt: skip
        return y.contiguous(memory_format=layout)
    y = torch.empty((n, c, *out), dtype=x.dtype, device=x.device)
    if y.numel():
        blocks = (triton.cdiv(out[0], tile["STEP_Y"]), triton.cdiv(out[1], tile["STEP_X"]))
        with on_device_of(x):
            filtered_lrelu_kernel[(n * c * blocks[0] * blocks[1],)](
                x, b, fu, fd, y, sign_mask, c, height, width, *middle, *out, *blocks, padding[2], padding[0],
                padding_down[2], padding_down[0], float(up[0] * up[1]), gain, slope, clamp or 0.0,
                HAS_CLAMP=clamp is not None, FROM_MASK=from_mask, FLIP=flip, **tile,
            )  # fmt: skip
    return y.contiguous(memory_format=layout)

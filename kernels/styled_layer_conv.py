"""The convolutions of a StyleGAN2 layer with all that stands around them, implicit GEMMs over channels_last images.

y[n, p, o] = sum over taps t, channels i of x[n, p + t, i] styles[n, i] weight[o, t, i], then as in styled_epilogue.py
v = y scale + noise strength + b, z = clamp(gain lrelu(v)), out = z next_styles.
x [N, I, H, W], out [N, O, H', W'] channels_last; weight [O, I, k, k], k = 1 or 3, in memory [O, k, k, I], so that both
operands load 16 bytes along I. A program computes BLOCK_M pixels of one sample, so that styles and scale are vectors of
its tile, for BLOCK_O channels; programs go through GROUP tiles of pixels before the next channels, so that x stays in
the second-level cache. Sums in float32; float32 operands as TF32 or as three TF32 products.
The gradient by x is the same kernel with FLIP and the weight read along O; it also sums dxs x for the styles.
Bytes: x + weight + out, and x once more for the gradient by styles. Operations: 2 I taps an output.
Source: Karras et al., arXiv 1912.04958, section 2.2.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels import _common
from idgan_fast.kernels._activations import act_gain_clamp
from idgan_fast.kernels._common import contiguous, on_device_of
from idgan_fast.kernels.styled_layer_tiles import Shape, with_tile
from idgan_fast.ops.layer.conv_plan import COMPOSITE, SAME, TRANSPOSED
from idgan_fast.ops.layer.epilogue import Epilogue

# The forms, in the kernel: of a stride of one; up=2 as a 3x3 convolution with a weight [4 O, I, 3, 3] that holds the
# filter, a phase of the output each; up=2 as the four phases of a transposed convolution, of 2x2, 2x1, 1x2 and 1x1
# taps; and that one's adjoint, which takes every other pixel.
STRIDED = "strided"


@triton.jit
def styled_layer_fwd_kernel(
    x, weight, styles, scale, noise, strength, b, next_styles, out, z, factor, sums,
    c_in, height, width, c_out, rows, columns, out_height, out_width, all_m_blocks, m_blocks, o_blocks,
    o_step, tap_step, i_step, noise_step,
    slope: tl.float64, gain: tl.float64, clamp: tl.float64, HAS_CLAMP: tl.constexpr, K: tl.constexpr,
    UP: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, TRANSPOSED: tl.constexpr, FLIP: tl.constexpr,
    PHASES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """rows, columns: of the grid of pixels, one for each output pixel or, up=2, for four.

    factor, sums: an image as out, and [tiles of pixels, c_out], in which the tiles' sums of y factor are written.
    """
    program = tl.program_id(0)
    phase_blocks: tl.constexpr = UP * UP // PHASES
    n_blocks = o_blocks * phase_blocks
    first_m = program // (GROUP * n_blocks) * GROUP
    in_group = tl.minimum(all_m_blocks - first_m, GROUP)
    tile = first_m + program % (GROUP * n_blocks) % in_group
    n_block = program % (GROUP * n_blocks) // in_group
    sample = (tile // m_blocks).to(tl.int64)
    first_phase = n_block % phase_blocks * PHASES
    first_o = n_block // phase_blocks * BLOCK_O

    pixel = tile % m_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    py, px = pixel // columns, pixel % columns
    n = tl.arange(0, PHASES * BLOCK_O)
    o = first_o + n % BLOCK_O
    a, c = first_phase // 2, first_phase % 2
    if TRANSPOSED:
        kh, kw = 2 - a, 2 - c
        pad_y, pad_x = kh - 1, kw - 1
        weight_row = o
    else:
        kh, kw = K, K
        pad_y, pad_x = PAD, PAD
        weight_row = (first_phase + n // BLOCK_O) * c_out + o
    taps = kh * kw
    image = x + sample * height * width * c_in
    exists = pixel < rows * columns
    acc = tl.zeros((BLOCK_M, PHASES * BLOCK_O), tl.float32)
    for step in range(0, tl.cdiv(c_in, BLOCK_K) * taps):
        tap = step % taps
        i = step // taps * BLOCK_K + tl.arange(0, BLOCK_K)
        iy, ix = py * STRIDE + tap // kw - pad_y, px * STRIDE + tap % kw - pad_x
        inside = exists & (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width)
        x_tile = tl.load(
            image + (iy * width + ix)[:, None] * c_in + i[None, :],
            mask=inside[:, None] & (i < c_in)[None, :], other=0.0,
        )  # fmt: skip
        if styles is not None:
            style = tl.load(styles + sample * c_in + i, mask=i < c_in, other=0.0)
            x_tile = (x_tile.to(tl.float32) * style[None, :]).to(x.dtype.element_ty)
        weight_tap = tap
        if TRANSPOSED:  # even rows of the result meet rows 0 and 2 of the weight, odd ones row 1; columns likewise
            weight_tap = (a + tap // kw * 2) * K + c + tap % kw * 2
        if FLIP:
            weight_tap = taps - 1 - tap
        weight_tile = tl.load(
            weight + (weight_row * o_step)[None, :] + weight_tap * tap_step + (i * i_step)[:, None],
            mask=(o < c_out)[None, :] & (i < c_in)[:, None], other=0.0,
        )  # fmt: skip
        acc = tl.dot(x_tile, weight_tile, acc, input_precision=PRECISION)

    # [pixels, phases, channels]
    v = tl.reshape(acc, (BLOCK_M, PHASES, BLOCK_O))
    channel = (first_o + tl.arange(0, BLOCK_O))[None, None, :]
    phase = (first_phase + tl.arange(0, PHASES))[None, :, None]
    oy, ox = py[:, None, None] * UP + phase // UP, px[:, None, None] * UP + phase % UP
    inside_out = exists[:, None, None] & (oy < out_height) & (ox < out_width)
    mask, vector = inside_out & (channel < c_out), sample * c_out + channel
    at = oy * out_width + ox
    to = sample * out_height * out_width * c_out + at * c_out + channel
    if sums is not None:
        products = v * tl.load(factor + to, mask=mask, other=0.0).to(tl.float32)
        tile_channel = first_o + tl.arange(0, BLOCK_O)
        total = tl.sum(tl.sum(products, 1), 0)
        tl.store(sums + tile.to(tl.int64) * c_out + tile_channel, total, mask=tile_channel < c_out)
    if scale is not None:
        v *= tl.load(scale + vector, mask=channel < c_out, other=0.0)
    if b is not None:
        v += tl.load(b + channel, mask=channel < c_out, other=0.0)
    if noise is not None:
        noise_value = tl.load(noise + sample * noise_step + at, mask=inside_out, other=0.0)
        if strength is not None:
            noise_value *= tl.load(strength)
        v += noise_value
    result = act_gain_clamp(v, slope, gain, clamp, "lrelu", HAS_CLAMP)
    if z is not None:
        tl.store(z + to, result.to(z.dtype.element_ty), mask=mask)
    if next_styles is not None:
        result *= tl.load(next_styles + vector, mask=channel < c_out, other=0.0)
    tl.store(out + to, result.to(out.dtype.element_ty), mask=mask)


def conv_forward(
    x: Tensor, weight: Tensor, styles: Tensor | None, epilogue: Epilogue, *, form: str, keep_z: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(out, z), channels_last; z, the result before next_styles, where it is to be kept and differs from out.

    x: [N, I, H, W] in float16, bfloat16 or float32; the weight in the same, [O, I, k, k] as correlation, and of the
    composite form [4 O, I, 3, 3], phase by phase; the rest in float32.
    """
    (_, c_in, height, width), shape = x.shape, forward_shape(x, weight, form=form, styled=styles is not None)
    up, more = 1 if form == SAME else 2, int(form == TRANSPOSED)
    out = _empty(x, shape.c_out, up * height + more, up * width + more)
    z = torch.empty_like(out) if keep_z and epilogue.next_styles is not None else None
    k = weight.shape[2]
    weight, weight_steps = in_memory(weight), (k * k * c_in, c_in, 1)

    def launch(tile: dict[str, Any]) -> None:
        _launch(x, weight, epilogue, out, form=form, k=k, weight_steps=weight_steps, styles=styles, z=z, tile=tile)

    with_tile(shape, x.device, launch)
    return out, z


def conv_input_grad(
    dy: Tensor, weight: Tensor, styles: Tensor | None, x: Tensor, *, form: str, want_styles: bool
) -> tuple[Tensor, Tensor]:
    """The gradients by x, channels_last, and by the styles [N, I] in float32 (empty unless wanted)."""
    dy = dy.contiguous(memory_format=torch.channels_last)
    n, c_in, height, width = x.shape
    dx = _empty(x, c_in, height, width)
    k, c_out = weight.shape[2], weight.shape[0]
    weight_steps = (1, c_in, k * k * c_in)
    if x.dtype == torch.float32:  # matrix units take TF32 along the sum alone
        weight, weight_steps = weight.permute(1, 2, 3, 0).contiguous(), (k * k * c_out, c_out, 1)
    else:
        weight = in_memory(weight)
    factor = x.contiguous(memory_format=torch.channels_last) if want_styles else None
    shape = input_grad_shape(dy, x, form=form, k=k)

    def launch(tile: dict[str, Any]) -> Tensor | None:
        sums = None
        if want_styles:
            tiles = triton.cdiv(height * width, tile["BLOCK_M"])
            sums = torch.empty(n, tiles, c_in, dtype=torch.float32, device=x.device)
        _launch(
            dy, weight, Epilogue(scale=styles), dx, form=shape.form, k=k, weight_steps=weight_steps, flip=True,
            factor=factor, sums=sums, tile=tile,
        )  # fmt: skip
        return sums

    sums = with_tile(shape, x.device, launch)
    return dx, x.new_empty(0, dtype=torch.float32) if sums is None else sums.sum(1)


def forward_shape(x: Tensor, weight: Tensor, *, form: str, styled: bool) -> Shape:
    """styled: the style is applied to x as it is read."""
    n, c_in, height, width = x.shape
    more, c_out = int(form == TRANSPOSED), weight.shape[0] // (4 if form == COMPOSITE else 1)
    pixels = (height + more) * (width + more)
    kernel = "fwd styled" if styled else "fwd"
    return Shape(kernel, form, weight.shape[2], n, c_in, c_out, pixels, x.dtype, precision(x))


def input_grad_shape(dy: Tensor, x: Tensor, *, form: str, k: int) -> Shape:
    n, c_in, height, width = x.shape
    form = SAME if form == SAME else STRIDED
    return Shape("dgrad", form, k, n, dy.shape[1], c_in, height * width, x.dtype, precision(x))


def in_memory(weight: Tensor) -> Tensor:
    """[O, I, k, k] as [O, k, k, I]: no copy of a weight that is channels_last."""
    return weight.permute(0, 2, 3, 1).contiguous()


def precision(x: Tensor) -> str:
    """Of products: half types have one; float32 takes TF32 where torch's convolutions do, else three TF32 products.
    AMD's matrix units multiply float32 as it is."""
    if x.dtype != torch.float32 or _common.architecture(x.device).startswith("gfx"):
        return "ieee"
    cudnn: Any = torch.backends.cudnn
    everywhere: Any = torch.backends
    settings = (cudnn.conv.fp32_precision, cudnn.fp32_precision, everywhere.fp32_precision)
    chosen = next((setting for setting in settings if setting != "none"), "ieee")
    return "tf32" if chosen == "tf32" else "tf32x3"


def _empty(x: Tensor, c: int, height: int, width: int) -> Tensor:
    shape = (x.shape[0], c, height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _launch(
    x: Tensor, weight: Tensor, epilogue: Epilogue, out: Tensor, *, form: str, k: int,
    weight_steps: tuple[int, int, int], tile: dict[str, Any], flip: bool = False, styles: Tensor | None = None,
    z: Tensor | None = None, factor: Tensor | None = None, sums: Tensor | None = None,
) -> None:  # fmt: skip
    """weight_steps: in memory from one output channel of the weight to the next, from tap to tap, along the sum."""
    if not out.numel():
        return
    x = x.contiguous(memory_format=torch.channels_last)
    n, c_in, height, width = x.shape
    c_out, size = out.shape[1], out.shape[2:]
    up = 2 if form in (COMPOSITE, TRANSPOSED) else 1
    rows, columns = triton.cdiv(size[0], up), triton.cdiv(size[1], up)
    m_blocks, o_blocks = triton.cdiv(rows * columns, tile["BLOCK_M"]), triton.cdiv(c_out, tile["BLOCK_O"])
    programs = n * m_blocks * o_blocks * (up * up // tile["PHASES"])
    vectors = contiguous(styles, *epilogue.vectors)
    with on_device_of(x):
        styled_layer_fwd_kernel[(programs,)](
            x, weight, *vectors, out, z, factor, sums, c_in, height, width, c_out, rows, columns, *size, n * m_blocks,
            m_blocks, o_blocks, *weight_steps, epilogue.noise_step, epilogue.slope, epilogue.gain,
            epilogue.clamp or 0.0, HAS_CLAMP=epilogue.clamp is not None, K=k, UP=up, STRIDE=2 if form == STRIDED else 1,
            PAD=0 if form == STRIDED else k // 2, TRANSPOSED=form == TRANSPOSED, FLIP=flip, PRECISION=precision(x),
            **tile,
        )  # fmt: skip

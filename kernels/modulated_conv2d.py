"""The convolution of a StyleGAN2 layer with all that stands around it, an implicit GEMM over channels_last images.

y[n, p, o] = sum over taps t, channels i of x[n, p + t, i] styles[n, i] weight[o, t, i], then as in styled_epilogue.py
v = y scale + noise strength + b, z = clamp(gain lrelu(v)), out = z next_styles.
x [N, I, H, W], out [N, O, H', W'] channels_last; weight [O, I, k, k], k = 1 or 3, laid out as [O, k, k, I], so that
both operands load 16 bytes along I. A program computes BLOCK_M pixels of one sample, so that styles and scale are
vectors of its tile, for BLOCK_O channels; programs go through GROUP tiles of pixels before the next channels, so that
x stays in the second-level cache. Sums in float32; float32 operands as TF32 or as three TF32 products.
up=2, composite: the weight composed with the filter is [4, O, 3, 3, I], a phase of the output each, and a program has
PHASES of them. up=2, transposed: the phases of the transposed convolution, of 2x2, 2x1, 1x2 and 1x1 taps.
Bytes: x + weight + out. Operations: 2 I taps an output. Source: Karras et al., arXiv 1912.04958, section 2.2.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels.activations import finished
from idgan_fast.kernels.tiles import on_device_of

SAME, COMPOSITE, TRANSPOSED = "same", "composite", "transposed"


@triton.jit
def modulated_conv2d_fwd_kernel(
    x, weight, styles, scale, noise, strength, b, next_styles, out, z,
    c_in, height, width, c_out, rows, columns, out_height, out_width, all_m_blocks, m_blocks, o_blocks, noise_step,
    slope: tl.float64, gain: tl.float64, clamp: tl.float64, HAS_CLAMP: tl.constexpr, K: tl.constexpr,
    UP: tl.constexpr, TRANSPOSED: tl.constexpr, PHASES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """rows, columns: of the grid of pixels, one for each output pixel or, up=2, for four."""
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
    if TRANSPOSED:
        a, c = first_phase // 2, first_phase % 2
        kh, kw = 2 - a, 2 - c
        pad_y, pad_x = kh - 1, kw - 1
        before = tl.where(first_phase == 0, 0, 2 + 2 * first_phase)
        kernels = weight + before.to(tl.int64) * c_out * c_in
        row_of_n = o
    else:
        kh, kw = K, K
        pad_y, pad_x = K // 2, K // 2
        kernels = weight
        row_of_n = (first_phase + n // BLOCK_O) * c_out + o
    taps = kh * kw
    image = x + sample * height * width * c_in
    there = pixel < rows * columns
    acc = tl.zeros((BLOCK_M, PHASES * BLOCK_O), tl.float32)
    for step in range(0, tl.cdiv(c_in, BLOCK_K) * taps):
        tap = step % taps
        i = step // taps * BLOCK_K + tl.arange(0, BLOCK_K)
        iy, ix = py + tap // kw - pad_y, px + tap % kw - pad_x
        inside = there & (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width)
        of_x = tl.load(
            image + (iy * width + ix)[:, None] * c_in + i[None, :],
            mask=inside[:, None] & (i < c_in)[None, :], other=0.0,
        )  # fmt: skip
        if styles is not None:
            style = tl.load(styles + sample * c_in + i, mask=i < c_in, other=0.0)
            of_x = (of_x.to(tl.float32) * style[None, :]).to(x.dtype.element_ty)
        of_weight = tl.load(
            kernels + (row_of_n * taps + tap)[None, :] * c_in + i[:, None],
            mask=(o < c_out)[None, :] & (i < c_in)[:, None], other=0.0,
        )  # fmt: skip
        acc = tl.dot(of_x, of_weight, acc, input_precision=PRECISION)

    # [pixels, phases, channels]
    v = tl.reshape(acc, (BLOCK_M, PHASES, BLOCK_O))
    channel = (first_o + tl.arange(0, BLOCK_O))[None, None, :]
    phase = (first_phase + tl.arange(0, PHASES))[None, :, None]
    oy, ox = py[:, None, None] * UP + phase // UP, px[:, None, None] * UP + phase % UP
    in_out = there[:, None, None] & (oy < out_height) & (ox < out_width)
    mask, of_channel = in_out & (channel < c_out), sample * c_out + channel
    at = oy * out_width + ox
    if scale is not None:
        v *= tl.load(scale + of_channel, mask=channel < c_out, other=0.0)
    if b is not None:
        v += tl.load(b + channel, mask=channel < c_out, other=0.0)
    if noise is not None:
        added = tl.load(noise + sample * noise_step + at, mask=in_out, other=0.0)
        if strength is not None:
            added *= tl.load(strength)
        v += added
    result = finished(v, slope, gain, clamp, "lrelu", HAS_CLAMP)
    to = sample * out_height * out_width * c_out + at * c_out + channel
    if z is not None:
        tl.store(z + to, result.to(z.dtype.element_ty), mask=mask)
    if next_styles is not None:
        result *= tl.load(next_styles + of_channel, mask=channel < c_out, other=0.0)
    tl.store(out + to, result.to(out.dtype.element_ty), mask=mask)


def modulated_conv2d_fwd(
    x: Tensor, weight: Tensor, styles: Tensor | None, scale: Tensor | None, noise: Tensor | None,
    strength: Tensor | None, b: Tensor | None, next_styles: Tensor | None, form: str, slope: float, gain: float,
    clamp: float | None, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(out, z), channels_last; z is empty unless it is to be kept and differs from out.

    x: [N, I, H, W] in float16, bfloat16 or float32; the weight in the same; the rest float32. form: "same" for a
    weight [O, I, k, k], "composite" for [4 O, I, 3, 3], phase by phase, "transposed" for [O, I, 3, 3], as correlation.
    """
    last = torch.channels_last
    x, (n, c_in, height, width) = x.contiguous(memory_format=last), x.shape
    up, phases_of_weight = (1, 1) if form == SAME else (2, 4 if form == COMPOSITE else 1)
    c_out = weight.shape[0] // phases_of_weight
    more = int(form == TRANSPOSED)
    rows, columns = height + more, width + more
    size = (up * height + more, up * width + more)
    out = torch.empty((n, c_out, *size), dtype=x.dtype, device=x.device, memory_format=last)
    z = torch.empty_like(out) if keep and next_styles is not None else None
    if out.numel():
        kernels = by_phases(weight) if form == TRANSPOSED else weight.permute(0, 2, 3, 1).contiguous()
        tile = tile_of(c_in, c_out, rows * columns, x.element_size(), form)
        m_blocks, o_blocks = triton.cdiv(rows * columns, tile["BLOCK_M"]), triton.cdiv(c_out, tile["BLOCK_O"])
        programs = n * m_blocks * o_blocks * (up * up // tile["PHASES"])
        vectors = [None if t is None else t.contiguous() for t in (styles, scale, noise, strength, b, next_styles)]
        noise_step = 0 if noise is None or noise.shape[0] == 1 else size[0] * size[1]
        with on_device_of(x):
            modulated_conv2d_fwd_kernel[(programs,)](
                x, kernels, *vectors, out, z, c_in, height, width, c_out, rows, columns, *size, n * m_blocks, m_blocks,
                o_blocks, noise_step, slope, gain, 0.0 if clamp is None else clamp, HAS_CLAMP=clamp is not None,
                K=weight.shape[2], UP=up, TRANSPOSED=form == TRANSPOSED, PRECISION=precision(),
                **(tile if torch.version.hip is None else on_amd(tile)),
            )  # fmt: skip
    return out, x.new_empty(0) if z is None else z


def by_phases(weight: Tensor) -> Tensor:
    """The taps of [O, I, 3, 3] that each phase of the transposed convolution meets, one phase [O, kh, kw, I] after the
    other: even rows of the result meet rows 0 and 2, odd ones row 1; columns likewise."""
    of_phase = [weight[:, :, a::2, c::2] for a in (0, 1) for c in (0, 1)]
    return torch.cat([part.permute(0, 2, 3, 1).flatten() for part in of_phase])


def precision() -> str:
    """As torch's convolutions have it, by torch.backends.cudnn.allow_tf32."""
    return "tf32" if torch.backends.cudnn.allow_tf32 else "tf32x3"


def tile_of(c_in: int, c_out: int, pixels: int, element: int, form: str) -> dict[str, Any]:
    """The tile of a program: 128 pixels and 128 numbers of each, smaller where there are fewer."""
    block_o = min(max(triton.next_power_of_2(c_out), 16), 128)
    phases = min(4, 128 // block_o) if form == COMPOSITE else 1
    block_m = min(max(triton.next_power_of_2(pixels), 16), 128)
    block_k = min(max(triton.next_power_of_2(c_in), 16), 128 // element)
    return {
        "BLOCK_M": block_m,
        "BLOCK_O": block_o,
        "PHASES": phases,
        "BLOCK_K": block_k,
        "GROUP": 8,
        "num_warps": 8 if block_m * block_o * phases > 8192 else 4,
        "num_stages": 3,
    }


def on_amd(tile: dict[str, Any]) -> dict[str, Any]:
    """Its warps are twice as wide, and its blocks have 64 KiB of shared memory."""
    return {**tile, "num_warps": tile["num_warps"] // 2, "num_stages": 2}

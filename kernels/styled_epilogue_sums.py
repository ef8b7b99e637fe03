"""The sums of a layer's epilogue in one pass, h = dout next_styles dz/dv from dout and z: over channels for the noise,
over pixels for bias, scale and next_styles; and h scale, the gradient by the convolution's result, where no filter
stands between.

dout, z: [N, C, H, W] in one layout; scale, next_styles [N, C], b [C], noise [N or 1, 1, H, W], strength [] in the type
of the arithmetic. The sum for scale is that of h y; without y it is that of h (v - noise strength - b), which is h y
scale, with v = z / (gain slope): leaky ReLU shows its input where h is not 0, so that nothing but z need be kept. There
scale must not be 0, and where noise or bias are a hundred times y a half type's z shows y in as many digits fewer.
A program takes some pixels of a sample and goes through all channels. Bytes: dout + z (+ y) (+ dy), and a table of sums
for each gradient, 4 bytes for 32 pixels (64 of NCHW), which torch adds up in a fixed order. Source: Karras et al.,
arXiv 1912.04958, section 2.2.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels._activations import through_leaky
from idgan_fast.kernels._common import accumulation, is_channels_last, on_device_of, scalar, triton_type

TILE, PIXELS, CHANNELS = 2048, 64, 32  # 64 pixels of NCHW images, of channels_last ones 32 of 64 channels


@triton.jit
def before_leaky(z, slope, gain):
    """v of z = gain lrelu(v); 0 where slope or gain hide it."""
    k = scalar(gain, z)
    factor = tl.where(tl.where(k > 0, z, -z) > 0, k, k * scalar(slope, z))
    return z / tl.where(factor == 0, 1.0, factor)


@triton.jit
def styled_epilogue_sums_kernel(
    dout, z, y, scale, noise, strength, b, next_styles, dy, noise_sums, channel_sums,
    channels, pixels, pixel_blocks, channel_step, pixel_step, noise_step,
    slope: tl.float64, gain: tl.float64, clamp: tl.float64,
    HAS_CLAMP: tl.constexpr, WANT_SCALE: tl.constexpr, WANT_BIAS: tl.constexpr,
    WANT_NEXT: tl.constexpr, ACC: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """channel_sums: [those wanted of scale, bias and next, samples, pixel blocks, channels]."""
    sample = (tl.program_id(0) // pixel_blocks).to(tl.int64)
    block = tl.program_id(0) % pixel_blocks
    p = block * PIXELS + tl.arange(0, PIXELS)[None, :]
    of_pixel = tl.zeros((PIXELS,), ACC)
    if noise is not None:
        added = tl.load(noise + sample * noise_step + p, mask=p < pixels, other=0.0)
        if strength is not None:
            added *= tl.load(strength)
    for start in range(0, channels, CHANNELS):
        c = start + tl.arange(0, CHANNELS)[:, None]
        mask = (c < channels) & (p < pixels)
        at = sample * channels * pixels + c.to(tl.int64) * channel_step + p.to(tl.int64) * pixel_step
        mine = sample * channels + c
        g = tl.load(dout + at, mask=mask, other=0.0).to(ACC)
        saved = tl.load(z + at, mask=mask, other=0.0).to(ACC)
        row = start + tl.arange(0, CHANNELS)
        sums = channel_sums + (sample * pixel_blocks + block) * channels + row
        table = tl.num_programs(0).to(tl.int64) * channels
        h = g
        if next_styles is not None:
            h = g * tl.load(next_styles + mine, mask=c < channels, other=0.0)
        h = tl.where(mask, through_leaky(h, saved, slope, gain, clamp, HAS_CLAMP), 0.0)
        of_pixel += tl.sum(h, 0)
        if dy is not None:
            scaled = h
            if scale is not None:
                scaled = h * tl.load(scale + mine, mask=c < channels, other=0.0)
            tl.store(dy + at, scaled.to(dy.dtype.element_ty), mask=mask)
        if WANT_SCALE:
            of_scale = mask
            if y is not None:
                of_y = tl.load(y + at, mask=mask, other=0.0).to(ACC)
            else:
                of_scale = mask & (h != 0)
                of_y = before_leaky(saved, slope, gain)
                if noise is not None:
                    of_y -= added
                if b is not None:
                    of_y -= tl.load(b + c, mask=c < channels, other=0.0)
            tl.store(sums, tl.sum(tl.where(of_scale, h * of_y, 0.0), 1), mask=row < channels)
            sums += table
        if WANT_BIAS:
            tl.store(sums, tl.sum(h, 1), mask=row < channels)
            sums += table
        if WANT_NEXT:
            tl.store(sums, tl.sum(tl.where(mask, g * saved, 0.0), 1), mask=row < channels)
    if noise_sums is not None:
        q = block * PIXELS + tl.arange(0, PIXELS)
        tl.store(noise_sums + sample * pixels + q, of_pixel, mask=q < pixels)


def epilogue_sums(
    dout: Tensor, z: Tensor, y: Tensor | None, scale: Tensor | None, next_styles: Tensor | None, dy: Tensor | None,
    activation: tuple[float, float, float | None], want_scale: bool, want_b: bool, want_next: bool, over_channels: bool,
    noise: Tensor | None = None, strength: Tensor | None = None, b: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """h summed over channels [N, 1, H, W]; the gradients by scale, b and next_styles.

    Those not wanted are empty. Fills dy, where it is given, with h scale. noise, strength, b: needed where the gradient
    by scale is wanted and y is None.
    """
    (n, c, height, width), wide, (slope, gain, clamp) = dout.shape, accumulation(dout.dtype), activation
    wanted = (want_scale, want_b, want_next)
    make = torch.empty if dout.numel() else torch.zeros
    across = min(triton.next_power_of_2(height * width), CHANNELS if is_channels_last(dout) else PIXELS)
    blocks = triton.cdiv(height * width, across)
    table = make((sum(wanted), n, blocks, c), dtype=wide, device=dout.device)
    of_pixel = make((n, 1, height, width) if over_channels else 0, dtype=wide, device=dout.device)
    if dout.numel() and (dy is not None or over_channels or any(wanted)):
        noise_step = 0 if noise is None or noise.shape[0] == 1 else height * width
        vectors = (scale, noise, strength, b, next_styles)
        scale, noise, strength, b, next_styles = (None if t is None else t.contiguous() for t in vectors)
        steps = (1, c) if is_channels_last(dout) else (height * width, 1)
        with on_device_of(dout):
            styled_epilogue_sums_kernel[(n * blocks,)](
                dout, z, y, scale, noise, strength, b, next_styles, dy, of_pixel if over_channels else None, table, c,
                height * width, blocks, *steps, noise_step, slope, gain, 0.0 if clamp is None else clamp,
                HAS_CLAMP=clamp is not None, WANT_SCALE=want_scale, WANT_BIAS=want_b, WANT_NEXT=want_next,
                ACC=triton_type(wide), CHANNELS=min(triton.next_power_of_2(c), TILE // across), PIXELS=across,
            )  # fmt: skip
    tables = iter(table)
    dscale = next(tables).sum(1) if want_scale else table.new_empty(0)
    if want_scale and y is None and scale is not None:
        dscale = dscale / scale
    db = next(tables).sum((0, 1)) if want_b else table.new_empty(0)
    dnext = next(tables).sum(1) if want_next else table.new_empty(0)
    return of_pixel, dscale, db, dnext

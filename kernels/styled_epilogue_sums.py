"""The sums of a layer's epilogue in one pass over dout and z, with h = dout next_styles dz/dv: of h over channels for
the noise, over pixels for b; of h y for scale; of dout z for next_styles; and dy = h scale where no filter follows.

dout, z, y, dy: [N, C, H, W] in one layout; the vectors as in `Epilogue`. A program takes some pixels of a sample and
goes through all channels. Without y the sum for scale is that of h (v - noise strength - b) / scale, v = z / (gain
slope), which shows itself wherever h is not 0, so that nothing but z need be kept: scale must not be 0 there, and where
noise or b are a hundred times y a half type's z shows y in as many digits fewer.
Bytes: dout + z (+ y) (+ dy), and for each gradient 4 bytes for 32 pixels (64 of NCHW), which torch adds up in a fixed
order. Operations: about 10 an element, in float32 (float64). Source: Karras et al., arXiv 1912.04958, section 2.2.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels._activations import lrelu_backward
from idgan_fast.kernels._common import acc_type, contiguous, is_channels_last, on_device_of, scalar
from idgan_fast.ops._tensors import accumulation
from idgan_fast.ops.layer.epilogue import Epilogue

TILE, PIXELS, CHANNELS = 2048, 64, 32  # 64 pixels of NCHW images, of channels_last ones 32 of 64 channels


@triton.jit
def lrelu_inverse(z, slope, gain):
    """v of z = gain lrelu(v); 0 where slope or gain hide it."""
    k = scalar(gain, z)
    factor = tl.where(tl.where(k > 0, z, -z) > 0, k, k * scalar(slope, z))
    return z / tl.where(factor == 0, 1.0, factor)


@triton.jit
def styled_epilogue_sums_kernel(
    dout, z, y, scale, noise, strength, b, next_styles, dy, pixel_sums, channel_sums,
    channels, pixels, pixel_blocks, channel_step, pixel_step, noise_step,
    slope: tl.float64, gain: tl.float64, clamp: tl.float64,
    HAS_CLAMP: tl.constexpr, WANT_SCALE: tl.constexpr, WANT_BIAS: tl.constexpr,
    WANT_NEXT: tl.constexpr, ACC: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """channel_sums: [those wanted of scale, bias and next, samples, pixel blocks, channels]."""
    sample = (tl.program_id(0) // pixel_blocks).to(tl.int64)
    block = tl.program_id(0) % pixel_blocks
    p = block * PIXELS + tl.arange(0, PIXELS)[None, :]
    pixel_total = tl.zeros((PIXELS,), ACC)
    if noise is not None:
        added = tl.load(noise + sample * noise_step + p, mask=p < pixels, other=0.0)
        if strength is not None:
            added *= tl.load(strength)
    for start in range(0, channels, CHANNELS):
        c = start + tl.arange(0, CHANNELS)[:, None]
        mask = (c < channels) & (p < pixels)
        at = sample * channels * pixels + c.to(tl.int64) * channel_step + p.to(tl.int64) * pixel_step
        vector = sample * channels + c
        g = tl.load(dout + at, mask=mask, other=0.0).to(ACC)
        saved = tl.load(z + at, mask=mask, other=0.0).to(ACC)
        row = start + tl.arange(0, CHANNELS)
        sums = channel_sums + (sample * pixel_blocks + block) * channels + row
        table = tl.num_programs(0).to(tl.int64) * channels
        h = g
        if next_styles is not None:
            h = g * tl.load(next_styles + vector, mask=c < channels, other=0.0)
        h = tl.where(mask, lrelu_backward(h, saved, slope, gain, clamp, HAS_CLAMP), 0.0)
        pixel_total += tl.sum(h, 0)
        if dy is not None:
            scaled = h
            if scale is not None:
                scaled = h * tl.load(scale + vector, mask=c < channels, other=0.0)
            tl.store(dy + at, scaled.to(dy.dtype.element_ty), mask=mask)
        if WANT_SCALE:
            scale_mask = mask
            if y is not None:
                y_value = tl.load(y + at, mask=mask, other=0.0).to(ACC)
            else:
                scale_mask = mask & (h != 0)
                y_value = lrelu_inverse(saved, slope, gain)
                if noise is not None:
                    y_value -= added
                if b is not None:
                    y_value -= tl.load(b + c, mask=c < channels, other=0.0)
            tl.store(sums, tl.sum(tl.where(scale_mask, h * y_value, 0.0), 1), mask=row < channels)
            sums += table
        if WANT_BIAS:
            tl.store(sums, tl.sum(h, 1), mask=row < channels)
            sums += table
        if WANT_NEXT:
            tl.store(sums, tl.sum(tl.where(mask, g * saved, 0.0), 1), mask=row < channels)
    if pixel_sums is not None:
        q = block * PIXELS + tl.arange(0, PIXELS)
        tl.store(pixel_sums + sample * pixels + q, pixel_total, mask=q < pixels)


def epilogue_sums(
    dout: Tensor, z: Tensor, epilogue: Epilogue, *, y: Tensor | None = None, dy: Tensor | None = None,
    want_scale: bool, want_noise: bool, want_b: bool, want_next: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """h summed over channels [N, 1, H, W] if want_noise; the gradients by scale, b and next_styles.

    Those not wanted are empty. dy, where given, is filled with h scale. Without y the epilogue's noise, strength and b
    serve the gradient by scale.
    """
    (n, c, height, width), acc_dtype = dout.shape, accumulation(dout.dtype)
    wanted = (want_scale, want_b, want_next)
    make = torch.empty if dout.numel() else torch.zeros
    block_pixels = min(triton.next_power_of_2(height * width), CHANNELS if is_channels_last(dout) else PIXELS)
    blocks = triton.cdiv(height * width, block_pixels)
    table = make((sum(wanted), n, blocks, c), dtype=acc_dtype, device=dout.device)
    pixel_sums = make((n, 1, height, width) if want_noise else 0, dtype=acc_dtype, device=dout.device)
    if dout.numel() and (dy is not None or want_noise or any(wanted)):
        v_terms = (epilogue.noise, epilogue.strength, epilogue.b) if want_scale and y is None else (None, None, None)
        steps = (1, c) if is_channels_last(dout) else (height * width, 1)
        with on_device_of(dout):
            styled_epilogue_sums_kernel[(n * blocks,)](
                dout, z, y, *contiguous(epilogue.scale, *v_terms, epilogue.next_styles), dy,
                pixel_sums if want_noise else None, table, c, height * width, blocks, *steps, epilogue.noise_step,
                epilogue.slope, epilogue.gain, epilogue.clamp or 0.0, HAS_CLAMP=epilogue.clamp is not None,
                WANT_SCALE=want_scale, WANT_BIAS=want_b, WANT_NEXT=want_next, ACC=acc_type(dout.dtype),
                CHANNELS=min(triton.next_power_of_2(c), TILE // block_pixels), PIXELS=block_pixels,
            )  # fmt: skip
    tables = iter(table)
    dscale = next(tables).sum(1) if want_scale else table.new_empty(0)
    if want_scale and y is None and epilogue.scale is not None:
        dscale = dscale / epilogue.scale
    db = next(tables).sum((0, 1)) if want_b else table.new_empty(0)
    dnext = next(tables).sum(1) if want_next else table.new_empty(0)
    return pixel_sums, dscale, db, dnext

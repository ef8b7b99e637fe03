"""What follows the convolution of a StyleGAN2 layer in one pass, u = FIR(y), v = u scale + noise strength + b,
z = clamp(gain lrelu(v)), out = z next_styles, and its gradients.

y: [N, C, H, W], contiguous or channels_last; scale, next_styles [N, C], noise [N or 1, 1, H', W'], strength [], b [C]
in the type of the arithmetic, float32 for the half types. A program goes down a strip of eight output rows (_fir.py)
and keeps the sums of the outputs that the next input rows still meet: of a filter of four rows each input row is loaded
once for four outputs, with shifts along x, which the first-level cache serves. Bytes: forward y + out; backward through
the filter dout + out + y + dy, and dout + out for the sums over pixels and channels; without a filter dout + out + y +
dy in all. Operations: 2 fh fw + 10 an output, in float32 (float64). Sums go to tables of partial sums, which torch adds
up in a fixed order. Source: Karras et al., arXiv 1912.04958, section 2.2.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels._activations import act_gain_clamp, lrelu_backward
from idgan_fast.kernels._common import acc_type, contiguous, dense, is_channels_last, new_image, on_device_of, scalar
from idgan_fast.kernels._fir import TILE as FIR_TILE
from idgan_fast.kernels._fir import strip_coordinates, strips_of
from idgan_fast.kernels.styled_epilogue_sums import epilogue_sums
from idgan_fast.ops._resampling import NO_PADDING, ONE, adjoint_padding, filter_size, output_size
from idgan_fast.ops._tensors import accumulation, laid_out_like, over_pixels
from idgan_fast.ops.layer.epilogue import Epilogue, phases, whole

LONG = 6  # a filter of more taps, which is given for one axis, passes twice


@triton.jit
def filter_row(values, f, KY: tl.constexpr, FH: tl.constexpr, FW: tl.constexpr, FLIP: tl.constexpr):
    """The part of an input row, given at FW shifts, in the outputs that it meets with row KY of the filter."""
    row: tl.constexpr = KY if FLIP else FH - 1 - KY
    total = values[0]
    if f is not None:
        total = total * tl.load(f + row * FW + (0 if FLIP else FW - 1)).to(total.dtype)
        for kx in tl.static_range(1, FW):
            tap = tl.load(f + row * FW + (kx if FLIP else FW - 1 - kx)).to(total.dtype)
            total = tl.fma(values[kx], tap, total)
    return total


@triton.jit
def styled_epilogue_fwd_kernel(
    y, f, scale, noise, strength, b, next_styles, out, z,
    planes, channels, height, width, out_height, out_width, strips, row_blocks, column_blocks,
    pad_x, pad_y, noise_step, fir_gain: tl.float64, slope: tl.float64, gain: tl.float64, clamp: tl.float64,
    HAS_CLAMP: tl.constexpr, FH: tl.constexpr, FW: tl.constexpr, FLIP: tl.constexpr, ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, STRIP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    vector, channel, vector_mask, sample, in_plane, out_plane, first, x, step, exists, _, _ = strip_coordinates(
        planes, channels, height, width, out_height, out_width, strips, row_blocks, column_blocks,
        CHANNELS_LAST, STRIP, ROWS, COLUMNS,
    )  # fmt: skip
    factor = tl.full((1, 1), fir_gain, ACC)
    if scale is not None:
        factor = factor * tl.load(scale + vector, mask=vector_mask, other=0.0)
    next_style = tl.full((1, 1), 1.0, ACC)
    if next_styles is not None:
        next_style = tl.load(next_styles + vector, mask=vector_mask, other=0.0)
    bias = tl.full((1, 1), 0.0, ACC)
    if b is not None:
        bias = tl.load(b + channel, mask=vector_mask, other=0.0)
    noise_strength = tl.full((), 1.0, ACC)
    if strength is not None:
        noise_strength = tl.load(strength)
    open_sums = (tl.zeros((ROWS, COLUMNS), ACC),) * (FH - 1)
    for s in range(STRIP + FH - 1):
        iy = first + s - pad_y
        in_image = exists & (iy >= 0) & (iy < height)
        values = ()
        for kx in tl.static_range(FW):
            ix = x + kx - pad_x
            mask = in_image & (ix >= 0) & (ix < width)
            at = in_plane + (iy.to(tl.int64) * width + ix) * step
            values += (tl.load(y + at, mask=mask, other=0.0).to(ACC),)
        sums = (filter_row(values, f, 0, FH, FW, FLIP),)
        for ky in tl.static_range(1, FH):
            sums += (open_sums[ky - 1] + filter_row(values, f, ky, FH, FW, FLIP),)
        if FH > 1:
            open_sums = sums[: FH - 1]
        oy = first + s - (FH - 1)
        mask = exists & (oy >= first) & (oy < out_height)
        v = sums[FH - 1] * factor + bias
        if noise is not None:
            pixel = sample.to(tl.int64) * noise_step + oy * out_width + x
            v += tl.load(noise + pixel, mask=mask, other=0.0) * noise_strength
        result = act_gain_clamp(v, slope, gain, clamp, "lrelu", HAS_CLAMP)
        at = out_plane + (oy.to(tl.int64) * out_width + x) * step
        if z is not None:
            tl.store(z + at, result.to(z.dtype.element_ty), mask=mask)
        tl.store(out + at, (result * next_style).to(out.dtype.element_ty), mask=mask)


@triton.jit
def styled_epilogue_bwd_kernel(
    dout, z, f, scale, next_styles, y, dy, scale_sums,
    planes, channels, height, width, out_height, out_width, strips, row_blocks, column_blocks,
    pad_x, pad_y, fir_gain: tl.float64, slope: tl.float64, gain: tl.float64, clamp: tl.float64,
    HAS_CLAMP: tl.constexpr, FH: tl.constexpr, FW: tl.constexpr, ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, STRIP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dy = FIR^T(h) scale with h = dout next_styles dz/dv, and the sums of y FIR^T(h). Its input is dout's size."""
    vector, _, vector_mask, _, in_plane, out_plane, first, x, step, exists, row_block, column_block = strip_coordinates(
        planes, channels, height, width, out_height, out_width, strips, row_blocks, column_blocks,
        CHANNELS_LAST, STRIP, ROWS, COLUMNS,
    )  # fmt: skip
    factor = tl.full((1, 1), 1.0, ACC)
    if scale is not None:
        factor = tl.load(scale + vector, mask=vector_mask, other=0.0)
    next_style = tl.full((1, 1), 1.0, ACC)
    if next_styles is not None:
        next_style = tl.load(next_styles + vector, mask=vector_mask, other=0.0)
    open_sums = (tl.zeros((ROWS, COLUMNS), ACC),) * (FH - 1)
    total = tl.zeros((ROWS, COLUMNS), ACC)
    for s in range(STRIP + FH - 1):
        iy = first + s - pad_y
        in_image = exists & (iy >= 0) & (iy < height)
        values = ()
        for kx in tl.static_range(FW):
            ix = x + kx - pad_x
            mask = in_image & (ix >= 0) & (ix < width)
            at = in_plane + (iy.to(tl.int64) * width + ix) * step
            g = tl.load(dout + at, mask=mask, other=0.0).to(ACC) * next_style
            z_value = tl.load(z + at, mask=mask, other=0.0).to(ACC)
            values += (tl.where(mask, lrelu_backward(g, z_value, slope, gain, clamp, HAS_CLAMP), 0.0),)
        sums = (filter_row(values, f, 0, FH, FW, True),)
        for ky in tl.static_range(1, FH):
            sums += (open_sums[ky - 1] + filter_row(values, f, ky, FH, FW, True),)
        if FH > 1:
            open_sums = sums[: FH - 1]
        oy = first + s - (FH - 1)
        mask = exists & (oy >= first) & (oy < out_height)
        at = out_plane + (oy.to(tl.int64) * out_width + x) * step
        du = sums[FH - 1] * scalar(fir_gain, sums[FH - 1])
        tl.store(dy + at, (du * factor).to(dy.dtype.element_ty), mask=mask)
        if scale_sums is not None:
            total += tl.where(mask, du * tl.load(y + at, mask=mask, other=0.0).to(ACC), 0.0)
    if scale_sums is not None:
        if CHANNELS_LAST:
            block = (tl.program_id(0) // column_blocks).to(tl.int64)
            columns = column_block * COLUMNS + tl.arange(0, COLUMNS)
            tl.store(scale_sums + block * channels + columns, tl.sum(total, 0), mask=columns < channels)
        else:
            rows = row_block * ROWS + tl.arange(0, ROWS)
            at = column_block.to(tl.int64) * planes * strips + rows
            tl.store(scale_sums + at, tl.sum(total, 1), mask=rows < planes * strips)


def styled_epilogue_fwd(y: Sequence[Tensor], *operands: Any) -> Tensor:
    """operands: the fields of `Epilogue`."""
    return fir_epilogue(laid_out_like(whole(y), y[0]), Epilogue(*operands))


def fir(x: Tensor, f: Tensor | None, *, padding: Sequence[int], flip: bool, gain: float) -> Tensor:
    """upfirdn2d without a change of size: f [fh, fw], [k] or None."""
    return fir_epilogue(dense(x), Epilogue(f, padding=padding, fir_gain=gain), flip=flip)


def fir_epilogue(
    x: Tensor, epilogue: Epilogue, *, flip: bool = False, dtype: torch.dtype | None = None, z: Tensor | None = None
) -> Tensor:
    """The epilogue of x, which is dense. dtype: of the result, by default x's. z: filled where given."""
    acc_dtype = accumulation(x.dtype)
    f, padding, fir_gain = epilogue.f, epilogue.padding, epilogue.fir_gain
    if f is None:
        padding, fir_gain = NO_PADDING, 1.0
    elif _passes_twice(f):
        dtype = dtype or x.dtype
        along_x = Epilogue(f[None, :], padding=(*padding[:2], 0, 0))
        x = fir_epilogue(x, along_x, flip=flip, dtype=acc_dtype)
        f, padding = f[:, None], (0, 0, *padding[2:])
    else:
        f = _two_axes(f, acc_dtype)
    (fh, fw), (height, width) = filter_size(f), output_size(x.shape, f, ONE, ONE, padding)
    out = new_image(x, height, width, dtype)
    if out.numel() == 0:
        return out
    strips = strips_of(x, height, width)
    with on_device_of(x):
        styled_epilogue_fwd_kernel[strips.grid](
            x, *contiguous(f, *epilogue.vectors), out, z, *strips.sizes, padding[0], padding[2], epilogue.noise_step,
            fir_gain, epilogue.slope, epilogue.gain, epilogue.clamp or 0.0, HAS_CLAMP=epilogue.clamp is not None, FH=fh,
            FW=fw, FLIP=flip, ACC=acc_type(x.dtype), **strips.constants,
        )  # fmt: skip
    return out


def _passes_twice(f: Tensor) -> bool:
    return f.ndim == 1 and f.numel() > LONG


def _two_axes(f: Tensor, dtype: torch.dtype) -> Tensor:
    return f if f.ndim == 2 else torch.outer(f.to(dtype), f.to(dtype))


def styled_epilogue_bwd(dout: Tensor, y: Sequence[Tensor], out: Tensor, *operands: Any) -> tuple[Any, ...]:
    """The gradients by y, scale, noise, strength, b and next_styles. operands: see the reference."""
    *fields, want = operands
    epilogue = Epilogue(*fields)
    want_scale, want_noise, want_strength, want_b, want_next = (bool(w) for w in want)
    x = laid_out_like(whole(y), y[0])
    acc_dtype = accumulation(x.dtype)
    f, scale, z = epilogue.f, epilogue.scale, out
    if epilogue.next_styles is not None:  # out shows nothing where a next style is 0
        z = fir_epilogue(x, epilogue._replace(next_styles=None), dtype=acc_dtype)
    dout, z = laid_out_like(dout, x), laid_out_like(z, x)
    sums = partial(epilogue_sums, dout, z, want_noise=want_noise or want_strength, want_b=want_b, want_next=want_next)
    if f is None:
        dy = torch.empty_like(x)
        pixel_sums, dscale, db, dnext = sums(epilogue, y=x, dy=dy, want_scale=want_scale)
    elif _passes_twice(f):
        h = torch.empty_like(dout, dtype=acc_dtype)
        pixel_sums, dscale, db, dnext = sums(epilogue._replace(scale=None), dy=h, want_scale=False)
        back = adjoint_padding(x.shape[2:], h.shape[2:], f, ONE, ONE, epilogue.padding)
        du = fir(h, f, padding=back, flip=True, gain=epilogue.fir_gain)
        dscale = (du * x).sum((2, 3)) if want_scale else dscale
        dy = laid_out_like((du if scale is None else du * over_pixels(scale)).to(x.dtype), x)
    else:
        dy = torch.empty_like(x)
        dscale = fir_backward(dout, z, epilogue, dy, y=x if want_scale else None)
        pixel_sums, _, db, dnext = sums(epilogue._replace(scale=None), want_scale=False)
    dnoise, dstrength = noise_gradients(pixel_sums, epilogue, want_noise=want_noise, want_strength=want_strength)
    return list(phases(dy, len(y))), dscale, dnoise, dstrength, db, dnext


def noise_gradients(
    pixel_sums: Tensor, epilogue: Epilogue, *, want_noise: bool, want_strength: bool
) -> tuple[Tensor, Tensor]:
    """The gradients by noise and its strength from the sums over channels; those not wanted are empty."""
    dnoise, dstrength = pixel_sums.new_empty(0), pixel_sums.new_empty(0)
    noise, strength = epilogue.noise, epilogue.strength
    if noise is not None and (want_noise or want_strength):
        by_pixel = pixel_sums if noise.shape[0] == pixel_sums.shape[0] else pixel_sums.sum(0, keepdim=True)
        dnoise = (by_pixel if strength is None else by_pixel * strength) if want_noise else dnoise
        dstrength = (by_pixel * noise).sum() if want_strength else dstrength
    return dnoise, dstrength


def fir_backward(dout: Tensor, z: Tensor, epilogue: Epilogue, dy: Tensor, y: Tensor | None = None) -> Tensor:
    """Fills dy; the gradient by scale, empty without y. The filter is not longer than LONG, as in the forward pass."""
    (n, c, height, width), acc_dtype = dy.shape, accumulation(dy.dtype)
    if dy.numel() == 0:
        return dy.new_zeros(0 if y is None else (n, c), dtype=acc_dtype)
    assert epilogue.f is not None
    back = adjoint_padding(dy.shape[2:], dout.shape[2:], epilogue.f, ONE, ONE, epilogue.padding)
    f, scale, next_styles = contiguous(_two_axes(epilogue.f, acc_dtype), epilogue.scale, epilogue.next_styles)
    fh, fw = filter_size(f)
    last = is_channels_last(dy)  # dout may be a single pixel, which tells nothing
    strips = strips_of(dout, height, width, last=last, tile=FIR_TILE // 2)  # twice the tensors of the forward pass
    shape = (n, strips.row_blocks, c) if last else (strips.column_blocks, n * c, strips.strips)
    scale_sums = None if y is None else torch.empty(shape, dtype=acc_dtype, device=dy.device)
    with on_device_of(dy):
        styled_epilogue_bwd_kernel[strips.grid](
            dout, z, f, scale, next_styles, y, dy, scale_sums, *strips.sizes, back[0], back[2], epilogue.fir_gain,
            epilogue.slope, epilogue.gain, epilogue.clamp or 0.0, HAS_CLAMP=epilogue.clamp is not None, FH=fh, FW=fw,
            ACC=acc_type(dy.dtype), **strips.constants,
        )  # fmt: skip
    if scale_sums is None:
        return dy.new_empty(0, dtype=acc_dtype)
    return scale_sums.sum(1) if last else scale_sums.sum((0, 2)).view(n, c)

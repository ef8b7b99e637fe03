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

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels._activations import finished, through_leaky
from idgan_fast.kernels._common import accumulation, dense, is_channels_last, on_device_of, scalar, triton_type
from idgan_fast.kernels._fir import TILE as FIR_TILE
from idgan_fast.kernels._fir import new_image, places, strips_of
from idgan_fast.kernels.styled_epilogue_sums import epilogue_sums

NO_PADDING = (0, 0, 0, 0)
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
    y, f, scale, noise, strength, b, next_styles, out, kept,
    planes, channels, height, width, out_height, out_width, strips, row_blocks, column_blocks,
    pad_x, pad_y, noise_step, fir_gain: tl.float64, slope: tl.float64, gain: tl.float64, clamp: tl.float64,
    HAS_CLAMP: tl.constexpr, FH: tl.constexpr, FW: tl.constexpr, FLIP: tl.constexpr, ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, STRIP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    vector, channel, of_vector, sample, into, out_of, first, x, step, there, _, _ = places(
        planes, channels, height, width, out_height, out_width, strips, row_blocks, column_blocks,
        CHANNELS_LAST, STRIP, ROWS, COLUMNS,
    )  # fmt: skip
    factor = tl.full((1, 1), fir_gain, ACC)
    if scale is not None:
        factor = factor * tl.load(scale + vector, mask=of_vector, other=0.0)
    after = tl.full((1, 1), 1.0, ACC)
    if next_styles is not None:
        after = tl.load(next_styles + vector, mask=of_vector, other=0.0)
    added = tl.full((1, 1), 0.0, ACC)
    if b is not None:
        added = tl.load(b + channel, mask=of_vector, other=0.0)
    factor_of_noise = tl.full((), 1.0, ACC)
    if strength is not None:
        factor_of_noise = tl.load(strength)
    open_sums = (tl.zeros((ROWS, COLUMNS), ACC),) * (FH - 1)
    for s in range(STRIP + FH - 1):
        iy = first + s - pad_y
        in_image = there & (iy >= 0) & (iy < height)
        values = ()
        for kx in tl.static_range(FW):
            ix = x + kx - pad_x
            mask = in_image & (ix >= 0) & (ix < width)
            at = into + (iy.to(tl.int64) * width + ix) * step
            values += (tl.load(y + at, mask=mask, other=0.0).to(ACC),)
        sums = (filter_row(values, f, 0, FH, FW, FLIP),)
        for ky in tl.static_range(1, FH):
            sums += (open_sums[ky - 1] + filter_row(values, f, ky, FH, FW, FLIP),)
        if FH > 1:
            open_sums = sums[: FH - 1]
        oy = first + s - (FH - 1)
        mask = there & (oy >= first) & (oy < out_height)
        v = sums[FH - 1] * factor + added
        if noise is not None:
            pixel = sample.to(tl.int64) * noise_step + oy * out_width + x
            v += tl.load(noise + pixel, mask=mask, other=0.0) * factor_of_noise
        z = finished(v, slope, gain, clamp, "lrelu", HAS_CLAMP)
        at = out_of + (oy.to(tl.int64) * out_width + x) * step
        if kept is not None:
            tl.store(kept + at, z.to(kept.dtype.element_ty), mask=mask)
        tl.store(out + at, (z * after).to(out.dtype.element_ty), mask=mask)


@triton.jit
def styled_epilogue_bwd_kernel(
    dout, z, f, scale, next_styles, y, dy, scale_sums,
    planes, channels, height, width, out_height, out_width, strips, row_blocks, column_blocks,
    pad_x, pad_y, fir_gain: tl.float64, slope: tl.float64, gain: tl.float64, clamp: tl.float64,
    HAS_CLAMP: tl.constexpr, FH: tl.constexpr, FW: tl.constexpr, ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, STRIP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dy = FIR^T(h) scale with h = dout next_styles dz/dv, and the sums of y FIR^T(h). Its input is dout's size."""
    vector, _, of_vector, _, into, out_of, first, x, step, there, row_block, column_block = places(
        planes, channels, height, width, out_height, out_width, strips, row_blocks, column_blocks,
        CHANNELS_LAST, STRIP, ROWS, COLUMNS,
    )  # fmt: skip
    factor = tl.full((1, 1), 1.0, ACC)
    if scale is not None:
        factor = tl.load(scale + vector, mask=of_vector, other=0.0)
    before = tl.full((1, 1), 1.0, ACC)
    if next_styles is not None:
        before = tl.load(next_styles + vector, mask=of_vector, other=0.0)
    open_sums = (tl.zeros((ROWS, COLUMNS), ACC),) * (FH - 1)
    total = tl.zeros((ROWS, COLUMNS), ACC)
    for s in range(STRIP + FH - 1):
        iy = first + s - pad_y
        in_image = there & (iy >= 0) & (iy < height)
        values = ()
        for kx in tl.static_range(FW):
            ix = x + kx - pad_x
            mask = in_image & (ix >= 0) & (ix < width)
            at = into + (iy.to(tl.int64) * width + ix) * step
            g = tl.load(dout + at, mask=mask, other=0.0).to(ACC) * before
            s_z = tl.load(z + at, mask=mask, other=0.0).to(ACC)
            values += (tl.where(mask, through_leaky(g, s_z, slope, gain, clamp, HAS_CLAMP), 0.0),)
        sums = (filter_row(values, f, 0, FH, FW, True),)
        for ky in tl.static_range(1, FH):
            sums += (open_sums[ky - 1] + filter_row(values, f, ky, FH, FW, True),)
        if FH > 1:
            open_sums = sums[: FH - 1]
        oy = first + s - (FH - 1)
        mask = there & (oy >= first) & (oy < out_height)
        at = out_of + (oy.to(tl.int64) * out_width + x) * step
        to_u = sums[FH - 1] * scalar(fir_gain, sums[FH - 1])
        tl.store(dy + at, (to_u * factor).to(dy.dtype.element_ty), mask=mask)
        if scale_sums is not None:
            total += tl.where(mask, to_u * tl.load(y + at, mask=mask, other=0.0).to(ACC), 0.0)
    if scale_sums is not None:
        if CHANNELS_LAST:
            block = (tl.program_id(0) // column_blocks).to(tl.int64)
            columns = column_block * COLUMNS + tl.arange(0, COLUMNS)
            tl.store(scale_sums + block * channels + columns, tl.sum(total, 0), mask=columns < channels)
        else:
            rows = row_block * ROWS + tl.arange(0, ROWS)
            at = column_block.to(tl.int64) * planes * strips + rows
            tl.store(scale_sums + at, tl.sum(total, 1), mask=rows < planes * strips)


def styled_epilogue_fwd(
    y: Sequence[Tensor], f: Tensor | None, scale: Tensor | None, noise: Tensor | None, strength: Tensor | None,
    b: Tensor | None, next_styles: Tensor | None, padding: Sequence[int], fir_gain: float, slope: float, gain: float,
    clamp: float | None,
) -> Tensor:  # fmt: skip
    image = dense(whole(y))
    tensors = (scale, noise, strength, b, next_styles)
    return epilogue(image, image.dtype, f, tensors, padding, fir_gain, slope, gain, clamp)


def fir(x: Tensor, f: Tensor | None, padding: Sequence[int], flip: bool, gain: float) -> Tensor:
    """upfirdn2d without a change of size: f [fh, fw], [k] or None."""
    return epilogue(dense(x), x.dtype, f, (None,) * 5, padding, gain, 1.0, 1.0, None, flip)


def epilogue(
    image: Tensor, dtype: torch.dtype, f: Tensor | None, tensors: Sequence[Tensor | None], padding: Sequence[int],
    fir_gain: float, slope: float, gain: float, clamp: float | None, flip: bool = False, kept: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """tensors: scale, noise, strength, b, next_styles. dtype: of the result. kept: is filled with z, where given."""
    wide = accumulation(image.dtype)
    if f is None:
        padding, fir_gain = NO_PADDING, 1.0
    elif f.ndim == 1 and f.numel() > LONG:
        along_x, padding = (*padding[:2], 0, 0), (0, 0, *padding[2:])
        image = epilogue(image, wide, f[None, :], (None,) * 5, along_x, 1.0, 1.0, 1.0, None, flip)
        f = f[:, None]
    elif f.ndim == 1:
        f = torch.outer(f.to(wide), f.to(wide))
    fh, fw = (1, 1) if f is None else f.shape
    height = image.shape[2] + padding[2] + padding[3] - fh + 1
    width = image.shape[3] + padding[0] + padding[1] - fw + 1
    out = new_image(image, height, width, dtype)
    if out.numel() == 0:
        return out
    strips = strips_of(image, height, width)
    noise = tensors[1]
    noise_step = 0 if noise is None or noise.shape[0] == 1 else height * width
    tensors = [None if t is None else t.contiguous() for t in (f, *tensors)]
    with on_device_of(image):
        styled_epilogue_fwd_kernel[strips.grid](
            image, *tensors, out, kept, *strips.sizes, padding[0], padding[2], noise_step, fir_gain, slope, gain,
            0.0 if clamp is None else clamp, HAS_CLAMP=clamp is not None, FH=fh, FW=fw, FLIP=flip,
            ACC=triton_type(wide), **strips.constants,
        )  # fmt: skip
    return out


def styled_epilogue_bwd(
    dout: Tensor, y: Sequence[Tensor], out: Tensor, f: Tensor | None, scale: Tensor | None, noise: Tensor | None,
    strength: Tensor | None, b: Tensor | None, next_styles: Tensor | None, padding: Sequence[int], fir_gain: float,
    slope: float, gain: float, clamp: float | None, want: Sequence[int],
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    of_scale, of_noise, of_strength, of_b, of_next = (bool(w) for w in want)
    image = dense(whole(y))
    wide = accumulation(image.dtype)
    z = out
    if next_styles is not None:  # out shows nothing where a next style is 0
        tensors = (scale, noise, strength, b, None)
        z = epilogue(image, wide, f, tensors, padding, fir_gain, slope, gain, clamp)
    dout, z = dense(dout, image), dense(z, image)
    activation = (slope, gain, clamp)
    over_channels = of_noise or of_strength
    dscale = image.new_empty(0, dtype=wide)
    if f is None:
        dy = torch.empty_like(image)
        sums = epilogue_sums(dout, z, image, scale, next_styles, dy, activation, of_scale, of_b, of_next, over_channels)
        of_pixel, dscale, db, dnext = sums
    else:
        back = (f.shape[-1] - padding[0] - 1, 0, f.shape[0] - padding[2] - 1, 0)
        if f.ndim == 1 and f.numel() > LONG:
            h = torch.empty_like(dout, dtype=wide)
            sums = epilogue_sums(dout, z, dout, None, next_styles, h, activation, False, of_b, of_next, over_channels)
            size, k = image.shape[2:], f.numel()
            back = (back[0], size[1] + k - 1 - h.shape[3] - back[0], back[2], size[0] + k - 1 - h.shape[2] - back[2])
            to_u = fir(h, f, back, True, fir_gain)
            dscale = (to_u * image).sum((2, 3)) if of_scale else dscale
            dy = (to_u if scale is None else to_u * scale[:, :, None, None]).to(image.dtype)
        else:
            dy = torch.empty_like(image)
            y_or_none = image if of_scale else None
            dscale = through_filter(dout, z, dy, y_or_none, f, scale, next_styles, back, fir_gain, activation)
            wanted = (False, of_b, of_next, over_channels)
            sums = epilogue_sums(dout, z, dout, None, next_styles, None, activation, *wanted)
        of_pixel, _, db, dnext = sums
    dnoise, dstrength = by_noise(of_pixel, noise, strength, of_noise, of_strength)
    return phases(dy, len(y)), dscale, dnoise, dstrength, db, dnext


def by_noise(
    of_pixel: Tensor, noise: Tensor | None, strength: Tensor | None, of_noise: bool, of_strength: bool
) -> tuple[Tensor, Tensor]:
    """The gradients by noise and its strength from the sums over channels; those not wanted are empty."""
    dnoise, dstrength = of_pixel.new_empty(0), of_pixel.new_empty(0)
    if noise is not None and (of_noise or of_strength):
        of_pixel = of_pixel if noise.shape[0] == of_pixel.shape[0] else of_pixel.sum(0, keepdim=True)
        dnoise = (of_pixel if strength is None else of_pixel * strength) if of_noise else dnoise
        dstrength = (of_pixel * noise).sum() if of_strength else dstrength
    return dnoise, dstrength


def through_filter(
    dout: Tensor, z: Tensor, dy: Tensor, y: Tensor | None, f: Tensor, scale: Tensor | None, next_styles: Tensor | None,
    back: Sequence[int], fir_gain: float, activation: tuple[float, float, float | None],
) -> Tensor:  # fmt: skip
    """Fills dy; the gradient by scale, empty without y. back: the padding of the adjoint filter."""
    (n, c, height, width), wide, (slope, gain, clamp) = dy.shape, accumulation(dy.dtype), activation
    if dy.numel() == 0:
        return dy.new_zeros(0 if y is None else (n, c), dtype=wide)
    scale, next_styles = (None if t is None else t.contiguous() for t in (scale, next_styles))
    f = f.contiguous() if f.ndim == 2 else torch.outer(f.to(wide), f.to(wide))
    strips = strips_of(dout, height, width, tile=FIR_TILE // 2)  # twice the tensors of the forward pass
    last = is_channels_last(dout)
    shape = (n, strips.row_blocks, c) if last else (strips.column_blocks, n * c, strips.strips)
    sums = None if y is None else torch.empty(shape, dtype=wide, device=dy.device)
    with on_device_of(dy):
        styled_epilogue_bwd_kernel[strips.grid](
            dout, z, f, scale, next_styles, y, dy, sums, *strips.sizes, back[0], back[2], fir_gain, slope, gain,
            0.0 if clamp is None else clamp, HAS_CLAMP=clamp is not None, FH=f.shape[0], FW=f.shape[1],
            ACC=triton_type(wide), **strips.constants,
        )  # fmt: skip
    if sums is None:
        return dy.new_empty(0, dtype=wide)
    return sums.sum(1) if last else sums.sum((0, 2)).view(n, c)


def whole(y: Sequence[Tensor]) -> Tensor:
    """The image of its phases: even and odd rows of even and odd columns (ee, eo, oe, oo)."""
    if len(y) == 1:
        return y[0]
    image = new_image(y[0], y[0].shape[2] + y[2].shape[2], y[0].shape[3] + y[1].shape[3])
    for i, part in enumerate(y):
        image[:, :, i // 2 :: 2, i % 2 :: 2] = part
    return image


def phases(image: Tensor, count: int) -> list[Tensor]:
    """The inverse of `whole`."""
    if count == 1:
        return [image]
    return [dense(image[:, :, i // 2 :: 2, i % 2 :: 2], image) for i in range(4)]

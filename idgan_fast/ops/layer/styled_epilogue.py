"""What follows the convolution of a StyleGAN2 layer, in one pass over memory:

u = FIR(y)      v = u * scale[n, c] + noise * strength + b[c]
z = clamp(gain * lrelu(v), -clamp, clamp)       out = z * next_styles[n, c]

Every part is optional. lrelu's slope below 0 is 1 for a linear layer and 0 for relu. Gradients: with g that of out,
M = dz/dv (constant almost everywhere, read from z) and h = M g next_styles, that of y is FIR^T(h scale), and the others
are sums: of y FIR^T(h) for scale, h strength for noise, h noise for strength, h for b, g z for next_styles.
y comes whole or as its four phases, images of its even and odd rows and columns: what the convolutions give into which
a transposed convolution of stride 2 falls apart.
Source: Karras et al., Analyzing and Improving the Image Quality of StyleGAN (arXiv 1912.04958), section 2.2.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.ops import _dispatch
from idgan_fast.ops._autograd import as_function, without_autocast
from idgan_fast.ops._errors import ArgumentValueError
from idgan_fast.ops._registry import CustomOp, Operator
from idgan_fast.ops._resampling import adjoint_padding, output_size
from idgan_fast.ops._tensors import accumulation, check_floating, laid_out_like, memory_format, over_pixels, per_channel
from idgan_fast.ops.bias_lrelu import SLOPE_GAIN_CLAMP, leaky_relu_backward, lrelu, sample_bias
from idgan_fast.ops.upfirdn2d import LARGE_IMAGE, fir_resample
from idgan_fast.ops.upfirdn2d import OPERATOR as UPFIRDN2D
from idgan_fast.ops.upfirdn2d import reference as fir_reference

ONE, NO_PADDING = (1, 1), (0, 0, 0, 0)
Phases = tuple[Tensor, ...]  # one whole image, or even and odd rows of even and odd columns: ee, eo, oe, oo


class Fir(NamedTuple):
    """A filter as in `upfirdn2d`, its padding (x0, x1, y0, y1) and its gain."""

    f: Tensor | None = None
    padding: tuple[int, int, int, int] = NO_PADDING
    gain: float = 1.0


class Vectors(NamedTuple):
    """What an epilogue adds and multiplies by: scale, next_styles [N, C]; noise [N, 1, H', W'] or [H', W'];
    strength, one element; b [C]."""

    scale: Tensor | None = None
    noise: Tensor | None = None
    strength: Tensor | None = None
    b: Tensor | None = None
    next_styles: Tensor | None = None


class Activation(NamedTuple):
    """clamp(gain * lrelu(v), -clamp, clamp); slope, of lrelu below 0, is at least 0."""

    slope: float = 1.0
    gain: float = 1.0
    clamp: float | None = None


class Numbers(NamedTuple):
    """The registered operator's numbers, in its order."""

    padding: Sequence[int]
    fir_gain: float
    slope: float
    gain: float
    clamp: float | None

    @property
    def activation(self) -> Activation:
        return Activation(self.slope, self.gain, self.clamp)


def apply_epilogue(
    y: Phases,
    fir: Fir | None = None,
    vectors: Vectors | None = None,
    activation: Activation | None = None,
    *,
    impl: str = "auto",
) -> Tensor:
    """y: [N, C, H, W] whole or in phases, any floating dtype. Vectors are cast to float32 for the half types, and so is
    the arithmetic.

    Returns [N, C, H', W'] in y's dtype and memory format. Gradients of every order by all tensors but the filter.
    """
    backend = _dispatch.choose(OPERATOR, y[0].device, impl, fusible=fir is None)
    f, padding, fir_gain = fir or Fir()
    n, *image = whole_size(y)
    size = output_size((n, *image), f, ONE, ONE, padding)
    vectors = cast_vectors(vectors or Vectors(), y[0].dtype, (n, 1, *size))
    slope, gain, clamp = activation or Activation()
    numbers = Numbers(padding, float(fir_gain), float(slope), float(gain), clamp)
    return _styled_epilogue(f, *vectors, numbers, backend, *y)


def cast_vectors(vectors: Vectors, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> Vectors:
    """The vectors in the type of the arithmetic, noise and strength in one shape of theirs.

    dtype: of the image; shape: of noise that each sample has its own of.
    """
    acc_dtype = accumulation(dtype)
    scale, noise, strength, b, next_styles = (None if t is None else t.to(acc_dtype) for t in vectors)
    if noise is not None:
        check_noise(noise, shape)
        noise = noise.reshape(noise.shape[0] if noise.ndim == 4 else 1, *shape[1:])
    strength = None if strength is None else strength.reshape(())
    return Vectors(scale, noise, strength, b, next_styles)


def modulate(x: Tensor, styles: Tensor, impl: str) -> Tensor:
    """x [N, C, H, W] times styles [N, C], multiplied in float32 for the half types: an epilogue that only scales."""
    return apply_epilogue((x,), vectors=Vectors(scale=styles), impl=impl)


def check_noise(noise: Tensor, shape: tuple[int, int, int, int]) -> None:
    check_floating("noise", noise)
    n, _, h, w = shape
    if tuple(noise.shape) not in (shape, (1, 1, h, w), (h, w)):
        raise ArgumentValueError(f"noise must be [{n}, 1, {h}, {w}] or [{h}, {w}], got {tuple(noise.shape)}")


def whole_size(y: Sequence[Tensor]) -> tuple[int, int, int, int]:
    n, c, h, w = y[0].shape
    return (n, c, h, w) if len(y) == 1 else (n, c, h + y[2].shape[2], w + y[1].shape[3])


def whole(y: Sequence[Tensor]) -> Tensor:
    """The image of its phases."""
    if len(y) == 1:
        return y[0]
    even, odd = _interleaved(y[0], y[1], 3), _interleaved(y[2], y[3], 3)
    return _interleaved(even, odd, 2)


def phases(y: Tensor, count: int) -> Phases:
    """The inverse of `whole`: of `count` parts, new tensors in y's layout."""
    if count == 1:
        return (y,)
    parts = [y[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return tuple([part.contiguous(memory_format=memory_format(y)) for part in parts])


def _interleaved(even: Tensor, odd: Tensor, dim: int) -> Tensor:
    size = even.shape[dim] + odd.shape[dim]
    odd = F.pad(odd, [0, 0] * (3 - dim) + [0, even.shape[dim] - odd.shape[dim]])
    return torch.stack((even, odd), dim + 1).flatten(dim, dim + 1).narrow(dim, 0, size)


def _filtered(y: Tensor, f: Tensor | None, padding: Sequence[int], flip: bool, gain: float) -> Tensor:
    y = y.to(accumulation(y.dtype))
    return y if f is None else fir_reference(y, f, ONE, ONE, padding, flip, gain)


def _pre_activation(
    u: Tensor, scale: Tensor | None, noise: Tensor | None, strength: Tensor | None, b: Tensor | None
) -> Tensor:
    v = u if scale is None else u * over_pixels(scale)
    if noise is not None:
        v = v + (noise if strength is None else noise * strength)
    return v if b is None else v + per_channel(b, 4, 1)


def _activated(v: Tensor, slope: float, gain: float, clamp: float | None) -> Tensor:
    z = lrelu(v, slope) * gain
    return z if clamp is None else z.clamp(-clamp, clamp)


def forward_reference(
    y: Sequence[Tensor],
    f: Tensor | None,
    scale: Tensor | None,
    noise: Tensor | None,
    strength: Tensor | None,
    b: Tensor | None,
    next_styles: Tensor | None,
    padding: Sequence[int],
    fir_gain: float,
    slope: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    u = _filtered(whole(y), f, padding, False, fir_gain)
    z = _activated(_pre_activation(u, scale, noise, strength, b), slope, gain, clamp)
    return laid_out_like((z if next_styles is None else z * over_pixels(next_styles)).to(y[0].dtype), y[0])


def backward_reference(
    dout: Tensor,
    y: Sequence[Tensor],
    out: Tensor,
    f: Tensor | None,
    scale: Tensor | None,
    noise: Tensor | None,
    strength: Tensor | None,
    b: Tensor | None,
    next_styles: Tensor | None,
    padding: Sequence[int],
    fir_gain: float,
    slope: float,
    gain: float,
    clamp: float | None,
    want: Sequence[int],
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:
    """want: which of the gradients by scale, noise, strength, b, next_styles to compute; the others come empty."""
    of_scale, of_noise, of_strength, of_b, of_next = want
    dtype, image = accumulation(y[0].dtype), whole(y)
    dscale, dnoise, dstrength, db, dnext = (torch.empty(0, dtype=dtype, device=image.device) for _ in want)
    h, z = dout.to(dtype), out.to(dtype)
    if next_styles is not None:
        u = _filtered(image, f, padding, False, fir_gain)
        z = _activated(_pre_activation(u, scale, noise, strength, b), slope, gain, clamp)
        dnext = (h * z).sum((2, 3)) if of_next else dnext
        h = h * over_pixels(next_styles)
    h = leaky_relu_backward(h, z, slope, gain, clamp)
    if noise is not None and (of_noise or of_strength):
        over_channels = _summed(h, noise)
        dnoise = (over_channels if strength is None else over_channels * strength) if of_noise else dnoise
        dstrength = (over_channels * noise).sum() if of_strength else dstrength
    db = h.sum((0, 2, 3)) if of_b else db
    back = adjoint_padding(image.shape[2:], out.shape[2:], f, ONE, ONE, padding)
    to_u = _filtered(h, f, back, True, fir_gain)
    dscale = (to_u * image).sum((2, 3)) if of_scale else dscale
    dy = to_u if scale is None else to_u * over_pixels(scale)
    dy = laid_out_like(dy.to(image.dtype), y[0])
    return list(phases(dy, len(y))), dscale, dnoise, dstrength, db, dnext


def _summed(t: Tensor, noise: Tensor) -> Tensor:
    """The sum over channels, and over samples where they share the noise."""
    return t.sum(1, keepdim=True) if noise.shape[0] == t.shape[0] else t.sum((0, 1), keepdim=True)


def _steps(t: Tensor, step: float) -> Tensor:
    return (t / step).round() * step


def _sample_vectors(x: Tensor, f: Tensor | None, padding: Sequence[int]) -> Vectors:
    """For an x in steps of 1/8 all values before the activation are odd multiples of 1/512, and so none of them lies
    within rounding of a kink, on whose other side a kernel that computes them again might find it.
    """
    height, width = output_size(x.shape, f, ONE, ONE, padding)
    acc_dtype = accumulation(x.dtype)
    return Vectors(
        scale=_steps(torch.rand(x.shape[:2], dtype=acc_dtype) + 0.5, 1 / 4),
        noise=_steps(torch.randn(x.shape[0], 1, height, width, dtype=acc_dtype), 1 / 8),
        strength=torch.tensor(0.5, dtype=acc_dtype),
        b=_steps(sample_bias(x), 1 / 8) + 1 / 512,
        next_styles=torch.rand(x.shape[:2], dtype=acc_dtype) + 0.5,
    )


def _forward_samples(x: Tensor) -> Iterator[tuple]:
    x, padding = _steps(x, 1 / 8), [2, 1, 2, 1]
    for f in (_steps(torch.rand(4, 4), 1 / 4), None):
        vectors = _sample_vectors(x, f, padding if f is not None else NO_PADDING)
        for some in (vectors, vectors._replace(next_styles=None)):
            yield [x], f, *some, padding, 1.5, *SLOPE_GAIN_CLAMP


def _backward_samples(x: Tensor) -> Iterator[tuple]:
    for y, *others in _forward_samples(x):
        out = forward_reference(y, *others)
        yield torch.randn_like(out), y, out, *others, [1, 1, 1, 1, int(others[5] is not None)]


_TENSORS = "Tensor? f, Tensor? scale, Tensor? noise, Tensor? strength, Tensor? b, Tensor? next_styles"
_NUMBERS = "SymInt[] padding, float fir_gain, float slope, float gain, float? clamp"
_forward = CustomOp(
    "styled_epilogue_fwd",
    f"(Tensor[] y, {_TENSORS}, {_NUMBERS}) -> Tensor",
    forward_reference,
    _forward_samples,
    sample_shape=LARGE_IMAGE,
)
_backward = CustomOp(
    "styled_epilogue_bwd",
    f"(Tensor dout, Tensor[] y, Tensor out, {_TENSORS}, {_NUMBERS}, int[] want)"
    " -> (Tensor[], Tensor, Tensor, Tensor, Tensor, Tensor)",
    backward_reference,
    _backward_samples,
    sample_shape=LARGE_IMAGE,
)
OPERATOR = Operator("styled_epilogue", (_forward, _backward, *UPFIRDN2D.custom_ops))


class _StyledEpilogue(torch.autograd.Function):
    """(f, scale, noise, strength, b, next_styles, numbers, backend, *y) -> out."""

    @staticmethod
    @without_autocast
    def forward(
        f: Tensor | None, scale: Tensor | None, noise: Tensor | None, strength: Tensor | None, b: Tensor | None,
        next_styles: Tensor | None, numbers: Numbers, backend: str, *y: Tensor,
    ) -> Tensor:  # fmt: skip
        return _forward(backend, list(y), f, scale, noise, strength, b, next_styles, *numbers)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        f, scale, noise, strength, b, next_styles, ctx.numbers, ctx.backend, *y = inputs
        ctx.save_for_backward(output, f, scale, noise, strength, b, next_styles, *y)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        _, *by_vectors, _, _ = ctx.needs_input_grad[:8]
        want = [int(needed) for needed in by_vectors]
        scale, noise, strength, b, next_styles, *dy = _styled_epilogue_grad(
            dout,
            want,
            ctx.numbers,
            ctx.backend,
            *ctx.saved_tensors,  # read once: checkpointing allows no more
        )
        gradients = zip((scale, noise, strength, b, next_styles), want, strict=True)
        return None, *[gradient if wanted else None for gradient, wanted in gradients], None, None, *dy


class _StyledEpilogueGrad(torch.autograd.Function):
    """(dout, want, numbers, backend, out, f, the vectors, *y) -> (the gradients by the vectors, by y)."""

    @staticmethod
    @without_autocast
    def forward(
        dout: Tensor, want: list[int], numbers: Numbers, backend: str, out: Tensor, f: Tensor | None,
        scale: Tensor | None, noise: Tensor | None, strength: Tensor | None, b: Tensor | None,
        next_styles: Tensor | None, *y: Tensor,
    ) -> tuple:  # fmt: skip
        vectors = (scale, noise, strength, b, next_styles)
        dy, *gradients = _backward(backend, dout, list(y), out, f, *vectors, *numbers, want)
        return *gradients, *dy

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        dout, ctx.want, ctx.numbers, ctx.backend, *tensors = inputs
        ctx.save_for_backward(dout, *tensors)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        """Gradients of L = <gradients, their cotangents> = sum g (next_styles M change + z ddnext), in which
        change = scale FIR(ddy) + ddscale u + ddnoise strength + noise ddstrength + ddb.
        """
        padding, fir_gain, slope, gain, clamp = ctx.numbers
        of_scale, of_noise, of_strength, of_b, of_next = ctx.want
        dout, out, f, scale, noise, strength, b, next_styles, *parts = ctx.saved_tensors
        ddscale, ddnoise, ddstrength, ddb, ddnext, *ddparts = cotangents
        y, ddy = whole(parts), whole(ddparts)
        dtype = accumulation(y.dtype)
        g = dout.to(dtype)

        def filtered(t: Tensor) -> Tensor:
            return t if f is None else fir_resample(t, f, ONE, ONE, padding, False, fir_gain, ctx.backend)

        u, du = filtered(y.to(dtype)), filtered(ddy.to(dtype))
        change = du if scale is None else du * over_pixels(scale)
        if of_scale:
            change = change + u * over_pixels(ddscale)
        if of_noise:
            change = change + (ddnoise if strength is None else ddnoise * strength)
        if of_strength:
            change = change + noise * ddstrength
        if of_b:
            change = change + per_channel(ddb, 4, 1)

        z = out.to(dtype)
        if next_styles is not None:
            z = _activated(_pre_activation(u, scale, noise, strength, b), slope, gain, clamp)
        change = leaky_relu_backward(change, z, slope, gain, clamp)
        h = g if next_styles is None else g * over_pixels(next_styles)
        h = leaky_relu_backward(h, z, slope, gain, clamp)

        by_dout = change if next_styles is None else change * over_pixels(next_styles)
        by_u = h * over_pixels(ddscale) if of_scale else None
        by_v = None
        if of_next:
            by_dout = by_dout + z * over_pixels(ddnext)
            by_v = leaky_relu_backward(g * over_pixels(ddnext), z, slope, gain, clamp)
            through_u = by_v if scale is None else by_v * over_pixels(scale)
            by_u = through_u if by_u is None else by_u + through_u
        by_y: tuple = (None,) * len(parts)
        if by_u is not None:
            if f is not None:
                back = adjoint_padding(y.shape[2:], out.shape[2:], f, ONE, ONE, padding)
                by_u = fir_resample(by_u, f, ONE, ONE, back, True, fir_gain, ctx.backend)
            by_y = phases(laid_out_like(by_u.to(y.dtype), parts[0]), len(parts))
        by_scale = by_noise = by_strength = by_b = by_next = None
        if scale is not None:
            by_scale = (h * du if by_v is None else h * du + by_v * u).sum((2, 3))
        if noise is not None:
            zero = torch.zeros_like(noise)
            s = _summed(h, noise)
            s_v = zero if by_v is None else _summed(by_v, noise)
            by_noise = (s * ddstrength if of_strength else zero) + (s_v if strength is None else s_v * strength)
            if strength is not None:
                by_strength = ((s * ddnoise if of_noise else zero) + s_v * noise).sum()
        if b is not None and by_v is not None:
            by_b = by_v.sum((0, 2, 3))
        if next_styles is not None:
            by_next = (g * change).sum((2, 3))
        by = (by_scale, by_noise, by_strength, by_b, by_next)
        return by_dout.to(dout.dtype), None, None, None, None, None, *by, *by_y


_styled_epilogue = as_function(_StyledEpilogue)
_styled_epilogue_grad = as_function(_StyledEpilogueGrad)

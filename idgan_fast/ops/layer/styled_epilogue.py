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
from typing import Any

import torch
from torch import Tensor

from idgan_fast.ops import _dispatch
from idgan_fast.ops._autograd import as_function, vector_jacobian, without_autocast
from idgan_fast.ops._errors import ArgumentValueError
from idgan_fast.ops._registry import CustomOp, Operator
from idgan_fast.ops._resampling import NO_PADDING, ONE, adjoint_padding, output_size
from idgan_fast.ops._tensors import accumulation, check_floating, laid_out_like, over_pixels, per_channel
from idgan_fast.ops.bias_lrelu import SLOPE_GAIN_CLAMP, clamped, leaky_relu_backward, lrelu, sample_bias
from idgan_fast.ops.layer.epilogue import SCHEMA, Epilogue, Phases, phases, whole
from idgan_fast.ops.upfirdn2d import LARGE_IMAGE, fir_resample
from idgan_fast.ops.upfirdn2d import OPERATOR as UPFIRDN2D
from idgan_fast.ops.upfirdn2d import reference as fir_reference


def apply_epilogue(y: Phases, epilogue: Epilogue, *, impl: str = "auto") -> Tensor:
    """y: [N, C, H, W] whole or in phases, any floating dtype. Vectors are cast to float32 for the half types, and so is
    the arithmetic.

    Returns [N, C, H', W'] in y's dtype and memory format. Gradients of every order by all tensors but the filter.
    """
    backend = _dispatch.choose(OPERATOR, y[0].device, impl, fusible=epilogue.f is None)
    n, c, h, w = y[0].shape
    if len(y) == 4:
        h, w = h + y[2].shape[2], w + y[1].shape[3]
    size = output_size((n, c, h, w), epilogue.f, ONE, ONE, epilogue.padding)
    epilogue = cast_epilogue(epilogue, y[0], (n, 1, *size))
    return _styled_epilogue(epilogue.numbers, backend, *y, epilogue.f, *epilogue.vectors)


def cast_epilogue(epilogue: Epilogue, image: Tensor, shape: tuple[int, int, int, int]) -> Epilogue:
    """The vectors in the type of the arithmetic, noise and strength in one shape of theirs.

    shape: of noise that each sample has its own of.
    """
    acc_dtype = accumulation(image.dtype)
    if epilogue.noise is not None:
        check_noise(epilogue.noise, image, shape)
    scale, noise, strength, b, next_styles = (None if t is None else t.to(acc_dtype) for t in epilogue.vectors)
    if noise is not None:
        noise = noise.reshape(noise.shape[0] if noise.ndim == 4 else 1, *shape[1:])
    strength = None if strength is None else strength.reshape(())
    f, padding, fir_gain, slope, gain, clamp = epilogue.f, *epilogue.numbers
    numbers = (padding, float(fir_gain), float(slope), float(gain), clamp)
    return Epilogue(f, scale, noise, strength, b, next_styles, *numbers)


def modulate(x: Tensor, styles: Tensor, impl: str) -> Tensor:
    """x [N, C, H, W] times styles [N, C], multiplied in float32 for the half types: an epilogue that only scales."""
    return apply_epilogue((x,), Epilogue(scale=styles), impl=impl)


def check_noise(noise: Tensor, image: Tensor, shape: tuple[int, int, int, int]) -> None:
    check_floating("noise", noise, image)
    n, _, h, w = shape
    if tuple(noise.shape) not in (shape, (1, 1, h, w), (h, w)):
        raise ArgumentValueError(f"noise must be [{n}, 1, {h}, {w}] or [{h}, {w}], got {tuple(noise.shape)}")


def filtered(y: Tensor, e: Epilogue) -> Tensor:
    """u of y in the type of the arithmetic."""
    y = y.to(accumulation(y.dtype))
    return y if e.f is None else fir_reference(y, e.f, ONE, ONE, e.padding, False, e.fir_gain)


def pre_activation(u: Tensor, e: Epilogue) -> Tensor:
    v = u if e.scale is None else u * over_pixels(e.scale)
    if e.noise is not None:
        v = v + (e.noise if e.strength is None else e.noise * e.strength)
    return v if e.b is None else v + per_channel(e.b, 4, 1)


def activation(v: Tensor, e: Epilogue) -> Tensor:
    z = lrelu(v, e.slope) * e.gain
    return z if e.clamp is None else clamped(z, e.clamp)


def forward_reference(y: Sequence[Tensor], *operands: Any) -> Tensor:
    """operands: the fields of `Epilogue`."""
    e = Epilogue(*operands)
    z = activation(pre_activation(filtered(whole(y), e), e), e)
    return laid_out_like((z if e.next_styles is None else z * over_pixels(e.next_styles)).to(y[0].dtype), y[0])


def backward_reference(dout: Tensor, y: Sequence[Tensor], out: Tensor, *operands: Any) -> tuple[Any, ...]:
    """operands: the fields of `Epilogue`, and which of the gradients by scale, noise, strength, b, next_styles to
    compute. Returns that by y as a list, and these; the others are empty."""
    *fields, want = operands
    e = Epilogue(*fields)
    want_scale, want_noise, want_strength, want_b, want_next = want
    dtype, image = accumulation(y[0].dtype), whole(y)
    dscale, dnoise, dstrength, db, dnext = (torch.empty(0, dtype=dtype, device=image.device) for _ in want)
    h, z = dout.to(dtype), out.to(dtype)
    if e.next_styles is not None:
        z = activation(pre_activation(filtered(image, e), e), e)
        dnext = (h * z).sum((2, 3)) if want_next else dnext
        h = h * over_pixels(e.next_styles)
    h = leaky_relu_backward(h, z, e.slope, e.gain, e.clamp)
    if e.noise is not None and (want_noise or want_strength):
        over_channels = h.sum(1 if e.noise.shape[0] == h.shape[0] else (0, 1), keepdim=True)
        dnoise = (over_channels if e.strength is None else over_channels * e.strength) if want_noise else dnoise
        dstrength = (over_channels * e.noise).sum() if want_strength else dstrength
    db = h.sum((0, 2, 3)) if want_b else db
    du = h
    if e.f is not None:
        back = adjoint_padding(image.shape[2:], out.shape[2:], e.f, ONE, ONE, e.padding)
        du = fir_reference(h, e.f, ONE, ONE, back, True, e.fir_gain)
    dscale = (du * image).sum((2, 3)) if want_scale else dscale
    dy = du if e.scale is None else du * over_pixels(e.scale)
    dy = laid_out_like(dy.to(image.dtype), y[0])
    return list(phases(dy, len(y))), dscale, dnoise, dstrength, db, dnext


def _steps(t: Tensor, step: float) -> Tensor:
    return (t / step).round() * step


def _sample_epilogue(x: Tensor, f: Tensor | None, padding: Sequence[int]) -> Epilogue:
    """For an x in steps of 1/8 all values before the activation are odd multiples of 1/512, and so none of them lies
    within rounding of a kink, on whose other side a kernel that computes them again might find it.
    """
    height, width = output_size(x.shape, f, ONE, ONE, padding)
    acc_dtype = accumulation(x.dtype)
    scale = _steps(torch.rand(x.shape[:2], dtype=acc_dtype) + 0.5, 1 / 4)
    noise = _steps(torch.randn(x.shape[0], 1, height, width, dtype=acc_dtype), 1 / 8)
    b = _steps(sample_bias(x), 1 / 8) + 1 / 512
    next_styles = torch.rand(x.shape[:2], dtype=acc_dtype) + 0.5
    strength = torch.tensor(0.5, dtype=acc_dtype)
    return Epilogue(f, scale, noise, strength, b, next_styles, padding, 1.5, *SLOPE_GAIN_CLAMP)


def _forward_samples(x: Tensor) -> Iterator[tuple]:
    x = _steps(x, 1 / 8)
    for f, padding in ((_steps(torch.rand(4, 4), 1 / 4), (2, 1, 2, 1)), (None, NO_PADDING)):
        epilogue = _sample_epilogue(x, f, padding)
        for one in (epilogue, epilogue._replace(next_styles=None)):
            yield [x], *one


def _backward_samples(x: Tensor) -> Iterator[tuple]:
    for y, *epilogue in _forward_samples(x):
        out = forward_reference(y, *epilogue)
        want_next = int(Epilogue(*epilogue).next_styles is not None)
        yield torch.randn_like(out), y, out, *epilogue, [1, 1, 1, 1, want_next]


_forward = CustomOp(
    "styled_epilogue_fwd",
    f"(Tensor[] y, {SCHEMA}) -> Tensor",
    forward_reference,
    _forward_samples,
    sample_shape=LARGE_IMAGE,
)
_backward = CustomOp(
    "styled_epilogue_bwd",
    f"(Tensor dout, Tensor[] y, Tensor out, {SCHEMA}, int[] want)"
    " -> (Tensor[], Tensor, Tensor, Tensor, Tensor, Tensor)",
    backward_reference,
    _backward_samples,
    sample_shape=LARGE_IMAGE,
)
OPERATOR = Operator("styled_epilogue", (_forward, _backward, *UPFIRDN2D.custom_ops))


class _StyledEpilogue(torch.autograd.Function):
    """(numbers, backend, *y, f, scale, noise, strength, b, next_styles) -> out."""

    @staticmethod
    @without_autocast
    def forward(numbers: tuple, backend: str, *tensors: Tensor | None) -> Tensor:
        *y, f, scale, noise, strength, b, next_styles = tensors
        return _forward(backend, y, f, scale, noise, strength, b, next_styles, *numbers)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.numbers, ctx.backend, *tensors = inputs
        ctx.save_for_backward(output, *tensors)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple:
        out, *y, f, scale, noise, strength, b, next_styles = ctx.saved_tensors  # checkpointing allows one reading
        want = [int(needed) for needed in ctx.needs_input_grad[-5:]]
        tensors = (dout, *y, scale, noise, strength, b, next_styles)
        gradients = _styled_epilogue_grad(want, ctx.numbers, ctx.backend, out, f, *tensors)
        dy, dvectors = gradients[: len(y)], gradients[len(y) :]
        return None, None, *dy, None, *[d if wanted else None for d, wanted in zip(dvectors, want, strict=True)]


class _StyledEpilogueGrad(torch.autograd.Function):
    """(want, numbers, backend, out, f, dout, *y, the vectors) -> (the gradients by y, by the vectors)."""

    @staticmethod
    @without_autocast
    def forward(
        want: list[int], numbers: tuple, backend: str, out: Tensor, f: Tensor | None, dout: Tensor, *tensors: Tensor
    ) -> tuple:
        *y, scale, noise, strength, b, next_styles = tensors
        vectors = (scale, noise, strength, b, next_styles)
        dy, *dvectors = _backward(backend, dout, y, out, f, *vectors, *numbers, want)
        return *dy, *dvectors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.want, ctx.numbers, ctx.backend, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        """<gradients, their cotangents> = <dout, change>, where change is the derivative of the result along the
        cotangents: it is the gradient by dout, and those by the others are derived from it."""
        out, f, dout, *tensors = ctx.saved_tensors
        want_scale, want_noise, want_strength, want_b, want_next = ctx.want
        *ddy, ddscale, ddnoise, ddstrength, ddb, ddnext = cotangents

        def change(*tensors: Tensor) -> tuple[Tensor]:
            *y, scale, noise, strength, b, next_styles = tensors
            e = Epilogue(f, scale, noise, strength, b, next_styles, *ctx.numbers)

            def filtered_part(parts: Sequence[Tensor]) -> Tensor:
                t = whole(parts).to(accumulation(dout.dtype))
                return t if f is None else fir_resample(t, f, ONE, ONE, e.padding, False, e.fir_gain, ctx.backend)

            du = filtered_part(ddy)
            u = filtered_part(y) if want_scale or next_styles is not None else du  # which nothing then reads
            dv = du if scale is None else du * over_pixels(scale)
            if want_scale:
                dv = dv + u * over_pixels(ddscale)
            if want_noise:
                dv = dv + (ddnoise if strength is None else ddnoise * strength)
            if want_strength:
                dv = dv + noise * ddstrength
            if want_b:
                dv = dv + per_channel(ddb, 4, 1)
            z = out.to(du.dtype) if next_styles is None else activation(pre_activation(u, e), e)
            dz = leaky_relu_backward(dv, z.detach(), e.slope, e.gain, e.clamp)
            dz = dz if next_styles is None else dz * over_pixels(next_styles)
            dz = dz + z * over_pixels(ddnext) if want_next else dz
            return (dz.to(dout.dtype),)

        (by_dout,), by = vector_jacobian(change, tensors, ctx.needs_input_grad[6:], (dout,))
        return None, None, None, None, None, by_dout, *by


_styled_epilogue = as_function(_StyledEpilogue)
_styled_epilogue_grad = as_function(_StyledEpilogueGrad)

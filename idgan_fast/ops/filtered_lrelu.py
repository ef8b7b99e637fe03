"""Bias, upsampling, leaky ReLU with gain and clamp, downsampling: StyleGAN3's alias-free non-linearity.

u = FIR_up(x + b)       y = FIR_down(clamp(gain * lrelu(u), -clamp, clamp))

For the gradients the sign mask of u is kept, 2 bits a pixel: 0 above 0, 1 below, 2 where the clamp binds. With it fixed
the operator is linear, and its adjoint is an operator of the same kind: filters and factors exchange places.
Source: Karras et al., Alias-Free Generative Adversarial Networks (arXiv 2106.12423), section 3.2 and appendix E.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.ops import _dispatch
from idgan_fast.ops._autograd import as_function, without_autocast
from idgan_fast.ops._errors import public
from idgan_fast.ops._registry import Case, CustomOp, Operator
from idgan_fast.ops._resampling import (
    NO_PADDING,
    ONE,
    Pair,
    adjoint_padding,
    check_filter,
    check_size,
    output_size,
    paddings,
    scaling,
    taps_of,
)
from idgan_fast.ops._tensors import accumulation, check_images, laid_out_like, per_channel
from idgan_fast.ops._transforms import transforming
from idgan_fast.ops.bias_act import check_arguments
from idgan_fast.ops.bias_lrelu import clamped, lrelu, sample_bias
from idgan_fast.ops.upfirdn2d import blur_filter, plain_upfirdn2d
from idgan_fast.ops.upfirdn2d import reference as fir

NEGATIVE, CLAMPED = 1, 2


@public
def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Pair = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = "auto",
) -> Tensor:
    """upfirdn2d(lrelu(upfirdn2d(x + b, fu, up, padding, gain up^2)) * gain, clamped, fd, down); arXiv 2106.12423.

    x: [N, C, H, W]. b: [C] or None. fu, fd: filters as in `upfirdn2d`. padding: by the upsampled image.
    clamp: bound of the leaky ReLU's result times gain, None for none; the gradient is 0 where it binds.
    In the half types all is computed in float32 and rounded once. Kept for the backward pass: 2 bits for each pixel of
    the upsampled image. Returns [N, C, H', W'] of x's dtype and memory format. Gradients of every order, by x and b.
    Raises TypeError, ValueError: one line on the argument. BackendError: impl cannot run here.
    """
    check_images(x)
    check_filter("fu", fu)
    check_filter("fd", fd)
    up_xy, down_xy, pad = scaling("up", up), scaling("down", down), paddings(padding)
    _, slope, gain, clamp = check_arguments(x, b, 1, "lrelu", slope, gain, clamp)
    b = None if b is None else b.to(accumulation(x.dtype))
    middle = check_size(x.shape, fu, up_xy, ONE, pad)
    check_size((*x.shape[:2], *middle), fd, ONE, down_xy, NO_PADDING)
    backend = _dispatch.choose(OPERATOR, x.device, impl)
    fu, fd = (None if f is None else taps_of(f, x.device) for f in (fu, fd))
    # x.requires_grad does not tell under torch.func, whose levels nest, nor within a compiled graph.
    keep = torch.is_grad_enabled() and not transforming()
    return _filtered_lrelu(x, b, fu, fd, up_xy, down_xy, pad, gain, slope, clamp, bool(flip_filter), keep, backend)[0]


def _forward_reference(
    x: Tensor,
    b: Tensor | None,
    fu: Tensor | None,
    fd: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    gain: float,
    slope: float,
    clamp: float | None,
    flip_filter: bool,
    want_sign_mask: bool,
) -> tuple[Tensor, Tensor]:
    v = x.to(accumulation(x.dtype))
    v = v if b is None else v + per_channel(b, 4, 1)
    u = fir(v, fu, up, ONE, padding, flip_filter, up[0] * up[1])
    z = lrelu(u, slope) * gain
    sign_mask = packed(u, z, clamp) if want_sign_mask else torch.empty(0, dtype=torch.uint8, device=x.device)
    z = z if clamp is None else clamped(z, clamp)
    return laid_out_like(fir(z, fd, ONE, down, NO_PADDING, flip_filter, 1).to(x.dtype), x), sign_mask


def packed(u: Tensor, z: Tensor, clamp: float | None) -> Tensor:
    """The sign mask of u [N, C, H, W] and z = gain * lrelu(u): uint8 [N, C, H, ceil(W / 4)], the left pixel lowest."""
    sign_mask = (u <= 0).to(torch.uint8) * NEGATIVE
    if clamp is not None:
        sign_mask = sign_mask.masked_fill(z.abs() >= clamp, CLAMPED)
    sign_mask = F.pad(sign_mask, (0, -u.shape[3] % 4)).contiguous()
    c0, c1, c2, c3 = sign_mask.unflatten(3, (-1, 4)).unbind(4)
    return (c0 | c1 << 2 | c2 << 4 | c3 << 6).contiguous()


def slopes(sign_mask: Tensor, width: int, gain: float, slope: float, dtype: torch.dtype) -> Tensor:
    """dz / du of each pixel from its sign: [N, C, H, width]."""
    by_sign = torch.tensor([gain, gain * slope, 0, 0], dtype=dtype, device=sign_mask.device)
    shifts = torch.tensor([0, 2, 4, 6], device=sign_mask.device)
    by_byte = by_sign[torch.arange(256, device=sign_mask.device)[:, None] >> shifts & 3]
    return F.embedding(sign_mask.int(), by_byte).flatten(3)[..., :width]


def _linear_reference(
    x: Tensor,
    sign_mask: Tensor,
    middle: Sequence[int],
    fu: Tensor | None,
    fd: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    padding_down: Sequence[int],
    gain: float,
    slope: float,
    flip_filter: bool,
) -> Tensor:
    """FIR_down(M FIR_up(x)), M given by the sign mask of the upsampled image, of size middle (height, width)."""
    dtype = accumulation(x.dtype)
    u = fir(x.to(dtype), fu, up, ONE, padding, flip_filter, 1)
    z = u * slopes(sign_mask, middle[1], gain, slope, dtype)
    return laid_out_like(fir(z, fd, ONE, down, padding_down, flip_filter, 1).to(x.dtype), x)


_SAMPLE_FACTORS = ([2, 2], [2, 2], [9, 8, 9, 8])  # up, down, padding


def _forward_samples(x: Tensor) -> Iterator[tuple]:
    yield x, sample_bias(x), torch.rand(12), torch.rand(12), *_SAMPLE_FACTORS, 1.4, 0.2, 1.0, False, True


def _linear_samples(x: Tensor) -> Iterator[tuple]:
    for sample in _forward_samples(x):
        _, sign_mask = _forward_reference(*sample)
        fu, fd, up, down, padding = sample[2:7]
        middle = output_size(x.shape, fu, up, ONE, padding)
        yield x, sign_mask, list(middle), fu, fd, up, down, padding, [0, 0, 0, 0], 1.4, 0.2, False


_forward = CustomOp(
    "filtered_lrelu_fwd",
    "(Tensor x, Tensor? b, Tensor? fu, Tensor? fd, SymInt[] up, SymInt[] down, SymInt[] padding, float gain, "
    "float slope, float? clamp, bool flip_filter, bool want_sign_mask) -> (Tensor, Tensor)",
    _forward_reference,
    _forward_samples,
)
_linear = CustomOp(
    "filtered_lrelu_linear",
    "(Tensor x, Tensor sign_mask, SymInt[] middle, Tensor? fu, Tensor? fd, SymInt[] up, SymInt[] down, "
    "SymInt[] padding, SymInt[] padding_down, float gain, float slope, bool flip_filter) -> Tensor",
    _linear_reference,
    _linear_samples,
)


class _FilteredLrelu(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(x: Tensor, b: Tensor | None, *args: Any) -> tuple[Tensor, Tensor]:
        *rest, backend = args
        return _forward(backend, x, b, *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        x, _, fu, fd, up, down, padding, gain, slope, _, flip, _, backend = inputs
        y, sign_mask = output
        ctx.mark_non_differentiable(sign_mask)
        ctx.save_for_backward(sign_mask, fu, fd)
        ctx.sizes = x.shape[2:], output_size(x.shape, fu, up, ONE, padding), y.shape[2:]
        ctx.args = up, down, padding, NO_PADDING, gain * up[0] * up[1], slope, flip, backend

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple:
        dx = _adjoint(ctx, dy)
        db = dx.to(accumulation(dx.dtype)).sum((0, 2, 3)) if ctx.needs_input_grad[1] else None
        return dx, db, *[None] * 11


class _FilteredLreluLinear(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(x: Tensor, sign_mask: Tensor, *args: Any) -> Tensor:
        *rest, backend = args
        return _linear(backend, x, sign_mask, *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, sign_mask, middle, fu, fd, *ctx.args = inputs
        ctx.save_for_backward(sign_mask, fu, fd)
        ctx.sizes = x.shape[2:], middle, output.shape[2:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        return _adjoint(ctx, dy), *[None] * 12


def _adjoint(ctx: Any, dy: Tensor) -> Tensor:
    """The gradient by x of either Function, whose ctx has the operator that is linear with the sign mask fixed."""
    sign_mask, fu, fd = ctx.saved_tensors
    size, middle, out_size = ctx.sizes
    up, down, padding, padding_down, gain, slope, flip, backend = ctx.args
    padding_up = adjoint_padding(middle, out_size, fd, ONE, down, padding_down)
    padding_down = adjoint_padding(size, middle, fu, up, ONE, padding)
    numbers = (down, up, padding_up, padding_down, gain, slope, not flip)
    return _filtered_lrelu_linear(dy, sign_mask, middle, fd, fu, *numbers, backend)


_filtered_lrelu = as_function(_FilteredLrelu)
_filtered_lrelu_linear = as_function(_FilteredLreluLinear)


def plain_filtered_lrelu(x: Tensor, b: Tensor, f: Tensor, clamp: float) -> Tensor:
    """As StyleGAN code without kernels writes it: up and down by 2, padding 3."""
    y = plain_upfirdn2d(x + b.reshape(1, -1, 1, 1), f, up=2, padding=(3, 3, 3, 3), gain=4)
    y = (F.leaky_relu(y, 0.2) * math.sqrt(2)).clamp(-clamp, clamp)
    return plain_upfirdn2d(y, f, down=2)


def _cases(device: str, channels: int, size: int) -> Iterator[Case]:
    f = blur_filter(device)

    def ours(x: Tensor, b: Tensor) -> Tensor:
        return filtered_lrelu(x, f, f, b, up=2, down=2, padding=3, clamp=1.5)

    def plain(x: Tensor, b: Tensor) -> Tensor:
        return plain_filtered_lrelu(x, b, f, 1.5)

    yield Case("filtered_lrelu", ((2, channels, size, size), (channels,)), ours, (plain,))


OPERATOR = Operator("filtered_lrelu", (_forward, _linear), _cases)

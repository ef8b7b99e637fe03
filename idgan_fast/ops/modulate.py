"""y[n, c] = x[n, c] * styles[n, c]: the style of a modulated convolution, applied to its input."""

from typing import Any

import torch
from torch import Tensor

from idgan_fast.ops import _dispatch
from idgan_fast.ops._dispatch import LowLevel, without_autocast
from idgan_fast.ops._tensors import accumulation, laid_out_like, over_pixels


def modulate(function: str, x: Tensor, styles: Tensor, impl: str) -> Tensor:
    """x [N, C, H, W] times styles [N, C], in x's dtype and memory format, multiplied in float32 for the half types."""
    backend = _dispatch.choose(function, LOW_LEVEL, x.device, impl)
    return _modulate(x, styles.to(accumulation(x.dtype)), backend)


def _forward_reference(x: Tensor, styles: Tensor) -> Tensor:
    return laid_out_like((x * over_pixels(styles)).to(x.dtype), x)


def _backward_reference(dy: Tensor, x: Tensor, styles: Tensor, want_dstyles: bool) -> tuple[Tensor, Tensor]:
    dx = (dy * over_pixels(styles)).to(x.dtype)
    dstyles = (dy.to(styles.dtype) * x).sum((2, 3)) if want_dstyles else styles.new_empty(0)
    return laid_out_like(dx, x), dstyles


_forward = LowLevel("modulate_fwd", "(Tensor x, Tensor styles) -> Tensor", _forward_reference)
_backward = LowLevel(
    "modulate_bwd", "(Tensor dy, Tensor x, Tensor styles, bool want_dstyles) -> (Tensor, Tensor)", _backward_reference
)
LOW_LEVEL = (_forward, _backward)


class _Modulate(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(x: Tensor, styles: Tensor, backend: str) -> Tensor:
        return _forward(backend, x, styles)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, styles, ctx.backend = inputs
        ctx.save_for_backward(x, styles)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        want = ctx.needs_input_grad[1]
        dx, dstyles = _modulate_grad(dy, *ctx.saved_tensors, want, ctx.backend)
        return dx, dstyles if want else None, None


class _ModulateGrad(torch.autograd.Function):
    """(dy, x, styles) -> (dy * styles, sum of dy * x over pixels): linear in each of the three."""

    @staticmethod
    @without_autocast
    def forward(dy: Tensor, x: Tensor, styles: Tensor, want: bool, backend: str) -> tuple[Tensor, Tensor]:
        return _backward(backend, dy, x, styles, want)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        dy, x, styles, ctx.want, _ = inputs
        ctx.save_for_backward(dy, x, styles)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, ddx: Tensor, ddstyles: Tensor) -> tuple:
        dy, x, styles = ctx.saved_tensors
        to_dy = ddx * over_pixels(styles)
        to_x = None
        if ctx.want:
            to_dy = to_dy + x * over_pixels(ddstyles)
            to_x = (dy * over_pixels(ddstyles)).to(x.dtype)
        to_styles = (ddx.to(styles.dtype) * dy).sum((2, 3))
        return to_dy.to(dy.dtype), to_x, to_styles, None, None


_modulate = _dispatch.function(_Modulate)
_modulate_grad = _dispatch.function(_ModulateGrad)

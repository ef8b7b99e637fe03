"""y = clamp(gain * lrelu(x + b), -clamp, clamp): `bias_act` of the piecewise linear activations.

slope, of lrelu below 0, is 1 for linear and 0 for relu, and at least 0: so the sign of x + b can be read from y, and
y is all that the gradients need. dx = dy gain (1 or slope), 0 where |y| reaches the clamp; db is its sum.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.ops import _dispatch
from idgan_fast.ops._dispatch import CustomOp, without_autocast
from idgan_fast.ops._tensors import accumulation, laid_out_like, per_channel


def lrelu(v: Tensor, slope: float) -> Tensor:
    """Leaky ReLU that knows its special cases: of slope 0 it gives 0 for -inf, where a product would give NaN."""
    return v if slope == 1 else v.relu() if slope == 0 else F.leaky_relu(v, slope)


def leaky_relu_backward(dy: Tensor, y: Tensor, slope: float, gain: float, clamp: float | None) -> Tensor:
    """dy times the derivative of y = clamp(gain * lrelu(v)), whose sign y shows: slope at least 0. In dy's dtype."""
    dy = dy * gain
    if slope != 1:
        dy = torch.ops.aten.leaky_relu_backward(dy, y if gain > 0 else -y, slope, True)
    return dy if clamp is None else clamp_backward(dy, y, clamp)


def clamp_backward(dy: Tensor, y: Tensor, clamp: float) -> Tensor:
    """dy where -clamp < y < clamp, else 0."""
    return torch.ops.aten.hardtanh_backward(dy, y, -clamp, clamp)


def pre_activation(x: Tensor, b: Tensor | None, dim: int) -> Tensor:
    v = x.to(accumulation(x.dtype))
    return v if b is None else v + per_channel(b, x.ndim, dim)


def finished(v: Tensor, gain: float, clamp: float | None, x: Tensor) -> Tensor:
    v = v * gain
    return laid_out_like((v if clamp is None else v.clamp(-clamp, clamp)).to(x.dtype), x)


def sum_except(t: Tensor, dim: int) -> Tensor:
    others = [i for i in range(t.ndim) if i != dim]
    return t.sum(others) if others else t.clone()  # torch takes no dimensions for all


def _forward_reference(x: Tensor, b: Tensor | None, dim: int, slope: float, gain: float, clamp: float | None) -> Tensor:
    return finished(lrelu(pre_activation(x, b, dim), slope), gain, clamp, x)


def _backward_reference(
    dy: Tensor, y: Tensor, dim: int, slope: float, gain: float, clamp: float | None, want_db: bool
) -> tuple[Tensor, Tensor]:
    dtype = accumulation(y.dtype)
    dx = leaky_relu_backward(dy.to(dtype), y.to(dtype), slope, gain, clamp)
    db = sum_except(dx, dim) if want_db else dx.new_empty(0)
    return laid_out_like(dx.to(y.dtype), y), db


_forward = CustomOp(
    "bias_lrelu_fwd",
    "(Tensor x, Tensor? b, int dim, float slope, float gain, float? clamp) -> Tensor",
    _forward_reference,
)
_backward = CustomOp(
    "bias_lrelu_bwd",
    "(Tensor dy, Tensor y, int dim, float slope, float gain, float? clamp, bool want_db) -> (Tensor, Tensor)",
    _backward_reference,
)
LOW_LEVEL = (_forward, _backward)


class _BiasLrelu(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(x: Tensor, b: Tensor | None, *args: Any) -> Tensor:
        *parameters, backend = args
        return _forward(backend, x, b, *parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, _, *ctx.args = inputs
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        want_db = ctx.needs_input_grad[1]
        dx, db = _bias_lrelu_grad(dy, *ctx.saved_tensors, want_db, *ctx.args)
        return dx, db if want_db else None, *[None] * len(ctx.args)


class _BiasLreluGrad(torch.autograd.Function):
    """(dy, y) -> (dx, db): linear in dy, and constant in y almost everywhere."""

    @staticmethod
    @without_autocast
    def forward(dy: Tensor, y: Tensor, want_db: bool, *args: Any) -> tuple[Tensor, Tensor]:
        *parameters, backend = args
        return _backward(backend, dy, y, *parameters, want_db)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        _, y, ctx.want_db, *ctx.args = inputs
        ctx.save_for_backward(y)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, ddx: Tensor, ddb: Tensor) -> tuple:
        (y,) = ctx.saved_tensors
        if ctx.want_db:
            ddx = (ddx + per_channel(ddb, ddx.ndim, ctx.args[0])).to(ddx.dtype)
        to_dy, _ = _bias_lrelu_grad(ddx, y, False, *ctx.args)
        return to_dy, None, None, *[None] * len(ctx.args)


apply = _dispatch.function(_BiasLrelu)
_bias_lrelu_grad = _dispatch.function(_BiasLreluGrad)

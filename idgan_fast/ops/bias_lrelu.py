"""y = clamp(gain * lrelu(x + b), -clamp, clamp): `bias_act` of the piecewise linear activations.

slope, of lrelu below 0, is 1 for linear and 0 for relu, and at least 0: so the sign of x + b can be read from y, and
y is all that the gradients need. dx = dy gain (1 or slope), 0 where |y| reaches the clamp; db is its sum.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.ops._autograd import as_function, without_autocast
from idgan_fast.ops._registry import CustomOp, Operator
from idgan_fast.ops._tensors import accumulation, laid_out_like, per_channel, sum_except


def lrelu(v: Tensor, slope: float) -> Tensor:
    """Leaky ReLU that knows its special cases: of slope 0 it gives 0 for -inf, where a product would give NaN."""
    return v if slope == 1 else v.relu() if slope == 0 else F.leaky_relu(v, slope)


def leaky_relu_backward(dy: Tensor, y: Tensor, slope: float, gain: float, clamp: float | None) -> Tensor:
    """dy times the derivative of y = clamp(gain * lrelu(v)), whose sign y shows: slope at least 0. In dy's dtype."""
    dy = dy * gain
    if slope != 1:
        dy = torch.ops.aten.leaky_relu_backward(dy, y if gain > 0 else -y, slope, True)
    return dy if clamp is None else clamp_backward(dy, y, clamp)


def clamped(v: Tensor, clamp: float) -> Tensor:
    """v between -clamp and clamp; the gradient is 0 at the bounds too, where that of torch.clamp is 1."""
    return F.hardtanh(v, -clamp, clamp)


def clamp_backward(dy: Tensor, y: Tensor, clamp: float) -> Tensor:
    """dy where -clamp < y < clamp, else 0."""
    return torch.ops.aten.hardtanh_backward(dy, y, -clamp, clamp)


def add_bias(x: Tensor, b: Tensor | None, dim: int) -> Tensor:
    """x + b in the accumulation type."""
    v = x.to(accumulation(x.dtype))
    return v if b is None else v + per_channel(b, x.ndim, dim)


def gain_and_clamp(v: Tensor, gain: float, clamp: float | None, x: Tensor) -> Tensor:
    """clamp(gain * v) in the dtype and layout of x."""
    v = v * gain
    return laid_out_like((v if clamp is None else clamped(v, clamp)).to(x.dtype), x)


def _forward_reference(x: Tensor, b: Tensor | None, dim: int, slope: float, gain: float, clamp: float | None) -> Tensor:
    return gain_and_clamp(lrelu(add_bias(x, b, dim), slope), gain, clamp, x)


def _backward_reference(
    dy: Tensor, y: Tensor, dim: int, slope: float, gain: float, clamp: float | None, want_db: bool
) -> tuple[Tensor, Tensor]:
    dtype = accumulation(y.dtype)
    dx = leaky_relu_backward(dy.to(dtype), y.to(dtype), slope, gain, clamp)
    db = sum_except(dx, dim) if want_db else dx.new_empty(0)
    return laid_out_like(dx.to(y.dtype), y), db


SLOPE_GAIN_CLAMP = (0.2, 1.4, 1.0)  # of samples: a clamp that binds


def sample_bias(x: Tensor) -> Tensor:
    return torch.randn(x.shape[1], dtype=accumulation(x.dtype))


def _forward_samples(x: Tensor) -> Iterator[tuple]:
    yield x, sample_bias(x), 1, *SLOPE_GAIN_CLAMP


def _backward_samples(x: Tensor) -> Iterator[tuple]:
    for sample in _forward_samples(x):
        yield torch.randn_like(x), _forward_reference(*sample), 1, *SLOPE_GAIN_CLAMP, True


_forward = CustomOp(
    "bias_lrelu_fwd",
    "(Tensor x, Tensor? b, int dim, float slope, float gain, float? clamp) -> Tensor",
    _forward_reference,
    _forward_samples,
)
_backward = CustomOp(
    "bias_lrelu_bwd",
    "(Tensor dy, Tensor y, int dim, float slope, float gain, float? clamp, bool want_db) -> (Tensor, Tensor)",
    _backward_reference,
    _backward_samples,
)
OPERATOR = Operator("bias_lrelu", (_forward, _backward))


class _BiasLrelu(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(x: Tensor, b: Tensor | None, *args: Any) -> Tensor:
        *parameters, backend = args
        return _forward(backend, x, b, *parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, _, *ctx.parameters, ctx.backend = inputs
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        want_db = ctx.needs_input_grad[1]
        dx, db = _bias_lrelu_grad(dy, *ctx.saved_tensors, *ctx.parameters, want_db, ctx.backend)
        return dx, db if want_db else None, None, None, None, None, None


class _BiasLreluGrad(torch.autograd.Function):
    """(dy, y) -> (dx, db): linear in dy, and constant in y almost everywhere."""

    @staticmethod
    @without_autocast
    def forward(dy: Tensor, y: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        *parameters, want_db, backend = args
        return _backward(backend, dy, y, *parameters, want_db)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        _, y, *ctx.parameters, ctx.want_db, ctx.backend = inputs
        ctx.save_for_backward(y)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, ddx: Tensor, ddb: Tensor) -> tuple:
        (y,) = ctx.saved_tensors
        if ctx.want_db:
            ddx = (ddx + per_channel(ddb, ddx.ndim, ctx.parameters[0])).to(ddx.dtype)
        to_dy, _ = _bias_lrelu_grad(ddx, y, *ctx.parameters, False, ctx.backend)
        return to_dy, None, None, None, None, None, None, None


bias_lrelu = as_function(_BiasLrelu)
"""(x, b, dim, slope, gain, clamp, backend) -> y; b in the accumulation type."""
_bias_lrelu_grad = as_function(_BiasLreluGrad)

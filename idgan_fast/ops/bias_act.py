"""y = clamp(gain * act(x + b), -clamp, clamp): bias, activation, gain and clamp, in this order."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.errors import nearest
from idgan_fast.ops import _dispatch
from idgan_fast.ops._dispatch import LowLevel, without_autocast
from idgan_fast.ops._tensors import accumulation, check_floating, laid_out_like, per_channel
from idgan_fast.ops.bias_lrelu import LOW_LEVEL as LINEAR
from idgan_fast.ops.bias_lrelu import apply as bias_lrelu
from idgan_fast.ops.bias_lrelu import finished, over_all_but, pre_activation, through_clamp

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


@dataclass(frozen=True)
class Activation:
    """An activation of v, its derivatives of first and second order, and the peers' default constants."""

    func: Callable[[Tensor, float], Tensor]
    first: Callable[[Tensor, float], Tensor]
    second: Callable[[Tensor], Tensor] | None = None  # None: 0 almost everywhere
    def_alpha: float = 0.0
    def_gain: float = 1.0


def _step(v: Tensor, below: float) -> Tensor:
    return torch.where(v > 0, torch.ones_like(v), torch.full_like(v, below))


def _selu_negative(v: Tensor) -> Tensor:
    return SELU_SCALE * SELU_ALPHA * torch.where(v > 0, 0, v).exp()


def _swish_second(v: Tensor) -> Tensor:
    s = v.sigmoid()
    return s * (1 - s) * (2 + v * (1 - 2 * s))


activation_funcs: dict[str, Activation] = {
    "linear": Activation(lambda v, a: v, lambda v, a: torch.ones_like(v)),
    "relu": Activation(lambda v, a: v.relu(), lambda v, a: _step(v, 0.0), def_gain=math.sqrt(2)),
    "lrelu": Activation(
        lambda v, a: F.leaky_relu(v, a), lambda v, a: _step(v, a), def_alpha=0.2, def_gain=math.sqrt(2)
    ),
    "tanh": Activation(
        lambda v, a: v.tanh(), lambda v, a: 1 - v.tanh() ** 2, lambda v: -2 * v.tanh() * (1 - v.tanh() ** 2)
    ),
    "sigmoid": Activation(
        lambda v, a: v.sigmoid(),
        lambda v, a: v.sigmoid() * (-v).sigmoid(),
        lambda v: v.sigmoid() * (-v).sigmoid() * (1 - 2 * v.sigmoid()),
    ),
    "elu": Activation(
        lambda v, a: F.elu(v),
        lambda v, a: torch.where(v > 0, 0, v).exp(),
        lambda v: torch.where(v > 0, 0, torch.where(v > 0, 0, v).exp()),
    ),
    "selu": Activation(
        lambda v, a: F.selu(v),
        lambda v, a: torch.where(v > 0, torch.full_like(v, SELU_SCALE), _selu_negative(v)),
        lambda v: torch.where(v > 0, 0, _selu_negative(v)),
    ),
    "softplus": Activation(
        lambda v, a: F.softplus(v), lambda v, a: v.sigmoid(), lambda v: v.sigmoid() * (-v).sigmoid()
    ),
    "swish": Activation(
        lambda v, a: F.silu(v),
        lambda v, a: v.sigmoid() * (1 + v * (-v).sigmoid()),
        _swish_second,
        def_gain=math.sqrt(2),
    ),
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """clamp(gain * act(x + b), -clamp, clamp), as in StyleGAN2 (arXiv 1912.04958) and its ADA code base.

    x: any shape, float16, bfloat16, float32 or float64; computed in float32 for the half types.
    b: [x.shape[dim]] or None, cast to x's dtype. dim: the dimension of x that b belongs to.
    act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish.
    alpha: slope of lrelu below 0, 0.2 by default. gain: sqrt 2 by default for relu, lrelu, swish, else 1.
    clamp: bound of the result, None for none; the gradient is 0 where it binds.
    impl: auto (or cuda), native, triton, reference (or ref).
    Returns a tensor of x's shape, dtype and memory format. Gradients of every order, by x and by b.
    Raises TypeError, ValueError: one line on the argument. BackendError: impl cannot run here.
    """
    return biased("bias_act", x, b, dim, act, alpha, gain, clamp, impl)


def biased(
    function: str,
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float | None,
    gain: float | None,
    clamp: float | None,
    impl: str,
) -> Tensor:
    """`bias_act`, with errors in the name of the function that the user called."""
    dim, alpha, gain, clamp = checked(function, x, b, dim, act, alpha, gain, clamp)
    if b is not None:
        b = b.to(accumulation(x.dtype))
    slope = negative_slope(act, alpha)
    # The sign of x + b can be read from y, so that x need not be kept.
    linear = slope is not None and slope >= 0 and gain != 0
    operators = LINEAR if linear else LOW_LEVEL
    backend = _dispatch.choose(function, operators, x.device, impl, fusible=linear or act == "swish")
    if b is None and act == "linear" and gain == 1 and clamp is None:
        return x
    if linear:
        return bias_lrelu(x, b, dim, slope, gain, clamp, backend)
    return _bias_act(x, b, dim, act, alpha, gain, clamp, backend)


def checked(
    function: str,
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float | None,
    gain: float | None,
    clamp: float | None,
    name: str = "b",
) -> tuple[int, float, float, float | None]:
    """dim (not negative), alpha, gain and clamp with their defaults filled in; raises on the first wrong argument.

    name: what the user calls b.
    """
    check_floating(function, "x", x)
    spec = activation_funcs.get(act)
    if spec is None:
        raise ValueError(f"{function}: no activation named {act!r}; {nearest(str(act), activation_funcs)}")
    if b is not None:
        check_floating(function, name, b)
        if not -x.ndim <= dim < x.ndim:
            raise ValueError(f"{function}: dim must be a dimension of x with shape {tuple(x.shape)}, got {dim}")
        dim %= x.ndim
        if b.shape != x.shape[dim : dim + 1]:
            raise ValueError(
                f"{function}: {name} must have shape ({x.shape[dim]},), the size of x along dim {dim}, "
                f"got {tuple(b.shape)}"
            )
    if clamp is not None and clamp < 0:
        raise ValueError(f"{function}: clamp must be None or at least 0, got {clamp}")
    alpha = spec.def_alpha if alpha is None else float(alpha)
    gain = spec.def_gain if gain is None else float(gain)
    return dim, alpha, gain, None if clamp is None else rounded(float(clamp), x.dtype)


@torch.compiler.assume_constant_result
def rounded(clamp: float, dtype: torch.dtype) -> float:
    """The bound as the result's dtype has it, so that a clamped result compares equal to it."""
    return clamp if dtype in (torch.float32, torch.float64) else torch.tensor(clamp, dtype=dtype).item()


def negative_slope(act: str, alpha: float) -> float | None:
    """The slope below 0 of an activation that is piecewise linear; None for the others."""
    return {"linear": 1.0, "relu": 0.0, "lrelu": alpha}.get(act)


def _forward_reference(
    x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    return finished(activation_funcs[act].func(pre_activation(x, b, dim), alpha), gain, clamp, x)


def _backward_reference(
    dy: Tensor,
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    want_db: bool,
) -> tuple[Tensor, Tensor]:
    v, spec = pre_activation(x, b, dim), activation_funcs[act]
    dx = dy.to(v.dtype) * spec.first(v, alpha) * gain
    if clamp is not None:
        dx = through_clamp(dx, gain * spec.func(v, alpha), clamp)
    db = over_all_but(dx, dim) if want_db else dx.new_empty(0)
    return laid_out_like(dx.to(x.dtype), x), db


_PARAMETERS = "int dim, str act, float alpha, float gain, float? clamp"
_forward = LowLevel("bias_act_fwd", f"(Tensor x, Tensor? b, {_PARAMETERS}) -> Tensor", _forward_reference)
_backward = LowLevel(
    "bias_act_bwd",
    f"(Tensor dy, Tensor x, Tensor? b, {_PARAMETERS}, bool want_db) -> (Tensor, Tensor)",
    _backward_reference,
)
LOW_LEVEL = (_forward, _backward)


class _BiasAct(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(x: Tensor, b: Tensor | None, *args: Any) -> Tensor:
        *parameters, backend = args
        return _forward(backend, x, b, *parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, b, *ctx.args = inputs
        ctx.save_for_backward(x, b)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        want_db = ctx.needs_input_grad[1]
        dx, db = _bias_act_grad(dy, *ctx.saved_tensors, want_db, *ctx.args)
        return dx, db if want_db else None, *[None] * len(ctx.args)


class _BiasActGrad(torch.autograd.Function):
    """(dy, x, b) -> (dx, db): linear in dy; depends on x and b through the slope."""

    @staticmethod
    @without_autocast
    def forward(dy: Tensor, x: Tensor, b: Tensor | None, want_db: bool, *args: Any) -> tuple[Tensor, Tensor]:
        *parameters, backend = args
        return _backward(backend, dy, x, b, *parameters, want_db)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        dy, x, b, ctx.want_db, *ctx.args = inputs
        ctx.save_for_backward(dy, x, b)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, ddx: Tensor, ddb: Tensor) -> tuple:
        dy, x, b = ctx.saved_tensors
        dim, act, alpha, gain, clamp, _ = ctx.args
        cotangent = ddx + per_channel(ddb, ddx.ndim, dim) if ctx.want_db else ddx
        to_dy, _ = _bias_act_grad(cotangent.to(ddx.dtype), x, b, False, *ctx.args)
        second, to_x, to_b = activation_funcs[act].second, None, None
        if second is not None:
            v = pre_activation(x, b, dim)
            to_v = cotangent.to(v.dtype) * dy.to(v.dtype) * gain * second(v)
            if clamp is not None:
                to_v = through_clamp(to_v, gain * activation_funcs[act].func(v, alpha), clamp)
            to_x = to_v.to(x.dtype)
            to_b = None if b is None else over_all_but(to_v, dim)
        return to_dy, to_x, to_b, None, *[None] * len(ctx.args)


_bias_act = _dispatch.function(_BiasAct)
_bias_act_grad = _dispatch.function(_BiasActGrad)

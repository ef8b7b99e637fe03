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

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


@dataclass(frozen=True)
class Activation:
    """An activation of v, its derivatives of first and second order, and the peers' default constants."""

    func: Callable[[Tensor, float], Tensor]
    first: Callable[[Tensor, float], Tensor]
    second: Callable[[Tensor], Tensor] | None = None  # None: 0 almost everywhere
    def_alpha: float = 0.0
    def_gain: float = 1.0

    @property
    def piecewise_linear(self) -> bool:
        return self.second is None


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
    backend = _dispatch.choose(function, LOW_LEVEL, x.device, impl)
    if b is None and act == "linear" and gain == 1 and clamp is None:
        return x
    return _bias_act(x, None if b is None else b.to(x.dtype), dim, act, alpha, gain, clamp, backend)


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


def lrelu(v: Tensor, slope: float) -> Tensor:
    """Leaky ReLU that knows its special cases: of slope 0 it gives 0 for -inf, where a product would give NaN."""
    return v if slope == 1 else v.relu() if slope == 0 else F.leaky_relu(v, slope)


def negative_slope(act: str, alpha: float) -> float | None:
    """The slope below 0 of an activation that is piecewise linear; None for the others."""
    return {"linear": 1.0, "relu": 0.0, "lrelu": alpha}.get(act)


def _forward_reference(
    x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    v = activation_funcs[act].func(_pre_activation(x, b, dim), alpha) * gain
    if clamp is not None:
        v = v.clamp(-clamp, clamp)
    return laid_out_like(v.to(x.dtype), x)


def _pre_activation(x: Tensor, b: Tensor | None, dim: int) -> Tensor:
    v = x.to(accumulation(x.dtype))
    return v if b is None else v + per_channel(b.to(v.dtype), x.ndim, dim)


def _backward_reference(
    dy: Tensor,
    saved: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    want_db: bool,
) -> tuple[Tensor, Tensor]:
    dtype = accumulation(dy.dtype)
    if _saves_output(act, alpha, gain):
        slope = negative_slope(act, alpha)
        assert slope is not None
        dx = through_leaky_relu(dy.to(dtype), saved.to(dtype), slope, gain, clamp)
    else:
        v, spec = _pre_activation(saved, b, dim), activation_funcs[act]
        dx = dy.to(dtype) * spec.first(v, alpha) * gain
        if clamp is not None:
            dx = through_clamp(dx, gain * spec.func(v, alpha), clamp)
    db = dx.sum([i for i in range(dx.ndim) if i != dim]) if want_db else dx.new_empty(0)
    return laid_out_like(dx.to(dy.dtype), saved), db.to(dy.dtype)


def through_leaky_relu(dy: Tensor, y: Tensor, slope: float, gain: float, clamp: float | None) -> Tensor:
    """dy times the derivative of y = clamp(gain * lrelu(v)), whose sign y shows: slope at least 0. In dy's dtype."""
    dy = dy * gain
    if slope != 1:
        dy = torch.ops.aten.leaky_relu_backward(dy, y if gain > 0 else -y, slope, True)
    return dy if clamp is None else through_clamp(dy, y, clamp)


def through_clamp(dy: Tensor, y: Tensor, clamp: float) -> Tensor:
    """dy where -clamp < y < clamp, else 0."""
    return torch.ops.aten.hardtanh_backward(dy, y, -clamp, clamp)


def _saves_output(act: str, alpha: float, gain: float) -> bool:
    """Whether the sign of x + b can be read from y, so that the input need not be kept."""
    return activation_funcs[act].piecewise_linear and alpha >= 0 and gain != 0


_PARAMETERS = "int dim, str act, float alpha, float gain, float? clamp"
_forward = LowLevel("bias_act_fwd", f"(Tensor x, Tensor? b, {_PARAMETERS}) -> Tensor", _forward_reference)
_backward = LowLevel(
    "bias_act_bwd",
    f"(Tensor dy, Tensor saved, Tensor? b, {_PARAMETERS}, bool want_db) -> (Tensor, Tensor)",
    _backward_reference,
)
LOW_LEVEL = (_forward, _backward)


class _BiasAct(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(x: Tensor, b: Tensor | None, dim: int, *args: Any) -> Tensor:
        *parameters, backend = args
        return _forward(backend, x, b, dim, *parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, b, *ctx.args = inputs
        _, act, alpha, gain, *_ = ctx.args
        ctx.save_for_backward(*((output, None) if _saves_output(act, alpha, gain) else (x, b)))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        want_db = ctx.needs_input_grad[1]
        dx, db = _bias_act_grad(dy, *ctx.saved_tensors, want_db, *ctx.args)
        return dx, db if want_db else None, *[None] * len(ctx.args)


class _BiasActGrad(torch.autograd.Function):
    """(dy, saved, b) -> (dx, db): linear in dy; depends on saved and b through the slope alone."""

    @staticmethod
    @without_autocast
    def forward(dy: Tensor, saved: Tensor, b: Tensor | None, want_db: bool, *args: Any) -> tuple[Tensor, Tensor]:
        *parameters, backend = args
        return _backward(backend, dy, saved, b, *parameters, want_db)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        dy, saved, b, ctx.want_db, *ctx.args = inputs
        ctx.smooth = not activation_funcs[ctx.args[1]].piecewise_linear
        ctx.save_for_backward(dy if ctx.smooth else None, saved, b)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, ddx: Tensor, ddb: Tensor) -> tuple:
        dy, saved, b = ctx.saved_tensors
        dim, act, alpha, gain, clamp, _ = ctx.args
        cotangent = ddx + per_channel(ddb, ddx.ndim, dim) if ctx.want_db else ddx
        to_dy, _ = _bias_act_grad(cotangent, saved, b, False, *ctx.args)
        to_x = to_b = None
        if ctx.smooth:
            v = _pre_activation(saved, b, dim)
            spec = activation_funcs[act]
            assert spec.second is not None
            to_v = cotangent.to(v.dtype) * dy.to(v.dtype) * gain * spec.second(v)
            if clamp is not None:
                to_v = through_clamp(to_v, gain * spec.func(v, alpha), clamp)
            to_x = to_v.to(saved.dtype)
            to_b = None if b is None else to_v.sum([i for i in range(v.ndim) if i != dim]).to(b.dtype)
        return to_dy, to_x, to_b, None, *[None] * len(ctx.args)


_bias_act = _dispatch.function(_BiasAct)
_bias_act_grad = _dispatch.function(_BiasActGrad)

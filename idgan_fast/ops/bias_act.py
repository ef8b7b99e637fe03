"""y = clamp(gain * act(x + b), -clamp, clamp): bias, activation, gain and clamp, in this order."""

from typing import Any

import torch
from torch import Tensor

from idgan_fast.errors import nearest
from idgan_fast.ops import _dispatch
from idgan_fast.ops._dispatch import CustomOp, without_autocast
from idgan_fast.ops._tensors import accumulation, check_floating, laid_out_like, per_channel
from idgan_fast.ops.activations import activation_funcs
from idgan_fast.ops.bias_lrelu import LOW_LEVEL as LINEAR
from idgan_fast.ops.bias_lrelu import apply as bias_lrelu
from idgan_fast.ops.bias_lrelu import clamp_backward, finished, pre_activation, sum_except


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
        dx = clamp_backward(dx, gain * spec.func(v, alpha), clamp)
    db = sum_except(dx, dim) if want_db else dx.new_empty(0)
    return laid_out_like(dx.to(x.dtype), x), db


def _second_reference(
    ddx: Tensor,
    ddb: Tensor | None,
    dy: Tensor,
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    want_db: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of <dx, ddx> + <db, ddb> by dy, x and b. ddb: None for 0; want_db: whether that by b is wanted."""
    v, spec = pre_activation(x, b, dim), activation_funcs[act]
    c = ddx.to(v.dtype)
    c = c * gain if ddb is None else (c + per_channel(ddb, x.ndim, dim)) * gain
    to_dy = c * spec.first(v, alpha)
    to_v = c * dy.to(v.dtype) * (torch.zeros_like(v) if spec.second is None else spec.second(v))
    if clamp is not None:
        y = gain * spec.func(v, alpha)
        to_dy, to_v = clamp_backward(to_dy, y, clamp), clamp_backward(to_v, y, clamp)
    to_b = sum_except(to_v, dim) if want_db else to_v.new_empty(0)
    return laid_out_like(to_dy.to(x.dtype), x), laid_out_like(to_v.to(x.dtype), x), to_b


_PARAMETERS = "int dim, str act, float alpha, float gain, float? clamp"
_forward = CustomOp("bias_act_fwd", f"(Tensor x, Tensor? b, {_PARAMETERS}) -> Tensor", _forward_reference)
_backward = CustomOp(
    "bias_act_bwd",
    f"(Tensor dy, Tensor x, Tensor? b, {_PARAMETERS}, bool want_db) -> (Tensor, Tensor)",
    _backward_reference,
)
_second = CustomOp(
    "bias_act_bwd2",
    f"(Tensor ddx, Tensor? ddb, Tensor dy, Tensor x, Tensor? b, {_PARAMETERS}, bool want_db)"
    " -> (Tensor, Tensor, Tensor)",
    _second_reference,
)
LOW_LEVEL = (_forward, _backward, _second)


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
        dim, act, *_ = ctx.args
        others = [None] * (1 + len(ctx.args))
        if activation_funcs[act].second is None:
            cotangent = ddx + per_channel(ddb, ddx.ndim, dim) if ctx.want_db else ddx
            to_dy, _ = _bias_act_grad(cotangent.to(ddx.dtype), x, b, False, *ctx.args)
            return to_dy, None, None, *others
        want_b = ctx.needs_input_grad[2]
        given = (ddx, ddb if ctx.want_db else None, dy, x, b)
        to_dy, to_x, to_b = _bias_act_grad2(*given, want_b, *ctx.args)
        return to_dy, to_x, to_b if want_b else None, *others


class _BiasActGrad2(torch.autograd.Function):
    """(ddx, ddb, dy, x, b) -> (to_dy, to_x, to_b), of a smooth activation. Derivatives of it are plain torch's."""

    @staticmethod
    @without_autocast
    def forward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        *tensors, want_b = args[:6]
        *parameters, backend = args[6:]
        return _second(backend, *tensors, *parameters, want_b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.want_b, *ctx.parameters, _ = inputs[5:]
        ctx.save_for_backward(*inputs[:5])

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        tensors = ctx.saved_tensors
        given = [i for i, t in enumerate(tensors) if t is not None]
        numbers, results = (*ctx.parameters, ctx.want_b), 3 if ctx.want_b else 2

        def plain(*some: Tensor) -> tuple[Tensor, ...]:
            whole: list[Any] = [None] * 5
            for i, t in zip(given, some, strict=True):
                whole[i] = t
            return _second_reference(*whole, *numbers)[:results]

        found = torch.func.vjp(plain, *[tensors[i] for i in given])[1](cotangents[:results])
        by: list[Tensor | None] = [None] * (7 + len(ctx.parameters))
        for i, t in zip(given, found, strict=True):
            by[i] = t
        return tuple(by)


_bias_act = _dispatch.function(_BiasAct)
_bias_act_grad = _dispatch.function(_BiasActGrad)
_bias_act_grad2 = _dispatch.function(_BiasActGrad2)

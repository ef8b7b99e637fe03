"""y = clamp(gain * act(x + b), -clamp, clamp): bias, activation, gain and clamp, in this order."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.errors import nearest
from idgan_fast.ops import _dispatch, _host, bias_lrelu
from idgan_fast.ops._autograd import as_function, vector_jacobian, without_autocast
from idgan_fast.ops._errors import ArgumentValueError, public
from idgan_fast.ops._registry import Case, CustomOp, Operator
from idgan_fast.ops._tensors import (
    accumulation,
    check_floating,
    laid_out_like,
    per_channel,
    sum_except,
)
from idgan_fast.ops.activations import activation_funcs
from idgan_fast.ops.bias_lrelu import SLOPE_GAIN_CLAMP, add_bias, clamp_backward, gain_and_clamp, sample_bias


@public
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
    b: [x.shape[dim]] or None; float64 beside an x of float64 alone. dim: the dimension of x that b belongs to.
    act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish.
    alpha: slope of lrelu below 0, 0.2 by default. gain: sqrt 2 by default for relu, lrelu, swish, else 1.
    clamp: bound of the result, None for none; the gradient is 0 where it binds.
    impl: auto (or cuda), native, triton, reference (or ref).
    Returns a tensor of x's shape, dtype and memory format. Gradients of every order, by x and by b.
    Raises TypeError, ValueError: one line on the argument. BackendError: impl cannot run here.
    """
    y = _host.bias_act(x, b, dim, act, alpha, gain, clamp, impl)
    if y is not None:
        return y
    dim, alpha, gain, clamp = check_arguments(x, b, dim, act, alpha, gain, clamp)
    if b is not None:
        b = b.to(accumulation(x.dtype))
    slope = negative_slope(act, alpha)
    # The sign of x + b can be read from y, so that x need not be kept.
    linear = slope is not None and slope >= 0 and gain != 0
    operator = bias_lrelu.OPERATOR if linear else OPERATOR
    backend = _dispatch.choose(operator, x.device, impl, fusible=linear or act == "swish")
    if b is None and act == "linear" and gain == 1 and clamp is None:
        return x
    if linear:
        return bias_lrelu.bias_lrelu(x, b, dim, slope, gain, clamp, backend)
    return _bias_act(x, b, dim, act, alpha, gain, clamp, backend)


def check_arguments(
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float | None,
    gain: float | None,
    clamp: float | None,
) -> tuple[int, float, float, float | None]:
    """dim (not negative), alpha, gain and clamp with their defaults filled in; raises on the first wrong argument."""
    check_floating("x", x)
    spec = activation_funcs.get(act)
    if spec is None:
        raise ArgumentValueError(f"no activation named {act!r}; {nearest(str(act), activation_funcs)}")
    if b is not None:
        check_floating("b", b, x)
        if not -x.ndim <= dim < x.ndim:
            raise ArgumentValueError(f"dim must be a dimension of x with shape {tuple(x.shape)}, got {dim}")
        dim %= x.ndim
        if b.shape != x.shape[dim : dim + 1]:
            raise ArgumentValueError(
                f"b must have shape ({x.shape[dim]},), the size of x along dim {dim}, got {tuple(b.shape)}"
            )
    if clamp is not None and clamp < 0:
        raise ArgumentValueError(f"clamp must be None or at least 0, got {clamp}")
    alpha = spec.def_alpha if alpha is None else float(alpha)
    gain = spec.def_gain if gain is None else float(gain)
    return dim, alpha, gain, None if clamp is None else round_to(float(clamp), x.dtype)


@torch.compiler.assume_constant_result
def round_to(clamp: float, dtype: torch.dtype) -> float:
    """The bound as the result's dtype has it, so that a clamped result compares equal to it."""
    return clamp if dtype in (torch.float32, torch.float64) else torch.tensor(clamp, dtype=dtype).item()


def negative_slope(act: str, alpha: float) -> float | None:
    """The slope below 0 of an activation that is piecewise linear; None for the others."""
    return {"linear": 1.0, "relu": 0.0, "lrelu": alpha}.get(act)


def _forward_reference(
    x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    return gain_and_clamp(activation_funcs[act].func(add_bias(x, b, dim), alpha), gain, clamp, x)


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
    v, spec = add_bias(x, b, dim), activation_funcs[act]
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
    v, spec = add_bias(x, b, dim), activation_funcs[act]
    c = ddx.to(v.dtype)
    c = c * gain if ddb is None else (c + per_channel(ddb, x.ndim, dim)) * gain
    to_dy = c * spec.first(v, alpha)
    to_v = c * dy.to(v.dtype) * (torch.zeros_like(v) if spec.second is None else spec.second(v))
    if clamp is not None:
        y = gain * spec.func(v, alpha)
        to_dy, to_v = clamp_backward(to_dy, y, clamp), clamp_backward(to_v, y, clamp)
    to_b = sum_except(to_v, dim) if want_db else to_v.new_empty(0)
    return laid_out_like(to_dy.to(x.dtype), x), laid_out_like(to_v.to(x.dtype), x), to_b


def _forward_samples(x: Tensor) -> Iterator[tuple]:
    for act in activation_funcs:
        yield x, sample_bias(x), 1, act, *SLOPE_GAIN_CLAMP


def _backward_samples(x: Tensor) -> Iterator[tuple]:
    for act in activation_funcs:
        yield torch.randn_like(x), x, sample_bias(x), 1, act, *SLOPE_GAIN_CLAMP[:2], None, True


def _second_samples(x: Tensor) -> Iterator[tuple]:
    for dy, _, b, dim, act, *others in _backward_samples(x):
        if activation_funcs[act].second is not None:
            yield torch.randn_like(x), sample_bias(x), dy, x, b, dim, act, *others


_PARAMETERS = "int dim, str act, float alpha, float gain, float? clamp"
_forward = CustomOp(
    "bias_act_fwd", f"(Tensor x, Tensor? b, {_PARAMETERS}) -> Tensor", _forward_reference, _forward_samples
)
_backward = CustomOp(
    "bias_act_bwd",
    f"(Tensor dy, Tensor x, Tensor? b, {_PARAMETERS}, bool want_db) -> (Tensor, Tensor)",
    _backward_reference,
    _backward_samples,
)
_second = CustomOp(
    "bias_act_bwd2",
    f"(Tensor ddx, Tensor? ddb, Tensor dy, Tensor x, Tensor? b, {_PARAMETERS}, bool want_db)"
    " -> (Tensor, Tensor, Tensor)",
    _second_reference,
    _second_samples,
)


class _BiasAct(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(x: Tensor, b: Tensor | None, *args: Any) -> Tensor:
        *parameters, backend = args
        return _forward(backend, x, b, *parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, b, *ctx.parameters, ctx.backend = inputs
        ctx.save_for_backward(x, b)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        want_db = ctx.needs_input_grad[1]
        dx, db = _bias_act_grad(dy, *ctx.saved_tensors, want_db, ctx.parameters, ctx.backend)
        return dx, db if want_db else None, None, None, None, None, None, None


class _BiasActGrad(torch.autograd.Function):
    """(dy, x, b) -> (dx, db): linear in dy; depends on x and b through the slope. parameters: dim to clamp."""

    @staticmethod
    @without_autocast
    def forward(
        dy: Tensor, x: Tensor, b: Tensor | None, want_db: bool, parameters: tuple, backend: str
    ) -> tuple[Tensor, Tensor]:
        return _backward(backend, dy, x, b, *parameters, want_db)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        dy, x, b, ctx.want_db, ctx.parameters, ctx.backend = inputs
        ctx.save_for_backward(dy, x, b)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, ddx: Tensor, ddb: Tensor) -> tuple:
        dy, x, b = ctx.saved_tensors
        dim, act, *_ = ctx.parameters
        if activation_funcs[act].second is None:
            cotangent = ddx + per_channel(ddb, ddx.ndim, dim) if ctx.want_db else ddx
            to_dy, _ = _bias_act_grad(cotangent.to(ddx.dtype), x, b, False, ctx.parameters, ctx.backend)
            return to_dy, None, None, None, None, None
        want_b = ctx.needs_input_grad[2]
        cotangents = (ddx, ddb if ctx.want_db else None)
        to_dy, to_x, to_b = _bias_act_grad2(*cotangents, dy, x, b, want_b, ctx.parameters, ctx.backend)
        return to_dy, to_x, to_b if want_b else None, None, None, None


class _BiasActGrad2(torch.autograd.Function):
    """(ddx, ddb, dy, x, b) -> (to_dy, to_x, to_b), of a smooth activation. Derivatives of it are plain torch's."""

    @staticmethod
    @without_autocast
    def forward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        *tensors, want_b, parameters, backend = args
        return _second(backend, *tensors, *parameters, want_b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        *tensors, ctx.want_b, ctx.parameters, _ = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        def second(*tensors: Any) -> tuple[Tensor, Tensor, Tensor]:
            return _second_reference(*tensors, *ctx.parameters, ctx.want_b)  # type: ignore[call-arg]

        counted = (*cotangents[:2], cotangents[2] if ctx.want_b else None)
        _, by = vector_jacobian(second, ctx.saved_tensors, ctx.needs_input_grad[:5], counted)
        return *by, None, None, None


_bias_act = as_function(_BiasAct)
_bias_act_grad = as_function(_BiasActGrad)
_bias_act_grad2 = as_function(_BiasActGrad2)


def plain_bias_act(x: Tensor, b: Tensor, act: str = "lrelu", clamp: float | None = None) -> Tensor:
    """As StyleGAN code without kernels writes it, in the tensors' own dtype."""
    y = x + b.reshape(1, -1, 1, 1)
    y = F.leaky_relu(y, 0.2) * math.sqrt(2) if act == "lrelu" else F.silu(y) * math.sqrt(2) if act == "swish" else y
    return y if clamp is None else y.clamp(-clamp, clamp)


def _cases(device: str, channels: int, size: int) -> Iterator[Case]:
    for name, act, clamp in (("lrelu", "lrelu", None), ("lrelu clamp", "lrelu", 1.5), ("swish", "swish", None)):
        yield Case(
            f"bias_act {name}",
            ((2, channels, size, size), (channels,)),
            partial(bias_act, act=act, clamp=clamp),
            (partial(plain_bias_act, act=act, clamp=clamp),),
        )


OPERATOR = Operator("bias_act", (_forward, _backward, _second), _cases)

"""The compiled activations and their derivatives: errors against 80-bit numbers over a dense range, and extremes.

tests/ops/test_native.py runs the tests of kernels on every instruction set.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from idgan_fast.ops.activations import SELU_ALPHA, SELU_SCALE, activation_funcs
from idgan_fast.ops.bias_act import OPERATOR as BIAS_ACT
from tests.ops import checks
from tests.ops.checks import NATIVE

# In units in the last place: 0.5 is the rounding of an exact value. Of values and first derivatives; of second ones.
ULPS = {torch.float32: 3.5, torch.float64: 3.5, torch.bfloat16: 0.51, torch.float16: 0.51}
SECOND = {**ULPS, torch.float32: 5, torch.float64: 5}
ALPHA = 0.25
Array = np.ndarray


def sigmoid(v: Array) -> Array:
    e = np.exp(-abs(v))
    return np.where(v >= 0, 1, e) / (1 + e)


def sigmoid_slope(v: Array) -> Array:
    return sigmoid(v) * sigmoid(-v)


def below(v: Array) -> Array:
    return np.minimum(v, 0)


def zero(v: Array) -> Array:
    return np.zeros_like(v)


# act -> value and derivatives of first and second order; sigmoid(-v) - sigmoid(v) = -tanh(v / 2)
EXACT: dict[str, tuple[Callable[[Array], Array], ...]] = {
    "linear": (lambda v: v, lambda v: np.ones_like(v), zero),
    "relu": (lambda v: np.maximum(v, 0), lambda v: np.where(v > 0, 1, 0), zero),
    "lrelu": (lambda v: np.where(v > 0, v, v * ALPHA), lambda v: np.where(v > 0, 1, ALPHA), zero),
    "tanh": (np.tanh, lambda v: 4 * sigmoid_slope(2 * v), lambda v: -8 * sigmoid_slope(2 * v) * np.tanh(v)),
    "sigmoid": (sigmoid, sigmoid_slope, lambda v: -sigmoid_slope(v) * np.tanh(v / 2)),
    "elu": (
        lambda v: np.where(v > 0, v, np.expm1(below(v))),
        lambda v: np.exp(below(v)),
        lambda v: np.where(v > 0, 0, np.exp(below(v))),
    ),
    "selu": (
        lambda v: SELU_SCALE * np.where(v > 0, v, SELU_ALPHA * np.expm1(below(v))),
        lambda v: SELU_SCALE * np.where(v > 0, 1, SELU_ALPHA * np.exp(below(v))),
        lambda v: SELU_SCALE * np.where(v > 0, 0, SELU_ALPHA * np.exp(below(v))),
    ),
    "softplus": (lambda v: np.where(v > 20, v, np.log1p(np.exp(np.minimum(v, 20)))), sigmoid, sigmoid_slope),
    "swish": (
        lambda v: v * sigmoid(v),
        lambda v: sigmoid(v) * (1 + v * sigmoid(-v)),
        lambda v: sigmoid_slope(v) * (2 - v * np.tanh(v / 2)),
    ),
}


def dense(dtype: torch.dtype) -> Tensor:
    """Where results change, where they underflow, and magnitudes down to denormals."""
    wide, low = (760, -323) if dtype == torch.float64 else (120, -46)
    small = torch.logspace(low, 0, 5001, dtype=torch.float64)
    ranges = [torch.linspace(-w, w, 20001, dtype=torch.float64) for w in (wide, 25, 4, 0.7)]
    return torch.cat([*ranges, small, -small]).to(dtype)


def ulps(got: Tensor, exact: Array, size: Array) -> float:
    """The largest error in units in the last place of `size`."""
    info = torch.finfo(got.dtype)
    with np.errstate(divide="ignore"):
        exponent = np.maximum(np.floor(np.log2(size)), np.log2(info.smallest_normal))
    return float((abs(got.double().numpy().astype(np.longdouble) - exact) / (info.eps * 2**exponent)).max())


@checks.compiled
@pytest.mark.parametrize("dtype", ULPS, ids=str)
def test_kernels_are_accurate(dtype: torch.dtype) -> None:
    x, wide = dense(dtype), torch.promote_types(dtype, torch.float32)
    v, one = x.double().numpy().astype(np.longdouble), torch.ones_like(x)
    for act in activation_funcs:
        value, slope, curve = (f(v).astype(np.longdouble) for f in EXACT[act])
        numbers = (0, act, ALPHA, 1.0, None)
        second = NATIVE.bias_act_bwd2(one, None, one, x, None, *numbers, False)
        errors = []
        for got, exact, bound in (
            (NATIVE.bias_act_fwd(x, None, *numbers), value, ULPS),
            (NATIVE.bias_act_bwd(one, x, None, *numbers, False)[0], slope, ULPS),
            (second[0], slope, ULPS),
            (second[1], curve, SECOND),
        ):
            size = abs(exact)
            if act == "swish":  # v times a denormal e^v; in the derivatives a sum of two terms that cancel
                size = sigmoid(v) * (1 + abs(v) * sigmoid(-v)) if exact is slope else size
                size = sigmoid_slope(v) * (2 + abs(v)) if exact is curve else size
                size = np.maximum(size, abs(v) * torch.finfo(wide).smallest_normal)
            errors.append(ulps(got, exact, size))
            assert errors[-1] <= bound[dtype], (act, errors)


INF = float("inf")
EXTREMES = [0.0, 1e-45, 5e-324, 6e-8, 1e-38, 0.1, 19.9, 20.1, 88.5, 104.5, 709.5, 746, 1e30, 3e38, 1e300, INF]


@checks.compiled
@pytest.mark.parametrize("dtype", ULPS, ids=str)
def test_kernels_at_extremes(dtype: torch.dtype) -> None:
    """NaN and infinities where the plain twin has them, in whole vectors and in what is left of a row."""
    x = torch.tensor([s * e for e in EXTREMES for s in (1, -1)] + [float("nan")], dtype=torch.float64).to(dtype)
    x = torch.cat([x, x.flip(0), x])
    wide = torch.promote_types(dtype, torch.float32)
    tolerance = 1e-6 if dtype == wide else 8e-3
    for act in activation_funcs:
        for gain, clamp in ((1.0, None), (-0.5, None), (0.0, None), (-1.5, 2.0), (1.0, 0.0)):
            numbers = (0, act, ALPHA, gain, clamp)
            # Torch's own derivative of a clamp at NaN, which swish makes of -inf, is 0 in some places, 1 in others.
            some = x if clamp is None else x[~BIAS_ACT.custom_ops[0].reference(x, None, *numbers).isnan()]
            for shape in ((1, -1), (3, -1), (-1, 1)):
                args = some.reshape(shape), torch.zeros(len(some.reshape(shape)), dtype=wide)
                one = torch.ones_like(args[0])
                twice = (one, torch.zeros_like(args[1]), one, *args, *numbers, True)
                got = NATIVE.bias_act_fwd(*args, *numbers), *NATIVE.bias_act_bwd(one, *args, *numbers, True)
                got = *got, *NATIVE.bias_act_bwd2(*twice)
                wanted = (
                    BIAS_ACT.custom_ops[0].reference(*args, *numbers),
                    *BIAS_ACT.custom_ops[1].reference(one, *args, *numbers, True),
                )
                wanted = *wanted, *BIAS_ACT.custom_ops[2].reference(*twice)
                for a, b, name in zip(got, wanted, ("y", "dx", "db", "to_dy", "to_x", "to_b"), strict=True):
                    assert torch.allclose(a, b, tolerance, 1e-6, equal_nan=True), (name, numbers, shape, a, b)


@checks.compiled
def test_zeros_keep_their_sign() -> None:
    x = torch.tensor([-0.0, 0.0])
    for act in ("tanh", "elu", "selu", "swish"):
        y = NATIVE.bias_act_fwd(x, None, 0, act, 0.0, 1.0, None)
        assert y.signbit().tolist() == [True, False], act

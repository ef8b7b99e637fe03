"""Activations of a tile v in float32 or float64, and their first and second derivatives.

exp and log are the hardware's; expm1 and log1p are made of them by Kahan's quotients, which lose no digits near 0.
"""

import triton
import triton.language as tl

from idgan_fast.kernels._common import clamped, scalar

SELU_SCALE = tl.constexpr(1.0507009873554805)
SELU_BELOW = tl.constexpr(1.0507009873554805 * 1.6732632423543772)


@triton.jit
def lrelu(v, slope):
    """slope: a scalar of v's type, below 0. Of slope 0 it gives 0 for -inf, where a product would give NaN."""
    return tl.where(v > 0, v, tl.where(slope == 0, tl.where(v == v, 0.0, v), v * slope))


@triton.jit
def expm1(v):
    """For v at most 0."""
    u = tl.exp(v)
    safe = (u != 1) & (u != 0)
    quotient = (u - 1) * v / tl.log(tl.where(safe, u, 0.5))
    return tl.where(u == 0, -1.0, tl.where(u == 1, v, quotient))


@triton.jit
def log1p(e):
    """For e from 0 to 1."""
    w = e + 1
    return tl.where(w == 1, e, tl.log(w) * e / tl.where(w == 1, 1.0, w - 1))


@triton.jit
def sigmoid(v):
    e = tl.exp(-tl.abs(v))
    return tl.where(v >= 0, 1.0, e) / (1 + e)


@triton.jit
def tanh(v):
    e = expm1(-2 * tl.abs(v))
    return tl.where(v >= 0, -e, e) / (2 + e)


@triton.jit
def activation(v, alpha, ACT: tl.constexpr):
    below = tl.where(v > 0, 0.0, v)
    if ACT == "linear":
        y = v
    elif ACT == "relu":
        y = lrelu(v, scalar(0.0, v))
    elif ACT == "lrelu":
        y = lrelu(v, scalar(alpha, v))
    elif ACT == "tanh":
        y = tanh(v)
    elif ACT == "sigmoid":
        y = sigmoid(v)
    elif ACT == "elu":
        y = tl.where(v > 0, v, expm1(below))
    elif ACT == "selu":
        y = tl.where(v > 0, v * scalar(SELU_SCALE, v), expm1(below) * scalar(SELU_BELOW, v))
    elif ACT == "softplus":
        y = tl.where(v > 0, v, 0.0) + log1p(tl.exp(-tl.abs(v)))
    else:
        tl.static_assert(ACT == "swish")
        y = v * sigmoid(v)
    return y


@triton.jit
def first_derivative(v, alpha, ACT: tl.constexpr):
    one = scalar(1.0, v)
    below = tl.where(v > 0, 0.0, v)
    if ACT == "linear":
        d = tl.full(v.shape, 1.0, v.dtype)
    elif ACT == "relu":
        d = tl.where(v > 0, one, scalar(0.0, v))
    elif ACT == "lrelu":
        d = tl.where(v > 0, one, scalar(alpha, v))
    elif ACT == "tanh":
        t = tanh(v)
        d = 1 - t * t
    elif ACT == "sigmoid":
        d = sigmoid(v) * sigmoid(-v)
    elif ACT == "elu":
        d = tl.exp(below)
    elif ACT == "selu":
        d = tl.where(v > 0, scalar(SELU_SCALE, v), tl.exp(below) * scalar(SELU_BELOW, v))
    elif ACT == "softplus":
        d = sigmoid(v)
    else:
        tl.static_assert(ACT == "swish")
        d = sigmoid(v) * (1 + v * sigmoid(-v))
    return d


@triton.jit
def second_derivative(v, ACT: tl.constexpr):
    below = tl.where(v > 0, 0.0, v)
    if ACT == "linear" or ACT == "relu" or ACT == "lrelu":
        d = tl.zeros(v.shape, v.dtype)
    elif ACT == "tanh":
        t = tanh(v)
        d = -2 * t * (1 - t * t)
    elif ACT == "sigmoid":
        d = sigmoid(v) * sigmoid(-v) * (1 - 2 * sigmoid(v))
    elif ACT == "elu":
        d = tl.where(v > 0, 0.0, tl.exp(below))
    elif ACT == "selu":
        d = tl.where(v > 0, 0.0, tl.exp(below) * scalar(SELU_BELOW, v))
    elif ACT == "softplus":
        d = sigmoid(v) * sigmoid(-v)
    else:
        tl.static_assert(ACT == "swish")
        d = sigmoid(v) * sigmoid(-v) * (2 + v * (1 - 2 * sigmoid(v)))
    return d


@triton.jit
def act_gain_clamp(v, alpha, gain, clamp, ACT: tl.constexpr, HAS_CLAMP: tl.constexpr):
    """clamp(gain * act(v), -clamp, clamp)."""
    y = activation(v, alpha, ACT) * scalar(gain, v)
    if HAS_CLAMP:
        y = clamped(y, clamp)
    return y


@triton.jit
def clamp_backward(g, y, clamp, HAS_CLAMP: tl.constexpr):
    """g, and 0 where y reaches the clamp."""
    if HAS_CLAMP:
        bound = scalar(clamp, g)
        g = tl.where((y <= -bound) | (y >= bound), 0.0, g)
    return g


@triton.jit
def lrelu_backward(g, y, slope, gain, clamp, HAS_CLAMP: tl.constexpr):
    """g times the derivative of y = clamp(gain * lrelu(v)), whose sign y shows: slope at least 0."""
    k = scalar(gain, g)
    g *= k
    g = tl.where(tl.where(k > 0, y, -y) > 0, g, g * scalar(slope, g))
    return clamp_backward(g, y, clamp, HAS_CLAMP)

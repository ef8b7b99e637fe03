"""The operators as StyleGAN code without kernels writes them: plain torch in the tensors' own dtype, one op a step.

What our operators are measured against, in accuracy (numerics.py) and in time (benchmarks/). In float64 these are the
exact values. Arguments as in the public functions, reduced to what the comparisons use.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

ROOT2 = math.sqrt(2)


def bias_act(x: Tensor, b: Tensor, act: str = "lrelu", clamp: float | None = None) -> Tensor:
    y = x + b.reshape(1, -1, 1, 1)
    y = F.leaky_relu(y, 0.2) * ROOT2 if act == "lrelu" else F.silu(y) * ROOT2 if act == "swish" else y
    return y if clamp is None else y.clamp(-clamp, clamp)


def upfirdn2d(
    x: Tensor, f: Tensor, up: int = 1, down: int = 1, padding: tuple = (0, 0, 0, 0), gain: float = 1
) -> Tensor:
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, h * up, w * up)
    x = F.pad(x, list(padding))
    taps = (f * gain).flip((0, 1)).to(x.dtype)[None, None].expand(c, 1, -1, -1)
    return F.conv2d(x, taps, groups=c)[:, :, ::down, ::down]


def upsample2d(x: Tensor, f: Tensor) -> Tensor:
    k = f.shape[0]
    p0, p1 = (k + 1) // 2, (k - 2) // 2
    return upfirdn2d(x, f, up=2, padding=(p0, p1, p0, p1), gain=4)


def downsample2d(x: Tensor, f: Tensor) -> Tensor:
    k = f.shape[0]
    p0, p1 = (k - 1) // 2, (k - 2) // 2
    return upfirdn2d(x, f, down=2, padding=(p0, p1, p0, p1))


def modulated_conv2d(x: Tensor, weight: Tensor, styles: Tensor, f: Tensor | None = None, up: int = 1) -> Tensor:
    """Demodulated, k odd and padded; every sample's weights are made, as a grouped convolution takes them."""
    n, i, h, w = x.shape
    o, _, k, _ = weight.shape
    w_n = weight[None] * styles.reshape(n, 1, i, 1, 1)
    w_n = w_n * (w_n.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, n * i, h, w)
    if up == 1:
        y = F.conv2d(x, w_n.reshape(n * o, i, k, k), padding=k // 2, groups=n)
        return y.reshape(n, o, *y.shape[2:])
    assert f is not None
    w_t = w_n.transpose(1, 2).flip((3, 4)).reshape(n * i, o, k, k)
    y = F.conv_transpose2d(x, w_t, stride=up, groups=n)
    y = y.reshape(n, o, *y.shape[2:])
    return upfirdn2d(y, f, padding=_after_transposed(k, f, up), gain=up * up)


def shared_modulated_conv2d(x: Tensor, weight: Tensor, styles: Tensor, f: Tensor | None = None, up: int = 1) -> Tensor:
    """The same with one weight for all samples: the style scales x, the demodulation the result."""
    n, i = x.shape[:2]
    k = weight.shape[2]
    w_n = weight[None] * styles.reshape(n, 1, i, 1, 1)
    d = (w_n.square().sum((2, 3, 4)) + 1e-8).rsqrt()
    x = x * styles[:, :, None, None]
    if up == 1:
        y = F.conv2d(x, weight, padding=k // 2)
    else:
        assert f is not None
        y = F.conv_transpose2d(x, weight.transpose(0, 1).flip((2, 3)), stride=up)
        y = upfirdn2d(y, f, padding=_after_transposed(k, f, up), gain=up * up)
    return y * d[:, :, None, None]


def _after_transposed(k: int, f: Tensor, up: int) -> tuple[int, int, int, int]:
    p0 = (f.shape[0] + up - 1) // 2 + k // 2 - (k - 1)
    p1 = (f.shape[0] - up) // 2 + k // 2 - (k - up)
    return p0, p1, p0, p1


def styled_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor,
    strength: Tensor,
    b: Tensor,
    f: Tensor,
    up: int,
    clamp: float,
    modulated: Callable[..., Tensor] = modulated_conv2d,
) -> Tensor:
    return bias_act(modulated(x, weight, styles, f, up) + noise * strength, b, clamp=clamp)


def filtered_lrelu(x: Tensor, f: Tensor, b: Tensor, clamp: float) -> Tensor:
    """Up and down by 2, padding 3."""
    y = upfirdn2d(x + b.reshape(1, -1, 1, 1), f, up=2, padding=(3, 3, 3, 3), gain=4)
    y = (F.leaky_relu(y, 0.2) * ROOT2).clamp(-clamp, clamp)
    return upfirdn2d(y, f, down=2)


def conv2d(x: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(x, w, padding=w.shape[2] // 2)


def conv2d_resample(x: Tensor, w: Tensor, f: Tensor) -> Tensor:
    """Down by 2, k = 3, padding 1."""
    p0, p1 = (f.shape[0] - 1) // 2 + 1, (f.shape[0] - 2) // 2 + 1
    return F.conv2d(upfirdn2d(x, f, padding=(p0, p1, p0, p1)), w, stride=2)


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return a * b + c


def setup_filter(device: torch.device | str = "cpu") -> Tensor:
    """[1, 3, 3, 1], normalised, 2-D."""
    f = torch.tensor([1.0, 3.0, 3.0, 1.0], device=device)
    f = torch.outer(f, f)
    return f / f.sum()

"""3x3 convolutions with 4/9 of the products: Winograd's F(2x2, 3x3), for images in channels_last on a CPU.

Errors are relative to the largest numbers around a pixel, also those whose weight is 0: on images they are smaller than
those of torch's own convolution, since 9 times fewer numbers follow one another in a sum (docs/numerics.md); beside one
very bright pixel, or where a whole kernel cancels, they are larger, and impl="reference" is for such weights. Numbers
above a quarter of the dtype's largest may overflow. An infinity reaches the pixels that it reaches in a convolution, as
NaN. Larger tiles would multiply less, and amplify errors.
Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (arXiv 1509.09308), section 4.1.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from idgan_fast.ops import _dispatch
from idgan_fast.ops._autograd import as_function, without_autocast
from idgan_fast.ops._registry import Case, CustomOp, Operator
from idgan_fast.ops._tensors import autocasting, in_channels_last, memory_format

DTYPES = (torch.float32, torch.float64)
# From which on it is faster than torch's convolution, with its gradients too (measured: docs/performance.md); products
# are tiles times channels in and out.
CHANNELS, TILES, PRODUCTS = 32, 128, 2**21


def is_faster(x: Tensor, weight: Tensor, impl: str) -> bool:
    """Whether `winograd_conv2d` is for this convolution of stride 1 and padding 1, and faster than torch's."""
    if x.device.type != "cpu" or x.dtype not in DTYPES or x.dtype != weight.dtype or autocasting("cpu"):
        return False
    if weight.shape[2:] != (3, 3) or min(weight.shape[:2]) < CHANNELS or memory_format(x) != torch.channels_last:
        return False
    n, c, height, width = x.shape
    tiles = n * ((height + 1) // 2) * ((width + 1) // 2)
    if tiles < TILES or min(height, width) < 8 or tiles * c * weight.shape[0] < PRODUCTS:
        return False
    if not torch.compiler.is_compiling() and torch._C._is_tracing():  # by torch.jit, which knows no such operator
        return False
    return _dispatch.choose(OPERATOR, x.device, impl) == "native"


def winograd_conv2d(x: Tensor, weight: Tensor, impl: str = "auto") -> Tensor:
    """[N, I, H, W] by [O, I, 3, 3], both float32 or float64 on a CPU -> [N, O, H, W] in channels_last."""
    return _convolved(x, weight, _dispatch.choose(OPERATOR, x.device, impl))


def _reference(x: Tensor, weight: Tensor) -> Tensor:
    return in_channels_last(F.conv2d(x, weight, padding=1))


def _samples(x: Tensor) -> Iterator[tuple]:
    yield x, torch.randn(2 * x.shape[1], x.shape[1], 3, 3).to(x.dtype)


_winograd = CustomOp("winograd_conv2d", "(Tensor x, Tensor weight) -> Tensor", _reference, _samples)


@register_flop_formula(torch.ops.idgan_fast.winograd_conv2d)
def _flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Of a convolution, so that counts compare; it takes 4/9 of them."""
    return conv_flop_count(x, weight, out_shape)


class _Winograd(torch.autograd.Function):
    """(x, [weight], zeros of y's shape, backend) -> y. The gradient by x is such a convolution too.

    That by the weight goes through the zeros to `_OfWeight`, a node of its own: so autograd leaves it out where nothing
    asks for it, as in R1 and path length, which a Function with both gradients cannot know. What is in a list is no
    input, and gets no gradient from here.
    """

    @staticmethod
    @without_autocast
    def forward(x: Tensor, weights: list[Tensor], zeros: Tensor, backend: str) -> Tensor:
        return _winograd(backend, x, weights[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, (weight,), _, ctx.backend = inputs
        ctx.save_for_backward(weight)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, dy: Tensor) -> tuple:
        (weight,) = ctx.saved_tensors
        of_x, _, of_weight, _ = ctx.needs_input_grad
        dx = _convolved(dy, weight.transpose(0, 1).flip((2, 3)), ctx.backend) if of_x else None
        return dx, None, dy if of_weight else None, None


class _OfWeight(torch.autograd.Function):
    """(weight, [x]) -> zeros of y's shape, whose gradient is that of y."""

    @staticmethod
    def forward(weight: Tensor, images: list[Tensor]) -> Tensor:
        (x,) = images
        n, _, height, width = x.shape
        return x.new_zeros(1).expand(n, weight.shape[0], height, width)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        weight, (x,) = inputs
        ctx.size = weight.shape
        ctx.save_for_backward(x)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, dy: Tensor) -> tuple:
        (x,) = ctx.saved_tensors
        return conv2d_weight(x, ctx.size, dy, padding=1), None


_apply = as_function(_Winograd)
_of_weight = as_function(_OfWeight)


def _convolved(x: Tensor, weight: Tensor, backend: str) -> Tensor:
    if not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return _winograd(backend, x, weight)
    return _apply(x, [weight], _of_weight(weight, [x]), backend)


def plain_conv2d(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=weight.shape[2] // 2)


def _cases(device: str, channels: int, size: int) -> Iterator[Case]:
    shapes = ((2, channels, size, size), (channels, channels, 3, 3))

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return winograd_conv2d(x, weight) if x.dtype in DTYPES else plain_conv2d(x, weight)

    yield Case("winograd_conv2d", shapes, ours, (plain_conv2d,))


OPERATOR = Operator("winograd_conv2d", (_winograd,), _cases)

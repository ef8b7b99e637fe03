"""The sum of squares of every kernel of a weight, which demodulation needs: square_sum[o, i] = sum_k weight[o, i, k]^2.

Its gradient, 2 weight times that of the sum, is one product, which torch does at the speed of memory; the sum itself is
not, being over few neighbors each.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from idgan_fast.ops import _dispatch
from idgan_fast.ops._autograd import as_function, without_autocast
from idgan_fast.ops._registry import CustomOp, Operator
from idgan_fast.ops._tensors import accumulation, memory_format


def weight_square_sum(weight: Tensor, impl: str) -> Tensor:
    """[O, I, kh, kw] -> [O, I], in float32 (float64 for float64)."""
    backend = _dispatch.choose(OPERATOR, weight.device, impl, fusible=True)
    return _reference(weight) if backend == "reference" else _apply(weight, backend)


def _reference(weight: Tensor) -> Tensor:
    return weight.to(accumulation(weight.dtype)).square().sum((2, 3)).contiguous()


def _samples(x: Tensor) -> Iterator[tuple]:
    yield (x[:, :, :3, :3].contiguous(memory_format=memory_format(x)),)


_square_sum = CustomOp("weight_square_sum", "(Tensor weight) -> Tensor", _reference, _samples)
OPERATOR = Operator("weight_square_sum", (_square_sum,))


class _WeightSquareSum(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(weight: Tensor, backend: str) -> Tensor:
        return _square_sum(backend, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    @without_autocast
    def backward(ctx: Any, g: Tensor) -> tuple:
        (weight,) = ctx.saved_tensors
        return (2 * weight.to(g.dtype) * g[:, :, None, None]).to(weight.dtype), None


_apply = as_function(_WeightSquareSum)

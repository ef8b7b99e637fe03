"""Convolutions whose weight gradients can be switched off, as StyleGAN code asks for in R1 and path length.

torch's own convolution has every order of gradient, and `torch.autograd.grad(.., inputs=[x])` computes none for the
weight. What is left to do here is to drop it where `backward()` runs under `no_weight_gradients`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.ops import _host

enabled = True  # accepted for code that sets it: both values give the same results
weight_gradients_disabled = False


@contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """Within the block, a backward pass gives no gradients to the weights of `conv2d` and `conv_transpose2d`.

    The flag is the process's, since backward passes run in threads of their own. It does not reach into compiled
    graphs, which compute only the gradients that are used.
    """
    before = weight_gradients_disabled
    _set(before or disable)
    try:
        yield
    finally:
        _set(before)


def _set(disabled: bool) -> None:
    global weight_gradients_disabled
    weight_gradients_disabled = disabled
    _host.drop_weight_gradients(disabled)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """torch.nn.functional.conv2d, heeding `no_weight_gradients`."""
    return F.conv2d(input, gated(weight), bias, stride, padding, dilation, groups)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """torch.nn.functional.conv_transpose2d, heeding `no_weight_gradients`."""
    return F.conv_transpose2d(input, gated(weight), bias, stride, padding, output_padding, groups, dilation)


def gated(weight: Tensor) -> Tensor:
    """The weight, whose gradients of every order are dropped while the flag is set."""
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and weight.requires_grad):
        return weight
    return _Gate.apply(weight)


class _Gate(torch.autograd.Function):
    """The identity, whose gradient is dropped while the flag is set."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.view_as(tangent)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor | None:
        return None if weight_gradients_disabled else grad

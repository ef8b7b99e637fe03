"""What the operators' autograd Functions share."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from idgan_fast.ops._tensors import no_autocast
from idgan_fast.ops._transforms import transforming


def as_function(cls: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`cls.apply` as one node for torch.compile, which then differentiates it with torch's own autograd.

    Without it dynamo rewrites the Function into a higher-order operator, and drops, without an error, the part of a
    second derivative that flows through the Function's output (torch 2.14; tests/ops/test_compile.py has the case).
    Under vmap and in forward mode, for which the Function has no rules, its `forward` runs as the plain torch that a
    `CustomOp` is there, and torch differentiates that.
    """
    apply, forward = cls.apply, cls.forward

    def call(*args: Any) -> Any:
        return forward(*args) if transforming() else apply(*args)

    return torch.compiler.allow_in_graph(call)


def without_autocast(method: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a Function's forward or backward with autocast off: dtypes were settled before `apply`."""

    def call(*args: Any) -> Any:
        device = next((arg.device.type for arg in args if isinstance(arg, torch.Tensor)), "cpu")
        with no_autocast(device):
            return method(*args)

    call.__signature__ = inspect.signature(call)  # type: ignore[attr-defined]  # torch asks for it at every apply
    return call


def vector_jacobian(
    function: Callable[..., Sequence[Tensor | None]],
    tensors: Sequence[Tensor | None],
    by: Sequence[bool],
    cotangents: Sequence[Tensor | None],
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """function(*tensors), and the gradients of <that, cotangents> by those tensors for which `by` is true.

    Results of the function whose cotangent is None are left out. Tensors that are None have no gradient.
    """
    moved = [i for i, tensor in enumerate(tensors) if tensor is not None and by[i]]
    counted = [i for i, cotangent in enumerate(cotangents) if cotangent is not None]
    gradients: list[Tensor | None] = [None] * len(tensors)
    if not counted:
        return [], gradients

    def of_moved(*values: Tensor) -> list[Tensor | None]:
        arguments = list(tensors)
        for i, value in zip(moved, values, strict=True):
            arguments[i] = value
        results = function(*arguments)
        return [results[i] for i in counted]

    if not moved:
        return of_moved(), gradients
    # Within a backward pass under torch.func, tensors may come wrapped in levels that are over: a view is free of them.
    primals = [tensor.view_as(tensor) for i in moved if (tensor := tensors[i]) is not None]
    results, pull, *_ = torch.func.vjp(of_moved, *primals)
    for i, gradient in zip(moved, pull([cotangents[i] for i in counted]), strict=True):
        gradients[i] = gradient
    return results, gradients

"""The host library: a public operator as one call of C++, its gradients of first and second order included.

Each function here takes what the operator of its name takes, `impl` at the end. It returns None where the Python path
is to run the call: where the library is not built, under torch.compile, torch.func, forward mode or another mode, for
subclasses of tensors, backends that are plain torch, and for every wrong argument, which the Python path explains.
"""

from typing import Any

import torch

from idgan_fast.ops import _dispatch
from idgan_fast.ops._libraries import load_host
from idgan_fast.ops._registry import OPERATORS

library, missing = load_host()
"""The module of C++ or None, and why it is missing."""


def _chosen(operator: str, device: str, impl: str, requested: str) -> str:
    return _dispatch.chosen(OPERATORS[operator], device, impl, requested)


if library is not None:
    library.choose_by(_chosen)


def _plain() -> bool:
    return library is not None and not torch.compiler.is_compiling()


def bias_act(*args: Any) -> Any:
    return library.bias_act(*args, _dispatch.requested()) if _plain() else None  # type: ignore[union-attr]


def upfirdn2d(*args: Any) -> Any:
    return library.upfirdn2d(*args, _dispatch.requested()) if _plain() else None  # type: ignore[union-attr]


def modulated_conv2d(*args: Any) -> Any:
    return library.modulated_conv2d(*args, _dispatch.requested()) if _plain() else None  # type: ignore[union-attr]


def styled_conv2d(*args: Any) -> Any:
    return library.styled_conv2d(*args, _dispatch.requested()) if _plain() else None  # type: ignore[union-attr]


def drop_weight_gradients(dropped: bool) -> None:
    """Whether backward passes of convolutions give no gradients to their weights: `conv2d_gradfix`'s flag."""
    if library is not None:
        library.drop_weight_gradients(dropped)

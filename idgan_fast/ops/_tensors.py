"""What the operators share about tensors: the accumulation type, the memory format, checks that end in one line."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.ops._errors import ArgumentTypeError, ArgumentValueError
from idgan_fast.ops._transforms import is_batched, under_vmap


def accumulation(dtype: torch.dtype) -> torch.dtype:
    """The type in which an operator computes: float32 for the half types, otherwise the tensor's own."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last for a 4-D tensor whose channels lie side by side, else contiguous; under vmap, which has no
    channels_last, contiguous."""
    dense = x.ndim == 4 and x.shape[1] > 1 and x.shape[2] * x.shape[3] > 1
    return torch.channels_last if dense and x.stride(1) == 1 and not under_vmap() else torch.contiguous_format


def autocasting(device: str) -> bool:
    """Whether autocast is on for a device type; False for those that have none, such as meta."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def no_autocast(device: str) -> AbstractContextManager:
    """Autocast off within the block."""
    return torch.autocast(device, enabled=False) if autocasting(device) else nullcontext()


def constant(size: int) -> int:
    """A size as a number that a compiled graph depends on, where it was a symbol there."""
    return next(iter({size: None}))


def laid_out_like(y: Tensor, x: Tensor) -> Tensor:
    layout = memory_format(x)
    return y if layout == torch.channels_last and is_batched(y) else y.contiguous(memory_format=layout)


def in_channels_last(y: Tensor) -> Tensor:
    """y in channels_last, with the strides that torch.empty gives, also where sizes of 1 leave a choice."""
    return y if is_batched(y) else torch.empty_like(y, memory_format=torch.channels_last).copy_(y)


def per_channel(b: Tensor, ndim: int, dim: int) -> Tensor:
    """[C] -> [1, .., C, .., 1], to be broadcast along dimension `dim` of `ndim`."""
    return b.reshape([-1 if i == dim else 1 for i in range(ndim)])


def over_pixels(t: Tensor) -> Tensor:
    """[N, C] -> [N, C, 1, 1], to be broadcast over the pixels of [N, C, H, W]."""
    return t[:, :, None, None]


def padded(x: Tensor, padding: Sequence[int]) -> Tensor:
    """Zeros on the sides (x0, x1, y0, y1) of [N, C, H, W]; a negative number crops, beyond the image too."""
    x0, x1, y0, y1 = padding
    x = F.pad(x, [max(x0, 0), max(x1, 0), max(y0, 0), max(y1, 0)])
    if min(padding) >= 0:
        return x
    return x[:, :, max(-y0, 0) : x.shape[2] - max(-y1, 0), max(-x0, 0) : x.shape[3] - max(-x1, 0)]


def sum_except(t: Tensor, dim: int) -> Tensor:
    """The sum over all dimensions but one."""
    others = [i for i in range(t.ndim) if i != dim]
    return t.sum(others) if others else t.clone()  # torch takes no dimensions for all


def check_floating(name: str, x: Tensor, beside: Tensor | None = None) -> None:
    """beside: the images, on whose device x must be, and in whose dtype, the result's, digits of float64 would be lost.

    Scalar tensors may be float64: torch's own promotion takes no notice of theirs.
    """
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise ArgumentTypeError(f"{name} must be float16, bfloat16, float32 or float64, got {x.dtype}")
    if beside is None:
        return
    if x.dtype == torch.float64 and beside.dtype != torch.float64 and x.ndim > 0:
        raise ArgumentTypeError(
            f"{name} must not be more precise than x, got {x.dtype} and {beside.dtype}: "
            f"cast x to float64, or {name} to less"
        )
    if x.device != beside.device:
        raise ArgumentValueError(
            f"{name} must be on the device of x, {beside.device}, got {x.device}: move one of them"
        )


def check_images(x: Tensor) -> None:
    check_floating("x", x)
    if x.ndim != 4:
        raise ArgumentValueError(f"x must be [N, C, H, W], got shape {tuple(x.shape)}")

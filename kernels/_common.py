"""What the kernels of several operators share: memory formats, types, the device, numbers within a kernel."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.ops._tensors import accumulation, laid_out_like, memory_format


def dense(x: Tensor) -> Tensor:
    """x without holes, in its own memory format."""
    return laid_out_like(x, x)


def contiguous(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple([None if t is None else t.contiguous() for t in tensors])


def is_channels_last(x: Tensor) -> bool:
    return memory_format(x) == torch.channels_last


def new_image(x: Tensor, height: int, width: int, dtype: torch.dtype | None = None) -> Tensor:
    """An empty [N, C, height, width] in x's memory format, by default of its dtype."""
    shape = (*x.shape[:2], height, width)
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device, memory_format=memory_format(x))


def acc_type(dtype: torch.dtype) -> tl.dtype:
    """The type in which a kernel computes on tensors of `dtype`: float32, or float64."""
    return {torch.float32: tl.float32, torch.float64: tl.float64}[accumulation(dtype)]


def on_device_of(x: Tensor) -> AbstractContextManager:
    """Triton launches on the current device and its current stream."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@cache
def architecture(device: torch.device) -> str:
    """The row of the tables for a device; sm_90 where there is none."""
    if device.type != "cuda":
        return "sm_90"
    if torch.version.hip is not None:
        return "gfx942"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) == (8, 0):
        return "sm_80"
    return {9: "sm_90", 10: "sm_100"}.get(major, "sm_120")


@triton.jit
def scalar(value, like):
    """A number that the launcher passed, in the type of `like`."""
    return tl.full((), value, like.dtype)


@triton.jit
def clamped(v, clamp):
    """Keeps NaN, as torch does."""
    bound = scalar(clamp, v)
    return tl.where(v > bound, bound, tl.where(v < -bound, -bound, v))

"""What the kernels of several operators share: memory formats, types, the device, numbers within a kernel."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last for a 4-D tensor whose channels lie side by side, else contiguous."""
    dense = x.ndim == 4 and x.shape[1] > 1 and x.shape[2] * x.shape[3] > 1
    return torch.channels_last if dense and x.stride(1) == 1 else torch.contiguous_format


def dense(x: Tensor, like: Tensor | None = None) -> Tensor:
    """x without holes, in the memory format of `like`, by default in its own."""
    return x.contiguous(memory_format=memory_format(x if like is None else like))


def is_channels_last(x: Tensor) -> bool:
    return memory_format(x) == torch.channels_last


def accumulation(dtype: torch.dtype) -> torch.dtype:
    """The type in which a kernel computes: float32 for the half types, otherwise the tensor's own."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def triton_type(dtype: torch.dtype) -> tl.dtype:
    return {torch.float32: tl.float32, torch.float64: tl.float64}[dtype]


def on_device_of(x: Tensor) -> AbstractContextManager:
    """Triton launches on the current device and its current stream."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@cache
def architecture(device: torch.device) -> str:
    """The row of the table for a device; sm_90 where there is none."""
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

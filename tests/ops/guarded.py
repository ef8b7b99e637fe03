"""`python -m tests.ops.guarded` runs the compiled CPU kernels on tensors that end where a page without access begins.

A kernel that reads behind one of them ends the process. Results are torch's own, so that writes are not watched.
"""

import ctypes
import math
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from idgan_fast.ops.activations import activation_funcs
from tests.ops import fuzz

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


@contextmanager
def guarded(t: Tensor) -> Iterator[Tensor]:
    """A copy of t with its strides, in pages of its own, of which the last may not be touched."""
    if not t.numel():
        yield t
        return
    count = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    size = count * t.element_size()
    whole = math.ceil(size / mmap.PAGESIZE) * mmap.PAGESIZE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    begin = LIBC.mmap(None, whole + mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if LIBC.mprotect(begin + whole, mmap.PAGESIZE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    memory = (ctypes.c_char * size).from_address(begin + whole - size)
    yield torch.frombuffer(memory, dtype=t.dtype).as_strided(t.shape, t.stride()).copy_(t)
    LIBC.munmap(begin, whole + mmap.PAGESIZE)


class Guarded:
    """The operators as torch.ops.idgan_fast has them, of guarded tensors."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *given: self.call(getattr(torch.ops.idgan_fast, name), given)

    def call(self, operator: Callable[..., Any], given: tuple[Any, ...], *ready: Any) -> Any:
        if len(ready) == len(given):
            return operator(*ready)
        one = given[len(ready)]
        if isinstance(one, Tensor):
            with guarded(one) as t:
                return self.call(operator, given, *ready, t)
        return self.call(operator, given, *ready, one)


def main() -> None:
    torch.manual_seed(0)
    for dtype in fuzz.DTYPES:
        fuzz.check_bias_lrelu(Guarded(), dtype, 40)
        for act in activation_funcs:
            fuzz.check_bias_act(Guarded(), act, dtype, 6)
        fuzz.check_weight_square_sum(Guarded(), dtype, 30)
        fuzz.check_upfirdn2d(Guarded(), dtype, 40)
        fuzz.check_styled_epilogue(Guarded(), dtype, 25, phased=False)
        fuzz.check_filtered_lrelu(Guarded(), dtype, 25)
    for dtype in (torch.float32, torch.float64):
        fuzz.check_winograd_conv2d(Guarded(), dtype, 30)
    print("within")


if __name__ == "__main__":
    main()

"""a * b + c with one rounding where the device has it."""

import torch
from torch import Tensor

from idgan_fast.ops._tensors import check_floating


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c, broadcast as torch does; floating tensors of one dtype. Gradients of every order by all three."""
    for name, value in (("a", a), ("b", b), ("c", c)):
        check_floating("fma", name, value)
    if not a.dtype == b.dtype == c.dtype:
        raise TypeError(f"fma: a, b, c must have one dtype, got {a.dtype}, {b.dtype}, {c.dtype}")
    return torch.addcmul(c, a, b)

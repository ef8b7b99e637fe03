"""a * b + c with one rounding where the device has it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from idgan_fast.ops._errors import ArgumentTypeError, public
from idgan_fast.ops._registry import Case, Operator
from idgan_fast.ops._tensors import check_floating


@public
def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c, broadcast as torch does; floating tensors of one dtype. Gradients of every order by all three."""
    for name, value in (("a", a), ("b", b), ("c", c)):
        check_floating(name, value)
    if not a.dtype == b.dtype == c.dtype:
        raise ArgumentTypeError(f"a, b, c must have one dtype, got {a.dtype}, {b.dtype}, {c.dtype}: cast them to one")
    return torch.addcmul(c, a, b)


def plain_fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """As StyleGAN code without kernels writes it."""
    return a * b + c


def _cases(device: str, channels: int, size: int) -> Iterator[Case]:
    image = (2, channels, size, size)
    yield Case("fma", (image, (2, channels, 1, 1), image), fma, (plain_fma,))


OPERATOR = Operator("fma", cases=_cases)

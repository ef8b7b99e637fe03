"""The repaired interpreter itself: bfloat16 conversions and products against torch, addresses against tensors."""

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def convert_kernel(x, y, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(y + i, tl.load(x + i).to(y.dtype.element_ty))


@triton.jit
def dot_kernel(x, w, y, SIZE: tl.constexpr):
    i, j = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    tl.store(y + i * SIZE + j, tl.dot(tl.load(x + i * SIZE + j), tl.load(w + i * SIZE + j)))


def test_conversions_round_to_the_nearest_and_ties_to_even() -> None:
    x = torch.cat((torch.randn(500) * 1e3, torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, torch.inf, -torch.inf, 1e-40, 0.0])))
    x = torch.cat((x, x.new_zeros(512 - x.numel())))
    y = torch.empty(512, dtype=torch.bfloat16)
    convert_kernel[(1,)](x, y, 512)
    assert torch.equal(y, x.bfloat16())
    for dtype in (torch.float32, torch.float64, torch.float16):
        back = torch.empty(512, dtype=dtype)
        convert_kernel[(1,)](y, back, 512)
        assert torch.equal(back, y.to(dtype))


def test_products_of_bfloat16_are_those_of_their_values() -> None:
    def product(x: Tensor, w: Tensor) -> Tensor:
        y = torch.full((16, 16), torch.nan)
        dot_kernel[(1,)](x, w, y, 16)
        return y

    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x, w = (torch.randn(16, 16).to(dtype) for _ in range(2))
        assert (product(x, w).double() - x.double() @ w.double()).abs().max() < 1e-5


@triton.jit
def copy_kernel(x, y, to_load, to_store, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(y + i, tl.load(x + i, mask=i < to_load, other=0.0), mask=i < to_store)


def test_an_access_beside_a_tensor_is_an_error_even_within_its_storage() -> None:
    storage = torch.randn(3, 64)
    x, y = storage[1, :60], storage[2, :60]
    copy_kernel[(1,)](x, y, 60, 60, 64)
    assert torch.equal(x, y)
    with pytest.raises(Exception, match="a load outside of every tensor"):
        copy_kernel[(1,)](x, y, 61, 60, 64)
    with pytest.raises(Exception, match="a store outside of every tensor"):
        copy_kernel[(1,)](x, y, 60, 61, 64)

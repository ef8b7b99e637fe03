"""The Triton kernels against the plain twins, interpreted: random shapes, layouts and options."""

import pytest
import torch

from idgan_fast.ops._dispatch import _triton_operators
from idgan_fast.ops.bias_act import activation_funcs
from tests.ops import fuzz

_triton_operators()
KERNELS = torch.ops.idgan_fast_triton


@pytest.fixture(autouse=True)
def surrounded_by_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images lie between NaN, so that what is read beside them is seen."""
    image = fuzz.image

    def surrounded(*args: object) -> torch.Tensor:
        x = image(*args)
        around = torch.full((x.numel() + 1024,), torch.nan, dtype=x.dtype)
        inside = around[512 : 512 + x.numel()].as_strided(x.shape, x.stride(), 512)
        return inside.copy_(x)

    monkeypatch.setattr(fuzz, "image", surrounded)


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_bias_lrelu(dtype: torch.dtype) -> None:
    fuzz.check_bias_lrelu(KERNELS, dtype, 40)


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
@pytest.mark.parametrize("act", activation_funcs)
def test_bias_act(act: str, dtype: torch.dtype) -> None:
    fuzz.check_bias_act(KERNELS, act, dtype, 6)


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_kernel_energy(dtype: torch.dtype) -> None:
    fuzz.check_kernel_energy(KERNELS, dtype, 20)


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_upfirdn2d(dtype: torch.dtype) -> None:
    fuzz.check_upfirdn2d(KERNELS, dtype, 16)


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_styled_epilogue(dtype: torch.dtype) -> None:
    fuzz.check_styled_epilogue(KERNELS, dtype, 24)

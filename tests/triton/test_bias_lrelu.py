"""The Triton kernels of bias_lrelu against the reference, interpreted."""

import pytest
import torch

from idgan_fast.kernels import bias_act_tiles
from tests.ops import fuzz
from tests.triton.conftest import counts, kernels

pytestmark = pytest.mark.usefixtures("small_images_between_nan")


@pytest.mark.parametrize(("dtype", "count"), counts(40, float32=12, bfloat16=4, float64=2))
def test_random_cases(dtype: torch.dtype, count: int) -> None:
    fuzz.check_bias_lrelu(kernels(), dtype, count)


def test_several_programs_across_a_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias_act_tiles, "TILE", 128)
    fuzz.check_bias_lrelu(kernels(), torch.float32, 6)


def test_a_bias_may_have_holes() -> None:
    x, b = torch.randn(2, 6, 3, 4), torch.randn(6, 2)[:, 0]
    for vector in (b, b[:1].expand(6)):
        wanted = torch.ops.idgan_fast.bias_lrelu_fwd(x, vector.contiguous(), 1, 0.2, 1.4, None)
        torch.testing.assert_close(kernels().bias_lrelu_fwd(x, vector, 1, 0.2, 1.4, None), wanted)

"""The Triton kernel of upfirdn2d against the reference, interpreted."""

import pytest
import torch

from tests.ops import fuzz
from tests.triton.conftest import counts, kernels


@pytest.mark.usefixtures("small_images_between_nan", "strips")
@pytest.mark.parametrize(("dtype", "count"), counts(24, float32=12, float16=3, float64=2))
def test_random_cases(dtype: torch.dtype, count: int) -> None:
    fuzz.check_upfirdn2d(kernels(), dtype, count)

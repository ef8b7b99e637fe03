"""The Triton kernel of weight_square_sum against float64, interpreted."""

import pytest
import torch

from tests.ops import fuzz
from tests.triton.conftest import counts, kernels


@pytest.mark.parametrize(("dtype", "count"), counts(20, float32=8, bfloat16=2))
def test_random_cases(dtype: torch.dtype, count: int) -> None:
    fuzz.check_weight_square_sum(kernels(), dtype, count)

"""weight_square_sum: the sum of squares over the taps of each kernel of a weight [O, I, kh, kw]."""

import torch

from tests.ops import checks, fuzz


@checks.memory_formats_and_dtypes
def test_opcheck(layout: torch.memory_format, dtype: torch.dtype) -> None:
    weight = checks.small_image(layout, dtype)
    for one in (weight, weight.transpose(0, 1)):
        checks.opcheck("weight_square_sum", one)


@checks.compiled
@checks.every_dtype
def test_kernels(dtype: torch.dtype) -> None:
    fuzz.check_weight_square_sum(checks.NATIVE, dtype, 60)

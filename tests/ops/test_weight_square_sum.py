"""weight_square_sum: the sum of squares over the taps of each kernel of a weight [O, I, kh, kw]."""

import numpy as np
import torch

from idgan_fast.ops.weight_square_sum import weight_square_sum
from tests.ops import checks, fuzz
from tests.ops.checks import array, leaf, normal


@checks.every_backend
@checks.layouts
def test_values(layout: str) -> None:
    weight = checks.LAYOUTS[layout](normal(0, 4, 3, 3, 5))
    np.testing.assert_allclose(array(weight_square_sum(weight, "auto")), (array(weight) ** 2).sum((2, 3)), rtol=1e-12)


@checks.every_backend
def test_gradients(whole: bool) -> None:
    checks.gradients(lambda weight: weight_square_sum(weight, "auto"), leaf(2, 3, 3, 3), whole=whole)


@checks.memory_formats_and_dtypes
def test_opcheck(layout: torch.memory_format, dtype: torch.dtype) -> None:
    weight = checks.small_image(layout, dtype)
    for one in (weight, weight.transpose(0, 1)):
        checks.opcheck("weight_square_sum", one)


@checks.compiled
@checks.every_dtype
def test_kernels(dtype: torch.dtype) -> None:
    fuzz.check_weight_square_sum(checks.NATIVE, dtype, 60)

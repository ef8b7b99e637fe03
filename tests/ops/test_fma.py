"""fma: a * b + c, broadcast."""

import numpy as np
import pytest
import torch

from idgan_fast import ops
from tests.ops import checks
from tests.ops.checks import TOLERANCES, array, leaf, normal


@pytest.mark.parametrize("shapes", [[(2, 3), (2, 3), (2, 3)], [(2, 1, 4), (3, 1), ()], [(0, 3), (3,), (1, 3)]], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_values(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    a, b, c = (normal(i, *shape, dtype=dtype) for i, shape in enumerate(shapes))
    checks.matches_formula(ops.fma(a, b, c), np.asarray(array(a) * array(b) + array(c)), a)


@checks.numerics_of("fma")
def test_numerics(name: str, dtype: torch.dtype, layout: str) -> None:
    checks.within_the_contract(name, dtype, layout)


def test_gradients(whole: bool) -> None:
    checks.gradients(ops.fma, leaf(2, 3, 1), leaf(3, 4), leaf(1), whole=whole)


@checks.cases_of("fma")
def test_activation_checkpointing(name: str) -> None:
    checks.checkpointing(name)

"""The numerics contract: no operator is further from float64 than torch's own composition allows."""

import pytest
import torch

from idgan_fast.ops._registry import Case
from idgan_fast.ops.validation import numerics

CASES = {case.name: case for case in numerics.cases()}


@pytest.mark.parametrize("backend", numerics.backends())
@pytest.mark.parametrize("layout", numerics.LAYOUTS)
@pytest.mark.parametrize("dtype", numerics.DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_errors_stay_within_the_contract(name: str, dtype: torch.dtype, layout: str, backend: str) -> None:
    if not numerics.runs(CASES[name], backend):
        pytest.skip(f"{backend} has no kernel for it")
    rows = numerics.measure(CASES[name], dtype, layout, backend)
    assert rows[0].order == "output"
    for row in rows:
        assert row.passed, row


def test_a_wrong_operator_is_seen() -> None:
    right = CASES["bias_act lrelu"]
    for name, scale in (("output", 1.001), ("gradient", 1.0)):
        wrong = Case("wrong", right.shapes, lambda x, b, s=scale: right.ours(x, b) * s + 0.001 * x, right.plain)
        rows = {row.order: row for row in numerics.measure(wrong, torch.float32, "NCHW", "reference")}
        assert max(rows[name].ratios) > numerics.LIMIT

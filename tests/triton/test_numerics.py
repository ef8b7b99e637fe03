"""The numerics contract of the interpreted kernels: outputs, gradients and those of second order."""

import pytest
import torch

from idgan_fast.kernels import _fir
from idgan_fast.ops.validation import numerics

# Layers are smaller, for the interpreter.
CASES = {case.name: case for case in numerics.cases()} | {
    case.name: case for case in numerics.cases(size=8, channels=8) if "conv2d" in case.name or "filtered" in case.name
}
del CASES["winograd_conv2d"]  # the CPU's alone
# What runs no kernel of ours.
OTHERS = {"fma"}


@pytest.mark.parametrize("layout", numerics.LAYOUTS)
@pytest.mark.parametrize("dtype", numerics.DTYPES, ids=str)
@pytest.mark.parametrize("name", sorted(CASES.keys() - OTHERS))
def test_errors_stay_within_the_contract(
    name: str, dtype: torch.dtype, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numerics, "SEEDS", 3)
    monkeypatch.setattr(_fir, "PROGRAMS", 0)  # longer strips, fewer programs to interpret
    rows = numerics.measure(CASES[name], dtype, layout, "triton")
    assert rows[0].order == "output"
    for row in rows:
        assert row.passed, row


def test_every_case_runs() -> None:
    assert all(numerics.runs(case, "triton") for case in CASES.values())

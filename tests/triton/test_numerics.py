"""The numerics contract of the interpreted kernels: outputs, gradients and those of second order."""

from itertools import product

import pytest
import torch

from idgan_fast.kernels import _fir
from idgan_fast.ops.validation import numerics
from tests.triton.conftest import quick

# Layers are smaller, for the interpreter.
CASES = {case.name: case for case in numerics.cases()} | {
    case.name: case for case in numerics.cases(size=8, channels=8) if "conv2d" in case.name or "filtered" in case.name
}
del CASES["winograd_conv2d"]  # the CPU's alone
# What runs no kernel of ours.
OTHERS = {"fma"}


NAMES = sorted(CASES.keys() - OTHERS)
# The chained layer has all that the styled and the modulated one have; of up=2 test_styled_layer.py has the gradients.
SLOW = ("styled_conv2d", "modulated_conv2d", "chained_styled_conv2d up=2")
QUICK = [name for name in NAMES if name != "bias_act lrelu" and not name.startswith(SLOW)]


@pytest.mark.parametrize(
    ("name", "dtype", "layout"),
    quick(
        *[(name, torch.float16, "NHWC") for name in QUICK],
        slow=product(NAMES, numerics.DTYPES, numerics.LAYOUTS),
    ),
)
def test_errors_stay_within_the_contract(
    name: str, dtype: torch.dtype, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numerics, "SEEDS", 3)
    monkeypatch.setattr(_fir, "PROGRAMS", 0)  # longer strips, fewer programs to interpret
    rows = numerics.measure(CASES[name], dtype, layout, ["triton"])
    assert rows[0].order == "output"
    for row in rows:
        assert row.passed, row


def test_every_case_runs() -> None:
    assert all(numerics.runs(case, "triton") for case in CASES.values())

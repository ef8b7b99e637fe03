"""conv2d_resample: upsampling, convolution, downsampling. The formula, which all convolutions share: formulas.py."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from idgan_fast import ops
from tests.ops import checks, errors, formulas, networks
from tests.ops.checks import array, leaf, normal
from tests.ops.strategies import convolutions, often


@often
@given(convolutions(), st.booleans())
def test_values(case: tuple[Tensor, Tensor, Tensor | None, dict[str, Any]], flip_filter: bool) -> None:
    x, w, f, options = case
    out = ops.conv2d_resample(x, w, f, **options, flip_filter=flip_filter)
    expected = formulas.conv2d_resample(array(x), array(w), array(f), **options, flip_filter=flip_filter)
    checks.matches_formula(out, expected, x)


@checks.low_precision
def test_values_in_low_precision(dtype: torch.dtype, layout: str) -> None:
    x, w = checks.arranged(normal(0, 2, 6, 9, 8, dtype=dtype), layout), normal(1, 4, 6, 3, 3, dtype=dtype)
    for f in checks.LOW_PRECISION_FILTERS:
        for up, down in [(1, 1), (2, 1), (1, 2)]:
            options = {"up": up, "down": down, "padding": 1}
            expected = formulas.conv2d_resample(array(x), array(w), array(f), **options)
            checks.matches_formula(ops.conv2d_resample(x, w, f, **options), expected, x)


@checks.numerics_of("conv2d_resample")
def test_numerics(name: str, dtype: torch.dtype, layout: str) -> None:
    checks.within_the_contract(name, dtype, layout)


@checks.every_backend
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_gradients(up: int, down: int, groups: int, whole: bool) -> None:
    def operator(x: Tensor, w: Tensor) -> Tensor:
        return ops.conv2d_resample(x, w, networks.taps(), up, down, 1, groups, flip_weight=False)

    checks.gradients(operator, leaf(1, 4, 4, 4), leaf(2, 4 // groups, 3, 3), whole=whole)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("flips", [(True, False), (False, True)], ids=str)
@pytest.mark.parametrize("kernel", [(2, 2), (2, 3), (4, 5), (3, 3)], ids=str)
def test_phases_equal_the_transposed_convolution(
    kernel: tuple[int, int], flips: tuple[bool, bool], layout: torch.memory_format
) -> None:
    x, w = leaf(2, 4, 3, 5), leaf(6, 2, *kernel)
    f = torch.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 3.0]])
    outcomes = []
    for impl in ("auto", "reference"):
        image = x.contiguous(memory_format=layout)
        y = ops.conv2d_resample(image, w, f, 2, 1, [1, 2, 0, 1], 2, *flips, impl=impl)
        first = torch.autograd.grad(y.square().sum(), (x, w), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, w))
        outcomes.append([y, *first, *second])
    for a, b in zip(*outcomes, strict=True):
        torch.testing.assert_close(a, b)
        assert a.stride() == b.stride()


@checks.every_backend
@checks.cases_of("conv2d_resample")
def test_activation_checkpointing(name: str) -> None:
    checks.checkpointing(name)


@checks.every_backend
def test_autocast_reaches_the_convolution() -> None:
    x, w = torch.randn(1, 3, 4, 4), torch.randn(4, 3, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.conv2d_resample(x, w, networks.taps(), down=2, padding=1).dtype == torch.bfloat16


WRONG_GROUPS = [
    pytest.param({"x": errors.image(2, channels, 6, 5), "w": errors.image(*shape), "groups": groups}, "")
    for channels, shape, groups in [
        *[(4, (4, 4, 3, 3), 2), (4, (3, 2, 3, 3), 2), (3, (4, 1, 3, 3), 2)],
        *[(3, (4, 3, 3, 3), 0), (3, (4, 3, 3, 3), -1)],
    ]
]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        *errors.WRONG_IMAGES,
        *errors.WRONG_PADDINGS,
        errors.NOTHING_LEFT,
        *errors.wrong_factors("up", "down", pairs=False),
        *errors.wrong_filters("f", up=2),
        *errors.wrong_shapes("w", *errors.OTHER_WEIGHTS),
        *errors.too_large("w", (4, 3, 7, 3)),
        *WRONG_GROUPS,
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], word: str) -> None:
    errors.refused(ops.conv2d_resample, {"x": errors.image(), "w": errors.image(4, 3, 3, 3)}, wrong, word)

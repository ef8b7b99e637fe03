"""filtered_lrelu: bias, FIR upsampling, leaky ReLU with gain and clamp, FIR downsampling, in one operator."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from idgan_fast import ops
from tests.ops import checks, errors, formulas, fuzz, networks
from tests.ops.checks import F64, array, leaf, normal
from tests.ops.formulas import Array
from tests.ops.strategies import batches, factors, filters, layouts, often, paddings, seeds, sizes

filtered_lrelu = importlib.import_module("idgan_fast.ops.filtered_lrelu")  # the module, not the function


def formula(
    x: Array,
    fu: Array | None = None,
    fd: Array | None = None,
    b: Array | None = None,
    up: int = 1,
    down: int = 1,
    padding: formulas.Ints = 0,
    gain: float = 2**0.5,
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Array:
    y = x if b is None else x + b[:, None, None]
    y = formulas.upfirdn2d(y, fu, up=up, padding=padding, flip_filter=flip_filter, gain=up**2)
    y = gain * np.where(y > 0, y, slope * y)
    y = y if clamp is None else np.clip(y, -clamp, clamp)
    return formulas.upfirdn2d(y, fd, down=down, flip_filter=flip_filter)


@often
@given(st.data())
def test_values(data: st.DataObject) -> None:
    draw = data.draw
    up, down, fu, fd = draw(factors), draw(factors), draw(filters()), draw(filters())
    padding, channels = draw(paddings()), draw(st.integers(1, 3))
    taps = formulas.add(formulas.square(array(fu)).shape, formulas.square(array(fd)).shape)
    shape = sizes(draw, up, formulas.four(padding), [t - 1 for t in taps])
    x = checks.arranged(normal(draw(seeds), draw(batches), channels, *shape), draw(layouts))
    b = draw(st.sampled_from([None, normal(5, channels)]))
    options = {
        **{"up": up, "down": down, "padding": padding, "flip_filter": draw(st.booleans())},
        "gain": draw(st.sampled_from([2**0.5, 1.0, 3.0])),
        "slope": draw(st.sampled_from([0.2, 0.0, 1.0])),
        "clamp": draw(st.sampled_from([None, 0.5])),
    }
    out = ops.filtered_lrelu(x, fu, fd, b, **options)
    checks.matches_formula(out, formula(array(x), array(fu), array(fd), array(b), **options), x)


@checks.low_precision
def test_values_in_low_precision(dtype: torch.dtype, layout: str) -> None:
    x, b = checks.arranged(normal(0, 2, 6, 9, 8, dtype=dtype), layout), normal(2, 6, dtype=dtype)
    options = {"up": 2, "down": 2, "padding": 9, "clamp": 2.0}
    for f in checks.LOW_PRECISION_FILTERS:
        expected = formula(array(x), array(f), array(f), array(b), **options)
        checks.matches_formula(ops.filtered_lrelu(x, f, f, b, **options), expected, x)


@checks.numerics_of("filtered_lrelu")
def test_numerics(name: str, dtype: torch.dtype, layout: str) -> None:
    checks.within_the_contract(name, dtype, layout)


@checks.every_backend
@pytest.mark.parametrize("fu", [None, *checks.LOPSIDED], ids=["no fu", "3 taps", "2x5 taps"])
@pytest.mark.parametrize("fd", [None, *checks.LOPSIDED], ids=["no fd", "3 taps", "2x5 taps"])
@pytest.mark.parametrize(("gain", "slope", "clamp"), [(2**0.5, 0.2, 0.9), (-0.8, -0.3, 0.4), (1.5, 0.0, None)])
def test_gradients(fu: Tensor, fd: Tensor, gain: float, slope: float, clamp: float | None, whole: bool) -> None:
    def operator(x: Tensor, b: Tensor) -> Tensor:
        return ops.filtered_lrelu(x, fu, fd, b, [2, 1], [1, 3], [3, -1, 2, 4], gain, slope, clamp, flip_filter=True)

    def square(x: Tensor) -> Tensor:
        return ops.filtered_lrelu(x, fu, fd, None, 2, 2, 3, gain, slope, clamp).square()

    checks.gradients(operator, leaf(1, 2, 4, 5), leaf(2), whole=whole)
    checks.gradients(square, leaf(1, 1, 3, 4), whole=whole)


@checks.every_backend
def test_gradients_under_nested_transforms() -> None:
    x, w, f = leaf(1, 1, 3, 3), leaf(1, 1, 3, 3), networks.taps()

    def inner(w: Tensor, x: Tensor) -> Tensor:
        return (ops.filtered_lrelu(x * 2, f, f, None, 2, 2, 3, clamp=0.9) * w).sum()

    def by_w(x: Tensor) -> Tensor:
        return torch.func.grad(inner)(w, x).square().sum()

    y = ops.filtered_lrelu(x * 2, f, f, None, 2, 2, 3, clamp=0.9)
    (expected,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(torch.func.grad(by_w)(x.detach()), expected)
    torch.testing.assert_close(torch.autograd.grad(by_w(x), x)[0], expected)


@checks.every_backend
@checks.unrepresentable_clamps
def test_a_clamp_that_the_dtype_rounds_stops_gradients(dtype: torch.dtype, clamp: float) -> None:
    checks.clamp_stops_gradients(ops.filtered_lrelu, dtype, clamp)


@checks.every_backend
def test_slopes_are_exact_in_float64() -> None:
    x = torch.full((1, 1, 1, 1), -1.0, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(ops.filtered_lrelu(x, gain=1.5, slope=0.4).sum(), x)
    assert gradient.item() == 1.5 * 0.4


@checks.every_backend
@checks.layouts
def test_layouts(layout: str) -> None:
    f = networks.taps()
    checks.layouts_agree(lambda x: ops.filtered_lrelu(x, f, f, up=2, down=2, padding=3), layout)


@checks.every_backend
@checks.cases_of("filtered_lrelu")
def test_activation_checkpointing(name: str) -> None:
    checks.checkpointing(name)


@pytest.mark.usefixtures("compiled_path")
@checks.cases_of("filtered_lrelu")
def test_a_penalty_on_its_gradient_compiles(name: str) -> None:
    checks.compiles_with_a_penalty(name)


def test_more_elements_than_32_bits_count() -> None:
    x, f = checks.meta_image(3, 1024), torch.ones(4, 4, device="meta")
    assert ops.filtered_lrelu(x, f, f, up=2, down=2, padding=3).shape == (3, 1024, 1024, 1024)


@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("width", range(1, 10))
def test_the_sign_mask_comes_back_as_slopes(width: int, clamp: float | None) -> None:
    u = torch.randn(2, 3, 4, width, dtype=F64)
    z = torch.where(u > 0, u, 0.2 * u) * 1.5
    mask = filtered_lrelu.packed(u, z, clamp)
    assert mask.shape == (2, 3, 4, (width + 3) // 4)
    wanted = torch.where(u > 0, 1.5, 0.3).to(u.dtype)
    if clamp is not None:
        wanted[z.abs() >= clamp] = 0
        assert 0 < wanted.count_nonzero() < wanted.numel()
    torch.testing.assert_close(filtered_lrelu.slopes(mask, width, 1.5, 0.2, F64), wanted)


@checks.memory_formats_and_dtypes
def test_opcheck(layout: torch.memory_format, dtype: torch.dtype) -> None:
    x, fu, fd = checks.small_image(layout, dtype), torch.rand(4), torch.rand(3, 3)
    up, down, padding = [2, 2], [1, 2], [3, 2, 1, 3]
    for b, clamp, want in ((torch.randn(3), 0.5, True), (None, None, True), (None, 0.5, False)):
        numbers = (up, down, padding, 1.4, 0.2, clamp, False)
        checks.opcheck("filtered_lrelu_fwd", x, b, fu, fd, *numbers, want)
    _, mask = checks.NATIVE.filtered_lrelu_fwd(x, None, fu, fd, *numbers, True)
    numbers = (up, down, padding, [1, 0, 2, 1], 1.4, 0.2, True)
    checks.opcheck("filtered_lrelu_linear", x, mask, [11, 10], fu, fd, *numbers)


@checks.compiled
@checks.every_dtype
def test_kernels(dtype: torch.dtype) -> None:
    fuzz.check_filtered_lrelu(checks.NATIVE, dtype, 150)


@checks.compiled
def test_kernels_keep_infinities_to_their_pixels() -> None:
    """Rows that no tap meets must not multiply an infinity by zero."""
    x, f = torch.rand(1, 2, 6, 5), torch.rand(4)
    numbers = ([1, 1], [1, 1], [8, 8, 8, 8], 1.0, 0.2, 256.0, False)
    b = torch.tensor([torch.inf, 1.0])
    got, wanted = (
        forward(x, b, f, f, *numbers, False)[0]
        for forward in (checks.NATIVE.filtered_lrelu_fwd, filtered_lrelu.OPERATOR.custom_ops[0].reference)
    )
    rows = [0, 1, -2, -1]  # only zeros from beside the image meet in these
    assert torch.equal(got[:, :, rows], wanted[:, :, rows])
    assert got[:, :, rows].eq(0).all()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        *errors.WRONG_IMAGES,
        *errors.WRONG_PADDINGS,
        *errors.TOO_SMALL,
        *errors.wrong_factors("up", "down"),
        *errors.wrong_filters("fu", "fd"),
        *errors.too_large("fu", (6,), (1, 6), (7, 1)),
        *errors.wrong_shapes("b", (4,), (1,), (3, 1), (1, 3), (), (0,)),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], word: str) -> None:
    errors.refused(ops.filtered_lrelu, {"x": errors.image()}, wrong, word)

"""upfirdn2d and what is made of it: filter2d, upsample2d, downsample2d; and setup_filter. The formula: formulas.py."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.autograd import gradgradcheck

from idgan_fast import ops
from idgan_fast.ops._resampling import adjoint_padding, output_size
from tests.ops import checks, errors, formulas, fuzz, networks
from tests.ops.checks import array, leaf, normal
from tests.ops.formulas import Array
from tests.ops.strategies import batches, filters, gains, layouts, often, paddings, pairs, seeds, sizes

RESAMPLERS = ["filter2d", "upsample2d", "downsample2d"]


@often
@given(st.data())
def test_values(data: st.DataObject) -> None:
    draw = data.draw
    up, down, f, padding = draw(pairs()), draw(pairs()), draw(filters()), draw(paddings())
    shape = sizes(draw, up, formulas.four(padding), formulas.square(array(f)).shape)
    x = checks.arranged(normal(draw(seeds), draw(batches), draw(st.integers(1, 3)), *shape), draw(layouts))
    options = {"up": up, "down": down, "padding": padding, "flip_filter": draw(st.booleans()), "gain": draw(gains)}
    checks.matches_formula(ops.upfirdn2d(x, f, **options), formulas.upfirdn2d(array(x), array(f), **options), x)


@pytest.mark.parametrize("padding", [[0, 0, 2, -2], [-2, 2, 0, 0], [-5, 4, 6, -4]], ids=str)
def test_crop_beyond_the_image(padding: list[int]) -> None:
    x = normal(0, 1, 2, 1, 2)
    y = ops.upfirdn2d(x, None, padding=padding)
    checks.matches_formula(y, formulas.upfirdn2d(array(x), None, padding=padding), x)


@pytest.mark.parametrize("name", RESAMPLERS)
@often
@given(st.data())
def test_values_of_resampling(name: str, data: st.DataObject) -> None:
    draw = data.draw
    factor, f, more = draw(pairs()), draw(filters()), draw(paddings())
    up, down = (factor if name == "upsample2d" else 1), (factor if name == "downsample2d" else 1)
    padding = formulas.add(formulas.same_padding(array(f), up, down), formulas.four(more))
    shape = sizes(draw, up, padding, formulas.square(array(f)).shape)
    x = checks.arranged(normal(draw(seeds), draw(batches), draw(st.integers(1, 3)), *shape), draw(layouts))
    flip_filter, gain = draw(st.booleans()), draw(gains)
    named = {"filter2d": {}, "upsample2d": {"up": factor}, "downsample2d": {"down": factor}}[name]
    out = getattr(ops, name)(x, f, **named, padding=more, flip_filter=flip_filter, gain=gain)
    gain *= np.prod(formulas.two(up))
    checks.matches_formula(out, formulas.upfirdn2d(array(x), array(f), up, down, padding, flip_filter, gain), x)


def test_sizes_of_resampling() -> None:
    x, f = normal(0, 1, 2, 6, 10), ops.setup_filter([1, 3, 3, 1])
    assert ops.filter2d(x, f).shape == x.shape
    assert ops.upsample2d(x, f).shape == (1, 2, 12, 20)
    assert ops.downsample2d(x, f).shape == (1, 2, 3, 5)


@checks.low_precision
def test_values_in_low_precision(dtype: torch.dtype, layout: str) -> None:
    x = checks.arranged(normal(0, 2, 6, 9, 8, dtype=dtype), layout)
    options = {"up": [2, 1], "down": [1, 3], "padding": [4, 5, 4, 3], "gain": 2.0}
    for f in checks.LOW_PRECISION_FILTERS:
        checks.matches_formula(ops.upfirdn2d(x, f, **options), formulas.upfirdn2d(array(x), array(f), **options), x)


@checks.numerics_of("upfirdn2d")
def test_numerics(name: str, dtype: torch.dtype, layout: str) -> None:
    checks.within_the_contract(name, dtype, layout)


@checks.every_backend
@pytest.mark.parametrize("f", [None, (1.0, 2.0, 4.0), ((1.0, -2.0), (3.0, 0.5), (0.2, 1.0))])
@pytest.mark.parametrize(
    ("up", "down", "padding"), [(1, 1, [2, 1, 1, 2]), (2, 1, [3, -1, 2, 0]), (1, 2, 1), ([3, 2], [2, 3], [1, 4, -2, 5])]
)
def test_gradients_to_the_third_order(f: tuple | None, up: Any, down: Any, padding: Any, whole: bool) -> None:
    taps = None if f is None else torch.tensor(f)
    checks.gradients(lambda x: ops.upfirdn2d(x, taps, up, down, padding, gain=1.5), leaf(2, 2, 4, 5), whole=whole)
    checks.gradients(
        lambda x: ops.upfirdn2d(x, taps, up, down, padding, flip_filter=True).square(), leaf(1, 1, 4, 5), whole=whole
    )

    def cubed(x: torch.Tensor) -> torch.Tensor:
        y = ops.upfirdn2d(x, taps, up, down, padding)
        return torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)[0]

    assert gradgradcheck(cubed, leaf(1, 1, 3, 3))


@checks.every_backend
@checks.layouts
def test_layouts(layout: str) -> None:
    checks.layouts_agree(lambda x: ops.upfirdn2d(x, networks.taps(), up=2, padding=2), layout)


@checks.every_backend
@checks.few_pixels
def test_empty_and_single_pixel(shape: tuple[int, ...]) -> None:
    checks.empty_or_single_pixel(lambda x: ops.upsample2d(x, networks.taps()), shape)


@checks.every_backend
@checks.cases_of("upfirdn2d")
def test_activation_checkpointing(name: str) -> None:
    checks.checkpointing(name)


@checks.every_backend
def test_autocast_leaves_values_and_gradients() -> None:
    x, f = torch.randn(1, 3, 4, 4, requires_grad=True), networks.taps()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ops.upfirdn2d(x, f), ops.upfirdn2d(x, f).float())
        (inside,) = torch.autograd.grad(ops.upfirdn2d(x, f, padding=2).square().sum(), x)
    (outside,) = torch.autograd.grad(ops.upfirdn2d(x, f, padding=2).square().sum(), x)
    torch.testing.assert_close(inside, outside)


def meetings(size: int, taps: int, up: int, down: int, pad: tuple[int, int], flip: bool) -> set[tuple[int, int, int]]:
    """All (output pixel, input pixel, tap) along one axis, from the definition: stuff, pad, filter, decimate."""
    stuffed: list[int | None] = [j // up if j % up == 0 else None for j in range(size * up)]
    before = [None] * max(pad[0], 0) + stuffed[max(-pad[0], 0) :]
    row = before[: len(before) - max(-pad[1], 0)] + [None] * max(pad[1], 0)
    met = set()
    for o, start in enumerate(range(0, len(row) - taps + 1, down)):
        for t in range(taps):
            pixel = row[start + t]
            if pixel is not None:
                met.add((o, pixel, t if flip else taps - 1 - t))
    return met


CONFIGURATIONS = [
    configuration
    for configuration in product(range(1, 6), range(1, 5), (1, 2, 3), (1, 2, 3), (-2, 0, 1, 4), (-1, 0, 3))
    if configuration[0] * configuration[2] + configuration[4] + configuration[5] >= configuration[1]
    and configuration[0] * configuration[2] + min(configuration[4:]) > 0
]


def test_the_adjoint_meets_the_same_pixels_and_taps() -> None:
    assert len(CONFIGURATIONS) > 1000
    for size, taps, up, down, before, after in CONFIGURATIONS:
        f = torch.ones(taps, taps)
        shape, ups, downs, pads = (1, 1, size, size), (up, up), (down, down), (before, after, before, after)
        out = output_size(shape, f, ups, downs, pads)
        assert out == (((size * up + before + after - taps) // down + 1,) * 2)
        back = adjoint_padding((size, size), out, f, ups, downs, pads)
        assert output_size((1, 1, *out), f, downs, ups, back) == (size, size)
        forward = meetings(size, taps, up, down, (before, after), flip=False)
        adjoint = meetings(out[0], taps, down, up, back[:2], flip=True)
        assert {(i, o, t) for o, i, t in forward} == adjoint


def test_more_elements_than_32_bits_count() -> None:
    x, f = checks.meta_image(3, 1024), torch.ones(4, 4, device="meta")
    assert ops.upsample2d(x, f).shape == (3, 1024, 2048, 2048)
    assert ops.downsample2d(x, f).shape == (3, 1024, 512, 512)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(ops.upsample2d(x, f).sum(), x)
    assert gradient.shape == x.shape


@checks.memory_formats_and_dtypes
def test_opcheck(layout: torch.memory_format, dtype: torch.dtype) -> None:
    x, f = checks.small_image(layout, dtype), torch.rand(4)
    for taps in (None, f, torch.outer(f, f)):
        checks.opcheck("upfirdn2d", x, taps, [2, 1], [1, 2], [1, 2, 3, -1], True, 2.0)


@checks.compiled
@checks.every_dtype
def test_kernels(dtype: torch.dtype) -> None:
    fuzz.check_upfirdn2d(checks.NATIVE, dtype, 250)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        *errors.WRONG_IMAGES,
        *errors.WRONG_PADDINGS,
        *errors.TOO_SMALL,
        *errors.wrong_factors("up", "down"),
        *errors.wrong_filters("f"),
        pytest.param({"f": errors.image(3, 3, 3)}, "f must be", id="what f must be"),
        pytest.param({"f": errors.image(3, 3, 3)}, "(3, 3, 3)", id="what f is"),
        *errors.too_large("f", (6,), (1, 6), (7, 1)),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], word: str) -> None:
    errors.refused(ops.upfirdn2d, {"x": errors.image(), "f": None}, wrong, word)


COMMON = [*errors.WRONG_IMAGES, *errors.WRONG_PADDINGS, errors.NOTHING_LEFT, *errors.wrong_filters("f")]


@pytest.mark.parametrize("name", RESAMPLERS)
@pytest.mark.parametrize(("wrong", "word"), COMMON)
def test_wrong_arguments_of_resampling(name: str, wrong: dict[str, Any], word: str) -> None:
    errors.refused(getattr(ops, name), {"x": errors.image(), "f": None}, wrong, word)


@pytest.mark.parametrize(("wrong", "word"), errors.wrong_factors("up", "down"))
def test_wrong_factors_of_resampling(wrong: dict[str, Any], word: str) -> None:
    errors.refused(getattr(ops, f"{word}sample2d"), {"x": errors.image(), "f": None}, wrong, word)


def setup_formula(
    f: object,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1.0,
    separable: bool | None = None,
) -> Array:
    taps = np.atleast_1d(np.array(1.0 if f is None else f, dtype=np.float64))
    if separable is None:
        separable = taps.ndim == 1 and len(taps) >= 8
    if taps.ndim == 1 and not separable:
        taps = np.outer(taps, taps)
    if normalize:
        taps = taps / taps.sum()
    if flip_filter:
        taps = np.flip(taps)
    return taps * gain ** (taps.ndim / 2)


@often
@given(st.data())
@example(None)
def test_setup_filter(data: st.DataObject | None) -> None:
    if data is None:
        np.testing.assert_array_equal(array(ops.setup_filter(None)), [[1]])
        np.testing.assert_array_equal(array(ops.setup_filter(None, separable=True)), [1])
        return
    draw = data.draw
    size = draw(st.one_of(st.tuples(st.integers(1, 10)), st.tuples(st.integers(1, 4), st.integers(1, 4))))
    taps = (normal(draw(seeds), *size).abs() + 0.1).to(draw(st.sampled_from([torch.float32, torch.float64])))
    options = {"normalize": draw(st.booleans()), "flip_filter": draw(st.booleans()), "gain": draw(st.floats(0.5, 4.0))}
    if len(size) == 1:
        options["separable"] = draw(st.sampled_from([None, True, False]))
    for same in [taps, taps.numpy(), taps.tolist()]:
        out = ops.setup_filter(same, **options)
        assert out.dtype == torch.float32
        np.testing.assert_allclose(array(out), setup_formula(array(taps), **options), rtol=1e-5)
        out.fill_(9)
    assert taps.max() < 9

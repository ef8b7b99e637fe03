"""Every operator against its float64 formula, over shapes, layouts, filters, paddings and dtypes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from idgan_fast import ops
from tests.ops import formulas

# The largest error, over the largest absolute value of the output.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
LOW = [torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = ["contiguous", "channels_last", "strided", "transposed"]
ACTS = ["linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"]
often = settings(max_examples=60, deadline=None, derandomize=True)
layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**16)
batches = st.integers(0, 2)
gains = st.sampled_from([1, 0.5, 4.0, -1.5])
factors = st.integers(1, 3)
Draw = Callable[[st.SearchStrategy[Any]], Any]


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def arranged(x: Tensor, layout: str) -> Tensor:
    """The same values with other strides."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 1), 7.0)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    return x.mT.contiguous().mT if layout == "transposed" else x.contiguous()


def array(x: Tensor | None) -> Any:
    return None if x is None else x.detach().double().numpy()


def check(out: Tensor, expected: np.ndarray, x: Tensor) -> None:
    """Shape, dtype, values, and channels_last kept; x is the input."""
    assert tuple(out.shape) == expected.shape
    assert out.dtype == x.dtype
    scale = np.abs(expected).max(initial=1e-3)
    np.testing.assert_allclose(array(out), expected, rtol=0, atol=TOLERANCES[x.dtype] * scale)
    last = torch.channels_last
    has_layout = x.ndim == 4 and len(x) > 0 and x.shape[1] > 1 and x.shape[2] * x.shape[3] > 1
    if has_layout and x.is_contiguous(memory_format=last):
        assert out.is_contiguous(memory_format=last)


@st.composite
def filters(draw: Draw) -> Tensor | None:
    """None, 1-D or 2-D, odd or even, not symmetric; some not contiguous."""
    seed = draw(seeds)
    kind = draw(st.sampled_from(["none", "1-D", "2-D", "turned"]))
    if kind == "none":
        return None
    if kind == "1-D":
        return normal(seed, draw(st.integers(1, 9)), dtype=torch.float32)
    f = normal(seed, draw(st.integers(1, 5)), draw(st.integers(1, 5)), dtype=torch.float32)
    return f.T if kind == "turned" else f


@st.composite
def paddings(draw: Draw) -> int | list[int]:
    one = st.integers(-3, 4)
    return draw(st.one_of(one, st.lists(one, min_size=2, max_size=2), st.lists(one, min_size=4, max_size=4)))


@st.composite
def pairs(draw: Draw) -> int | list[int]:
    return draw(st.one_of(factors, st.lists(factors, min_size=2, max_size=2)))


def sizes(draw: Draw, up: formulas.Ints, padding: Sequence[int], taps: Sequence[int]) -> tuple[int, int]:
    """A height and a width, often the smallest, for which the output has at least one pixel; taps is [y, x]."""
    (up_x, up_y), (x0, x1, y0, y1) = formulas.two(up), formulas.four(padding)
    height = max(1, -((y0 + y1 - taps[0]) // up_y)) + draw(st.integers(0, 5))
    return height, max(1, -((x0 + x1 - taps[1]) // up_x)) + draw(st.integers(0, 5))


@often
@given(st.data())
def test_upfirdn2d(data: st.DataObject) -> None:
    draw = data.draw
    up, down, f, padding = draw(pairs()), draw(pairs()), draw(filters()), draw(paddings())
    shape = sizes(draw, up, formulas.four(padding), formulas.square(array(f)).shape)
    x = arranged(normal(draw(seeds), draw(batches), draw(st.integers(1, 3)), *shape), draw(layouts))
    options = {"up": up, "down": down, "padding": padding, "flip_filter": draw(st.booleans()), "gain": draw(gains)}
    check(ops.upfirdn2d(x, f, **options), formulas.upfirdn2d(array(x), array(f), **options), x)


@pytest.mark.parametrize("padding", [[0, 0, 2, -2], [-2, 2, 0, 0], [-5, 4, 6, -4]])
def test_crop_beyond_the_image(padding: list[int]) -> None:
    x = normal(0, 1, 2, 1, 2)
    check(ops.upfirdn2d(x, None, padding=padding), formulas.upfirdn2d(array(x), None, padding=padding), x)


@pytest.mark.parametrize("name", ["filter2d", "upsample2d", "downsample2d"])
@often
@given(st.data())
def test_resampling(name: str, data: st.DataObject) -> None:
    draw = data.draw
    factor, f, more = draw(pairs()), draw(filters()), draw(paddings())
    up, down = (factor if name == "upsample2d" else 1), (factor if name == "downsample2d" else 1)
    padding = formulas.add(formulas.same_padding(array(f), up, down), formulas.four(more))
    shape = sizes(draw, up, padding, formulas.square(array(f)).shape)
    x = arranged(normal(draw(seeds), draw(batches), draw(st.integers(1, 3)), *shape), draw(layouts))
    flip_filter, gain = draw(st.booleans()), draw(gains)
    named = {"filter2d": {}, "upsample2d": {"up": factor}, "downsample2d": {"down": factor}}[name]
    out = getattr(ops, name)(x, f, **named, padding=more, flip_filter=flip_filter, gain=gain)
    gain *= np.prod(formulas.two(up))
    check(out, formulas.upfirdn2d(array(x), array(f), up, down, padding, flip_filter, gain), x)


def test_sizes() -> None:
    x, f = normal(0, 1, 2, 6, 10), ops.setup_filter([1, 3, 3, 1])
    assert ops.filter2d(x, f).shape == x.shape
    assert ops.upsample2d(x, f).shape == (1, 2, 12, 20)
    assert ops.downsample2d(x, f).shape == (1, 2, 3, 5)


@often
@given(st.data())
def test_bias_act(data: st.DataObject) -> None:
    draw = data.draw
    shape = [draw(batches), *draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))]
    x = 3 * normal(draw(seeds), *shape)
    if x.ndim == 4 or draw(st.booleans()):
        x = arranged(x, draw(layouts if x.ndim == 4 else st.sampled_from(["strided", "transposed"])))
    dim, act = draw(st.integers(0, x.ndim - 1)), draw(st.sampled_from(ACTS))
    b = draw(st.sampled_from([None, normal(7, x.shape[dim]), arranged(normal(8, x.shape[dim]), "strided")]))
    options = {
        "alpha": draw(st.sampled_from([None, 0.0, 0.1, 1.0])) if act == "lrelu" else None,
        "gain": draw(st.sampled_from([None, 0.0, 0.5, 3.0, -1.0])),
        "clamp": draw(st.sampled_from([None, 0.0, 0.75, 2.0])),
    }
    check(ops.bias_act(x, b, dim, act, **options), formulas.bias_act(array(x), array(b), dim, act, **options), x)


@pytest.mark.parametrize("act", ACTS)
def test_bias_act_far_from_zero(act: str) -> None:
    x = torch.tensor([[-1000.0, -40, -30, -1, -1e-3, 0, 1e-3, 1, 30, 40, 1000]], dtype=torch.float64)
    np.testing.assert_allclose(array(ops.bias_act(x, act=act)), formulas.bias_act(array(x), act=act), rtol=1e-10)


@st.composite
def convolutions(draw: Draw) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Any]]:
    """x, w, f, and the other arguments of conv2d_resample."""
    up, down, f, padding = draw(factors), draw(factors), draw(filters()), draw(paddings())
    groups, kh, kw = draw(st.sampled_from([1, 1, 2])), draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 3]))
    pads = list(formulas.four(padding))
    taps = formulas.square(array(f)).shape
    whole = [kh, kw]  # The taps that the three stages have together.
    for factor, pad in [(up, {"up": up}), (down, {"down": down})]:
        if factor > 1:
            pads = formulas.add(pads, formulas.same_padding(array(f), **pad))
            whole = [a + b - 1 for a, b in zip(whole, taps, strict=True)]
    inputs, outputs = draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    shape = sizes(draw, up, pads, whole)
    x = arranged(normal(draw(seeds), draw(batches), groups * inputs, *shape), draw(layouts))
    w = arranged(normal(draw(seeds), outputs, inputs, kh, kw), draw(layouts))
    return x, w, f, {"up": up, "down": down, "padding": padding, "groups": groups, "flip_weight": draw(st.booleans())}


@often
@given(convolutions(), st.booleans())
def test_conv2d_resample(case: tuple[Tensor, Tensor, Tensor | None, dict[str, Any]], flip_filter: bool) -> None:
    x, w, f, options = case
    out = ops.conv2d_resample(x, w, f, **options, flip_filter=flip_filter)
    check(out, formulas.conv2d_resample(array(x), array(w), array(f), **options, flip_filter=flip_filter), x)


@often
@given(convolutions(), st.sampled_from(["none", "one", "each"]), st.booleans(), st.booleans(), seeds)
def test_modulated_conv2d(
    case: tuple[Tensor, Tensor, Tensor | None, dict[str, Any]], noises: str, demodulate: bool, fused: bool, seed: int
) -> None:
    x, w, f, options = case
    del options["groups"]
    w = w if w.shape[1] == x.shape[1] else torch.cat([w, w.flip(0)], 1)
    options |= {"resample_filter": f, "demodulate": demodulate}
    styles = 1 + normal(seed, *x.shape[:2])
    plain = options | {"resample_filter": array(f)}
    expected = formulas.modulated_conv2d(array(x), array(w), array(styles), **plain)
    shapes = {"none": None, "one": expected.shape[2:], "each": (len(x), 1, *expected.shape[2:])}
    noise = None if shapes[noises] is None else normal(seed + 1, *shapes[noises])
    out = ops.modulated_conv2d(x, w, styles, noise, **options, fused_modconv=fused)
    check(out, formulas.modulated_conv2d(array(x), array(w), array(styles), array(noise), **plain), x)


@often
@given(st.data())
def test_filtered_lrelu(data: st.DataObject) -> None:
    draw = data.draw
    up, down, fu, fd = draw(factors), draw(factors), draw(filters()), draw(filters())
    padding, channels = draw(paddings()), draw(st.integers(1, 3))
    taps = formulas.add(formulas.square(array(fu)).shape, formulas.square(array(fd)).shape)
    shape = sizes(draw, up, formulas.four(padding), [t - 1 for t in taps])
    x = arranged(normal(draw(seeds), draw(batches), channels, *shape), draw(layouts))
    b = draw(st.sampled_from([None, normal(5, channels)]))
    options = {
        **{"up": up, "down": down, "padding": padding, "flip_filter": draw(st.booleans())},
        "gain": draw(st.sampled_from([2**0.5, 1.0, 3.0])),
        "slope": draw(st.sampled_from([0.2, 0.0, 1.0])),
        "clamp": draw(st.sampled_from([None, 0.5])),
    }
    out = ops.filtered_lrelu(x, fu, fd, b, **options)
    check(out, formulas.filtered_lrelu(array(x), array(fu), array(fd), array(b), **options), x)


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
    for given_as in [taps, taps.numpy(), taps.tolist()]:
        out = ops.setup_filter(given_as, **options)
        assert out.dtype == torch.float32
        expected = formulas.setup_filter(array(taps), **options)
        np.testing.assert_allclose(array(out), expected, rtol=1e-5)
        out.fill_(9)
    assert taps.max() < 9


@pytest.mark.parametrize("shapes", [[(2, 3), (2, 3), (2, 3)], [(2, 1, 4), (3, 1), ()], [(0, 3), (3,), (1, 3)]])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_fma(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    a, b, c = (normal(i, *shape, dtype=dtype) for i, shape in enumerate(shapes))
    check(ops.fma(a, b, c), np.asarray(array(a) * array(b) + array(c)), a)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", LOW)
def test_low_precision(dtype: torch.dtype, layout: str) -> None:
    x = arranged(normal(0, 2, 6, 9, 8, dtype=dtype), layout)
    w, b, styles = normal(1, 4, 6, 3, 3, dtype=dtype), normal(2, 6, dtype=dtype), 1 + normal(3, 2, 6, dtype=dtype)
    f, g = ops.setup_filter([1, 3, 4, 1]), ops.setup_filter(range(1, 10), flip_filter=True)
    ax, aw, ab, ast = array(x), array(w), array(b), array(styles)
    for taps in [None, f, g]:
        a = array(taps)
        options = {"up": [2, 1], "down": [1, 3], "padding": [4, 5, 4, 3], "gain": 2.0}
        check(ops.upfirdn2d(x, taps, **options), formulas.upfirdn2d(ax, a, **options), x)
        for up, down in [(1, 1), (2, 1), (1, 2)]:
            options = {"up": up, "down": down, "padding": 1}
            out = ops.conv2d_resample(x, w, taps, **options)
            check(out, formulas.conv2d_resample(ax, aw, a, **options), x)
            for fused in [True, False]:
                out = ops.modulated_conv2d(x, w, styles, resample_filter=taps, fused_modconv=fused, **options)
                check(out, formulas.modulated_conv2d(ax, aw, ast, resample_filter=a, **options), x)
        options = {"up": 2, "down": 2, "padding": 9, "clamp": 2.0}
        out = ops.filtered_lrelu(x, taps, taps, b, **options)
        check(out, formulas.filtered_lrelu(ax, a, a, ab, **options), x)
    for act in ACTS:
        check(ops.bias_act(x, b, act=act, clamp=3.0), formulas.bias_act(ax, ab, act=act, clamp=3.0), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 3])
def test_a_layer_to_rgb_without_gradients(n: int, dtype: torch.dtype) -> None:
    """Products for each sample, in place of a convolution, where nothing is differentiated; and not elsewhere."""
    rng = torch.Generator().manual_seed(0)
    x, w, s, b = (
        torch.randn(shape, generator=rng).to(dtype) for shape in ((n, 32, 5, 7), (3, 32, 1, 1), (n, 32), (3,))
    )
    x = x.contiguous(memory_format=torch.channels_last)
    exact = torch.einsum("nihw,oi,ni->nohw", x.double(), w[:, :, 0, 0].double(), s.double()) + b.double()[:, None, None]
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    scale = exact.abs().max().item()
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            y = ops.styled_conv2d(x, w, s, bias=b, demodulate=False, act="linear", clamp=scale / 2)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
        error = (y.double() - exact.clamp(-scale / 2, scale / 2)).abs().max().item()
        assert error <= tolerance * scale, grad

"""Random arguments of resampling operators, by hypothesis."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from tests.ops import formulas
from tests.ops.checks import arranged, array, normal

often = settings(max_examples=60, deadline=None, derandomize=True)
layouts = st.sampled_from(["contiguous", "channels_last", "strided", "transposed"])
seeds = st.integers(0, 2**16)
batches = st.integers(0, 2)
gains = st.sampled_from([1, 0.5, 4.0, -1.5])
factors = st.integers(1, 3)
Draw = Callable[[st.SearchStrategy[Any]], Any]


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

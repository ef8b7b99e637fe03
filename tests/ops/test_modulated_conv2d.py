"""modulated_conv2d: a convolution whose weight is scaled by each sample's styles and demodulated, with resampling."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from idgan_fast import ops
from tests.ops import checks, errors, networks
from tests.ops.checks import array, leaf, normal
from tests.ops.formulas import Array, Ints, conv2d_resample
from tests.ops.strategies import convolutions, often, seeds


def formula(
    x: Array,
    weight: Array,
    styles: Array,
    noise: Array | None = None,
    up: int = 1,
    down: int = 1,
    padding: Ints = 0,
    resample_filter: Array | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
) -> Array:
    weights = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        weights = weights / np.sqrt((weights**2).sum(axis=(2, 3, 4), keepdims=True) + 1e-8)
    samples = [
        conv2d_resample(x[n : n + 1], weights[n], resample_filter, up, down, padding, flip_weight=flip_weight)
        for n in range(len(x))
    ]
    if not samples:  # The shape alone.
        return conv2d_resample(x, weight, resample_filter, up, down, padding, flip_weight=flip_weight)
    y = np.concatenate(samples)
    return y if noise is None else y + noise


@often
@given(convolutions(), st.sampled_from(["none", "one", "each"]), st.booleans(), st.booleans(), seeds)
def test_values(
    case: tuple[Tensor, Tensor, Tensor | None, dict[str, Any]], noises: str, demodulate: bool, fused: bool, seed: int
) -> None:
    x, w, f, options = case
    del options["groups"]
    w = w if w.shape[1] == x.shape[1] else torch.cat([w, w.flip(0)], 1)
    options |= {"resample_filter": f, "demodulate": demodulate}
    styles = 1 + normal(seed, *x.shape[:2])
    plain = options | {"resample_filter": array(f)}
    expected = formula(array(x), array(w), array(styles), **plain)
    shapes = {"none": None, "one": expected.shape[2:], "each": (len(x), 1, *expected.shape[2:])}
    noise = None if shapes[noises] is None else normal(seed + 1, *shapes[noises])
    out = ops.modulated_conv2d(x, w, styles, noise, **options, fused_modconv=fused)
    checks.matches_formula(out, formula(array(x), array(w), array(styles), array(noise), **plain), x)


@checks.low_precision
def test_values_in_low_precision(dtype: torch.dtype, layout: str) -> None:
    x, w = checks.arranged(normal(0, 2, 6, 9, 8, dtype=dtype), layout), normal(1, 4, 6, 3, 3, dtype=dtype)
    styles = 1 + normal(3, 2, 6, dtype=dtype)
    for f in checks.LOW_PRECISION_FILTERS:
        for up, down in [(1, 1), (2, 1), (1, 2)]:
            options = {"up": up, "down": down, "padding": 1}
            expected = formula(array(x), array(w), array(styles), resample_filter=array(f), **options)
            for fused in [True, False]:
                out = ops.modulated_conv2d(x, w, styles, resample_filter=f, fused_modconv=fused, **options)
                checks.matches_formula(out, expected, x)


@checks.numerics_of("modulated_conv2d")
def test_numerics(name: str, dtype: torch.dtype, layout: str) -> None:
    checks.within_the_contract(name, dtype, layout)


@checks.every_backend
@checks.float16_ranges
def test_float16_demodulation_keeps_in_range(weight: float, styles: float) -> None:
    checks.demodulates_in_float16(lambda x, w, s: ops.modulated_conv2d(x, w, s, padding=1), weight, styles)


@checks.every_backend
@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_gradients(up: int, down: int, demodulate: bool, whole: bool) -> None:
    def layer(x: Tensor, w: Tensor, s: Tensor, noise: Tensor) -> Tensor:
        return ops.modulated_conv2d(x, w, s, noise, up, down, 1, networks.taps(), demodulate)

    size = 4 * up // down
    checks.gradients(layer, leaf(2, 2, 4, 4), leaf(3, 2, 3, 3), leaf(2, 2), leaf(2, 1, size, size), whole=whole)


@checks.every_backend
@checks.cases_of("modulated_conv2d")
def test_activation_checkpointing(name: str) -> None:
    checks.checkpointing(name)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        *errors.WRONG_IMAGES,
        *errors.WRONG_PADDINGS,
        errors.NOTHING_LEFT,
        *errors.wrong_factors("up", "down", pairs=False),
        *errors.wrong_filters("resample_filter", up=2),
        *errors.wrong_shapes("weight", *errors.OTHER_WEIGHTS),
        *errors.too_large("weight", (4, 3, 7, 3)),
        *errors.WRONG_STYLES,
        *errors.wrong_noises(padding=1),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], word: str) -> None:
    right = {"x": errors.image(), "weight": errors.image(4, 3, 3, 3), "styles": errors.image(2, 3)}
    errors.refused(ops.modulated_conv2d, right, wrong, word)

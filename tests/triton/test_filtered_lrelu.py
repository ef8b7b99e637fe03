"""filtered_lrelu of the Triton backend, interpreted: one kernel for separable filters, the composition for others."""

import random
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from idgan_fast import ops
from idgan_fast.kernels import filtered_lrelu, filtered_lrelu_sign_mask
from idgan_fast.ops._dispatch import triton_kernels
from idgan_fast.ops._resampling import output_size
from idgan_fast.ops.validation import numerics
from tests.ops import fuzz
from tests.triton.conftest import between_nan, counts, quick, small_image

triton_kernels()
KERNELS = torch.ops.idgan_fast_triton
PLAIN = import_module("idgan_fast.ops.filtered_lrelu")  # the module, not the function
ONE = (1, 1)


def not_here(*_: Any, **__: Any) -> None:
    raise AssertionError("the other path was taken")


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtered_lrelu_sign_mask, "composed", not_here)


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtered_lrelu, "filtered_lrelu_kernel", {})  # a launch fails


def kaiser(taps: int, cutoff: float) -> Tensor:
    """A low-pass filter as StyleGAN3 has them; cutoff: of the sampling rate."""
    t = torch.arange(taps) - (taps - 1) / 2
    f = torch.sinc(2 * cutoff * t) * torch.kaiser_window(taps, periodic=False, beta=4.0)
    return f / f.sum()


@pytest.fixture
def few_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "image", partial(small_image, channels=(1, 2)))


@pytest.mark.usefixtures("few_channels")
@pytest.mark.parametrize(("dtype", "count"), counts(8, float16=2, float64=1))
def test_random_cases(dtype: torch.dtype, count: int) -> None:
    fuzz.check_filtered_lrelu(KERNELS, dtype, count)


@pytest.mark.usefixtures("few_channels")
@pytest.mark.parametrize(
    ("dtype", "count"),
    quick((torch.float32, 4), slow=[(torch.float32, 16), (torch.bfloat16, 6), (torch.float16, 6)]),
)
def test_random_cases_in_one_kernel(dtype: torch.dtype, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def filters(rng: random.Random) -> Tensor | None:
        taps = rng.choice([0, 1, 2, 3, 5, 8, 12, 24])
        return torch.randn(taps) if taps else None

    def tile_for(*args: Any) -> dict[str, Any] | None:
        taken.append(chosen(*args))
        return taken[-1]

    chosen = filtered_lrelu.tile_for
    monkeypatch.setattr(filtered_lrelu, "tile_for", tile_for)
    monkeypatch.setattr(fuzz, "filters", filters)
    fuzz.check_filtered_lrelu(KERNELS, dtype, count)
    assert sum(tile is not None for tile in taken) >= len(taken) * 3 // 4


# up, down, taps of both filters: StyleGAN3's layers, where the sampling rate rises too, their adjoints, and others.
LAYERS = [(2, 2, 12, 12), (4, 2, 24, 12), (2, 4, 12, 24), (4, 4, 24, 24), (2, 1, 12, 1)]


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize(
    ("up", "down", "up_taps", "down_taps", "dtype"),
    quick(
        (2, 2, 12, 12, torch.float16), (4, 2, 24, 12, torch.float32),
        slow=[(*layer, dtype) for layer in LAYERS for dtype in (torch.float32, torch.float16)],
    ),
)  # fmt: skip
def test_layers_of_stylegan3(up: int, down: int, up_taps: int, down_taps: int, dtype: torch.dtype) -> None:
    """Of several tiles along each axis, where the last one has few outputs; exact beside float64."""
    out = (30, 33) if down < 4 else (15, 17)
    check_layer(up, down, kaiser(up_taps, 0.5 / up), kaiser(down_taps, 0.5 / down), dtype, out)


@pytest.mark.usefixtures("composed")
@pytest.mark.parametrize(
    ("fu", "fd", "dtype"),
    [
        (kaiser(12, 0.25), torch.outer(kaiser(5, 0.25), kaiser(5, 0.25)), torch.float16),  # radial, as StyleGAN3-R's
        (kaiser(12, 0.25), kaiser(12, 0.25), torch.float64),
        pytest.param(kaiser(12, 0.25), kaiser(60, 0.25), torch.float32, marks=pytest.mark.slow),
    ],
    ids=["two axes", "float64", "long"],
)
def test_the_composition(fu: Tensor, fd: Tensor, dtype: torch.dtype) -> None:
    check_layer(2, 2, fu, fd, dtype, (3, 5))


def check_layer(up: int, down: int, fu: Tensor, fd: Tensor, dtype: torch.dtype, out: tuple[int, int]) -> None:
    size = [(o * down + fd.shape[0] + up - 1) // up for o in out]
    x, b = between_nan(torch.randn(1, 2, *size).to(dtype)), torch.randn(2, dtype=torch.float32)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    pad = [fu.shape[0] - 1 + up // 2, fu.shape[0] // 2, fu.shape[0] - 2 + up, fu.shape[0] // 2]
    numbers = ([up] * 2, [down] * 2, pad, 1.4, 0.2, 1.0, False)
    y, codes = KERNELS.filtered_lrelu_fwd(x, b.to(wide), fu, fd, *numbers, True)
    exact, exact_codes = PLAIN._forward_reference(x.double(), b.double(), fu, fd, *numbers, True)
    assert all(got >= wanted for got, wanted in zip(y.shape[2:], out, strict=True))
    fuzz.assert_same(y, exact.to(dtype), fuzz.ROUNDING[dtype], "forward")
    assert (codes != exact_codes).count_nonzero() <= 1, "of a value within rounding of a kink"
    middle = output_size(x.shape, fu, (up, up), ONE, pad)
    for flip, down_pad in ((False, [0] * 4), (True, [3, 2, 1, 4])):
        tensors = (exact_codes, list(middle), fu, fd, [up] * 2, [down] * 2, pad, down_pad, 1.4, 0.2, flip)
        got = KERNELS.filtered_lrelu_linear(x, *tensors)
        fuzz.assert_same(got, PLAIN._linear_reference(x.double(), *tensors).to(dtype), fuzz.ROUNDING[dtype], flip)


@pytest.mark.parametrize(
    ("path", "layout"),
    quick(
        ("fused", torch.channels_last), ("composed", torch.contiguous_format),
        slow=[("fused", torch.contiguous_format), ("composed", torch.channels_last)],
    ),
)  # fmt: skip
def test_gradients_of_first_and_second_order(
    path: str, layout: torch.memory_format, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(path)
    taps = 12 if path == "fused" else 4
    fu = fd = kaiser(taps, 0.25)
    if path == "composed":
        fd = torch.outer(fd, fd)
    x, b = torch.randn(2, 3, 9, 7).contiguous(memory_format=layout), torch.randn(3)

    def through(impl: str) -> Callable[..., Tensor]:
        def square(x: Tensor, b: Tensor) -> Tensor:
            return ops.filtered_lrelu(x, fu, fd, b, [2, 4], [4, 2], [9, 8, 10, 17], clamp=0.8, impl=impl).square()

        return square

    for ours, theirs in zip(*(numerics.orders(through(impl), [x, b]) for impl in ("triton", "reference")), strict=True):
        for got, wanted in zip(ours, theirs, strict=True):
            assert wanted.count_nonzero()
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("fused")
def test_what_is_not_finite_stays_within_the_tiles_that_read_it() -> None:
    x, f = torch.randn(1, 2, 40, 40), kaiser(12, 0.25)
    wanted = ops.filtered_lrelu(x, f, f, None, 2, 2, 10, impl="reference")
    x[0, 0, 3, 3] = torch.inf
    got = ops.filtered_lrelu(x, f, f, None, 2, 2, 10, impl="triton")
    assert not got[0, 0, 3, 3].isfinite()
    torch.testing.assert_close(got[0, 1], wanted[0, 1])
    torch.testing.assert_close(got[0, 0, 25:, 25:], wanted[0, 0, 25:, 25:])


@pytest.mark.parametrize("unit", [1, 4])
def test_a_tile_holds_what_it_needs(unit: int) -> None:
    found = 0
    for up in range(1, 6):
        for down in range(1, 6):
            for up_taps in (1, 2, 7, 12, 24, 48):
                for down_taps in (1, 2, 7, 12, 24, 48):
                    axis = filtered_lrelu.axis_of(up, down, up_taps, down_taps, unit)
                    if axis is None:
                        continue
                    found += 1
                    used = axis.step * down + down_taps - 1
                    assert used <= filtered_lrelu.MID
                    assert axis.step * down % unit == 0
                    assert axis.step <= axis.outputs
                    for first in range(up):
                        met = [p // up for p in range(first, first + used + up_taps - 1) if p % up == 0]
                        assert len(met) <= axis.inputs
    assert found > 200

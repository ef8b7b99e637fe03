"""The Triton kernels of the styled epilogue against the reference, interpreted."""

import pytest
import torch

from tests.ops import fuzz
from tests.triton.conftest import counts, kernels

REFERENCE = torch.ops.idgan_fast


@pytest.mark.usefixtures("small_images_between_nan", "strips")
@pytest.mark.parametrize(("dtype", "count"), counts(24, float32=10, float16=3, float64=2))
def test_random_cases(dtype: torch.dtype, count: int) -> None:
    fuzz.check_styled_epilogue(kernels(), dtype, count)


@pytest.mark.parametrize("taps", [3, 7])
def test_gradients_of_a_filter_that_leaves_one_pixel(taps: int) -> None:
    """A single pixel tells no memory format: that of y holds."""
    y = torch.randn(1, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    f, padding = torch.randn(3, 3) if taps == 3 else torch.randn(taps), [(taps - 3) // 2] * 4
    layer = (f, torch.randn(1, 2), None, None, None, None, padding, 1.5, 0.2, 1.4, None)
    out = REFERENCE.styled_epilogue_fwd([y], *layer)
    assert out.shape == (1, 2, 1, 1)
    arguments = (torch.randn_like(out), [y], out, *layer, [1, 0, 0, 0, 0])
    got, wanted = (k.styled_epilogue_bwd(*arguments)[:2] for k in (kernels(), REFERENCE))
    fuzz.assert_same(got[0][0], wanted[0][0], 1e-5, taps)
    fuzz.assert_same(got[1], wanted[1], 1e-5, taps)


def test_vectors_may_have_holes() -> None:
    x, b = torch.randn(2, 6, 3, 4), torch.randn(6, 2)[:, 0]
    for vector in (b, b[:1].expand(6)):
        layer = (vector.expand(2, 6), None, None, vector, None, [0] * 4, 1.0, 0.2, 1.4, None)
        wanted = REFERENCE.styled_epilogue_fwd([x], None, *layer)
        torch.testing.assert_close(kernels().styled_epilogue_fwd([x], None, *layer), wanted)

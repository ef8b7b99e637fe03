"""What the CUDA kernels move, counted: within the bounds that docs/performance.md states."""

from itertools import product

import pytest

from tests.cuda_host import host, traffic
from tests.cuda_host.traffic import Counted

pytestmark = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))
COLUMNS = list(product(traffic.LAYOUTS, traffic.DTYPES))


def assert_clean(one: Counted) -> None:
    assert one.race == "", one
    assert one.narrowest == 16, one


@pytest.mark.parametrize(("layout", "dtype"), COLUMNS)
def test_bias_act_moves_everything_once(layout: str, dtype: str) -> None:
    for one in traffic.bias_act(layout, dtype):
        assert_clean(one)
        assert 1 <= one.ratio <= 1.05, one


@pytest.mark.parametrize(("layout", "dtype"), COLUMNS)
def test_upfirdn2d_reads_rims_twice(layout: str, dtype: str) -> None:
    for one in traffic.upfirdn2d(layout, dtype, samples=1):
        assert_clean(one)
        assert 1 <= one.ratio <= 1.3, one


@pytest.mark.parametrize(("layout", "dtype"), COLUMNS)
def test_a_layer_without_resampling(layout: str, dtype: str) -> None:
    """Beside the convolution's own: 2I + 2A forward, 3I + 3A backward; a chained layer has no style before it."""
    for one in traffic.epilogue(layout, dtype, filtered=False, samples=1):
        assert_clean(one)
        passes = 3 if one.name.endswith("backward") else 2
        assert passes * traffic.image_sectors(dtype, samples=1) == pytest.approx(one.moved, rel=0.01), one


@pytest.mark.parametrize(("layout", "dtype"), COLUMNS)
def test_a_layer_with_a_filter(layout: str, dtype: str) -> None:
    for one in traffic.epilogue(layout, dtype, filtered=True, samples=1):
        assert one.race == "", one
        if one.name.endswith("forward"):
            assert_clean(one)
            assert 1 <= one.ratio <= 1.3, one
        elif layout == "NHWC":
            assert_clean(one)
            again = 0 if "next" not in one.name else 5 if dtype == "fp16" else 2.5  # z, in float32
            assert one.moved / traffic.image_sectors(dtype, samples=1) <= 5 + again, one

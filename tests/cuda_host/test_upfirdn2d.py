"""The CUDA kernels of upfirdn2d against the plain twin, in three orders of threads, and what they move."""

import random

import pytest
import torch

from idgan_fast.ops.upfirdn2d import reference
from tests.cuda_host import host, traffic
from tests.cuda_host.host import Host
from tests.ops import fuzz

pytestmark = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))


@host.in_orders(fuzz.DTYPES)
def test_any_filter(dtype: torch.dtype, order: str) -> None:
    torch.manual_seed(0)
    fuzz.check_upfirdn2d(Host(order), dtype, 25)


@host.in_orders(fuzz.DTYPES)
def test_four_taps(dtype: torch.dtype, order: str) -> None:
    torch.manual_seed(0)
    fuzz.check_four_taps(Host(order), dtype, 40)


@pytest.mark.parametrize("num_sms", [1, 132])
def test_one_block_and_many(num_sms: int) -> None:
    torch.manual_seed(0)
    fuzz.check_four_taps(Host("random", num_sms=num_sms), torch.float16, 40)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_wide_channels_last_images(up: int, down: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 16, 9, 130).contiguous(memory_format=torch.channels_last)
    numbers = ([up, up], [down, down], [2, 1, 2, 1], False, 1.0)
    f = fuzz.four_taps(random.Random(0))
    wanted = reference(x, f, *numbers)
    fuzz.assert_same(Host().upfirdn2d(x, f, *numbers), wanted, fuzz.ROUNDING[x.dtype], numbers)


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_rows_of_odd_length_are_written_by_16_bytes_but_for_their_ends(dtype: str) -> None:
    x, kernels = traffic.image("NCHW", dtype, 1, 8, 64, 64), Host("random", mode="counted")
    y = kernels.upfirdn2d(x, traffic.FILTER, [1, 1], [1, 1], [2, 2, 2, 2], False, 1.0)
    assert kernels.traffic["race"] == ""
    accesses = kernels.traffic["buffers"]["out0"]["write"]["accesses"]
    vector = 16 // x.element_size()
    assert accesses.pop("16") >= 8 * 65 * (65 // vector - 1)
    assert accesses.pop(str(x.element_size())) <= 8 * 65 * (2 * vector - 1)
    assert not accesses
    assert y.shape == (1, 8, 65, 65)


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_long_filters_pass_along_one_axis_after_the_other(layout: torch.memory_format, dtype: torch.dtype) -> None:
    x, f = torch.randn(2, 3, 9, 17).to(dtype).contiguous(memory_format=layout), torch.randn(200) / 14
    numbers = ([2, 1], [1, 2], [150, 120, 140, 130], False, 1.5)
    fuzz.assert_same(Host().upfirdn2d(x, f, *numbers), reference(x, f, *numbers), fuzz.ROUNDING[dtype], dtype)


def test_small_taps_are_not_taken_for_an_outer_product() -> None:
    torch.manual_seed(0)
    x, f = torch.randn(1, 4, 8, 8) * 1e24, torch.randn(4, 4) * 1e-24
    numbers = ([1, 1], [1, 1], [2, 1, 2, 1], False, 1.0)
    fuzz.assert_same(Host().upfirdn2d(x, f, *numbers), reference(x, f, *numbers), 4e-6, "small")


def test_too_large_a_filter_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"must fit 40 KB.*backend"):
        Host().upfirdn2d(torch.randn(1, 1, 200, 200), torch.randn(150, 150), [1, 1], [1, 1], [0] * 4, False, 1.0)

"""The CUDA kernels of weight_square_sum against its plain twin."""

import pytest
import torch

from tests.cuda_host import host
from tests.cuda_host.host import Host
from tests.ops import fuzz

pytestmark = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))


@host.in_orders(fuzz.DTYPES)
def test_weight_square_sum(dtype: torch.dtype, order: str) -> None:
    torch.manual_seed(0)
    fuzz.check_weight_square_sum(Host(order), dtype, 12)


@pytest.mark.parametrize("num_sms", [1, 132])
@pytest.mark.parametrize("taps", [(1, 1), (3, 3), (10, 16), (40, 60), (70, 90)], ids=str)
def test_any_number_of_taps(taps: tuple[int, int], num_sms: int) -> None:
    """As many kernels in a block as its tile holds, one of them, or a kernel that is more than a tile."""
    torch.manual_seed(0)
    for dtype in (torch.float64, torch.float16):
        weight = torch.randn(3, 25, *taps).to(dtype)
        wanted = weight.double().square().sum((2, 3)).to(torch.promote_types(dtype, torch.float32))
        got = Host(num_sms=num_sms).weight_square_sum(weight)
        fuzz.assert_same(got, wanted, 1e-13 if dtype == torch.float64 else 1e-5, taps)


def test_weights_that_lie_beside_multiples_of_sixteen_bytes() -> None:
    weight = torch.randn(5 * 16 * 9 + 1)[1:]
    assert weight.data_ptr() % 16 != 0
    for w in (weight.view(5, 16, 3, 3), weight.view(5, 3, 3, 16).permute(0, 3, 1, 2)):
        fuzz.assert_same(Host().weight_square_sum(w), w.square().sum((2, 3)).contiguous(), 1e-6, w.stride())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("taps", [1, 3])
def test_weight_and_sum_move_once_16_bytes_at_a_time(
    taps: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    kernels = Host("random", mode="counted")
    weight = torch.randn(64, 96, taps, taps).to(dtype).contiguous(memory_format=layout)
    kernels.weight_square_sum(weight)
    buffers = kernels.traffic["buffers"]
    assert kernels.traffic["race"] == ""
    assert buffers["weight"]["read"]["sectors"] == buffers["weight"]["bytes"] // 32
    assert set(buffers["weight"]["read"]["accesses"]) == {"16"}
    assert buffers["out0"]["write"]["sectors"] == buffers["out0"]["bytes"] // 32

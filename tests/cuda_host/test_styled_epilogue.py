"""The CUDA kernels of styled_epilogue against the plain twins, in three orders of threads, and what they move."""

import pytest
import torch

from idgan_fast.ops import styled_epilogue
from tests.cuda_host import host
from tests.cuda_host.host import Host
from tests.ops import fuzz

pytestmark = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))


@pytest.mark.parametrize("order", host.ORDERS)
@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_any_filter(dtype: torch.dtype, order: str) -> None:
    torch.manual_seed(0)
    fuzz.check_styled_epilogue(Host(order), dtype, 40, phased=False)


@pytest.mark.parametrize("order", host.ORDERS)
@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_four_taps(dtype: torch.dtype, order: str) -> None:
    torch.manual_seed(0)
    fuzz.check_styled_epilogue(Host(order), dtype, 40, phased=False, draw=fuzz.four_taps)


@pytest.mark.parametrize("processors", [1, 132])
def test_one_block_and_many(processors: int) -> None:
    torch.manual_seed(0)
    fuzz.check_styled_epilogue(
        Host("random", processors=processors), torch.float16, 40, phased=False, draw=fuzz.four_taps
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_a_result_that_rounding_takes_to_the_clamp_has_no_gradient(layout: torch.memory_format) -> None:
    """The kernel finds it from y, the plain twin from the result: they must agree."""
    y = torch.full((1, 8, 4, 4), 0.75, dtype=torch.float16).contiguous(memory_format=layout)
    tensors = (None, torch.full((1, 8), 0.9999), None, None, None, None)
    numbers = ([0] * 4, 1.0, 0.2, 1.0, 0.75)
    out = styled_epilogue.forward_reference([y], *tensors, *numbers)
    assert (out == 0.75).all()
    dy, *_ = Host().styled_epilogue_bwd(torch.ones_like(out), [y], out, *tensors, *numbers, [0] * 5)
    assert not dy[0].any()

"""The CUDA kernels of upfirdn2d against the plain twin, in three orders of threads, and what they move."""

import pytest
import torch

from tests.cuda_host import host
from tests.cuda_host.host import Host
from tests.ops import fuzz

pytestmark = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))


@pytest.mark.parametrize("order", host.ORDERS)
@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_any_filter(dtype: torch.dtype, order: str) -> None:
    torch.manual_seed(0)
    fuzz.check_upfirdn2d(Host(order), dtype, 25)


@pytest.mark.parametrize("order", host.ORDERS)
@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_four_taps(dtype: torch.dtype, order: str) -> None:
    torch.manual_seed(0)
    fuzz.check_four_taps(Host(order), dtype, 40)


@pytest.mark.parametrize("processors", [1, 132])
def test_one_block_and_many(processors: int) -> None:
    torch.manual_seed(0)
    fuzz.check_four_taps(Host("random", processors=processors), torch.float16, 40)

"""The CUDA kernels of bias_act against the plain twins, in three orders of threads."""

import ctypes
import random

import pytest
import torch

from idgan_fast.ops.bias_act import activation_funcs
from tests.cuda_host import host
from tests.cuda_host.host import Host
from tests.ops import fuzz

pytestmark = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))


@pytest.mark.parametrize("order", host.ORDERS)
@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_bias_lrelu(dtype: torch.dtype, order: str) -> None:
    torch.manual_seed(0)
    fuzz.check_bias_lrelu(Host(order), dtype, 30)


@pytest.mark.parametrize("act", activation_funcs)
@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_bias_act(dtype: torch.dtype, act: str) -> None:
    torch.manual_seed(0)
    fuzz.check_bias_act(Host("random"), act, dtype, 10)


@pytest.mark.parametrize("processors", [1, 132])
def test_one_block_and_many(processors: int) -> None:
    torch.manual_seed(0)
    fuzz.check_bias_lrelu(Host("random", processors=processors), torch.float16, 20)


def test_division_by_multiplication() -> None:
    rng = random.Random(0)
    quotient = host.library().quotient
    quotient.argtypes = [ctypes.c_uint, ctypes.c_uint]
    edges = [1, 2, 3, 5, 7, 2**16 - 1, 2**16, 2**16 + 1, 2**30, 2**31 - 1]
    divisors = [*range(1, 100), *edges, *(rng.randrange(1, 2**31) for _ in range(300))]
    for d in divisors:
        numbers = [0, 1, d - 1, d, d + 1, 2**31 - 1, 2**31 - d, *(rng.randrange(2**31) for _ in range(50))]
        for n in numbers:
            if 0 <= n < 2**31:
                assert quotient(n, d) == n // d, (n, d)


def counted(kind: str, dtype: torch.dtype, layout: torch.memory_format) -> tuple[dict, int]:
    """What a pass over [2, 64, 96, 96] moves, and how many 32-byte sectors each of its arrays has."""
    x = torch.randn(2, 64, 96, 96).to(dtype).contiguous(memory_format=layout)
    b, kernels = torch.randn(64), Host(mode="counted")
    numbers = (1, "swish", 0.0, 1.4, 1.0)
    if kind == "forward":
        kernels.bias_act_fwd(x, b, *numbers)
    elif kind == "backward of y":
        kernels.bias_lrelu_bwd(x, x, 1, 0.2, 1.4, 1.0, True)
    elif kind == "backward":
        kernels.bias_act_bwd(x, x, b, *numbers, True)
    else:
        kernels.bias_act_bwd2(x, b, x, x, b, *numbers, True)
    return kernels.traffic, x.numel() * x.element_size() // 32


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("kind", host.PASSES)
def test_every_array_moves_once_16_bytes_at_a_time(kind: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    traffic, compulsory = counted(kind, dtype, layout)
    assert traffic["race"] == ""
    for name, buffer in traffic["buffers"].items():
        written = name in ("dx", "to_dy", "to_x") or (name, kind) == ("y", "forward")
        way, other = ("write", "read") if written else ("read", "write")
        assert buffer[other]["sectors"] == 0, name
        assert compulsory <= buffer[way]["sectors"] <= 1.05 * compulsory, name
        assert set(buffer[way]["accesses"]) == {"16"}, name

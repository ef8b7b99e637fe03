"""The CUDA kernels of bias_act against the plain twins, in three orders of threads."""

import ctypes
import random

import pytest
import torch

from idgan_fast.ops import bias_lrelu
from idgan_fast.ops.activations import activation_funcs
from tests.cuda_host import host
from tests.cuda_host.host import Host
from tests.ops import fuzz

pytestmark = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))


@host.in_orders(fuzz.DTYPES)
def test_bias_lrelu(dtype: torch.dtype, order: str) -> None:
    torch.manual_seed(0)
    fuzz.check_bias_lrelu(Host(order), dtype, 30)


@pytest.mark.parametrize("act", activation_funcs)
@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_bias_act(dtype: torch.dtype, act: str) -> None:
    torch.manual_seed(0)
    fuzz.check_bias_act(Host("random"), act, dtype, 6)


@pytest.mark.parametrize("num_sms", [1, 132])
def test_one_block_and_many(num_sms: int) -> None:
    torch.manual_seed(0)
    fuzz.check_bias_lrelu(Host("random", num_sms=num_sms), torch.float16, 20)


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


KINDS = ("forward", "backward of y", "backward", "second")


def counted(kind: str, dtype: torch.dtype, layout: torch.memory_format) -> tuple[dict, int]:
    """What a pass over [2, 64, 96, 96] moves, and how many bytes each of its images has."""
    x = torch.randn(2, 64, 96, 96).to(dtype).contiguous(memory_format=layout)
    b, kernels = torch.randn(64), Host("random", mode="counted")
    numbers = (1, "swish", 0.0, 1.4, 1.0)
    if kind == "forward":
        kernels.bias_act_fwd(x, b, *numbers)
    elif kind == "backward of y":
        kernels.bias_lrelu_bwd(x, x, 1, 0.2, 1.4, 1.0, True)
    elif kind == "backward":
        kernels.bias_act_bwd(x, x, b, *numbers, True)
    else:
        kernels.bias_act_bwd2(x, b, x, x, b, *numbers, True)
    return kernels.traffic, x.numel() * x.element_size()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_array_moves_once_16_bytes_at_a_time(kind: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    traffic, size = counted(kind, dtype, layout)
    assert traffic["race"] == ""
    images = {name: buffer for name, buffer in traffic["buffers"].items() if buffer["bytes"] == size}
    assert len(images) == {"forward": 2, "second": 5}.get(kind, 3)
    for name, buffer in images.items():
        way, other = ("write", "read") if name.startswith("out") else ("read", "write")
        assert buffer[other]["sectors"] == 0, name
        assert size / 32 <= buffer[way]["sectors"] <= 1.05 * size / 32, name
        assert set(buffer[way]["accesses"]) == {"16"}, name
    for name, buffer in traffic["buffers"].items():
        assert name in images or buffer["bytes"] < 0.02 * size, name


def test_arrays_beside_multiples_of_sixteen_bytes() -> None:
    for dtype in fuzz.DTYPES:
        x = torch.randn(2 * 3 * 40 + 1).to(dtype)[1:].view(2, 3, 40)
        assert x.data_ptr() % 16 != 0
        wide = torch.promote_types(dtype, torch.float32)
        b, numbers = torch.randn(3, dtype=wide), (1, 0.2, 1.4, 1.0)
        y = bias_lrelu._forward_reference(x, b, *numbers)
        fuzz.assert_same(Host().bias_lrelu_fwd(x, b, *numbers), y, fuzz.ROUNDING[dtype], dtype)
        got, wanted = (run(x, y, *numbers, True) for run in (Host().bias_lrelu_bwd, bias_lrelu._backward_reference))
        for one, other in zip(got, wanted, strict=True):
            fuzz.assert_same(one, other, max(fuzz.ROUNDING[dtype], 2e-5), dtype)


def test_tensors_of_another_size_device_or_dtype_are_refused() -> None:
    x, b = torch.ones(2, 3, 4, 4), torch.ones(3)
    for given in (torch.ones(2), torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float16)):
        with pytest.raises(RuntimeError, match="of another device, dtype or size than it takes"):
            Host().bias_lrelu_fwd(x, given, 1, 0.2, 1.0, None)
    with pytest.raises(RuntimeError, match="of another device, dtype or size than it takes"):
        Host().bias_act_bwd(x[:1], x, b, 1, "swish", 0.0, 1.0, None, True)
    with pytest.raises(RuntimeError, match="no activation named cube"):
        Host().bias_act_fwd(x, b, 1, "cube", 0.0, 1.0, None)


def test_nan_goes_through_the_slope_as_in_torch() -> None:
    y = torch.tensor([float("nan"), 1.0, -1.0, 0.0])
    for gain in (1.5, -1.5):
        wanted, _ = bias_lrelu._backward_reference(torch.ones(4), y, 0, 0.2, gain, None, False)
        got, _ = Host().bias_lrelu_bwd(torch.ones(4), y, 0, 0.2, gain, None, False)
        assert torch.equal(got, wanted)


def test_bias_gradients_of_more_columns_than_a_grid_has_rows() -> None:
    dy, y = torch.randn(2, 3, 700_001), torch.randn(2, 3, 700_001)
    got = Host().bias_lrelu_bwd(dy, y, 2, 0.2, 1.4, None, True)
    wanted = bias_lrelu._backward_reference(dy, y, 2, 0.2, 1.4, None, True)
    fuzz.assert_same(got[1], wanted[1], 2e-5, "db")
    x = torch.randn(1, 65536 * 32 + 5)
    db = Host().bias_lrelu_bwd(x, x, 1, 0.2, 1.4, None, True)[1]
    fuzz.assert_same(db, bias_lrelu._backward_reference(x, x, 1, 0.2, 1.4, None, True)[1], 2e-5, "db")


@pytest.mark.parametrize("size", [2, 4, 8, 9])
def test_bias_gradients_of_small_planes(size: int) -> None:
    """Several of them in a block."""
    for dtype in fuzz.DTYPES:
        dy, y = torch.randn(5, 37, size, size).to(dtype), torch.randn(5, 37, size, size).to(dtype)
        got = Host("random", num_sms=132).bias_lrelu_bwd(dy, y, 1, 0.2, 1.4, 1.0, True)
        wanted = bias_lrelu._backward_reference(dy, y, 1, 0.2, 1.4, 1.0, True)
        fuzz.assert_same(got[0], wanted[0], fuzz.ROUNDING[dtype], dtype)
        fuzz.assert_same(got[1], wanted[1], fuzz.SUMS.get(dtype, 2e-5), dtype)

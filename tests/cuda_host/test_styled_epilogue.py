"""The CUDA kernels of styled_epilogue against the plain twins, in three orders of threads, and what they move."""

import pytest
import torch

from idgan_fast.ops.layer import styled_epilogue
from tests.cuda_host import host
from tests.cuda_host.host import Host
from tests.ops import fuzz

pytestmark = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))


@host.in_orders(fuzz.DTYPES)
def test_any_filter(dtype: torch.dtype, order: str) -> None:
    torch.manual_seed(0)
    fuzz.check_styled_epilogue(Host(order), dtype, 40, phased=False)


@host.in_orders(fuzz.DTYPES)
def test_four_taps(dtype: torch.dtype, order: str) -> None:
    torch.manual_seed(0)
    fuzz.check_styled_epilogue(Host(order), dtype, 40, phased=False, draw=fuzz.four_taps)


@pytest.mark.parametrize("num_sms", [1, 132])
def test_one_block_and_many(num_sms: int) -> None:
    torch.manual_seed(0)
    fuzz.check_styled_epilogue(Host("random", num_sms=num_sms), torch.float16, 40, phased=False, draw=fuzz.four_taps)


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("which", ["dout", "y", "out"])
@pytest.mark.parametrize("f", [torch.rand(4, 4), None, torch.rand(60) / 30], ids=["four", "none", "long"])
def test_images_beside_multiples_of_sixteen_bytes(
    f: torch.Tensor | None, which: str, layout: torch.memory_format
) -> None:
    size, padding = (12, [30, 29, 30, 29]) if f is not None and f.ndim == 1 else (9, [2, 1, 2, 1])
    y = torch.randn(2, 16, size, size, dtype=torch.float16).contiguous(memory_format=layout)
    tensors = (f, torch.rand(2, 16), torch.randn(1, 1, size, size), torch.tensor(0.3), torch.randn(16), None)
    numbers = ([0] * 4 if f is None else padding, 1.5, 0.2, 1.4, None)
    out = styled_epilogue.forward_reference([y], *tensors, *numbers)
    images = {"dout": torch.randn_like(out), "y": y, "out": out}
    moved = torch.empty(images[which].numel() + 1, dtype=torch.float16)[1:]
    images[which] = moved.as_strided(images[which].shape, images[which].stride()).copy_(images[which])
    assert images[which].data_ptr() % 16
    arguments = (images["dout"], [images["y"]], images["out"], *tensors, *numbers, [1, 1, 1, 1, 0])
    got, wanted = Host().styled_epilogue_bwd(*arguments), styled_epilogue.backward_reference(*arguments)
    fuzz.assert_same(got[0][0], wanted[0][0], 2e-3, which)
    for one, other in zip(got[1:], wanted[1:], strict=True):
        fuzz.assert_same(one, other, 1e-4, which)
    forward = Host().styled_epilogue_fwd([images["y"]], *tensors, *numbers)
    fuzz.assert_same(forward, out, 2e-3, which)

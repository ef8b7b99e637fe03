"""The kernels of both GPU backends on a GPU: against the plain twins, on streams, in CUDA graphs, on large images."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from idgan_fast import ops
from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data import dali
from idgan_fast.data.images import ImageFiles
from idgan_fast.ops import _dispatch
from idgan_fast.ops._registry import CUSTOM_OPS
from idgan_fast.ops.validation import verification
from tests.data.test_images import put, smooth
from tests.ops import fuzz

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICE = "cuda"
NAMESPACES = {"native": "idgan_fast", "triton": "idgan_fast_triton"}
CHECKS: dict[str, tuple[tuple[str, ...], Callable[..., None]]] = {
    "bias_lrelu": (("bias_lrelu_fwd", "bias_lrelu_bwd"), fuzz.check_bias_lrelu),
    "weight_square_sum": (("weight_square_sum",), fuzz.check_weight_square_sum),
    "upfirdn2d": (("upfirdn2d",), fuzz.check_upfirdn2d),
    "four_taps": (("upfirdn2d",), fuzz.check_four_taps),
}
EPILOGUE = ("styled_epilogue_fwd", "styled_epilogue_bwd")
GRAPHED = ("bias_lrelu_fwd", "bias_lrelu_bwd", "bias_act_bwd2", "weight_square_sum", "upfirdn2d", *EPILOGUE)


def moved(value: Any, device: str) -> Any:
    return verification._moved(value, lambda t: t.to(device))


class Kernels:
    """The low-level operators of a backend, on tensors that come from the CPU and go back there."""

    def __init__(self, backend: str, *names: str) -> None:
        self.backend = backend
        if reason := _dispatch.why_not(backend, names, DEVICE):
            pytest.skip(reason)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operator = getattr(getattr(torch.ops, NAMESPACES[self.backend]), name).default
        return lambda *given: moved(operator(*moved(given, DEVICE)), "cpu")


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
@pytest.mark.parametrize("what", CHECKS)
@pytest.mark.parametrize("backend", NAMESPACES)
def test_against_the_plain_twins(backend: str, what: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    names, check = CHECKS[what]
    check(Kernels(backend, *names), dtype, 200)


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
@pytest.mark.parametrize("draw", [fuzz.filters, fuzz.four_taps])
@pytest.mark.parametrize("backend", NAMESPACES)
def test_epilogue(backend: str, draw: Callable[..., Any], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    fuzz.check_styled_epilogue(Kernels(backend, *EPILOGUE), dtype, 40, phased=backend == "triton", draw=draw)


@pytest.mark.parametrize("act", ["lrelu", "tanh", "selu", "swish"])
@pytest.mark.parametrize("backend", NAMESPACES)
def test_activations(backend: str, act: str) -> None:
    torch.manual_seed(0)
    kernels = Kernels(backend, "bias_act_fwd", "bias_act_bwd", "bias_act_bwd2")
    for dtype in fuzz.DTYPES:
        fuzz.check_bias_act(kernels, act, dtype, 60)


@pytest.mark.parametrize("backend", NAMESPACES)
def test_every_kernel_is_admitted(backend: str) -> None:
    Kernels(backend, "bias_act_fwd")
    wrong = {name: reason for name, reason in verification.verdicts(backend, DEVICE).items() if reason is not None}
    assert not wrong


@pytest.mark.parametrize("name", GRAPHED)
def test_a_stream_and_a_graph_give_what_the_default_stream_gives(name: str) -> None:
    """Captured on a stream of its own, replayed on inputs that are written afterwards."""
    Kernels("native", name)
    torch.manual_seed(0)
    operator = getattr(torch.ops.idgan_fast, name).default
    for arguments in verification.samples_of(CUSTOM_OPS[name], torch.float16, torch.channels_last):
        first = moved(arguments, DEVICE)
        wanted = verification._tensors(operator(*first))
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            operator(*first)
        torch.cuda.synchronize()
        values = [t.clone() for t in verification._tensors(first)]
        with torch.cuda.graph(graph, stream=stream):
            captured = verification._tensors(operator(*first))
        for t in verification._tensors(first):
            t.zero_()
        graph.replay()
        for t, value in zip(verification._tensors(first), values, strict=True):
            t.copy_(value)
        graph.replay()
        torch.cuda.synchronize()
        for got, one in zip(captured, wanted, strict=True):
            assert torch.equal(got, one)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_of_another_device_than_the_current_one() -> None:
    Kernels("native", "bias_lrelu_fwd")
    x = torch.randn(2, 8, 16, 16, device="cuda:1")
    got = torch.ops.idgan_fast.bias_lrelu_fwd(x, None, 1, 0.2, 1.0, None)
    assert got.device == x.device
    assert torch.equal(got, torch.nn.functional.leaky_relu(x, 0.2))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_more_than_two_to_the_31_numbers(layout: torch.memory_format) -> None:
    kernels = "bias_lrelu_fwd", "upfirdn2d"
    Kernels("native", *kernels)
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of a GPU's memory")
    x = torch.empty(2, 64, 4100, 4100, dtype=torch.float16, device=DEVICE, memory_format=layout).normal_()
    b, f = torch.randn(64, device=DEVICE), torch.rand(4, 4, device=DEVICE)
    numbers = ([1, 1], [1, 1], [2, 1, 2, 1], False, 1.0)
    biased = torch.ops.idgan_fast.bias_lrelu_fwd(x, b, 1, 0.2, 1.0, None)
    filtered = torch.ops.idgan_fast.upfirdn2d(x, f, *numbers)
    for n, c in ((0, 0), (0, 63), (1, 31), (1, 63)):
        part = x[n : n + 1, c : c + 1].contiguous()
        wanted = CUSTOM_OPS["bias_lrelu_fwd"].reference(part, b[c : c + 1], 1, 0.2, 1.0, None)
        fuzz.assert_same(biased[n : n + 1, c : c + 1].contiguous(), wanted, 1e-3, (n, c))
        wanted = CUSTOM_OPS["upfirdn2d"].reference(part, f, *numbers)
        fuzz.assert_same(filtered[n : n + 1, c : c + 1].contiguous(), wanted, 1e-3, (n, c))


@pytest.mark.parametrize("on", [("cpu", DEVICE), (DEVICE, "cpu")], ids=str)
def test_a_tensor_on_the_other_device_is_refused(on: tuple[str, str]) -> None:
    """With the host library and without it."""
    x, b = torch.randn(2, 3, 4, 4, device=on[0]), torch.randn(3, device=on[1])
    with pytest.raises(ValueError, match="b must be on the device of x"):
        ops.bias_act(x, b, act="lrelu")


def test_dali_on_the_gpu(tmp_path: Path) -> None:
    """The CPU's pictures to within rounding. One picture is damaged."""
    if reason := dali.why_not(torch.device(DEVICE)):
        pytest.skip(reason)
    for i in range(9):
        put(tmp_path, f"{i}.jpg", smooth(80 + i, 70), quality=95)
    (tmp_path / "4.jpg").write_bytes((tmp_path / "4.jpg").read_bytes()[:900])
    datasets = [ImageFiles(tmp_path, 64, ImagesConfig(cache_gib=0.0)) for _ in range(2)]
    sources = [
        dali.batches(dataset, 4, 0, 0, 2, torch.device(device))
        for dataset, device in zip(datasets, ("cpu", DEVICE), strict=True)
    ]
    for wanted, got in islice(zip(*sources, strict=True), 8):
        assert got.device.type == DEVICE
        assert got.dtype == torch.uint8
        assert got.is_contiguous(memory_format=torch.channels_last)
        levels = (got.cpu().float() - wanted.float()).abs()
        assert levels.max() < 8
        assert levels.mean() < 1
    assert datasets[0].skipped.keys() == datasets[1].skipped.keys() == {"4.jpg"}

"""The kernels of both GPU backends on a GPU: against the plain twins, on streams, in CUDA graphs, on large images."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from idgan_fast.ops import _dispatch, admission, samples
from tests.ops import fuzz

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICE = "cuda"
NAMESPACES = {"native": "idgan_fast", "triton": "idgan_fast_triton"}
CHECKS: dict[str, tuple[tuple[str, ...], Callable[..., None]]] = {
    "bias_lrelu": (("bias_lrelu_fwd", "bias_lrelu_bwd"), fuzz.check_bias_lrelu),
    "kernel_energy": (("kernel_energy",), fuzz.check_kernel_energy),
    "upfirdn2d": (("upfirdn2d",), fuzz.check_upfirdn2d),
    "four_taps": (("upfirdn2d",), fuzz.check_four_taps),
}
EPILOGUE = ("styled_epilogue_fwd", "styled_epilogue_bwd")
GRAPHED = ("bias_lrelu_fwd", "bias_lrelu_bwd", "bias_act_bwd2", "kernel_energy", "upfirdn2d", *EPILOGUE)


def moved(value: Any, device: str) -> Any:
    return admission._moved(value, lambda t: t.to(device))


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
    wrong = {name: reason for name, reason in admission.verdicts(backend, DEVICE).items() if reason is not None}
    assert not wrong


@pytest.mark.parametrize("name", GRAPHED)
def test_a_stream_and_a_graph_give_what_the_default_stream_gives(name: str) -> None:
    """Captured on a stream of its own, replayed on inputs that are written afterwards."""
    Kernels("native", name)
    torch.manual_seed(0)
    operator = getattr(torch.ops.idgan_fast, name).default
    for arguments in samples.of(name, torch.float16, torch.channels_last):
        first = moved(arguments, DEVICE)
        wanted = admission._tensors(operator(*first))
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            operator(*first)
        torch.cuda.synchronize()
        values = [t.clone() for t in admission._tensors(first)]
        with torch.cuda.graph(graph, stream=stream):
            captured = admission._tensors(operator(*first))
        for t in admission._tensors(first):
            t.zero_()
        graph.replay()
        for t, value in zip(admission._tensors(first), values, strict=True):
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
        wanted = _dispatch.low_level["bias_lrelu_fwd"].reference(part, b[c : c + 1], 1, 0.2, 1.0, None)
        fuzz.assert_same(biased[n : n + 1, c : c + 1].contiguous(), wanted, 1e-3, (n, c))
        wanted = _dispatch.low_level["upfirdn2d"].reference(part, f, *numbers)
        fuzz.assert_same(filtered[n : n + 1, c : c + 1].contiguous(), wanted, 1e-3, (n, c))

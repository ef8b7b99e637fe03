"""The compiled CPU kernels against their plain twins, on every instruction set that this processor has."""

import importlib
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import setuptools
import torch

from idgan_fast.ops import _dispatch
from idgan_fast.ops.activations import activation_funcs
from idgan_fast.ops.layer import styled_epilogue
from tests.ops import fuzz

filtered_lrelu = importlib.import_module("idgan_fast.ops.filtered_lrelu")  # the module, not the function
NATIVE = torch.ops.idgan_fast
ROOT = Path(__file__).parents[2]
ACTIVATIONS = Path(__file__).with_name("test_activations.py")
SET = os.environ.get("IDGAN_FAST_CPU")
pytestmark = pytest.mark.skipif(_dispatch._no_cpu_library is not None, reason=str(_dispatch._no_cpu_library))


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan() -> Iterator[None]:
    """torch fills new tensors with NaN, so that an element that a kernel leaves out is seen."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_kernels_bias_lrelu(dtype: torch.dtype) -> None:
    fuzz.check_bias_lrelu(NATIVE, dtype, 150)


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
@pytest.mark.parametrize("act", activation_funcs)
def test_kernels_bias_act(act: str, dtype: torch.dtype) -> None:
    fuzz.check_bias_act(NATIVE, act, dtype, 60)


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_kernels_weight_square_sum(dtype: torch.dtype) -> None:
    fuzz.check_weight_square_sum(NATIVE, dtype, 60)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_kernels_winograd_conv2d(dtype: torch.dtype) -> None:
    fuzz.check_winograd_conv2d(NATIVE, dtype, 150)


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_kernels_upfirdn2d(dtype: torch.dtype) -> None:
    fuzz.check_upfirdn2d(NATIVE, dtype, 250)


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_kernels_styled_epilogue(dtype: torch.dtype) -> None:
    fuzz.check_styled_epilogue(NATIVE, dtype, 200)


@pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)
def test_kernels_filtered_lrelu(dtype: torch.dtype) -> None:
    fuzz.check_filtered_lrelu(NATIVE, dtype, 150)


def test_kernels_keep_infinities_to_their_pixels() -> None:
    """Lanes without a pixel and rows that no tap meets must not multiply an infinity by zero."""
    numbers = ([0, 0, 0, 0], 1.0, 0.2, 1.0, 256.0)
    for shape in ((1, 1, 3, 3), (2, 3, 5, 7)):
        y = torch.rand(shape) + 1
        ones, inf = torch.ones(shape[:2]), torch.full(shape[:2], torch.inf)
        noise = torch.rand(1, 1, *shape[2:])
        for tensors in (
            (None, inf, None, None, None, ones),
            (None, None, noise, torch.tensor(torch.inf), None, ones),
            (None, None, None, None, inf[0], ones),
        ):
            z = styled_epilogue.forward_reference([y], *tensors, *numbers)
            want = [int(t is not None) for t in tensors[1:]]
            for layout in (torch.contiguous_format, torch.channels_last):
                images = [t.contiguous(memory_format=layout) for t in (y, z)]
                arguments = (torch.ones_like(images[1]), images[:1], images[1], *tensors, *numbers, want)
                got, wanted = NATIVE.styled_epilogue_bwd(*arguments), styled_epilogue.backward_reference(*arguments)
                for a, b in zip((*got[0], *got[1:]), (*wanted[0], *wanted[1:]), strict=True):
                    assert torch.allclose(a, b, equal_nan=True), (shape, tensors)
    x, f = torch.rand(1, 2, 6, 5), torch.rand(4)
    numbers = ([1, 1], [1, 1], [8, 8, 8, 8], 1.0, 0.2, 256.0, False)
    b = torch.tensor([torch.inf, 1.0])
    got, wanted = (
        filtered(x, b, f, f, *numbers, False)[0]
        for filtered in (NATIVE.filtered_lrelu_fwd, filtered_lrelu._forward_reference)
    )
    rows = [0, 1, -2, -1]  # only zeros from beside the image meet in these
    assert torch.equal(got[:, :, rows], wanted[:, :, rows])
    assert got[:, :, rows].eq(0).all()


def test_the_number_of_threads_changes_nothing() -> None:
    x = torch.randn(3, 40, 37, 41)
    noise, scale, b = torch.randn(1, 1, 37, 41), torch.randn(3, 40), torch.randn(40)
    f, weight = torch.rand(4), torch.randn(50, 40, 3, 3)
    tensors = (f, scale, noise, torch.randn(()), b, scale)
    numbers = ([2, 1, 2, 1], 1.0, 0.2, 1.4, 1.0)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = x.contiguous(memory_format=layout)
        outcomes = []
        threads = torch.get_num_threads()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y = NATIVE.bias_lrelu_fwd(x, b, 1, 0.2, 1.4, 1.0)
            z = NATIVE.styled_epilogue_fwd([x], *tensors, *numbers)
            dy, *others = NATIVE.styled_epilogue_bwd(z, [x], z, *tensors, *numbers, [1] * 5)
            outcomes.append(
                [
                    y,
                    *NATIVE.bias_lrelu_bwd(x, y, 1, 0.2, 1.4, 1.0, True),
                    NATIVE.bias_act_fwd(x, b, 1, "swish", 0.0, 1.4, 1.0),
                    *NATIVE.bias_act_bwd(y, x, b, 1, "swish", 0.0, 1.4, 1.0, True),
                    *NATIVE.bias_act_bwd2(y, b, y, x, b, 1, "swish", 0.0, 1.4, 1.0, True),
                    NATIVE.upfirdn2d(x, tensors[0], [2, 2], [1, 1], [2, 1, 2, 1], False, 4.0),
                    NATIVE.winograd_conv2d(x, weight),
                    z,
                    *dy,
                    *others,
                    *NATIVE.filtered_lrelu_fwd(x, b, f, f, [2, 2], [2, 2], [3] * 4, 1.4, 0.2, 1.0, False, True),
                ]
            )
        torch.set_num_threads(threads)
        for other in outcomes[1:]:
            assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other, strict=True))


def in_child(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the pages are Linux's")
@pytest.mark.parametrize("wish", [{}, {"IDGAN_FAST_CPU": "plain"}], ids=["widest", "plain"])
def test_no_read_goes_behind_a_tensor(wish: dict[str, str]) -> None:
    """The sanitizers see writes too, and are slow."""
    outcome = in_child("-m", "tests.ops.guarded", **wish)
    assert outcome.stdout == "within\n", (outcome.returncode, outcome.stderr[-3000:])


@pytest.mark.skipif(sys.platform != "linux", reason="the pages are Linux's")
def test_a_read_behind_a_tensor_ends_the_process() -> None:
    """Without this the test above could pass for want of a page that may not be read."""
    code = """
import ctypes, torch
from tests.ops.guarded import guarded
with guarded(torch.ones(64)) as t:
    torch.ops.idgan_fast.bias_lrelu_fwd(t, None, 0, 0.2, 1.0, None)
    print("within", flush=True)
    longer = torch.frombuffer((ctypes.c_float * 65).from_address(t.data_ptr()), dtype=torch.float32)
    torch.ops.idgan_fast.bias_lrelu_fwd(longer, None, 0, 0.2, 1.0, None)
    print("behind", flush=True)
"""
    outcome = in_child("-c", code)
    assert (outcome.stdout, outcome.returncode) == ("within\n", -signal.SIGSEGV), outcome.stderr


@pytest.mark.slow
@pytest.mark.skipif(SET is not None, reason="runs the others")
@pytest.mark.parametrize("name", ["plain", "avx2", "avx512"])
def test_every_instruction_set(name: str) -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    widest = {"AVX512": "avx512", "AVX2": "avx2"}.get(capability, "plain")
    if name == widest:
        pytest.skip("the tests above have run it")
    if name != "plain" and widest != "avx512":
        pytest.skip(f"this processor has {capability}")
    run = in_child("-m", "pytest", "-q", "-k", "test_kernels", __file__, str(ACTIVATIONS), IDGAN_FAST_CPU=name)
    assert run.returncode == 0, run.stdout[-3000:]
    assert "67 passed" in run.stdout


def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    code = "import torch; from idgan_fast import ops; ops.bias_act(torch.ones(1, 1), act='lrelu', impl='native')"
    run = in_child("-c", code, IDGAN_FAST_CPU="sse9")
    assert run.returncode != 0
    assert "IDGAN_FAST_CPU" in run.stderr


@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("nm") is None, reason="needs g++ and nm")
@pytest.mark.parametrize(
    "name", [pytest.param("plain", marks=pytest.mark.slow), pytest.param("avx2", marks=pytest.mark.slow), "avx512"]
)
def test_no_symbol_of_an_instruction_set_can_replace_another(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weak symbols of a file built for AVX would be linked in for every processor."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    build = runpy.run_path(str(ROOT / "setup.py"))
    out = tmp_path / "isa.o"
    flags = [*build["COMMON"], f"-DIDGAN_SET={name}", "-fno-exceptions", *build["SETS"][name]]
    flags.append("-O1")  # which leaves no fewer functions apart than the build's -O3 and takes half the time
    subprocess.run(["g++", *flags, "-c", ROOT / "csrc/cpu/isa.cpp", "-o", out], check=True)
    listing = subprocess.run(["nm", out], check=True, capture_output=True, text=True).stdout
    kinds = [line.split()[-2] for line in listing.splitlines()]
    assert kinds.count("D") == 1, "the table of kernels"
    assert not set(kinds) & {"W", "V", "w", "v", "u", "T", "B"}, listing

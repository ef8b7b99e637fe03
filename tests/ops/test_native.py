"""The library of compiled CPU kernels: threads, instruction sets, reads behind tensors, symbols.

The kernels themselves are in the operators' files, in tests named test_kernels...
"""

import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
import torch

from idgan_fast.ops import _dispatch
from tests.ops import checks
from tests.ops.checks import NATIVE

ROOT = Path(__file__).parents[2]
SET = os.environ.get("IDGAN_FAST_CPU")
pytestmark = pytest.mark.skipif(_dispatch._no_cpu_library is not None, reason=str(_dispatch._no_cpu_library))


@pytest.mark.usefixtures("nan_filled")
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
@pytest.mark.parametrize(
    "wish", [{}, pytest.param({"IDGAN_FAST_CPU": "plain"}, marks=pytest.mark.slow)], ids=["widest", "plain"]
)
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
    run = in_child("-m", "pytest", "-q", "-k", "test_kernels", *checks.kernel_tests(), IDGAN_FAST_CPU=name)
    assert run.returncode == 0, run.stdout[-3000:]
    assert checks.passed(run.stdout) >= 69


def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    code = "import torch; from idgan_fast import ops; ops.bias_act(torch.ones(1, 1), act='lrelu', impl='native')"
    run = in_child("-c", code, IDGAN_FAST_CPU="sse9")
    assert run.returncode != 0
    assert "IDGAN_FAST_CPU" in run.stderr


@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("nm") is None, reason="needs g++ and nm")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "avx2", "avx512"])
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

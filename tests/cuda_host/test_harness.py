"""The harness itself: right kernels give right results in every order of threads, planted bugs are seen."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from tests.cuda_host import host
from tests.ops.test_sanitizers import runtimes

pytestmark = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))
BUGS = ("none", "no barrier", "divergent", "half warp", "missing lanes", "beyond input", "beyond shared", "two readers")


def summed(bug: str, order: str = "forward", mode: str = "plain", count: int = 200, seed: int = 1) -> torch.Tensor:
    """The sums of blocks of 64 by samples.cpp; raises what the harness says."""
    found = host.library(mode, "samples.cpp")
    found.sample.restype = ctypes.c_char_p
    x = host.between_nan(torch.arange(count).float())
    sums = host.between_nan(torch.full((-(-count // 64),), torch.nan))
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, sums)]
    errors = []

    def call() -> None:
        errors.append(found.sample(BUGS.index(bug), *pointers, count, host.ORDERS.index(order), seed))

    if mode == "counted":
        _, traffic = host.counted(found, {"x": x, "sums": sums}, call)
        if traffic["race"]:
            raise RuntimeError(traffic["race"])
    else:
        call()
    if errors[0] is not None:
        raise RuntimeError(errors[0].decode())
    return sums


WANTED = torch.arange(256).where(torch.arange(256) < 200, 0).float().view(4, 64).sum(1)


@pytest.mark.parametrize("order", host.ORDERS)
@pytest.mark.parametrize("mode", ["plain", "counted"])
def test_a_right_kernel(mode: str, order: str) -> None:
    assert torch.equal(summed("none", order, mode), WANTED)


def test_a_missing_barrier_shows_in_an_order_and_as_a_race() -> None:
    wrong = [order for order in host.ORDERS if not torch.equal(summed("no barrier", order), WANTED)]
    assert "forward" in wrong
    for order in host.ORDERS:
        with pytest.raises(RuntimeError, match="race on shared memory"):
            summed("no barrier", order, "counted")


def test_a_write_to_what_several_have_read_is_a_race() -> None:
    for order in host.ORDERS:
        with pytest.raises(RuntimeError, match="race on shared memory"):
            summed("two readers", order, "counted")


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        (
            "divergent",
            "threads of a block wait at different barriers; thread 0,0 waits at __syncthreads in .*samples.cpp:",
        ),
        ("half warp", "a warp waits for lanes that never come|a shuffle reads a lane that takes no part"),
        ("missing lanes", "the calling lane is not in the mask"),
    ],
)
def test_what_would_hang_or_be_undefined_is_an_error(bug: str, message: str) -> None:
    for order in host.ORDERS:
        with pytest.raises(RuntimeError, match=message):
            summed(bug, order)


def test_a_read_beside_a_tensor_reaches_a_result_as_nan() -> None:
    assert summed("beyond input").isnan().any()


def test_a_launch_that_cuda_refuses_names_the_operator() -> None:
    refusal = host.library().refusal
    refusal.restype = ctypes.c_char_p
    for file in (b"csrc/cuda/bias_act_launch.cuh", b"/somewhere/bias_act.cu", b"bias_act.cuh"):
        assert refusal(file) == b"bias_act: CUDA says: an error"


def sanitized(code: str) -> subprocess.CompletedProcess[str]:
    environment = {"LD_PRELOAD": " ".join(runtimes()), "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, cwd=host.HERE.parents[1],
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not runtimes(), reason="needs g++ and its libasan")
@pytest.mark.parametrize(
    ("bug", "report"),
    [("beyond input", "heap-buffer-overflow"), ("beyond shared", "out of bounds"), ("none", None)],
)
def test_sanitizers_see_accesses_outside(bug: str, report: str | None) -> None:
    """x of an allocation of its own, 64 numbers in a buffer of 64."""
    host.built("samples.cpp", "sanitized")
    code = f"""
import ctypes, sys
sys.path.insert(0, "")
from tests.cuda_host import host
found = host.library("sanitized", "samples.cpp")
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
x, sums = (ctypes.c_void_p(libc.malloc(bytes)) for bytes in (63 * 4, 4))
ctypes.memset(x, 0, 63 * 4)
found.sample({BUGS.index(bug)}, x, sums, 63, 0, 1)
print("ended")
"""
    outcome = sanitized(code)
    if report is None:
        assert outcome.stdout == "ended\n", outcome.stderr[:3000]
    else:
        assert report in outcome.stderr, outcome.stderr[:3000]
        assert "samples.cpp" in outcome.stderr
        assert outcome.stdout == ""


@pytest.mark.slow
@pytest.mark.skipif(not runtimes(), reason="needs g++ and its libasan")
def test_kernels_stay_within_their_arrays() -> None:
    """The kernels' own tests, in one order of threads, under AddressSanitizer and UBSan."""
    host.built("kernels.cpp", "sanitized")
    environment = {"LD_PRELOAD": " ".join(runtimes()), "CUDA_HOST_MODE": "sanitized"}
    environment["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=0"
    chosen = "not 16_bytes and not forward and not reverse"
    others = ("test_harness.py", "test_verification.py", "test_traffic.py")  # large images, and counting
    files = [path for path in sorted(host.HERE.glob("test_*.py")) if path.name not in others]
    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *files],
        env={**os.environ, **environment}, cwd=host.HERE.parents[1], capture_output=True, text=True,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout[-2000:] + outcome.stderr[:5000]
    assert " passed" in outcome.stdout

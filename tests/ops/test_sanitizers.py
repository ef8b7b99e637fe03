"""The compiled CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer.

A read or write outside a tensor mostly changes no result, so that no comparison with a reference can see it.
"""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.ops import checks

ROOT = Path(__file__).parents[2]
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"


@cache
def runtimes() -> list[str]:
    """libasan, and libstdc++ beside it: libasan looks for the C++ runtime as the process starts, Python has none."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        return []
    found = []
    for name in ("libasan.so", "libstdc++.so.6"):
        command = ["g++", f"-print-file-name={name}"]
        path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
        if path.is_absolute() and path.read_bytes()[:4] == b"\x7fELF":  # not the linker script of some systems
            found.append(str(path))
    return found if len(found) == 2 else []


pytestmark = [
    pytest.mark.slow,  # for the build; test_native.py has pages behind tensors that may not be read
    pytest.mark.skipif(not runtimes(), reason="needs Linux, g++ and its libasan"),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package whose CPU library is built with the sanitizers."""
    folder = tmp_path_factory.mktemp("sanitized")
    flags = f"-O1 -g1 {SANITIZERS}"
    build = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--only", "_cpu", "--build-lib", folder, "--build-temp",
         folder / "build"],
        env={**os.environ, "CXX": "g++", "CXXFLAGS": flags, "LDFLAGS": SANITIZERS},
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (folder / "idgan_fast/_cpu.so").exists(), build.stdout[-3000:] + build.stderr[-3000:]
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "idgan_fast", folder / "idgan_fast", ignore=ignored, dirs_exist_ok=True)
    return folder


def run(package: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python on the sanitized package. Leaks are left out: Python and torch keep much until the process ends."""
    wanted = {"LD_PRELOAD": " ".join(runtimes()), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": str(package)}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **wanted, **environment}, cwd=package, capture_output=True, text=True,
    )  # fmt: skip


def test_a_read_past_the_end_of_a_tensor_is_seen(package: Path) -> None:
    """Without this the test below could pass for want of a sanitizer."""
    code = """
import ctypes, torch
from idgan_fast.ops import _dispatch
assert _dispatch._no_cpu_library is None, _dispatch._no_cpu_library
def run(x):
    torch.ops.idgan_fast.bias_lrelu_fwd(x, None, 0, 0.2, 1.0, None)
x = torch.ones(64)
run(x)
print("within", flush=True)
run(torch.frombuffer((ctypes.c_float * 65).from_address(x.data_ptr()), dtype=torch.float32))
print("beyond", flush=True)
"""
    # The masked loads of wider sets, of which the compiler watches none, are left to test_native.
    outcome = run(package, "-c", code, IDGAN_FAST_CPU="plain")
    assert outcome.stdout == "within\n", outcome.stderr[:5000]
    assert "AddressSanitizer: heap-buffer-overflow" in outcome.stderr
    assert "bias_act.h" in outcome.stderr


@pytest.mark.parametrize("name", ["widest", "avx2", "plain"])
def test_kernels_stay_within_their_tensors(package: Path, name: str) -> None:
    if name == "avx2" and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this processor has no AVX2")
    wish = {} if name == "widest" else {"IDGAN_FAST_CPU": name}
    outcome = run(
        package,
        *("-m", "pytest", "-vs", "-p", "no:cacheprovider", "-o", f"pythonpath={package}", "-k", "test_kernels"),
        *checks.kernel_tests(),
        **wish,
    )
    assert outcome.returncode == 0, outcome.stdout[-1000:] + outcome.stderr[:5000]
    assert checks.passed(outcome.stdout) >= 69

"""Errors that become a line."""

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from idgan_fast.errors import out_of_memory


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has"),
            "2.50 GiB were asked for",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you "
                "tried to allocate 5368709120 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "5.00 GiB were asked for",
        ),
        (RuntimeError("can't start new thread"), "can't start new thread"),
        (RuntimeError("std::bad_alloc"), "std::bad_alloc"),
        (MemoryError(), "no more of it is to be had"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "Resource temporarily unavailable"),
        (OSError(errno.ENOENT, "No such file or directory"), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
    ],
)
def test_out_of_memory(error: Exception, text: str | None) -> None:
    assert out_of_memory(error) == text


def test_what_allocations_really_raise() -> None:
    """More than any machine has, so that nothing is allocated."""
    with pytest.raises(RuntimeError) as by_torch:
        torch.empty(2**56)
    assert "GiB were asked for" in str(out_of_memory(by_torch.value))
    with pytest.raises(MemoryError) as by_numpy:
        np.empty(2**58, np.uint8)
    assert out_of_memory(by_numpy.value) == "256. PiB were asked for"


LIMITED = """
import resource, sys
from idgan_fast import train
from idgan_fast.run import command
size = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize"))) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 2**29, size + 2**29))
sys.exit(train.main([*sys.argv[1:], "--compile", "off"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of an address space")
@pytest.mark.parametrize(
    "options",
    [["--batch-size", "20000"], pytest.param(["--vae.c-dim", "1000000"], marks=pytest.mark.slow)],
    ids=lambda options: options[0],
)
def test_a_run_without_enough_memory_ends_with_a_line(options: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, *options, "--out", str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True)
    (line,) = result.stderr.splitlines()
    assert result.returncode == 2
    assert line.startswith("error: out of memory: ")
    assert "--vae.batch-size" in line

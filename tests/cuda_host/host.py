"""The CUDA kernels of csrc/cuda, compiled by g++ and run on CPU tensors through the operators that torch calls.

`library(mode)` builds and loads them: "plain", "sanitized" (AddressSanitizer and UBSan, for a process that has libasan
loaded) or "counted" (every access to memory calls counted.cpp). Each of csrc/cuda/*.cu is an object of its own, the
torch-facing files csrc/cuda/*.cpp are one together, which registers them as `torch.ops.idgan_fast_cuda_host_<mode>` for
the CPU. Objects lie in build/cuda_host, each under a digest of its sources and flags, and are compiled side by side.
`Host` has these operators as `torch.ops.idgan_fast` has them.
"""

import ctypes
import fcntl
import hashlib
import json
import math
import os
import runpy
import shutil
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from idgan_fast import ops  # noqa: F401  # which fills CUSTOM_OPS
from idgan_fast.ops._registry import CUSTOM_OPS

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
SOURCES = CSRC / "cuda"
BUILD = HERE.parents[1] / "build/cuda_host"
TORCH = Path(torch.__file__).parent
# Without unique symbols: else all libraries of a process share their static variables.
FLAGS = ["-std=c++20", "-fno-gnu-unique", "-fPIC", "-w", "-DCUDA_ON_HOST", f"-I{HERE}", f"-I{SOURCES}"]
# -Og compiles twice as fast as -O1, and its kernels run 1.2 times as long, which is less.
MODES = {
    "plain": ["-Og"],
    "sanitized": ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"],
    "counted": ["-Og", "-fsanitize=thread", "-DCOUNTED"],
}
MODE = os.environ.get("CUDA_HOST_MODE", "plain")  # of the tests that name none
ORDERS = ("forward", "reverse", "random")


def in_orders(dtypes: Iterable[torch.dtype]) -> pytest.MarkDecorator:
    """Each dtype in a random order of threads, float32 and float64 in two others too; all that is left is slow.

    What a wrong order shows lies in how a kernel walks, which those two have both ways of.
    """
    cases = product(dtypes, ORDERS)
    usual = (torch.float32, torch.float64)
    return pytest.mark.parametrize(
        ("dtype", "order"),
        [
            pytest.param(dtype, order, marks=[] if order == "random" or dtype in usual else [pytest.mark.slow])
            for dtype, order in cases
        ],
    )


_libraries: list[torch.library.Library] = []  # a schema lives as long as its library


@cache
def headers() -> Path | None:
    """CUDA's headers: of a toolkit, or those that Triton brings; None if neither is there."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
    folders = [toolkit]
    try:
        import triton

        folders.append(Path(triton.__file__).parent / "backends/nvidia/include")
    except ImportError:
        pass
    return next((folder for folder in folders if (folder / "crt/host_defines.h").exists()), None)


def missing() -> str | None:
    if shutil.which("g++") is None:
        return "needs g++"
    return None if headers() is not None else "needs CUDA's headers: a toolkit, or pip install triton"


def built(source: str, mode: str) -> Path:
    """The shared library of a source beside this file: samples.cpp by itself, kernels.cpp with what it is part of."""
    cuda = [*MODES[mode], "-isystem", str(headers())]
    jobs, links = [(mode, [HERE / source], cuda)], []
    if source == "kernels.cpp":
        jobs[0] = (mode, [HERE / source], [*cuda, f'-DHOST_LIBRARY="{library_name(mode)}"'])
        jobs += [(mode, [path], [*cuda, "-include", "cuda_on_host.h"]) for path in sorted(SOURCES.glob("*.cu"))]
        jobs.append(torch_facing())
        links = [f"-L{TORCH / 'lib'}", "-ltorch_cpu"]
    if mode == "sanitized":
        links.append("-fsanitize=address,undefined")
    if mode == "counted":  # the counting itself is not counted, and the sanitizer's runtime is not linked
        flags = ["-O2", *(flag for flag in cuda if flag not in ("-Og", "-fsanitize=thread"))]
        jobs.append((mode, [HERE / "counted.cpp"], flags))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(lambda job: compiled(*job), jobs))
    return made(f"{Path(source).stem}-{mode}", ".so", ["g++", "-shared", *map(str, objects), *links], objects)


def torch_facing() -> tuple[str, list[Path], list[str]]:
    """The arguments of `compiled` for the files that register the operators, the same in every mode."""
    target = runpy.run_path(str(CSRC / "cuda_build.py"))["TORCH_TARGET"]
    headers = [f"-DTORCH_TARGET_VERSION={target}", "-isystem", str(TORCH / "include")]
    return "registered", sorted(SOURCES.glob("*.cpp")), ["-O0", *headers]


def compiled(kind: str, sources: list[Path], flags: list[str]) -> Path:
    """The object of several sources as one; made anew where a source or header or the flags changed."""
    depends = [*sources, *HERE.glob("*.h"), *CSRC.glob("*.h"), *SOURCES.glob("*.h"), *SOURCES.glob("*.cuh")]
    text = "".join(f'#include "{path}"\n' for path in sources)
    return made(f"{sources[0].stem}-{kind}", ".o", ["g++", *FLAGS, *flags, "-x", "c++", "-c", "-"], depends, text)


def made(stem: str, suffix: str, command: list[str], depends: list[Path], text: str = "") -> Path:
    """What a command makes of files and of its input; kept under a name that says of which.

    Processes that want the same wait for the one that makes it.
    """
    digest = hashlib.sha256(" ".join([*command, text]).encode())
    for path in sorted(depends):
        digest.update(path.read_bytes())
    target = BUILD / f"{stem}-{digest.hexdigest()[:16]}{suffix}"
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / f"{stem}{suffix}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        for old in BUILD.glob(f"{stem}-{'?' * 16}{suffix}"):
            old.unlink(missing_ok=True)
        partial = target.with_suffix(".partial")
        run = subprocess.run([*command, "-o", str(partial)], input=text, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{run.stderr[:4000]}")
        return partial.rename(target)


def library_name(mode: str) -> str:
    return f"idgan_fast_cuda_host_{mode}"


def library(mode: str = "plain", source: str = "kernels.cpp") -> ctypes.CDLL:
    return _loaded(mode, source)


@cache
def _loaded(mode: str, source: str) -> ctypes.CDLL:
    path = str(built(source, mode))
    if source == "kernels.cpp":
        definitions = torch.library.Library(library_name(mode), "DEF")
        for low in CUSTOM_OPS.values():
            definitions.define(low.name + low.schema)
        _libraries.append(definitions)
        torch.ops.load_library(path)
    found = ctypes.CDLL(path)
    if mode == "counted":
        found.count_end.restype = ctypes.c_char_p
        found.count_watch.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
    return found


def counted(found: ctypes.CDLL, buffers: dict[str, Tensor], call: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """A call's result, and what counted.cpp says of it: sectors and widths of each buffer, and a race.

    New tensors of the operators are buffers too: results out0, out1, and scratch0, scratch1 between their kernels.
    """
    found.count_begin()
    for name, t in buffers.items():
        found.count_watch(name.encode(), t.data_ptr(), extent(t) * t.element_size())
    result = call()
    return result, json.loads(found.count_end())


def extent(t: Tensor) -> int:
    """How many numbers lie between a tensor's first and last, these included."""
    return 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True)) if t.numel() else 0


def between_nan(t: Tensor) -> Tensor:
    """t with its strides, as far from a multiple of 16 bytes, between NaN; whole numbers between the largest.

    Under the sanitizers it has an allocation of its own, which they watch.
    """
    if not t.numel():
        return t
    if any(stride == 0 and size > 1 for size, stride in zip(t.shape, t.stride(), strict=True)):
        t = t.contiguous()
    fill = math.nan if t.is_floating_point() else torch.iinfo(t.dtype).max
    size, count = t.element_size(), extent(t)
    around = 0 if MODE == "sanitized" else 64 // size
    storage = torch.full((count + 2 * around + 16 // size,), fill, dtype=t.dtype)
    at = around + (t.data_ptr() - storage.data_ptr()) % 16 // size
    if MODE == "sanitized":
        storage = storage[: at + count].clone() if at else torch.full((count,), fill, dtype=t.dtype)
    return storage.as_strided(t.shape, t.stride(), at).copy_(t)


@dataclass
class Host:
    """order: of threads between barriers. num_sms: of the device that the launchers plan for."""

    order: str = "forward"
    seed: int = 0
    num_sms: int = 4
    mode: str = MODE
    traffic: Any = None  # of the last call, in the mode "counted"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in CUSTOM_OPS:
            raise AttributeError(name)
        return lambda *given: self._run(name, given)

    def _run(self, name: str, given: tuple[Any, ...]) -> Any:
        """The operator, all of whose tensors lie between NaN."""
        found = library(self.mode)
        operator = getattr(getattr(torch.ops, library_name(self.mode)), name).default
        found.set_device(ORDERS.index(self.order), self.seed, self.num_sms)
        arguments, buffers = [], {}
        for argument, value in zip(operator._schema.arguments, given, strict=True):
            if isinstance(value, Tensor):
                value = buffers[argument.name] = between_nan(value)
            elif isinstance(value, list) and value and isinstance(value[0], Tensor):
                value = [between_nan(t) for t in value]
                buffers |= {f"{argument.name}{i}": t for i, t in enumerate(value)}
            arguments.append(value)
        if self.mode != "counted":
            return operator(*arguments)
        result, self.traffic = counted(found, buffers, lambda: operator(*arguments))
        return result

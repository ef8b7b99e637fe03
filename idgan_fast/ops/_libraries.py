"""Loads the compiled libraries `_cpu`, `_cuda` and `_host` beside this package, or says why that cannot be."""

import importlib
import mmap
import os
import re
import shutil
import sysconfig
from pathlib import Path
from types import ModuleType

import torch

PACKAGE = Path(__file__).parents[1]


def load_cpu(path: Path = PACKAGE / "_cpu.so") -> str | None:
    if path.exists():
        return _load(path, "CPU")
    compiler = (os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++").split()[0]
    if shutil.which(compiler) is None:
        return f"the CPU library was not built, and {compiler} is not there: install it and run pip install ."
    return "the CPU library was not built: pip install -v . builds it or says why not"


def load_cuda(path: Path = PACKAGE / "_cuda.so", cuda: str | None = torch.version.cuda) -> str | None:
    """Needs no GPU. cuda: the version that torch was built for; the library serves one major of it."""
    if torch.version.hip is not None:
        return "the CUDA library is for NVIDIA's GPUs, torch is for AMD's"
    if cuda is None:
        return "the torch installed has no CUDA: https://pytorch.org/get-started says how to get one that has"
    wanted = cuda.split(".")[0]
    if not path.exists():
        return f"the CUDA library was not built: pip install -v . builds it with nvcc of CUDA {wanted} or says why not"
    version = _runtime_of(path)
    if version != wanted:
        return (
            f"the CUDA library is of CUDA {version}, torch of CUDA {wanted}: pip install -v . builds it for this torch"
        )
    return _load(path, "CUDA")


def load_host(path: Path | None = None) -> tuple[ModuleType | None, str | None]:
    """The module that runs whole operators as one call of C++, or None and why.

    It fits one torch and one CPython, unlike the kernels: its name tells the second, a mark in it the first.
    IDGAN_FAST_HOST=0 leaves it out.
    """
    path = path or PACKAGE / f"_host{sysconfig.get_config_var('EXT_SUFFIX')}"
    if os.environ.get("IDGAN_FAST_HOST") == "0":
        return None, "IDGAN_FAST_HOST=0 leaves it out"
    if not path.exists():
        others = any(path.parent.glob("_host.*"))
        built = "was built for another Python" if others else "was not built"
        return None, f"the host library {built}: pip install --no-build-isolation . builds it or says why not"
    version, wanted = _torch_of(path), torch.__version__.split("+")[0]
    if version != wanted:
        how = "pip install --no-build-isolation . builds it for this one"
        return None, f"the host library is of torch {version}, torch is {wanted}: {how}"
    try:
        return importlib.import_module("idgan_fast._host"), None
    except ImportError as error:
        return None, f"the host library does not load: {str(error).splitlines()[0]}"


def _load(path: Path, name: str) -> str | None:
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"the {name} library does not load: {str(error.__cause__ or error).splitlines()[0]}"
    return None


def _runtime_of(path: Path) -> str | None:
    """The major version of the CUDA runtime that a library names."""
    return _found(path, rb"\0libcudart\.so\.(\d+)\0")


def _torch_of(path: Path) -> str | None:
    """The torch that a host library was built for: csrc/host/host.cpp has the mark."""
    return _found(path, rb"\0idgan_fast\._host for torch ([^\0]+)\0")


def _found(path: Path, pattern: bytes) -> str | None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        match = re.search(pattern, content)
        return match[1].decode() if match else None

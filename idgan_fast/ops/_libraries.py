"""Loads the compiled kernels, `_cpu.so` and `_cuda.so` beside this package, or says in a line why that cannot be."""

import mmap
import os
import re
import shutil
import sysconfig
from pathlib import Path

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


def _load(path: Path, name: str) -> str | None:
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"the {name} library does not load: {str(error.__cause__ or error).splitlines()[0]}"
    return None


def _runtime_of(path: Path) -> str | None:
    """The major version of the CUDA runtime that a library names."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        match = re.search(rb"\0libcudart\.so\.(\d+)\0", content)
        return match[1].decode() if match else None

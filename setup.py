"""Maps the folder kernels/ to the package idgan_fast.kernels and builds csrc/ where that is possible.

The CPU library speaks LibTorch's stable ABI, which promises that one binary serves every torch from TORCH_TARGET on,
and has no Python in it. Built with torch 2.14 it passed the kernels' tests with 2.13 too, and `make wheel` runs the
doctor's checks on such a pair. Where torch is not installed yet or no compiler works, the package installs without it,
and `idgan-fast doctor` says so.
"""

import os
import platform
import shlex
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import PlatformError

TORCH_TARGET = "0x020d000000000000"  # 2.13, the oldest that pyproject.toml allows
CPU = Path("csrc/cpu")
COMMON = ["-std=c++20", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
COMMON += ["-fno-tree-vectorize"]  # the kernels are written in vectors; GCC made more of them, of the pointers
SETS = {"plain": ["-DIDGAN_BYTES=16"]}
if platform.machine() in ("x86_64", "AMD64"):
    avx2 = ["-mavx2", "-mfma", "-mf16c"]
    avx512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]
    SETS["avx2"] = ["-DIDGAN_BYTES=32", *avx2]
    headers = ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]  # GCC 12's own raise both
    SETS["avx512"] = ["-DIDGAN_BYTES=64", *avx2, *avx512, *headers]


def torch_folder() -> Path:
    """The torch of the environment that is installed into: pip's isolated builds hide it from import alone."""
    spec = find_spec("torch")
    origins = [] if spec is None or spec.origin is None else [Path(spec.origin).parent]
    for folder in [*origins, *(Path(sysconfig.get_path(name)) / "torch" for name in ("platlib", "purelib"))]:
        if (folder / "include/torch/csrc/stable").is_dir():
            return folder
    raise PlatformError("the CPU library needs torch 2.13 or newer to be installed before it is built")


class BuildLibraries(build_ext):
    """Compiles isa.cpp once for each instruction set; the library is loaded by torch and has no Python in it."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"

    def build_extension(self, ext: Extension) -> None:
        if sys.platform != "linux":
            raise PlatformError("the CPU library is built on Linux alone so far")
        torch = torch_folder()
        temp = Path(self.build_temp)
        objects: list[str] = []
        users = shlex.split(os.environ.get("CXXFLAGS", ""))  # last, since setuptools has them before ours

        def compile(source: Path, out: Path, flags: list[str]) -> None:
            flags = [*COMMON, *flags, *users]
            objects.extend(self.compiler.compile([str(source)], output_dir=str(out), extra_postargs=flags))

        for name, flags in SETS.items():
            compile(CPU / "isa.cpp", temp / name, [f"-DIDGAN_SET={name}", "-fno-exceptions", *flags])
        for source in sorted(CPU.glob("*.cpp")):
            if source.name != "isa.cpp":
                compile(source, temp, [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", f"-isystem{torch / 'include'}"])
        link = {"libraries": ["torch_cpu"], "library_dirs": [str(torch / "lib")], "target_lang": "c++"}
        self.compiler.link_shared_object(objects, self.get_ext_fullpath(ext.name), **link)


class StableWheel(bdist_wheel):
    """Tagged for every Python, since the library has none in it."""

    def get_tag(self) -> tuple[str, str, str]:
        *_, system = super().get_tag()
        return "py3", "none", system


setup(
    packages=[*find_packages(include=["idgan_fast", "idgan_fast.*"]), "idgan_fast.kernels"],
    package_dir={"idgan_fast.kernels": "kernels"},
    ext_modules=[Extension("idgan_fast._cpu", sources=[], optional=True)],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": StableWheel},
)

"""Maps the folder kernels/ to the package idgan_fast.kernels and builds csrc/ where that is possible.

The kernels are two libraries, _cpu and _cuda, which speak LibTorch's stable ABI: it promises that one binary serves
every torch from TORCH_TARGET on, and they have no Python in them. Built with torch 2.14 the CPU library passed the
kernels' tests with 2.13 too, and `make wheel` runs the doctor's checks on such a pair. Where torch is not installed yet
or no compiler works, the package installs without them, and `idgan-fast doctor` says so.

The host library, _host, is C++ above the kernels that saves Python's time. It fits the torch and the CPython that it is
built with, which the tag of a wheel with it says. IDGAN_FAST_HOST=0 leaves it out: the package works without it.

The CUDA library needs nvcc of the CUDA major that torch has, and serves that major alone. It is built for
TORCH_CUDA_ARCH_LIST, or for the GPUs that are here, and without either left out. IDGAN_FAST_CUDA=all makes a wheel for
others: for all architectures unless they are listed, an error if it cannot be built, and with the local version +cu13.
That is what torch does: pip takes such a wheel for idgan-fast 0.1.0 as well, prefers it to the one without, and can be
told which (`pip install idgan-fast==0.1.0+cu13`), which it cannot be of a build tag.
"""

import os
import platform
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from subprocess import SubprocessError
from time import perf_counter
from typing import ClassVar

from setuptools import Distribution, Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import PlatformError

sys.path.insert(0, str(Path(__file__).resolve().parent / "csrc"))
import cuda_build

CPU, CUDA, HOST = Path("csrc/cpu"), Path("csrc/cuda"), Path("csrc/host")
COMMON = ["-std=c++20", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
COMMON += ["-fno-tree-vectorize"]  # the kernels are written in vectors; GCC made more of them, of the pointers
HOST_FLAGS = ["-std=c++20", "-O2", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
SETS = {"plain": ["-DIDGAN_BYTES=16"]}
if platform.machine() in ("x86_64", "AMD64"):
    avx2 = ["-mavx2", "-mfma", "-mf16c"]
    avx512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]
    SETS["avx2"] = ["-DIDGAN_BYTES=32", *avx2]
    headers = ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]  # GCC 12's own raise both
    SETS["avx512"] = ["-DIDGAN_BYTES=64", *avx2, *avx512, *headers]
FOR_OTHERS = os.environ.get("IDGAN_FAST_CUDA") == "all"


class BuildLibraries(build_ext):
    """The libraries are loaded by torch and have no Python in them."""

    user_options: ClassVar = [*build_ext.user_options, ("only=", None, "build this library alone: _cpu or _cuda")]

    def initialize_options(self) -> None:
        super().initialize_options()
        self.only = None

    def finalize_options(self) -> None:
        super().finalize_options()
        self.extensions = [ext for ext in self.extensions if self.only in (None, ext.name.split(".")[-1])]

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith("_host"):
            return super().get_ext_filename(fullname)  # which names this CPython
        return fullname.replace(".", "/") + ".so"

    def build_extension(self, ext: Extension) -> None:
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)  # of an earlier build, if this one fails
        if sys.platform != "linux":
            raise PlatformError("the libraries are built on Linux alone so far")
        if ext.name.endswith("_cpu"):
            self.build_cpu(ext)
        elif ext.name.endswith("_host"):
            self.build_host(ext)
        else:
            self.build_cuda(ext)

    def copy_extensions_to_source(self) -> None:
        """Leaves no library of older sources where none was built."""
        for ext in self.extensions:
            if not Path(self.build_lib, self.get_ext_filename(ext.name)).exists():
                Path(self.get_ext_filename(ext.name)).unlink(missing_ok=True)
        super().copy_extensions_to_source()

    def compile(self, source: Path, out: Path, flags: list[str]) -> str:
        users = shlex.split(os.environ.get("CXXFLAGS", ""))  # last, since setuptools has them before ours
        flags = [*COMMON, *flags, *users]
        (made,) = self.compiler.compile([str(source)], output_dir=str(out), extra_postargs=flags)
        return made

    def compile_for_torch(self, torch: Path, source: Path) -> str:
        headers = [f"-DTORCH_TARGET_VERSION={cuda_build.TORCH_TARGET}", f"-isystem{torch / 'include'}"]
        return self.compile(source, Path(self.build_temp), headers)

    def link(self, ext: Extension, objects: list[str], torch: Path, folders: tuple[Path, ...] = (), *more: str) -> None:
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(ext.name), libraries=["torch_cpu"], target_lang="c++",
            library_dirs=[str(folder) for folder in (torch / "lib", *folders)], extra_postargs=list(more),
        )  # fmt: skip

    def build_cpu(self, ext: Extension) -> None:
        """isa.cpp once for each instruction set."""
        torch = cuda_build.torch_folder()
        jobs = [
            partial(
                self.compile,
                CPU / "isa.cpp",
                Path(self.build_temp) / name,
                [f"-DIDGAN_SET={name}", "-fno-exceptions", *flags],
            )
            for name, flags in SETS.items()
        ]
        for path in sorted(CPU.glob("*.cpp")):
            if path.name != "isa.cpp":
                jobs.append(partial(self.compile_for_torch, torch, path))
        self.link(ext, in_parallel(jobs), torch)

    def build_host(self, ext: Extension) -> None:
        """By torch's own build, with ninja where it is installed, for this torch and this CPython."""
        if os.environ.get("IDGAN_FAST_HOST") == "0":
            return print("no host library: IDGAN_FAST_HOST=0 leaves it out")
        cuda_build.torch_folder()
        from torch.utils.cpp_extension import BuildExtension, CppExtension, is_ninja_available

        begun = perf_counter()
        sources = [str(path) for path in sorted(HOST.glob("*.cpp"))]
        users = shlex.split(os.environ.get("CXXFLAGS", ""))
        made_of = CppExtension(ext.name, sources, extra_compile_args=[*HOST_FLAGS, *users])
        command = BuildExtension(Distribution({"ext_modules": [made_of]}), use_ninja=is_ninja_available())
        command.build_lib, command.build_temp = self.build_lib, str(Path(self.build_temp) / "host")
        command.ensure_finalized()
        try:
            command.run()
        except (OSError, RuntimeError, SubprocessError) as error:
            raise PlatformError(f"the host library was not built: {str(error).splitlines()[0]}") from error
        made = Path(self.get_ext_fullpath(ext.name))
        print(f"{made.name}: {perf_counter() - begun:.0f} s, {made.stat().st_size / 2**20:.1f} MiB")
        return None

    def build_cuda(self, ext: Extension) -> None:
        """The kernels by nvcc, which sees no torch, their registration by the C++ compiler, which sees no CUDA."""
        architectures, begun = cuda_build.wanted(os.environ), perf_counter()
        if architectures is None:
            return print("no CUDA library: no GPU is here; TORCH_CUDA_ARCH_LIST=9.0 or IDGAN_FAST_CUDA=all builds it")
        torch = cuda_build.torch_folder()
        major = cuda_build.cuda_major(torch)
        if major is None:
            if FOR_OTHERS:
                raise PlatformError("the CUDA library needs a torch with CUDA; the one installed has none")
            return print("no CUDA library: the torch installed has no CUDA")
        sites = [torch.parent, *cuda_build.site_packages()]
        nvcc, runtime = cuda_build.find_toolkit(major, sites, os.environ)
        temp = Path(self.build_temp) / CUDA
        jobs = [
            partial(cuda_build.compile_kernels, nvcc, architectures, path, temp / f"{path.name}.o")
            for path in sorted(CUDA.glob("*.cu"))
        ]
        jobs += [partial(self.compile_for_torch, torch, path) for path in sorted(CUDA.glob("*.cpp"))]
        self.link(ext, in_parallel(jobs), torch, (runtime,), f"-l:libcudart.so.{major}")
        made = Path(self.get_ext_fullpath(ext.name))
        seconds, size = perf_counter() - begun, made.stat().st_size / 2**20
        print(f"{self.get_ext_filename(ext.name)}: {architectures} by {nvcc}: {seconds:.0f} s, {size:.1f} MiB")


def in_parallel(jobs: list[Callable[[], str]]) -> list[str]:
    """Their results in order; MAX_JOBS at once, or as many as there are cores."""
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(lambda job: job(), jobs))


class StableWheel(bdist_wheel):
    """Tagged for every Python, since the libraries have none in them, unless the host library is one of them."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, system = super().get_tag()
        if any(Path(self.get_finalized_command("build_ext").build_lib, "idgan_fast").glob("_host.*")):
            return python, abi, system
        return "py3", "none", system


def local_version() -> str:
    """What a wheel for others has after its version."""
    if not FOR_OTHERS:
        return ""
    try:
        major = cuda_build.cuda_major(cuda_build.torch_folder())
    except PlatformError as error:
        raise SystemExit(f"IDGAN_FAST_CUDA=all: {error}") from None
    return "" if major is None else f"+cu{major}"


setup(
    packages=[*find_packages(include=["idgan_fast", "idgan_fast.*"]), "idgan_fast.kernels"],
    package_dir={"idgan_fast.kernels": "kernels"},
    ext_modules=[
        Extension("idgan_fast._cpu", sources=[], optional=True),
        Extension("idgan_fast._cuda", sources=[], optional=not FOR_OTHERS),
        Extension("idgan_fast._host", sources=[], optional=True),
    ],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": StableWheel},
    options={"egg_info": {"tag_build": local_version()}},
)

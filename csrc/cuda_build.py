"""What building the libraries needs to know of torch and CUDA, found without importing torch: for setup.py, tests."""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from setuptools.errors import PlatformError

TORCH_TARGET = "0x020d000000000000"  # 2.13, the oldest that pyproject.toml allows
KERNELS = ["-std=c++20", "-O3"]  # what shapes the machine code, of the report too
NVCC = [*KERNELS, "-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xfatbin", "-compress-all"]
ALL = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"  # since Ampere; the last as text for those to come
NAMES = {"ampere": "8.0;8.6", "ada": "8.9", "hopper": "9.0", "blackwell": "10.0;12.0"}  # as torch has them
PACKAGES = "nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl"


class Toolkit(NamedTuple):
    nvcc: Path
    runtime: Path  # the folder of libcudart.so.<major>


def torch_folder() -> Path:
    """The torch of the environment that is installed into: pip's isolated builds hide it from import alone."""
    spec = find_spec("torch")
    origins = [] if spec is None or spec.origin is None else [Path(spec.origin).parent]
    for folder in [*origins, *(site / "torch" for site in site_packages())]:
        if (folder / "include/torch/csrc/stable").is_dir():
            return folder
    raise PlatformError("the libraries need torch 2.13 or newer to be installed before they are built")


def site_packages() -> list[Path]:
    return [Path(sysconfig.get_path(name)) for name in ("platlib", "purelib")]


def cuda_major(torch: Path) -> int | None:
    """The CUDA that a torch was built for; None if it has none."""
    found = re.search(r"^cuda\b[^=\n]*= *['\"](\d+)\.", (torch / "version.py").read_text(), re.MULTILINE)
    return int(found[1]) if found else None


def find_toolkit(major: int, sites: list[Path], environment: Mapping[str, str]) -> Toolkit:
    """nvcc and the CUDA runtime of a major version: of a toolkit, or those that pip installs into `sites`.

    The runtime comes from beside torch where it is there, since that is the one that torch loads.
    """
    others = []
    for nvcc in _compilers(major, sites, environment):
        found = nvcc_major(nvcc)
        if found != major:
            others.append(f"{nvcc} is of CUDA {found}")
            continue
        home = nvcc.parent.parent
        folders = [*(site / f"nvidia/cu{major}/lib" for site in sites), home / "lib64", home / "lib"]
        for folder in [*folders, *home.glob("targets/*/lib")]:
            if (folder / f"libcudart.so.{major}").exists():
                return Toolkit(nvcc, folder)
        raise PlatformError(f"the CUDA library needs libcudart.so.{major}: pip install nvidia-cuda-runtime")
    reason = "; ".join(others) or "there is none: set CUDA_HOME or pip install " + PACKAGES
    raise PlatformError(f"the CUDA library needs nvcc of CUDA {major}, as torch has; {reason}")


def _compilers(major: int, sites: list[Path], environment: Mapping[str, str]) -> Iterator[Path]:
    """Every nvcc that might do, the one that was named first."""
    homes = [Path(environment[name]) for name in ("CUDA_HOME", "CUDA_PATH") if environment.get(name)]
    on_path = shutil.which("nvcc", path=environment.get("PATH", ""))
    candidates = [home / "bin/nvcc" for home in homes]
    candidates += [Path(on_path).resolve()] if on_path else []
    candidates += [Path("/usr/local/cuda/bin/nvcc"), *(site / f"nvidia/cu{major}/bin/nvcc" for site in sites)]
    yield from dict.fromkeys(path for path in candidates if path.exists())


def nvcc_major(nvcc: Path) -> int | None:
    try:
        run = subprocess.run([nvcc, "--version"], capture_output=True, text=True)
    except OSError:
        return None
    found = re.search(r"release (\d+)\.", run.stdout)
    return int(found[1]) if found else None


def wanted(environment: Mapping[str, str]) -> str | None:
    """The architectures to build for, as TORCH_CUDA_ARCH_LIST has them; None if nothing asks for any.

    TORCH_CUDA_ARCH_LIST, all of them where IDGAN_FAST_CUDA=all, or those of the GPUs that are here.
    """
    wish = environment.get("IDGAN_FAST_CUDA", "")
    if wish not in ("", "all"):
        raise PlatformError(f"IDGAN_FAST_CUDA: must be all or not set, got {wish!r}")
    listed = environment.get("TORCH_CUDA_ARCH_LIST", "").strip()
    return listed or (ALL if wish == "all" else ";".join(present()) or None)


def present() -> list[str]:
    """The compute capabilities of this machine's GPUs."""
    try:
        command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return sorted({line for line in map(str.strip, run.stdout.splitlines()) if re.fullmatch(r"\d+\.\d", line)})


def flags(architectures: str) -> list[str]:
    """What nvcc is told for a list such as "8.0;9.0a 12.0+PTX"."""
    made = []
    for name, numbers in NAMES.items():
        architectures = re.sub(rf"\b{name}\b", numbers, architectures, flags=re.IGNORECASE)
    for one in re.split(r"[;,\s]+", architectures.strip(";, \t\n")):
        found = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", one)
        if found is None:
            raise PlatformError(f"TORCH_CUDA_ARCH_LIST: must be a list such as 8.0;9.0+PTX, got {architectures!r}")
        name = found[1] + found[2]
        kinds = ["sm", "compute"] if found[3] else ["sm"]
        made += [f"-gencode=arch=compute_{name},code={kind}_{name}" for kind in kinds]
    return list(dict.fromkeys(made))


def compile_kernels(nvcc: Path, architectures: str, source: Path, target: Path) -> str:
    """Compiles a .cu file; raises what nvcc says first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [str(nvcc), *NVCC, *flags(architectures), "-c", str(source), "-o", str(target)]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    said = (run.stderr + run.stdout).strip()
    if said:
        print(" ".join(command), said, sep="\n", flush=True)
    if run.returncode:
        said_first = [line for line in said.splitlines() if re.search("error|fatal", line)]
        raise PlatformError(said_first[0] if said_first else f"nvcc ended with status {run.returncode}")
    return str(target)

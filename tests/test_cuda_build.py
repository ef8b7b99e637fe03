"""The CUDA library: what it is built for and with, and that a build of one architecture loads where no GPU is."""

import ctypes
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from setuptools.errors import PlatformError

from idgan_fast.ops import _libraries

ROOT = Path(__file__).resolve().parent.parent
BUILD = SimpleNamespace(**runpy.run_path(str(ROOT / "csrc/cuda_build.py")))
MAJOR = torch.version.cuda and int(torch.version.cuda.split(".")[0])


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def fake_nvcc(home: Path, release: str, end: str = "") -> Path:
    """Answers --version alone; anything else ends with the error."""
    version = f'echo "Cuda compilation tools, release {release}, V{release}.1"'
    return script(home / "bin/nvcc", f'[ "$1" = --version ] && {version} && exit 0\n{end}')


def with_runtime(folder: Path, major: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"libcudart.so.{major}").touch()
    return folder


@pytest.mark.parametrize(
    ("listed", "wanted"),
    [
        ("8.0", ["compute_80,code=sm_80"]),
        ("8.0;9.0+PTX", ["compute_80,code=sm_80", "compute_90,code=sm_90", "compute_90,code=compute_90"]),
        ("Hopper;Ada", ["compute_90,code=sm_90", "compute_89,code=sm_89"]),
        (" 8.0 9.0a, 12.0f ;8.0", ["compute_80,code=sm_80", "compute_90a,code=sm_90a", "compute_120f,code=sm_120f"]),
    ],
)
def test_lists_of_architectures(listed: str, wanted: list[str]) -> None:
    assert BUILD.flags(listed) == [f"-gencode=arch={one}" for one in wanted]


@pytest.mark.parametrize("listed", ["Hoper", "90", "sm_90", "9.0+ptx", "8.0;;x"])
def test_what_is_no_list_of_architectures(listed: str) -> None:
    with pytest.raises(PlatformError, match="TORCH_CUDA_ARCH_LIST: must be a list such as"):
        BUILD.flags(listed)


def test_what_asks_for_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert BUILD.wanted({}) is None
    assert BUILD.wanted({"TORCH_CUDA_ARCH_LIST": " "}) is None
    assert BUILD.wanted({"IDGAN_FAST_CUDA": "all"}) == BUILD.ALL
    assert BUILD.wanted({"IDGAN_FAST_CUDA": "all", "TORCH_CUDA_ARCH_LIST": "9.0"}) == "9.0"
    with pytest.raises(PlatformError, match="IDGAN_FAST_CUDA: must be all or not set, got 'yes'"):
        BUILD.wanted({"IDGAN_FAST_CUDA": "yes"})
    script(tmp_path / "nvidia-smi", "echo 9.0; echo 8.6; echo 9.0")
    assert BUILD.wanted({}) == "8.6;9.0"
    assert BUILD.wanted({"TORCH_CUDA_ARCH_LIST": "8.0"}) == "8.0"
    script(tmp_path / "nvidia-smi", "echo NVIDIA-SMI has failed; exit 9")
    assert BUILD.wanted({}) is None


def test_the_cuda_of_torch(tmp_path: Path) -> None:
    for line, wanted in (
        ("cuda: Optional[str] = '13.0'", 13),
        ('cuda = "12.8"', 12),
        ("cuda: Optional[str] = None", None),
        ("hip: Optional[str] = '7.0'", None),
    ):
        (tmp_path / "version.py").write_text(f"__all__ = ['cuda']\n__version__ = '2.14.1+cu999'\n{line}\n")
        assert BUILD.cuda_major(tmp_path) == wanted
    assert BUILD.cuda_major(Path(torch.__file__).parent) == MAJOR


def test_nvcc_is_found(tmp_path: Path) -> None:
    """Of the right major alone: where CUDA_HOME says, on the path, then what pip has installed."""
    home, other, site = tmp_path / "home", tmp_path / "other", tmp_path / "site"
    environment = {"CUDA_HOME": str(home), "PATH": str(other / "bin")}
    pip = fake_nvcc(site / "nvidia/cu98", "98.2")
    with pytest.raises(PlatformError, match=r"needs libcudart\.so\.98: pip install nvidia-cuda-runtime"):
        BUILD.find_toolkit(98, [site], environment)
    of_pip = with_runtime(site / "nvidia/cu98/lib", 98)
    assert BUILD.find_toolkit(98, [site], environment) == (pip, of_pip)
    fake_nvcc(home, "97.0")
    assert BUILD.find_toolkit(98, [site], environment) == (pip, of_pip)
    on_path = fake_nvcc(other, "98.0")
    assert BUILD.find_toolkit(98, [site], environment) == (on_path, of_pip)
    assert BUILD.find_toolkit(98, [tmp_path], {**environment, "PATH": str(pip.parent)}) == (pip, of_pip)
    fake_nvcc(home, "98.0")
    assert BUILD.find_toolkit(98, [site], environment).nvcc == home / "bin/nvcc"
    with pytest.raises(PlatformError, match=r"needs nvcc of CUDA 99, as torch has; .*home/bin/nvcc is of CUDA 98; "):
        BUILD.find_toolkit(99, [site], environment)
    of_toolkit = with_runtime(home / "targets/sbsa-linux/lib", 98)
    assert BUILD.find_toolkit(98, [tmp_path], environment) == (home / "bin/nvcc", of_toolkit)


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The CUDA library alone, into a folder."""
    kept = {name: value for name, value in os.environ.items() if name not in ("TORCH_CUDA_ARCH_LIST", "CXXFLAGS")}
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--only", "_cuda", "--build-lib", folder, "--build-temp",
         folder / "temp"],
        env={**kept, **environment}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.skipif(MAJOR is None or sys.platform != "linux", reason="needs Linux and a torch with CUDA")
def test_a_build_that_fails_is_a_warning_unless_it_was_asked_for(tmp_path: Path) -> None:
    fake_nvcc(tmp_path, f"{MAJOR}.0", "echo 'nvcc fatal: an error of the compiler'; exit 1")
    environment = {"CUDA_HOME": str(tmp_path), "TORCH_CUDA_ARCH_LIST": "8.0", "CXX": "false"}
    failing = build(tmp_path, **environment)
    assert failing.returncode == 0, failing.stderr
    assert 'building extension "idgan_fast._cuda" failed: nvcc fatal: an error of the compiler' in failing.stderr
    failing = build(tmp_path, **environment, IDGAN_FAST_CUDA="all")
    assert failing.returncode == 1
    assert "error: nvcc fatal: an error of the compiler" in failing.stderr
    assert "Traceback" not in failing.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_without_a_gpu_nothing_is_built_and_nothing_warned_of(tmp_path: Path) -> None:
    script(tmp_path / "nvidia-smi", "exit 9")
    quiet = build(tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert "no CUDA library: no GPU is here; TORCH_CUDA_ARCH_LIST=9.0 or IDGAN_FAST_CUDA=all builds it" in quiet.stdout


@pytest.mark.skipif(MAJOR is None, reason="needs a torch with CUDA")
@pytest.mark.parametrize(("wish", "end"), [("all", f"+cu{MAJOR}"), ("", "")])
def test_a_wheel_for_others_says_of_which_cuda_it_is(wish: str, end: str, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", tmp_path],
        env={**os.environ, "IDGAN_FAST_CUDA": wish}, cwd=ROOT, check=True,
    )  # fmt: skip
    (info,) = tmp_path.glob("*.egg-info/PKG-INFO")
    (version,) = re.findall(r"^Version: (.*)$", info.read_text(), re.MULTILINE)
    assert re.fullmatch(r"[\d.]+(\+cu\d+)?", version)
    assert version.endswith(end)
    assert ("+" in version) == bool(end)


@pytest.mark.parametrize(
    ("cuda", "named", "reason"),
    [
        (None, None, "the torch installed has no CUDA"),
        ("13.0", None, "the CUDA library was not built: pip install -v . builds it with nvcc of CUDA 13"),
        ("13.0", "12", "the CUDA library is of CUDA 12, torch of CUDA 13: pip install -v . builds it for this torch"),
        ("13.0", "13", "the CUDA library does not load: "),
    ],
)
def test_a_missing_library_is_explained(cuda: str | None, named: str | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "_cuda.so"
    if named is not None:
        path.write_bytes(b"\x7fELF\0libcudart.so." + named.encode() + b"\0")
    found = _libraries.load_cuda(path, cuda)
    assert found is not None
    assert found.startswith(reason)
    assert len(found.splitlines()) == 1


def toolkit() -> str | None:
    """Why nothing can be built here; None if it can."""
    if MAJOR is None or sys.platform != "linux" or shutil.which("g++") is None or shutil.which("nm") is None:
        return "needs Linux, g++, nm and a torch with CUDA"
    try:
        BUILD.find_toolkit(MAJOR, [Path(torch.__file__).parent.parent], os.environ)
    except PlatformError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package whose CUDA library is built for one architecture."""
    reason = toolkit()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("cuda")
    built = build(folder, TORCH_CUDA_ARCH_LIST="8.0")
    assert (folder / "idgan_fast/_cuda.so").exists(), built.stdout[-3000:] + built.stderr[-3000:]
    assert re.search(r"idgan_fast/_cuda.so: 8.0 by .*nvcc: \d+ s, [\d.]+ MiB", built.stdout)
    ignored = shutil.ignore_patterns("_cuda.so", "__pycache__")
    shutil.copytree(ROOT / "idgan_fast", folder / "idgan_fast", ignore=ignored, dirs_exist_ok=True)
    return folder


def test_a_file_of_kernels_is_compiled_for_what_is_listed(tmp_path: Path) -> None:
    """The smallest by nvcc as the build calls it; the whole library is slow."""
    reason = toolkit()
    if reason is not None:
        pytest.skip(reason)
    nvcc = BUILD.find_toolkit(MAJOR, [Path(torch.__file__).parent.parent], os.environ).nvcc
    source = ROOT / "csrc/cuda/weight_square_sum.cu"
    made = Path(BUILD.compile_kernels(nvcc, "8.0", source, tmp_path / "temp/weight_square_sum.cu.o"))
    assert b"square_sum_of_taps_kernel" in made.read_bytes()
    broken = tmp_path / "broken.cu"
    broken.write_text("__global__ void kernel() { nothing(); }\n")
    with pytest.raises(PlatformError, match=r'broken.cu.*error: identifier "nothing" is undefined'):
        BUILD.compile_kernels(nvcc, "8.0", broken, tmp_path / "broken.o")


def registered() -> list[str]:
    """The operators that the sources say they register."""
    text = "".join(path.read_text() for path in (ROOT / "csrc/cuda").glob("*.cpp"))
    return re.findall(r'm\.impl\("(\w+)"', text)


@pytest.mark.slow
def test_every_operator_has_a_kernel_where_no_gpu_is(package: Path) -> None:
    assert {"bias_act_bwd2", "bias_lrelu_bwd", "weight_square_sum"} <= set(registered())
    code = f"""
import torch
from idgan_fast import ops
from idgan_fast.ops import _dispatch, _registry
assert _dispatch._no_cuda_library is None, _dispatch._no_cuda_library
for name in {registered()}:
    assert torch._C._dispatch_has_kernel_for_dispatch_key("idgan_fast::" + name, "CUDA"), name
    assert _dispatch.why_not("native", (name,), "cuda") is None
for name in _registry.CUSTOM_OPS.keys() - set({registered()}):
    assert _dispatch.why_not("native", (name,), "cuda") == f"no compiled cuda kernel of {{name}} in this installation"
x = torch.randn(2, 3, 4, 5)
got, wanted = (ops.bias_act(x, torch.ones(3), act="lrelu", impl=name) for name in ("auto", "reference"))
torch.testing.assert_close(got, wanted)
print("all there")
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(package), "CUDA_VISIBLE_DEVICES": ""},
        cwd=package, capture_output=True, text=True,
    )  # fmt: skip
    assert run.stdout == "all there\n", run.stderr


@pytest.mark.slow
def test_it_needs_no_symbol_of_torch_that_comes_with_its_cuda_part(package: Path) -> None:
    command = ["nm", "-D", "--undefined-only", package / "idgan_fast/_cuda.so"]
    names = [line.split()[-1] for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines()]
    assert not [name for name in names if re.search("torch_cuda|c10_cuda|c104cuda|2at4cuda|cuda_stream", name)]
    of_torch = [name for name in names if re.match("(aoti_)?torch_", name)]
    assert "aoti_torch_get_current_stream" in of_torch
    cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so"))
    assert [name for name in of_torch if not hasattr(cpu, name)] == []

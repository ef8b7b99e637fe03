"""The package builds where its libraries cannot: without them, and with a warning that says why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import wheel

ROOT = Path(__file__).resolve().parent.parent
# Runs setup.py as in an environment without torch.
NO_TORCH = """
import importlib.util, runpy, sys, sysconfig
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "torch" else find(name, *more)
sysconfig.get_path = lambda *_: "/nowhere"
runpy.run_path("setup.py", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the libraries are built on Linux alone")
@pytest.mark.parametrize(
    ("program", "reason"),
    [(["setup.py"], "'false'"), (["-c", NO_TORCH], "need torch 2.13 or newer to be installed before they are built")],
    ids=["no compiler", "no torch"],
)
def test_a_wheel_without_the_library(program: list[str], reason: str, tmp_path: Path) -> None:
    arguments = [
        *("egg_info", "--egg-base", tmp_path, "build", "--build-base", tmp_path / "build"),
        *("bdist_wheel", "--dist-dir", tmp_path, "--bdist-dir", tmp_path / "bdist"),
    ]
    run = subprocess.run(
        [sys.executable, *program, *arguments],
        env={**os.environ, "CC": "false", "CXX": "false"}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert any("_cpu" in line and reason in line for line in run.stderr.splitlines()), run.stderr
    (built,) = tmp_path.glob("*.whl")
    assert wheel.faults(built, compiled=False) == []
    assert wheel.faults(built) == ["no idgan_fast/_cpu.so"]
    of_cuda = built.rename(tmp_path / built.name.replace("-py3", "+cu13-py3"))
    assert "no idgan_fast/_cuda.so" in wheel.faults(of_cuda, compiled=False)


@pytest.mark.parametrize(
    ("compiler", "wanted"),
    [pytest.param("sh", "pip install -v . builds it", marks=pytest.mark.slow), ("no-c++", "no-c++ is not there")],
)
def test_a_missing_library_is_explained(compiler: str, wanted: str, tmp_path: Path) -> None:
    (tmp_path / "idgan_fast").mkdir()
    for entry in (ROOT / "idgan_fast").iterdir():
        if entry.suffix != ".so":
            (tmp_path / "idgan_fast" / entry.name).symlink_to(entry)
    code = "from idgan_fast import ops; print(ops.available('cpu')['bias_lrelu']['native'])"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CXX": compiler, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert run.stdout.startswith("the CPU library was not built"), run.stdout + run.stderr
    assert wanted in run.stdout
    assert len(run.stdout.splitlines()) == 1

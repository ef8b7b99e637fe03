"""What an installed package offers: the console script's commands and the kernels' folder under its name."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import idgan_fast
import idgan_fast.kernels
from idgan_fast import __main__ as cli

ROOT = Path(__file__).resolve().parent.parent


def test_kernels_are_a_subpackage() -> None:
    assert idgan_fast.kernels.__name__ == "idgan_fast.kernels"
    assert Path(idgan_fast.kernels.__file__).parent == ROOT / "kernels"


def test_bare_kernels_is_refused() -> None:
    """Another project owns the name on the package index."""
    command = [sys.executable, "-c", "import kernels"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode != 0
    assert "import it as idgan_fast.kernels" in result.stderr


def test_version_and_script() -> None:
    installed = importlib.metadata.version("idgan-fast").split("+")[0]  # +cu13 where the CUDA library was packed
    assert installed == idgan_fast.__version__
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="idgan-fast")
    assert script.load() is cli.main


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "train" in capsys.readouterr().out
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err == "error: no command named trian; did you mean train?\n"


@pytest.mark.parametrize("module", ["idgan_fast", "idgan_fast.train"])
def test_help(module: str) -> None:
    command = [sys.executable, "-m", module, *(["train"] if module == "idgan_fast" else []), "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    assert "--gan.distill-weight" in result.stdout

"""The operator of docs/adding_an_operator.md and its test: two files, found by everything that lists operators."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops import checks

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding_an_operator.md"
# The page's file lies in ops/ of the child alone.
CONFTEST = """
import idgan_fast.ops
idgan_fast.ops.__path__.append({folder!r})
"""
REGISTRY = """
import torch
from idgan_fast import ops
from idgan_fast.ops import softsign as added
from idgan_fast.ops._registry import CUSTOM_OPS
from idgan_fast.ops.validation import verification


def test_everything_that_lists_operators_finds_it() -> None:
    assert ops.available("cpu")["softsign"]["reference"] is None
    assert "softsign_fwd" in ops.available("cpu")["softsign"]["native"]
    assert verification.check(CUSTOM_OPS["softsign_fwd"], added._forward_reference, "cpu") is None
    assert "off by" in verification.check(CUSTOM_OPS["softsign_fwd"], lambda x: x.tanh(), "cpu")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    operator, test = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "softsign.py").write_text(operator)
    (tmp_path / "test_softsign.py").write_text(test)
    (tmp_path / "test_registry.py").write_text(REGISTRY)
    fixtures = (ROOT / "tests/ops/conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(fixtures + CONFTEST.format(folder=str(tmp_path)))
    return tmp_path


def run(folder: Path, tests: str) -> subprocess.CompletedProcess[str]:
    options = ["-q", "-c", ROOT / "pyproject.toml", "-p", "no:cacheprovider", "-m", "not slow", "-k", tests]
    command = [sys.executable, "-m", "pytest", *options, folder]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_operator_of_the_page(folder: Path) -> None:
    outcome = run(folder, "test")
    assert outcome.returncode == 0, outcome.stdout[-3000:]
    assert checks.passed(outcome.stdout) > 20


@pytest.mark.slow
def test_a_wrong_gradient_fails_the_test_of_the_page(folder: Path) -> None:
    file = folder / "softsign.py"
    text = file.read_text()
    assert "(dy / (1 + v.abs())" in text
    file.write_text(text.replace("(dy / (1 + v.abs())", "(dy * 1.01 / (1 + v.abs())"))
    outcome = run(folder, "test_gradients")
    assert re.findall(r"FAILED \S+::test_gradients", outcome.stdout), outcome.stdout[-3000:]

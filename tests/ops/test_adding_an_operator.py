"""The operator of docs/adding_an_operator.md: one file, found by everything that lists operators."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "adding_an_operator.md"
CHECK = """
import torch
import softsign as added
from idgan_fast import ops
from idgan_fast.ops._registry import CUSTOM_OPS
from idgan_fast.ops.validation import numerics, verification

x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
torch.testing.assert_close(added.softsign(x), torch.nn.functional.softsign(x))
assert torch.autograd.gradcheck(added.softsign, x) and torch.autograd.gradgradcheck(added.softsign, x)
torch.library.opcheck(torch.ops.idgan_fast.softsign_fwd.default, (x.detach(),))
assert ops.available("cpu")["softsign"]["reference"] is None
assert "softsign_fwd" in ops.available("cpu")["softsign"]["native"]
(case,) = [case for case in numerics.cases() if case.name == "softsign"]
assert all(row.passed for row in numerics.measure(case, torch.float32, "NHWC", "reference"))
assert verification.check(CUSTOM_OPS["softsign_fwd"], added._forward_reference, "cpu") is None
assert "off by" in verification.check(CUSTOM_OPS["softsign_fwd"], lambda x: x.tanh(), "cpu")
try:
    added.softsign(3)
except TypeError as error:
    print(error)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "softsign.py").write_text(code)
    return tmp_path


def test_the_operator_of_the_page(folder: Path) -> None:
    run = subprocess.run([sys.executable, "-c", CHECK], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "softsign: x must be a tensor, got int\n"

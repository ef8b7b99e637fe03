"""Every operator has a file of tests that calls the shared checks, and the numerics check sees a wrong operator."""

import re
from pathlib import Path

import pytest
import torch

from idgan_fast.ops._registry import CUSTOM_OPS, OPERATORS, Case
from idgan_fast.ops.validation import numerics
from tests.ops import checks

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_its_file(name: str) -> None:
    text = (FOLDER / f"test_{name}.py").read_text()
    if OPERATORS[name].cases is not None:
        assert f'@checks.numerics_of("{name}")' in text
        assert f'@checks.cases_of("{name}")' in text
    if OPERATORS[name].custom_ops:
        assert "checks.opcheck(" in text


def test_every_custom_op_is_opchecked() -> None:
    texts = [path.read_text() for path in FOLDER.glob("test_*.py")]
    checked = {name for text in texts for name in re.findall(r'checks\.opcheck\("(\w+)"', text)}
    registered = {
        name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("idgan_fast::")
    }
    assert registered == checked == set(CUSTOM_OPS)


def test_a_wrong_operator_is_outside_of_the_contract() -> None:
    right = checks.case("bias_act lrelu")
    for name, scale in (("output", 1.001), ("gradient", 1.0)):
        wrong = Case("wrong", right.shapes, lambda x, b, s=scale: right.ours(x, b) * s + 0.001 * x, right.plain)
        rows = {row.order: row for row in numerics.measure(wrong, torch.float32, "NCHW", ["reference"])}
        assert max(rows[name].ratios) > numerics.LIMIT

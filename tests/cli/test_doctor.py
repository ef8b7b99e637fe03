"""`idgan-fast doctor`: its table, its JSON, its exit status."""

import json
import re

import pytest

from idgan_fast.__main__ import main
from idgan_fast.ops._registry import Case
from idgan_fast.ops.validation import numerics
from idgan_fast.tools import doctor


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    few = numerics.cases()[:2]
    monkeypatch.setattr(doctor, "cases", lambda *_: few)


def test_table_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "bias_act" in text
    assert "it has kernels for GPUs" in text
    assert "pass: " in text
    assert re.search(r"^DALI on cpu  +(usable|it is not installed)", text, re.MULTILINE)
    assert re.search(r"^cuda library  +(loaded|the CUDA library|the torch installed)", text, re.MULTILINE)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert report["available"]["cpu"]["bias_act"]["reference"] is None
    assert {check["order"] for check in report["checks"]} >= {"output", "gradient"}


def test_a_wrong_operator_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    case = numerics.cases()[0]
    wrong = Case(case.name, case.shapes, lambda x, b: case.ours(x, b) * 1.1, case.plain)
    monkeypatch.setattr(doctor, "cases", lambda *_: [wrong])
    assert doctor.main([]) == 1
    assert "FAIL" in capsys.readouterr().out

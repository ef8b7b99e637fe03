"""Triton's kernels, interpreted on the CPU: TRITON_INTERPRET=1 pytest tests/triton."""

import os
from collections.abc import Iterator

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """bfloat16 as a GPU has it; NaN in memory that torch has not filled, so that what a kernel leaves out is seen."""
    from tests.triton import interpreter

    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    with interpreter.repaired(monkeypatch):
        yield
    torch.use_deterministic_algorithms(False)

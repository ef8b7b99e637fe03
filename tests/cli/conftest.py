"""Runs that take seconds."""

import pytest

from idgan_fast.run import trainer


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure on little."""
    monkeypatch.setattr(trainer, "ENCODED", 64)
    monkeypatch.setattr(trainer, "ENCODED_WITH_FACTORS", 64)

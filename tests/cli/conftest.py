"""Runs that take seconds."""

import pytest

from idgan_fast import train


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure on little."""
    monkeypatch.setattr(train, "ENCODED", 64)
    monkeypatch.setattr(train, "ENCODED_WITH_FACTORS", 64)

"""A budget's shares: what a slow device measures less of."""

import time

import pytest
import torch

from idgan_fast.evaluation.budget import Budget


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def rows_done(budget: Budget, clock: list[float], *, seconds_each: float, least: int, share: float = 0.5) -> int:
    done = 0
    for part in budget.batches("rows", torch.zeros(100, 1).split(8), least=least, share=share):
        clock[0] += seconds_each * len(part)
        done += len(part)
    return done


@pytest.mark.parametrize(
    ("seconds_each", "least", "done"),
    [(0.1, 8, 100), (1.0, 8, 32), (1.0, 50, 56), (100.0, 8, 8), (100.0, 10, 16), (0.301, 8, 100), (0.32, 8, 96)],
)
def test_a_share_ends_a_figure(seconds_each: float, least: int, done: int, clock: list[float]) -> None:
    """30 seconds, in batches of 8, the last of 4."""
    assert rows_done(Budget(60), clock, seconds_each=seconds_each, least=least) == done


def test_without_a_limit_all_is_done(clock: list[float]) -> None:
    budget = Budget()
    assert rows_done(budget, clock, seconds_each=1e6, least=1) == 100
    assert budget.affordable(500, least=3, share=0.1) == 500


def test_the_speed_so_far_sets_the_number_of_images(clock: list[float]) -> None:
    budget = Budget(60)
    assert budget.affordable(500, least=3, share=0.5) == 500
    rows_done(budget, clock, seconds_each=0.25, least=8)
    assert budget.affordable(500, least=3, share=0.5) == 120
    assert budget.affordable(100, least=3, share=0.5) == 100
    assert budget.affordable(500, least=200, share=0.5) == 200


def test_the_progress_is_told_and_whoever_hears_it_may_stop(clock: list[float]) -> None:
    heard = []

    def tell(what: str, done: int, total: int) -> None:
        heard.append((what, done, total))
        if done == 16:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        rows_done(Budget(60, tell), clock, seconds_each=0, least=8)
    assert heard == [("rows", 0, 100), ("rows", 8, 100), ("rows", 16, 100)]
    heard.clear()
    budget = Budget(60, lambda *told: heard.append(told))
    rows_done(budget, clock, seconds_each=10, least=8)
    assert heard == [("rows", 0, 100), ("rows", 100, 100)]

"""The schedules of stage 1."""

from dataclasses import replace
from itertools import pairwise

import pytest

from idgan_fast.config.settings import VAEConfig
from idgan_fast.training.vae import beta_at, lr_at

CONFIG = VAEConfig(iters=1000, beta=8.0, beta_start=60.0, beta_hold=0.2, beta_reach=0.8, lr=2e-3, lr_decay=0.2)


def test_beta_is_constant_without_a_start():
    config = replace(CONFIG, beta_start=None)
    assert {beta_at(config, i) for i in range(1001)} == {8.0}


def test_beta_is_held_then_falls_then_stays():
    assert all(beta_at(CONFIG, i) == pytest.approx(60) for i in range(201))
    assert all(beta_at(CONFIG, i) == pytest.approx(8) for i in range(800, 1001))
    falling = [beta_at(CONFIG, i) for i in range(200, 801)]
    assert all(later < earlier for earlier, later in pairwise(falling))


def test_beta_falls_geometrically():
    falling = [beta_at(CONFIG, i) for i in range(200, 801)]
    ratio = (8 / 60) ** (1 / 600)
    assert all(later / earlier == pytest.approx(ratio, rel=1e-9) for earlier, later in pairwise(falling))
    assert beta_at(CONFIG, 500) == pytest.approx((60 * 8) ** 0.5)


def test_beta_may_rise_too():
    config = replace(CONFIG, beta_start=1.0)
    rising = [beta_at(config, i) for i in range(200, 801)]
    assert rising[0] == pytest.approx(1)
    assert rising[-1] == pytest.approx(8)
    assert all(later > earlier for earlier, later in pairwise(rising))


def test_beta_goes_by_the_share_of_the_run():
    longer = replace(CONFIG, iters=50_000)
    assert all(beta_at(longer, 50 * i) == pytest.approx(beta_at(CONFIG, i)) for i in range(0, 1001, 10))


@pytest.mark.parametrize("hold", [0.0, 0.5, 1.0])
def test_beta_may_drop_at_once(hold):
    config = replace(CONFIG, beta_hold=hold, beta_reach=hold)
    assert beta_at(config, int(hold * 1000)) == pytest.approx(60)
    assert beta_at(config, int(hold * 1000) + 1) == pytest.approx(8)


def test_lr_is_constant_without_decay():
    config = replace(CONFIG, lr_decay=0.0)
    assert {lr_at(config, i) for i in range(1000)} == {2e-3}


def test_lr_is_constant_then_falls_linearly_to_zero():
    assert all(lr_at(CONFIG, i) == 2e-3 for i in range(801))
    assert lr_at(CONFIG, 900) == pytest.approx(1e-3)
    assert lr_at(CONFIG, 999) == pytest.approx(2e-3 / 200)
    assert lr_at(CONFIG, 1000) == 0
    steps = [lr_at(CONFIG, i) - lr_at(CONFIG, i + 1) for i in range(800, 1000)]
    assert all(step == pytest.approx(1e-5) for step in steps)


def test_lr_decay_over_the_whole_run():
    config = replace(CONFIG, lr_decay=1.0)
    assert all(lr_at(config, i) == pytest.approx(2e-3 * (1 - i / 1000)) for i in range(1001))


def test_lr_rises_linearly_over_the_warm_up():
    config = replace(CONFIG, lr_warmup=0.1)
    assert all(lr_at(config, i) == pytest.approx(2e-3 * (i + 1) / 100) for i in range(100))
    assert all(lr_at(config, i) == 2e-3 for i in range(100, 801))
    assert lr_at(config, 900) == pytest.approx(1e-3)
    assert lr_at(config, 0) > 0


def test_lr_of_a_warm_up_that_meets_the_decay():
    config = replace(CONFIG, lr_warmup=0.6, lr_decay=0.8)
    values = [lr_at(config, i) for i in range(1001)]
    peak = values.index(max(values))
    assert all(later > earlier for earlier, later in pairwise(values[: peak + 1]))
    assert all(later < earlier for earlier, later in pairwise(values[peak:]))
    assert max(values) < 2e-3

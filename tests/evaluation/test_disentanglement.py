"""Measures of codes against true factors, with numpy's own estimates beside them."""

import math

import numpy as np
import pytest

from idgan_fast.evaluation.disentanglement import correlation, entropy, mig, mutual_information, r2_per_dim

GRID = (3, 6, 40, 32, 32)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def draw_factors(rng, count=10_000, grid=GRID):
    return np.stack([rng.integers(0, size, count) for size in grid], axis=1)


def test_correlation_against_numpy(rng):
    factors = draw_factors(rng, 500)
    mixing = rng.normal(size=(5, 4))
    codes = factors @ mixing + 20 * rng.normal(size=(500, 4)) + 3
    table = correlation(factors, codes)
    assert table.shape == (5, 4)
    for i in range(5):
        for j in range(4):
            assert table[i, j] == pytest.approx(abs(np.corrcoef(factors[:, i], codes[:, j])[0, 1]), abs=1e-12)


def test_correlation_of_a_linear_function_is_one_whatever_its_sign(rng):
    factors = draw_factors(rng, 300)
    table = correlation(factors, np.stack([2.0 * factors[:, 3] + 5, -factors[:, 4] / 7], 1))
    np.testing.assert_allclose([table[3, 0], table[4, 1]], 1, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_correlation_of_a_constant_column_is_zero(rng, dtype):
    factors, codes = draw_factors(rng, 1000), rng.normal(size=(1000, 3)).astype(dtype)
    factors[:, 1], codes[:, 2] = 4, 0.1
    with np.errstate(all="raise"):
        table = correlation(factors, codes)
    np.testing.assert_allclose(table[1], 0, atol=1e-9)
    np.testing.assert_allclose(table[:, 2], 0, atol=1e-9)
    assert (table[[0, 2, 3, 4], :2] > 0).all()


def test_entropy_in_nats():
    assert entropy(np.array([0, 0, 0, 2])) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert entropy(np.arange(40)) == pytest.approx(math.log(40))
    assert entropy(np.full(9, 3)) == pytest.approx(0)


@pytest.mark.parametrize("bins", [5, 20])
def test_mutual_information_against_a_histogram(rng, bins):
    factors = draw_factors(rng, 2000)
    codes = np.stack(
        [factors[:, 2] + rng.normal(size=2000), np.exp(factors[:, 3] / 8), rng.normal(size=2000), factors[:, 0] ** 2.0],
        axis=1,
    )
    table = mutual_information(factors, codes, bins)
    assert table.shape == (5, 4)
    for i in range(5):
        for j in range(4):
            edges = np.linspace(codes[:, j].min(), codes[:, j].max(), bins + 1)
            joint, _, _ = np.histogram2d(factors[:, i], codes[:, j], bins=[np.arange(GRID[i] + 1) - 0.5, edges])
            joint = joint / joint.sum()
            independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
            filled = joint > 0
            expected = (joint[filled] * np.log(joint[filled] / independent[filled])).sum()
            assert table[i, j] == pytest.approx(expected, abs=1e-9)


def test_mutual_information_of_a_factor_with_itself_is_its_entropy(rng):
    factors = draw_factors(rng, 2000, grid=(3, 6))
    table = mutual_information(factors, factors.astype(float))
    for i in range(2):
        assert table[i, i] == pytest.approx(entropy(factors[:, i]))


def rotation(rng, size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def test_mig_of_true_factors_is_high_of_rotated_ones_lower_and_of_noise_near_zero(rng):
    factors = draw_factors(rng)
    standard = (factors - factors.mean(0)) / factors.std(0)
    true = mig(factors, standard)
    rotated = mig(factors, standard @ rotation(rng, 5))
    noise = mig(factors, rng.normal(size=(len(factors), 10)))
    assert 0.88 < true < 0.95  # 20 bins cannot tell 40 or 32 values apart
    assert 0 <= rotated < 0.5 * true
    assert 0 <= noise < 0.01


def test_mig_of_true_factors_is_that_of_twenty_bins(rng):
    """Every factor's gap is I(v; 20 equal bins of v) / H(v), as the other codes tell next to nothing."""
    factors = np.stack([axis.ravel() for axis in np.meshgrid(*map(np.arange, GRID[:4]), indexing="ij")], axis=1)
    expected = []
    for size in GRID[:4]:
        counts = np.histogram(np.arange(size), np.linspace(0, size - 1, 21))[0] / size
        counts = counts[counts > 0]
        expected.append(-(counts * np.log(counts)).sum() / math.log(size))
    assert mig(factors, factors.astype(float)) == pytest.approx(np.mean(expected), abs=1e-9)


def test_mig_falls_when_a_factor_is_coded_twice(rng):
    factors = draw_factors(rng, grid=(3, 6))
    codes = factors.astype(float)
    assert mig(factors, codes) > 0.98
    twice = np.concatenate([codes, codes[:, :1] * 2 - 1], axis=1)
    assert mig(factors, twice) == pytest.approx(mig(factors, codes) / 2, abs=0.01)


def test_mig_leaves_out_constant_factors(rng):
    factors = draw_factors(rng, 5000)
    codes = factors + 0.3 * rng.normal(size=factors.shape)
    constant = np.concatenate([np.zeros((5000, 1), int), factors, np.full((5000, 1), 2)], axis=1)
    with np.errstate(all="raise"):
        value = mig(constant, codes)
    assert value == pytest.approx(mig(factors, codes))


def test_mig_of_codes_with_dead_dimensions_is_finite(rng):
    factors = draw_factors(rng, 5000)
    codes = np.concatenate([factors.astype(float), np.full((5000, 2), 0.7)], axis=1)
    assert mig(factors, codes) == pytest.approx(mig(factors, codes[:, :5]), abs=0.01)


@pytest.mark.parametrize("dims", [1, 4])
def test_r2_against_the_formula(rng, dims):
    target = rng.normal(size=(200, dims)) * 3 + 1
    prediction = target + rng.normal(size=(200, dims)) * np.arange(1, dims + 1)
    expected = [
        1 - sum((target[n, d] - prediction[n, d]) ** 2 for n in range(200)) / (200 * np.var(target[:, d]))
        for d in range(dims)
    ]
    np.testing.assert_allclose(r2_per_dim(target, prediction), expected, rtol=1e-10)


def test_r2_of_the_target_is_one_and_of_its_mean_zero(rng):
    target = rng.normal(size=(100, 3))
    np.testing.assert_allclose(r2_per_dim(target, target), 1)
    np.testing.assert_allclose(r2_per_dim(target, np.broadcast_to(target.mean(0), target.shape)), 0, atol=1e-12)


def test_r2_of_a_constant_target_is_no_nan():
    with np.errstate(all="raise"):
        value = r2_per_dim(np.ones((10, 1)), np.ones((10, 1)))
    assert np.isfinite(value).all()

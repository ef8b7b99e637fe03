"""Each loss against its formula in float64, written out apart from the package."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import Bernoulli, Normal, kl_divergence

from idgan_fast.training import losses

BATCHES = [1, 2, 7]


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_gradient(x):
    return x.clone().requires_grad_()


def close(actual, expected, rtol=1e-10):
    np.testing.assert_allclose(np.asarray(actual.detach()), np.asarray(expected), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("batch", BATCHES)
def test_bernoulli_reconstruction_is_minus_the_log_likelihood(batch):
    logits, x = normal(batch, 3, 5, 4, seed=1, scale=3), uniform(batch, 3, 5, 4, seed=2)
    p = 1 / (1 + np.exp(-logits.numpy()))
    expected = -(x.numpy() * np.log(p) + (1 - x.numpy()) * np.log(1 - p)).sum() / batch
    close(losses.reconstruction(logits, x, "bernoulli"), expected)

    binary = x.round()
    expected = -Bernoulli(logits=logits).log_prob(binary).sum() / batch
    close(losses.reconstruction(logits, binary, "bernoulli"), expected)


@pytest.mark.parametrize("batch", BATCHES)
def test_gaussian_reconstruction_has_no_half_and_no_variance(batch):
    logits, x = normal(batch, 2, 4, 4, seed=3, scale=2), uniform(batch, 2, 4, 4, seed=4)
    expected = sum(
        (pixel - 1 / (1 + math.exp(-logit))) ** 2
        for pixel, logit in zip(x.flatten().tolist(), logits.flatten().tolist(), strict=True)
    )
    close(losses.reconstruction(logits, x, "gaussian"), expected / batch)


@pytest.mark.parametrize("distribution", ["bernoulli", "gaussian"])
def test_reconstruction_gradient(distribution):
    x = uniform(2, 1, 3, 3, seed=5)
    logits = normal(2, 1, 3, 3, seed=6, scale=2).requires_grad_()
    assert gradcheck(lambda value: losses.reconstruction(value, x, distribution), logits)


@pytest.mark.parametrize("distribution", ["bernoulli", "gaussian"])
def test_reconstruction_of_extreme_logits_is_finite(distribution):
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4]])
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    expected = {"bernoulli": 2e4, "gaussian": 2.0}[distribution]
    assert losses.reconstruction(logits, x, distribution).item() == pytest.approx(expected)


@pytest.mark.parametrize("batch", BATCHES)
def test_kl_per_dim_is_the_kl_to_a_standard_normal(batch):
    mean, logvar = normal(batch, 6, seed=7), normal(batch, 6, seed=8)
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(torch.zeros_like(mean), 1.0)).mean(0)
    actual = losses.kl_per_dim(mean, logvar)
    assert actual.shape == (6,)
    close(actual, expected)


def test_kl_of_a_standard_normal_is_zero_and_else_positive():
    zero = torch.zeros(4, 3, dtype=torch.float64)
    close(losses.kl_per_dim(zero, zero), np.zeros(3))
    assert (losses.kl_per_dim(normal(4, 3, seed=9), normal(4, 3, seed=10)) > 0).all()


def test_kl_gradient():
    inputs = (normal(3, 4, seed=11).requires_grad_(), normal(3, 4, seed=12).requires_grad_())
    assert gradcheck(losses.kl_per_dim, inputs)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("loss", "label"), [(losses.d_real, 1), (losses.d_fake, 0), (losses.g_fake, 1)], ids=["d_real", "d_fake", "g_fake"]
)
def test_adversarial_losses_are_binary_cross_entropies(loss, label, batch):
    logits = normal(batch, seed=13 + label, scale=4)
    p = [1 / (1 + math.exp(-logit)) for logit in logits.tolist()]
    expected = -sum(math.log(q if label else 1 - q) for q in p) / batch
    close(loss(logits), expected)
    assert gradcheck(loss, with_gradient(logits))


@pytest.mark.parametrize("loss", [losses.d_real, losses.d_fake, losses.g_fake])
def test_adversarial_losses_of_extreme_logits_are_finite(loss):
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    value = loss(logits)
    value.backward()
    assert value.item() == pytest.approx(5e3)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("batch", BATCHES)
def test_distillation_is_minus_the_log_density(batch):
    c, mean, logvar = normal(batch, 5, seed=15), normal(batch, 5, seed=16), normal(batch, 5, seed=17)
    expected = -Normal(mean, (logvar / 2).exp()).log_prob(c).sum(1).mean()
    close(losses.distillation(c, mean, logvar), expected, rtol=1e-6)  # the variance has 1e-8 added


def test_distillation_adds_its_epsilon_to_the_variance():
    c, mean, logvar = normal(3, 4, seed=18), normal(3, 4, seed=19), normal(3, 4, seed=20) - 20
    total = 0.0
    for n in range(3):
        for d in range(4):
            variance, error = math.exp(logvar[n, d]), (c[n, d] - mean[n, d]).item()
            total += 0.5 * (math.log(2 * math.pi) + logvar[n, d].item() + error**2 / (variance + 1e-8))
    close(losses.distillation(c, mean, logvar), total / 3)


def test_distillation_does_not_detach_mean_or_variance():
    c = normal(4, 3, seed=21)
    mean, logvar = normal(4, 3, seed=22).requires_grad_(), normal(4, 3, seed=23).requires_grad_()
    losses.distillation(c, mean, logvar).backward()
    variance, error = logvar.detach().exp(), c - mean.detach()
    close(mean.grad, -error / (variance + 1e-8) / 4)
    close(logvar.grad, 0.5 * (1 - error**2 * variance / (variance + 1e-8) ** 2) / 4)


def test_distillation_gradcheck():
    inputs = tuple(normal(2, 3, seed=24 + i).requires_grad_() for i in range(3))
    assert gradcheck(losses.distillation, inputs)


@pytest.mark.parametrize("batch", BATCHES)
def test_gradient_penalty_is_the_mean_squared_norm(batch):
    gradient = normal(batch, 3, 4, 5, seed=27)
    expected = np.mean([np.linalg.norm(sample.ravel()) ** 2 for sample in gradient.numpy()])
    close(losses.gradient_penalty(gradient), expected)
    assert gradcheck(losses.gradient_penalty, with_gradient(gradient))


@pytest.mark.parametrize("batch", BATCHES)
def test_bottleneck_kl_takes_the_log_of_the_standard_deviation(batch):
    mean, logstd = normal(batch, 5, 4, 4, seed=28), normal(batch, 5, 4, 4, seed=29, scale=0.5)
    kl = kl_divergence(Normal(mean, logstd.exp()), Normal(torch.zeros_like(mean), 1.0))
    expected = kl.sum() / (batch * 16)
    close(losses.bottleneck_kl(mean, logstd), expected)


def test_bottleneck_kl_gradient():
    inputs = (normal(2, 3, 4, 4, seed=30).requires_grad_(), normal(2, 3, 4, 4, seed=31).requires_grad_())
    assert gradcheck(losses.bottleneck_kl, inputs)


@pytest.mark.parametrize(
    ("beta", "kl", "expected"),
    [
        (0.1, 0.1, 0.1),
        (0.1, 5.1, 0.1 + 5e-5),
        (0.1, 0.0, 0.1 - 1e-6),
        (5e-7, 0.0, 0.0),  # 5e-7 - 1e-6 would be negative
        (0.0, 0.05, 0.0),
        (0.0, 1.1, 1e-5),
    ],
)
def test_bottleneck_beta_follows_the_constraint_and_stays_at_zero_or_more(beta, kl, expected):
    beta, kl = (torch.tensor(value, dtype=torch.float64) for value in (beta, kl))
    close(losses.next_bottleneck_beta(beta, kl), expected)

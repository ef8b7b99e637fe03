"""`real_gradients` against autograd's double backward and against finite differences."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from idgan_fast.models.resnet import ResnetDiscriminator
from idgan_fast.models.vae import DSpritesDiscriminator
from idgan_fast.training.r1 import real_gradients


def randomize(network, seed=0, gain=2.0):
    """Weights and biases far from zero, so that every term of the gradient counts."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
            parameter.copy_(noise * gain / fan_in**0.5)
    return network


def resnet(size=16, width=3, max_width=7, channels=3):
    return randomize(ResnetDiscriminator(size, width, max_width, channels).double())


def dsprites(channels=1, width=3):
    return randomize(DSpritesDiscriminator(channels, width).double())


NETWORKS = {
    "resnet 8": (lambda: resnet(8, 4, 8), (3, 8, 8)),
    "resnet 16": (resnet, (3, 16, 16)),
    "resnet 32, gray": (lambda: resnet(32, 2, 3, channels=1), (1, 32, 32)),
    "resnet 16, one width": (lambda: resnet(16, 4, 4), (3, 16, 16)),
    "dSprites": (dsprites, (1, 64, 64)),
    "dSprites, color": (lambda: dsprites(3, 2), (3, 64, 64)),
}


def pictures(batch, shape, seed=1, dtype=torch.float64):
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def by_double_backward(network, x, r1_weight, scale=1.0):
    """Loss, penalty and gradients by plain autograd, on a copy of the network."""
    network = copy.deepcopy(network)
    network.zero_grad()
    x = x.detach().clone().requires_grad_()
    logits = network(x)
    loss = -torch.log(torch.sigmoid(logits.double())).mean()
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    penalty = gradient.double().pow(2).sum((1, 2, 3)).mean()
    (scale * (loss + r1_weight * penalty)).backward()
    return loss.detach(), penalty.detach(), gradients(network)


def gradients(network):
    """Zeros stand for a gradient that autograd leaves out."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in network.named_parameters()
        if p.requires_grad
    }


def assert_same(actual, expected, rtol=1e-9):
    assert actual.keys() == expected.keys()
    for name in expected:
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(actual[name], expected[name], rtol=rtol, atol=rtol * scale + 1e-12, msg=name)


def check(network, x, r1_weight, loss_scale=1.0):
    loss, penalty, expected = by_double_backward(network, x, r1_weight, float(loss_scale))
    logits, *rest, found = real_gradients(network, x, r1_weight, loss_scale)
    result = [F.softplus(-logits).mean(), *rest]
    assert not any(value.requires_grad for value in [*result, *found])
    torch.testing.assert_close(result[0], loss, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result[1], penalty, rtol=1e-10, atol=1e-12)
    assert_same(named(network, found), expected)
    assert all(p.grad is None for p in network.parameters())
    return expected


def named(network, found):
    """Gradients by the names of the parameters that take some; for others they must be 0."""
    pairs = list(zip(network.named_parameters(), found, strict=True))
    assert not any(gradient.any() for (_, p), gradient in pairs if not p.requires_grad)
    return {name: gradient for (name, p), gradient in pairs if p.requires_grad}


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_as_a_double_backward(name, batch):
    build, shape = NETWORKS[name]
    expected = check(build(), pictures(batch, shape), r1_weight=10.0)
    assert all(gradient.abs().max() > 0 for gradient in expected.values())


@pytest.mark.parametrize("name", ["resnet 16", "dSprites"])
def test_the_penalty_counts(name):
    """Loss and penalty both have a share in the gradient of every layer, so neither can be lost unseen."""
    build, shape = NETWORKS[name]
    x = pictures(2, shape)
    with_penalty, without = (by_double_backward(build(), x, weight)[2] for weight in (1.0, 0.0))
    for key in without:
        assert without[key].abs().max() > 0, key
        if key.endswith("weight"):
            assert (with_penalty[key] - without[key]).norm() > 0.01 * without[key].norm(), key


@pytest.mark.parametrize("r1_weight", [0.0, 0.3, 1000.0])
@pytest.mark.parametrize("name", ["resnet 16", "dSprites"])
def test_other_weights(name, r1_weight):
    build, shape = NETWORKS[name]
    check(build(), pictures(3, shape, seed=2), r1_weight)


@pytest.mark.parametrize("loss_scale", [128.0, torch.tensor(1024.0), torch.tensor(0.5)])
@pytest.mark.parametrize("name", ["resnet 16", "dSprites"])
def test_loss_scale_multiplies_the_gradients_only(name, loss_scale):
    build, shape = NETWORKS[name]
    network = build()
    expected = check(network, pictures(2, shape, seed=3), 10.0, loss_scale)
    plain = build()
    found = named(plain, real_gradients(plain, pictures(2, shape, seed=3), 10.0)[2])
    assert_same(expected, {key: float(loss_scale) * value for key, value in found.items()})


@pytest.mark.parametrize("name", ["resnet 16", "dSprites"])
@pytest.mark.parametrize("whole", [True, False], ids=["network too", "pictures only"])
def test_channels_last(name, whole):
    build, shape = NETWORKS[name]
    network = build().to(memory_format=torch.channels_last) if whole else build()
    check(network, pictures(2, shape, seed=4).contiguous(memory_format=torch.channels_last), 10.0)


def test_a_parameter_of_two_layers_gets_both_shares():
    network, x = resnet(16, 4, 4), pictures(2, (3, 16, 16), seed=5)
    network.resnet[2].conv_1.weight = network.resnet[0].conv_0.weight
    check(network, x, 10.0)


@pytest.mark.parametrize("frozen", ["conv_img", "resnet.2", "fc"])
def test_frozen_parameters_get_no_gradient(frozen):
    network, x = resnet(), pictures(2, (3, 16, 16), seed=8)
    network.get_submodule(frozen).requires_grad_(False)
    expected = check(network, x, 10.0)
    assert expected
    assert not any(name.startswith(frozen) for name in expected)


def test_inputs_and_weights_are_left_alone():
    network, x = resnet(), pictures(2, (3, 16, 16), seed=9)
    before, x_before = copy.deepcopy(network.state_dict()), x.clone()
    real_gradients(network, x, 10.0)
    assert torch.equal(x, x_before)
    assert not x.requires_grad
    assert x.grad is None
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("build", "shape", "bound"),
    [(lambda: resnet(16, 8, 16), (3, 16, 16), 0.03), (lambda: dsprites(1, 8), (1, 64, 64), 0.2)],
    ids=["resnet", "dSprites"],
)
@pytest.mark.parametrize(("dtype", "loss_scale"), [(torch.bfloat16, 1.0), (torch.float16, 64.0)])
def test_autocast_is_as_close_as_a_double_backward_under_autocast(build, shape, bound, dtype, loss_scale):
    """The error relative to the float32 gradient's norm: under 3 % (dSprites: 20 %, as rounding turns some signs), and
    no more than 1.5 times that of the double backward under autocast, plus 0.5 %."""
    network, x = build().float(), pictures(4, shape, seed=10, dtype=torch.float32)
    loss, penalty, exact = by_double_backward(network, x, 10.0)
    with torch.autocast("cpu", dtype):
        _, _, rounded = by_double_backward(network, x, 10.0)
        logits, actual_penalty, found = real_gradients(network, x, 10.0, loss_scale)
        actual_loss = F.softplus(-logits).mean()
    ours = {name: gradient / loss_scale for name, gradient in named(network, found).items()}
    assert all(gradient.dtype == torch.float32 for gradient in ours.values())

    def error(approximate):
        norm = sum(value.pow(2).sum() for value in exact.values()).sqrt()
        return sum((approximate[key] - exact[key]).pow(2).sum() for key in exact).sqrt() / norm

    assert error(ours) < bound
    assert error(ours) < 1.5 * error(rounded) + 0.005
    assert actual_loss.item() == pytest.approx(loss.item(), rel=0.05)
    assert actual_penalty.item() == pytest.approx(penalty.item(), rel=0.05)


class WithTanh(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(2 * 64, 1)

    def forward(self, x):
        return self.fc(torch.tanh(self.conv(x)).flatten(1)).squeeze(1)


class WithBatchNorm(WithTanh):
    def forward(self, x):
        h = F.batch_norm(self.conv(x), None, None, training=True)
        return self.fc(F.relu(h).flatten(1)).squeeze(1)


class WithBatchNormLayer(WithTanh):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        return self.fc(F.relu(self.norm(self.conv(x))).flatten(1)).squeeze(1)


class WithOffset(WithTanh):
    """A sum with something that does not come from x is affine, which a replay would get wrong."""

    def __init__(self, constant):
        super().__init__()
        self.offset = 1.0 if constant else nn.Parameter(torch.ones(2, 1, 1))

    def forward(self, x):
        return self.fc(F.relu(torch.add(self.conv(x), self.offset)).flatten(1)).squeeze(1)


class WithFunctionalCalls(WithTanh):
    def forward(self, x):
        h = F.conv2d(x, self.conv.weight, self.conv.bias, padding=1)
        h = torch.add(h, F.conv2d(F.leaky_relu(h), self.extra))
        return self.fc(F.relu(h).flatten(1)).squeeze(1)

    def __init__(self):
        super().__init__()
        self.extra = nn.Parameter(torch.randn(2, 2, 1, 1))


def test_convolutions_called_as_functions():
    torch.manual_seed(0)
    check(WithFunctionalCalls().double(), pictures(3, (3, 8, 8)), 10.0)


@pytest.mark.parametrize("constant", [True, False])
def test_offsets_are_refused(constant):
    with pytest.raises(TypeError, match=r"^piecewise_linear: .*got torch\.add"):
        real_gradients(WithOffset(constant), pictures(2, (3, 8, 8), dtype=torch.float32), 10.0)


@pytest.mark.parametrize(
    ("network", "function"),
    [(WithTanh, r"\btanh\b"), (WithBatchNorm, r"\bbatch_norm\b"), (WithBatchNormLayer, "")],
)
def test_other_networks_are_refused_in_one_line(network, function):
    module = network()
    with pytest.raises(TypeError, match=rf"^piecewise_linear: .*got .*{function}") as caught:
        real_gradients(module, pictures(2, (3, 8, 8), dtype=torch.float32), 10.0)
    assert "\n" not in str(caught.value)
    assert all(parameter.grad is None for parameter in module.parameters())


def total_loss(network, x, r1_weight, step=1e-6):
    """The loss on reals without autograd: D is linear between its kinks, so central differences are exact."""
    with torch.no_grad():
        loss = torch.log1p(torch.exp(-network(x))).mean()
        shifts = step * torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, *x.shape[1:])
        squares = [((network(sample + shifts) - network(sample - shifts)) / (2 * step)).square().sum() for sample in x]
        return loss + r1_weight * torch.stack(squares).mean()


@pytest.mark.parametrize("r1_weight", [0.0, 10.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_finite_differences_along_a_random_direction(seed, r1_weight):
    network, x = resnet(8, 2, 4, channels=1), pictures(2, (1, 8, 8), seed=11 + seed)
    randomize(network, seed=20 + seed)
    rng = torch.Generator().manual_seed(seed)
    direction = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in network.parameters()]

    def moved(step):
        other = copy.deepcopy(network)
        with torch.no_grad():
            for parameter, change in zip(other.parameters(), direction, strict=True):
                parameter.add_(change, alpha=step)
        return total_loss(other, x, r1_weight)

    expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
    *_, found = real_gradients(network, x, r1_weight)
    actual = sum((gradient * change).sum() for gradient, change in zip(found, direction, strict=True))
    assert actual.item() == pytest.approx(expected.item(), rel=1e-4)

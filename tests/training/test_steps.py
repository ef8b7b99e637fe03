"""One step of each stage against plain PyTorch, with the stage's own random numbers replayed."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from idgan_fast.config.presets import preset
from idgan_fast.models.vae import VAE
from idgan_fast.training.gan import GANStage, teacher_view
from idgan_fast.training.precision import Precision
from idgan_fast.training.vae import VAEStage

CPU = torch.device("cpu")
BATCH = 3


def precision(name="off"):
    return Precision(name, "cpu", "")


def uint8(channels, size=64, seed=0, batch=BATCH):
    shape = (batch, channels, size, size)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def replayed(stage):
    """A copy of the stage's random generator, to draw what its next step will draw."""
    rng = torch.Generator()
    rng.set_state(stage.rng.get_state())
    return rng


def close(actual, expected, rtol=1e-4):
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=rtol, atol=rtol * scale + 1e-9)


def gradients_taken(optimizer, module):
    """A dictionary that each of the optimizer's steps fills with the gradients that it got, by parameter name."""
    taken, step = {}, optimizer.step

    def spy(gradients, *args):
        names = [name for name, _ in module.named_parameters()]
        taken.update(zip(names, [g.clone() for g in gradients], strict=True))
        step(gradients, *args)

    optimizer.step = spy
    return taken


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(module, before):
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# ---- stage 1


def vae_stage(name="dsprites-quick", amp="off", **changes):
    config = preset(name)
    config = replace(config, vae=replace(config.vae, width=4, c_dim=5, **changes))
    torch.manual_seed(0)
    stage = VAEStage(config, config.images.channels, CPU, precision(amp))
    stage.taken = gradients_taken(stage.optimizer, stage.vae)
    return stage


@pytest.mark.parametrize("name", ["dsprites-quick", "celeba-64"])
@pytest.mark.parametrize("iteration", [0, 1500, 3000])
def test_vae_step_against_plain_pytorch(name, iteration):
    stage = vae_stage(name, iters=3200, init="kaiming")
    batch = uint8(stage.vae.encoder.channels)
    vae, rng = copy.deepcopy(stage.vae), replayed(stage)
    metrics = stage.step(batch, iteration)

    x = batch.double() / 255
    eps = torch.randn(BATCH, 5, generator=rng)
    vae.double()
    mean, logvar = vae.encoder(x)
    p = torch.sigmoid(vae.decoder(mean + torch.exp(logvar / 2) * eps))
    if name == "dsprites-quick":
        rec = -(x * p.log() + (1 - x) * (1 - p).log()).sum() / BATCH
        progress = min(max((iteration / 3200 - 0.22) / 0.6, 0), 1)
        beta = 60 * (8 / 60) ** progress
        lr = 1e-2 * min(1, (iteration + 1) / 640, (3200 - iteration) / 640)
    else:
        rec = ((x - p) ** 2).sum() / BATCH
        beta, lr = 6.4, 1e-4
    kl_per_dim = -0.5 * (1 + logvar - mean**2 - logvar.exp()).mean(0)
    loss = rec + beta * kl_per_dim.sum()
    close(metrics["reconstruction"].double(), rec)
    close(metrics["kl_per_dim"].double(), kl_per_dim)
    close(metrics["kl"].double(), kl_per_dim.sum())
    close(metrics["loss"].double(), loss)
    assert not any(value.requires_grad for value in metrics.values())

    loss.backward()
    for (key, ours), plain in zip(stage.vae.named_parameters(), vae.parameters(), strict=True):
        gradient = stage.taken[key]
        close(gradient.double(), plain.grad)
        step = gradient / (gradient.abs() + 1e-8)  # Adam's first step
        close(ours, plain.detach().float() - lr * step)


def test_vae_steps_differ_and_are_replayable():
    first, second = vae_stage(), vae_stage()
    batch = uint8(1)
    a = [first.step(batch, i)["loss"] for i in range(3)]
    b = [second.step(batch, i)["loss"] for i in range(3)]
    assert torch.equal(torch.stack(a), torch.stack(b))
    assert len({value.item() for value in a}) == 3


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["dsprites-quick", "celeba-64"])
def test_vae_step_in_mixed_precision(name, amp):
    stage, exact = vae_stage(name, amp), vae_stage(name)
    batch = uint8(stage.vae.encoder.channels)
    metrics, reference = stage.step(batch, 0), exact.step(batch, 0)
    for key in reference:
        assert metrics[key].isfinite().all()
        assert metrics[key].dtype == torch.float32
    assert metrics["loss"].item() == pytest.approx(reference["loss"].item(), rel=0.05)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in stage.vae.parameters())


# ---- stage 2


def gan_stage(name="celeba-64", amp="off", size=64, seed=0, **changes):
    config = preset(name)
    config = replace(
        config,
        images=replace(config.images, size=size),
        vae=replace(config.vae, width=3, c_dim=4),
        gan=replace(config.gan, width=2 if name != "dsprites" else 3, max_width=4, **changes),
    )
    if name != "dsprites":
        config = replace(config, gan=replace(config.gan, s_dim=6))
    torch.manual_seed(seed)
    channels = config.images.channels
    vae = VAE(4, channels, 3, "kaiming")
    stage = GANStage(config, channels, CPU, precision(amp), vae)
    with torch.no_grad():  # torch's defaults make both networks nearly flat: give every gradient a size
        for p in [*stage.generator.parameters(), *stage.discriminator.parameters()]:
            if p.ndim > 1:
                p.mul_(2)
    stage.average.load_state_dict(stage.generator.state_dict())
    stage.vae = vae
    stage.taken_g = gradients_taken(stage.optimizer_g, stage.generator)
    stage.taken_d = gradients_taken(stage.optimizer_d, stage.discriminator)
    return stage


def inputs(stage, batch, rng):
    """The D step's images and codes, from the contract."""
    x = batch.float() / 127.5 - 1
    if stage.images.flip:
        mirrored = torch.rand(len(batch), generator=rng) < 0.5
        x = torch.stack([picture.flip(2) if m else picture for picture, m in zip(x, mirrored, strict=True)])
    if stage.images.dequantise:
        x = x + torch.rand(batch.shape, generator=rng) / 128
    with torch.no_grad():
        mean, logvar = stage.teacher(view(x))
    return x, mean + torch.exp(logvar / 2) * torch.randn(len(batch), 4, generator=rng)


def view(x):
    """(x + 1) / 2, averaged down to 64x64."""
    factor = x.shape[-1] // 64
    return F.avg_pool2d((x + 1) / 2, factor)


def noise(stage, rng, batch=BATCH):
    return torch.randn(batch, stage.config.s_dim, generator=rng)


def cross_entropy(logits, label):
    p = torch.sigmoid(logits)
    return -torch.log(p if label else 1 - p).mean()


def squared_gradient(logits, x):
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return (gradient**2).sum((1, 2, 3)).mean()


def rmsprop_first_step(before, gradient, lr):
    """Square average 0.01 g^2, so a step of about 10 lr."""
    return before - lr * gradient / ((0.01 * gradient**2).sqrt() + 1e-8)


def check_update(module, before, taken, gradients, lr):
    """Gradients as they should be, and RMSprop's step taken with them."""
    for name, p in module.named_parameters():
        close(taken[name], gradients[name], rtol=2e-4)
        close(p, rmsprop_first_step(before[name], taken[name], lr))


def gradients_of(loss, module):
    names, parameters = zip(*module.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def check_generator_step(stage, before, metrics, c, s, discriminate, lr):
    """D as it is after its own update, the D step's c, a fresh s."""
    g = copy.deepcopy(stage.generator)
    g.load_state_dict(before)
    fake = g(s, c)
    mean, logvar = stage.teacher(view(fake))
    adversarial = cross_entropy(discriminate(fake), 1)
    nll = 0.5 * (math.log(2 * math.pi) + logvar + (c - mean) ** 2 / (logvar.exp() + 1e-8)).sum(1).mean()
    close(metrics["g"], adversarial)
    close(metrics["distillation"], nll)
    check_update(
        stage.generator, before, stage.taken_g, gradients_of(adversarial + stage.config.distill_weight * nll, g), lr
    )


@pytest.mark.parametrize(
    ("name", "size", "changes"),
    [
        ("celeba-64", 64, {}),
        ("celeba-64", 64, {"distill_weight": 50.0, "lr_g": 3e-4, "lr_d": 2e-4}),
        ("celeba-256", 128, {}),
        ("dsprites", 64, {}),
        ("celeba-64", 64, {"r1_weight": 0.0}),
    ],
    ids=["celeba", "strong distillation", "128", "dsprites", "no R1"],
)
def test_gan_step_against_plain_pytorch(name, size, changes):
    stage = gan_stage(name, size=size, **changes)
    batch, rng = uint8(stage.channels, size), replayed(stage)
    before_g, before_d = snapshot(stage.generator), snapshot(stage.discriminator)
    d = copy.deepcopy(stage.discriminator)
    g = copy.deepcopy(stage.generator)
    metrics = stage.step(batch, 0)
    assert not any(value.requires_grad for value in metrics.values())

    x, c = inputs(stage, batch, rng)
    x.requires_grad_()
    fake = g(noise(stage, rng), c).detach()
    logits = d(x)
    real, loss_fake, penalty = cross_entropy(logits, 1), cross_entropy(d(fake), 0), squared_gradient(logits, x)
    close(metrics["d_real"], real)
    close(metrics["d_fake"], loss_fake)
    weight = stage.config.r1_weight
    if weight:
        close(metrics["r1"], penalty)
    check_update(
        stage.discriminator,
        before_d,
        stage.taken_d,
        gradients_of(real + loss_fake + weight * penalty, d),
        stage.config.lr_d,
    )
    check_generator_step(stage, before_g, metrics, c, noise(stage, rng), stage.discriminator, stage.config.lr_g)


def test_gan_step_without_distillation_ignores_the_code():
    stage = gan_stage(distill_weight=0.0)
    batch, rng, before = uint8(3), replayed(stage), snapshot(stage.generator)
    g = copy.deepcopy(stage.generator)
    stage.step(batch, 0)
    _, c = inputs(stage, batch, rng)
    noise(stage, rng)
    expected = gradients_of(cross_entropy(stage.discriminator(g(noise(stage, rng), c)), 1), g)
    check_update(stage.generator, before, stage.taken_g, expected, 1e-4)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("ema", [0.999, 0.5])
def test_average_of_the_generator(steps, ema):
    stage = gan_stage(ema=ema)
    average = snapshot(stage.generator)
    for i in range(steps):
        stage.step(uint8(3, seed=i), i)
        average = {name: ema * average[name] + (1 - ema) * p for name, p in stage.generator.state_dict().items()}
    moved = 0.0
    for name, expected in average.items():
        torch.testing.assert_close(stage.average.state_dict()[name], expected, rtol=1e-5, atol=1e-7)
        moved += (expected - stage.generator.state_dict()[name]).abs().max().item()
    assert moved > 0
    assert not any(p.requires_grad for p in stage.average.parameters())


@pytest.mark.parametrize(("name", "bottleneck"), [("celeba-64", False), ("celeba-64", True), ("dsprites", False)])
def test_teacher_and_vae_are_left_alone(name, bottleneck):
    stage = gan_stage(name, bottleneck=bottleneck)
    before, before_vae = snapshot(stage.teacher), snapshot(stage.vae)
    for i in range(2):
        stage.step(uint8(stage.channels, seed=i), i)
    assert unchanged(stage.teacher, before)
    assert unchanged(stage.vae, before_vae)
    assert all(p.grad is None for p in [*stage.teacher.parameters(), *stage.vae.parameters()])
    assert all(p.requires_grad for p in stage.vae.parameters())
    assert all(p.requires_grad for p in [*stage.generator.parameters(), *stage.discriminator.parameters()])


@pytest.mark.parametrize("bottleneck", [False, True])
def test_lazy_penalty_is_taken_every_second_step_at_double_weight(bottleneck):
    stage = gan_stage(r1_every=2, bottleneck=bottleneck)
    for iteration in range(3):
        batch, rng = uint8(3, seed=iteration), replayed(stage)
        d, g = copy.deepcopy(stage.discriminator), copy.deepcopy(stage.generator)
        beta = stage.loss_d.bottleneck_beta.clone()
        metrics = stage.step(batch, iteration)
        assert ("r1" in metrics) == (iteration != 1)

        x, c = inputs(stage, batch, rng)
        x.requires_grad_()
        fake = g(noise(stage, rng), c).detach()
        if bottleneck:
            loss, penalty, _ = bottleneck_losses(d, x, fake, beta, rng)
        else:
            logits = d(x)
            loss, penalty = cross_entropy(logits, 1) + cross_entropy(d(fake), 0), squared_gradient(logits, x)
        expected = gradients_of(loss + (0 if iteration == 1 else 20) * penalty, d)
        for name in expected:
            close(stage.taken_d[name], expected[name], rtol=2e-4)


def bottleneck_losses(d, x, fake, beta, rng):
    """VGAN's D loss without R1, its R1 and its KL, from the contract."""
    shape = (len(x), *d.bottleneck_shape)
    logits, *code = d(x, torch.randn(shape, generator=rng))
    fake_logits, *fake_code = d(fake, torch.randn(shape, generator=rng))
    mean, logstd = (torch.cat(pair) for pair in zip(code, fake_code, strict=True))
    kl = 0.5 * (mean**2 + torch.exp(logstd) ** 2 - 1 - 2 * logstd)
    kl = kl.sum() / (2 * len(x) * 16)
    loss = cross_entropy(logits, 1) + cross_entropy(fake_logits, 0) + beta * kl
    return loss, squared_gradient(logits, x), kl


def test_bottleneck_step_against_plain_pytorch():
    stage = gan_stage(bottleneck=True)
    batch, rng = uint8(3), replayed(stage)
    before_g, before_d = snapshot(stage.generator), snapshot(stage.discriminator)
    d, g = copy.deepcopy(stage.discriminator), copy.deepcopy(stage.generator)
    metrics = stage.step(batch, 0)
    assert not any(value.requires_grad for value in metrics.values())
    assert all(value.isfinite() for value in metrics.values())

    x, c = inputs(stage, batch, rng)
    x.requires_grad_()
    fake = g(noise(stage, rng), c).detach()
    loss, penalty, kl = bottleneck_losses(d, x, fake, 0.1, rng)
    close(metrics["bottleneck_kl"], kl)
    close(metrics["bottleneck_beta"], torch.tensor(0.1))
    close(metrics["r1"], penalty)
    close(metrics["d_real"] + metrics["d_fake"] + 0.1 * metrics["bottleneck_kl"], loss)
    check_update(stage.discriminator, before_d, stage.taken_d, gradients_of(loss + 10 * penalty, d), 1e-4)
    expected_beta = max(0.0, 0.1 + 1e-5 * (kl.item() - 0.1))
    assert stage.loss_d.bottleneck_beta.item() == pytest.approx(expected_beta, rel=1e-6)
    assert stage.loss_d.bottleneck_beta.item() != pytest.approx(0.1, rel=1e-7)

    s = noise(stage, rng)
    eps = torch.randn(BATCH, *d.bottleneck_shape, generator=rng)
    check_generator_step(stage, before_g, metrics, c, s, lambda image: stage.discriminator(image, eps)[0], 1e-4)


def test_bottleneck_beta_never_falls_below_zero():
    stage = gan_stage(bottleneck=True)
    with torch.no_grad():
        for layer in (stage.discriminator.mean_fn, stage.discriminator.logstd_fn):
            layer.weight.zero_()
            layer.bias.zero_()
    stage.loss_d.bottleneck_beta = torch.tensor(1e-7)
    metrics = stage.step(uint8(3), 0)
    assert metrics["bottleneck_kl"].item() == pytest.approx(0, abs=1e-6)
    assert stage.loss_d.bottleneck_beta.item() == 0


@pytest.mark.parametrize("size", [64, 128, 256])
def test_teacher_view_is_the_average_of_squares_in_unit_range(size):
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    k = size // 64
    expected = (x.reshape(2, 3, 64, k, 64, k).mean((3, 5)) + 1) / 2
    torch.testing.assert_close(teacher_view(x), expected, rtol=1e-12, atol=1e-12)
    ends = teacher_view(torch.stack([-torch.ones(1, size, size), torch.ones(1, size, size)]))
    assert ends.unique().tolist() == [0, 1]


def test_warm_start_copies_the_decoder_into_both_generators():
    config = preset("dsprites-quick")
    config = replace(config, vae=replace(config.vae, width=3, c_dim=4), gan=replace(config.gan, width=3))
    vae = VAE(4, 1, 3, "kaiming")
    stage = GANStage(config, 1, CPU, precision(), vae)
    c = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = 2 * torch.sigmoid(vae.decoder(c)) - 1
        for network in (stage.generator, stage.average):
            torch.testing.assert_close(network(c.new_empty(2, 0), c), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [("celeba-64", {}), ("celeba-64", {"bottleneck": True}), ("dsprites", {}), ("celeba-64", {"r1_every": 2})],
    ids=["celeba", "bottleneck", "dsprites", "lazy"],
)
def test_gan_steps_in_mixed_precision(name, changes, amp):
    stage, exact = gan_stage(name, amp, **changes), gan_stage(name, **changes)
    for i in range(2):
        batch, scale = uint8(stage.channels, seed=i), stage.scale.factor.item()
        metrics, reference = stage.step(batch, i), exact.step(batch, i)
        assert metrics.keys() == reference.keys()
        overflowed = stage.scale.factor.item() < scale  # then the scaler has left the weights alone
        for key in metrics:
            assert metrics[key].isfinite() or (key == "r1" and overflowed), f"{key} in step {i}"
        if i == 0:
            for key in ("d_real", "d_fake", "g", "distillation"):
                assert metrics[key].item() == pytest.approx(reference[key].item(), rel=0.05), key
    weights = [*stage.generator.parameters(), *stage.discriminator.parameters(), *stage.average.parameters()]
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in weights)

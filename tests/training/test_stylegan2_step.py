"""The updates of a StyleGAN2 stage against plain autograd on the same networks, from the contract."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from idgan_fast.config.presets import preset
from idgan_fast.config.settings import StyleGAN2Config
from idgan_fast.models.vae import VAE
from idgan_fast.training.augmentation import augment
from idgan_fast.training.gan import GANStage
from idgan_fast.training.precision import Precision

CPU = torch.device("cpu")
N, C_DIM, S_DIM, SIZE = 4, 3, 5, 8
LR = 1e-3


def build(amp="off", **changes):
    """RMSprop, whose first step shows the gradient; nothing in the networks left at 0."""
    config = preset("stylegan2-64")
    styled = {key: changes.pop(key) for key in list(changes) if key in StyleGAN2Config.__dataclass_fields__}
    tiny = {"channel_base": 64, "channel_max": 6, "w_dim": 5, "mapping_layers": 2, "path_every": 2, **styled}
    gan = {
        "s_dim": S_DIM,
        "optimizer": "rmsprop",
        "lr_g": LR,
        "lr_d": LR,
        "r1_every": 2,
        "distill_warmup": 10,
        **changes,
    }
    config = replace(
        config,
        images=replace(config.images, size=SIZE),
        vae=replace(config.vae, width=2, c_dim=C_DIM),
        gan=replace(config.gan, stylegan2=StyleGAN2Config(**tiny), **gan),
    )
    torch.manual_seed(0)
    stage = GANStage(config, 3, CPU, Precision(amp, "cpu", ""), VAE(C_DIM, 3, 2, "kaiming"))
    with torch.no_grad():
        for network in (stage.generator, stage.discriminator):
            for name, p in network.named_parameters():
                if name.endswith(("bias", "strength")):
                    p.add_(torch.randn_like(p) * 0.2)
        for p in stage.average.parameters():  # D must not see the average's pictures
            p.add_(torch.randn_like(p))
    stage.taken = {}
    for name in ("optimizer_d", "optimizer_g"):
        spy(stage, name)
    return stage


def spy(stage, name):
    """Keeps the gradients of each of the optimizer's steps."""
    optimizer = getattr(stage, name)
    step, taken = optimizer.step, stage.taken.setdefault(name, [])

    def keep(gradients, lr, overflow):
        taken.append([g.clone() for g in gradients])
        step(gradients, lr, overflow)

    optimizer.step = keep


def pictures(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (N, 3, SIZE, SIZE), dtype=torch.uint8, generator=rng)


def close(actual, expected, rtol=1e-4):
    for a, b in zip(actual, expected, strict=True):
        b = torch.zeros_like(a) if b is None else b.detach()
        torch.testing.assert_close(a.detach(), b, rtol=rtol, atol=rtol * float(b.abs().max()) + 1e-8)


class Plain:
    """The random numbers and the forward passes of one iteration, on copies of the networks."""

    def __init__(self, stage, batch):
        self.stage, self.sampler = stage, copy.deepcopy(stage.sampler)
        self.sampler.rng = torch.Generator()
        self.sampler.rng.set_state(stage.rng.get_state())
        self.g, self.d = copy.deepcopy(stage.generator), copy.deepcopy(stage.discriminator)
        self.x = self.sampler.real_images(batch)
        eps = self.sampler.normal(N, C_DIM)
        self.latents = self.sampler.latents(N)
        mean, logvar = stage.teacher(F.adaptive_avg_pool2d((self.x + 1) / 2, 64))
        self.c = (mean + torch.exp(logvar / 2) * eps).detach()

    def w(self, latents, c):
        """Entries before `first` come from s, the others from the other s."""
        s, _, other, first = latents
        rows = []
        for i in range(len(s)):
            one, two = self.g.mapping(s[i : i + 1]), self.g.mapping(other[i : i + 1])
            k = int(first[i])
            rows.append(torch.cat([one.expand(k, -1), two.expand(self.g.num_ws - k, -1)]))
        return torch.stack(rows)

    def images(self, latents, c):
        return self.g.synthesize(self.w(latents, c), c, latents.noise)

    def seen(self, x, noise):
        return augment(x, noise["augment"], self.stage.loss_d.ada.p) if noise else x


@pytest.mark.parametrize("ada", [False, True])
@pytest.mark.parametrize("iteration", [0, 1])
def test_an_iteration(iteration, ada):
    stage = build(ada=ada)
    if ada:
        stage.loss_d.ada.p.fill_(0.6)
    batch = pictures()
    plain = Plain(stage, batch)
    before = [p.clone() for p in stage.average_parameters]
    metrics = stage.step(batch, iteration)
    assert not any(value.requires_grad for value in metrics.values())

    of_real, of_fake = plain.sampler.discriminator_noise(N), plain.sampler.discriminator_noise(N)
    x = plain.seen(plain.x, of_real).detach().requires_grad_()
    logits, fake = plain.d(x), plain.seen(plain.images(plain.latents, plain.c), of_fake).detach()
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    r1 = gradient.square().sum((1, 2, 3)).mean()
    real, of_fakes = F.softplus(-logits).mean(), F.softplus(plain.d(fake)).mean()
    close([metrics["d_real"], metrics["d_fake"]], [real, of_fakes])
    loss = real + of_fakes + (5.0 * 2 * r1 if iteration == 0 else 0)  # gamma / 2, every second step twice as strong
    assert ("r1" in metrics) == ("path_length" in metrics) == (iteration == 0)
    close(stage.taken["optimizer_d"][0], torch.autograd.grad(loss, list(plain.d.parameters())))

    of_g = list(plain.g.parameters())
    if iteration == 0:
        close([metrics["r1"]], [r1])
        latents, y = plain.sampler.latents(N // 2), plain.sampler.normal(N // 2, 3, SIZE, SIZE) / SIZE
        c = plain.c[: N // 2]
        w = plain.w(latents, c)
        (gradient,) = torch.autograd.grad((plain.g.synthesize(w, c, latents.noise) * y).sum(), w, create_graph=True)
        lengths = (gradient.square().sum(2).mean(1)).sqrt()
        average = 0.01 * lengths.mean().detach()
        penalty = (lengths - average).square().mean()
        close([metrics["path_length"], metrics["path_penalty"], stage.path_average], [lengths.mean(), penalty, average])
        expected = torch.autograd.grad(2.0 * 2 * penalty, of_g, allow_unused=True)
        close(stage.taken["optimizer_g"].pop(0), expected)
        with torch.no_grad():
            for p, g in zip(of_g, expected, strict=True):
                p.sub_(0 if g is None else LR * g / ((0.01 * g.square()).sqrt() + 1e-8))

    latents, noise = plain.sampler.latents(N), plain.sampler.discriminator_noise(N)
    w = plain.w(latents, plain.c)
    fake = plain.g.synthesize(w, plain.c, latents.noise)
    mean, logvar = stage.teacher(F.adaptive_avg_pool2d((fake + 1) / 2, 64))
    nll = 0.5 * (math.log(2 * math.pi) + logvar + (plain.c - mean) ** 2 / (logvar.exp() + 1e-6)).sum(1).mean()
    adversarial = F.softplus(-stage.discriminator(plain.seen(fake, noise))).mean()
    close([metrics["g"], metrics["distillation"]], [adversarial, nll], rtol=1e-3)
    gradients = torch.autograd.grad(adversarial + 0.01 * (iteration + 1) / 10 * nll, of_g)
    close(stage.taken["optimizer_g"][0], gradients, rtol=2e-3)

    decay = 0.5 ** (1 / min(math.log(0.5) / math.log(0.998), 0.05 * (iteration + 1)))
    pairs = zip(before, stage.generator_parameters, strict=True)
    close(stage.average_parameters, [decay * a + (1 - decay) * p for a, p in pairs])
    w_avg = 0.002 * w[:, 0].mean(0)
    close([stage.generator.mapping.w_avg, stage.average.mapping.w_avg], [w_avg, w_avg], rtol=1e-3)


def test_style_mixing_is_as_frequent_as_asked():
    for share in (0.0, 0.5, 1.0):
        stage = build(style_mixing=share)
        if share == 0:
            assert stage.sampler.latents(4).first is None
            continue
        firsts = torch.cat([stage.sampler.latents(64).first for _ in range(20)])
        assert firsts.min() >= 1
        assert abs((firsts < stage.generator.num_ws).float().mean() - share) < 0.06


def test_adam_makes_room_for_the_path_length():
    """k / (k + 1) of the rate, and that power of the betas."""
    stage = build(optimizer="adam", path_every=4)
    assert (stage.lr_g, stage.lr_d) == (LR * 0.8, LR)
    assert stage.optimizer_g.betas == (0.0, 0.99**0.8)
    assert stage.optimizer_d.betas == (0.0, 0.99)
    assert build(optimizer="adam", path_weight=0.0).lr_g == LR


def test_the_augmentation_adapts():
    """D is sure of the reals: the probability rises by the images of four iterations."""
    stage = build(ada=True, ada_images=1000)
    with torch.no_grad():
        stage.discriminator.b4.out.bias.fill_(50.0)
    shown = [stage.step(pictures(i), i)["augment_p"].item() for i in range(6)]
    assert shown == pytest.approx([0, 0, 0, 0, 16 / 1000, 16 / 1000])
    other = build(ada=True)
    other.load_state_dict(stage.state_dict())
    assert other.loss_d.ada.p == stage.loss_d.ada.p > 0


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision(amp):
    stage, exact = build(amp), build()
    stage.scale.factor.fill_(64 if amp == "fp16" else 1)
    for i in range(3):
        metrics, wanted = stage.step(pictures(i), i), exact.step(pictures(i), i)
        for key in wanted:
            assert metrics[key].isfinite(), key
            assert metrics[key].dtype == torch.float32
            if i == 0:
                assert metrics[key].item() == pytest.approx(wanted[key].item(), rel=0.1), key
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in stage.weights().values())


def test_overflows_leave_everything_alone_and_halve_the_scale():
    """One after the other in each update of an iteration; only the averages move on."""
    for broken in ("discriminator", "generator"):
        stage = build("fp16")
        network = getattr(stage, broken)
        with torch.no_grad():
            next(network.parameters()).fill_(float("inf"))
        before = {name: p.clone() for name, p in stage.weights().items()}
        steps = [stage.optimizer_g.state_dict(), stage.optimizer_d.state_dict()]
        steps = [[t.clone() for values in state.values() for t in values] for state in steps]
        stage.step(pictures(), 0)
        assert stage.scale.factor == 2.0**16 / 8  # D with R1, path length, G
        assert all(torch.equal(p, before[name]) for name, p in stage.weights().items())
        for state, old in zip([stage.optimizer_g.state_dict(), stage.optimizer_d.state_dict()], steps, strict=True):
            assert all(torch.equal(a, b) for a, b in zip([t for v in state.values() for t in v], old, strict=True))
        assert stage.path_average == 0


def test_every_forward_pass_of_an_update_is_under_autocast():
    """The last block's convolutions take bf16, in G and D, wherever they run."""
    stage = build("bf16")
    seen = []
    for block in (stage.generator.synthesis.b8, stage.discriminator.b8):
        block.register_forward_hook(lambda module, _, out: seen.append((type(module).__name__, first_of(out).dtype)))
    stage.step(pictures(), 0)
    assert [name for name, _ in seen].count("SynthesisBlock") == 3
    assert [name for name, _ in seen].count("DiscriminatorBlock") == 3
    assert {dtype for _, dtype in seen} == {torch.bfloat16}


def first_of(out):
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_stage_goes_through_its_state(amp):
    one, two = build(amp, optimizer="adam", ada=True), build(amp, optimizer="adam", ada=True)
    one.scale.factor.fill_(64 if amp == "fp16" else 1)
    for i in range(2):
        one.step(pictures(i), i)
    two.load_state_dict(one.state_dict())
    two.rng.set_state(one.rng.get_state())
    for i in range(2, 4):
        a, b = one.step(pictures(i), i), two.step(pictures(i), i)
        assert all(torch.equal(a[key], b[key]) for key in a)

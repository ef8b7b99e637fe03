"""Stage 2: a GAN G(s, c) whose images the frozen encoder reads c back from (ID-GAN, arXiv 2001.04296, eq. 3-5)."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from idgan_fast import losses
from idgan_fast.config import Config
from idgan_fast.data import to_signed
from idgan_fast.models.resnet import ResnetDiscriminator, ResnetGenerator, VGANDiscriminator
from idgan_fast.models.vae import IMAGE_SIZE, VAE, DSpritesDiscriminator, DSpritesGenerator, reparameterise
from idgan_fast.piecewise_linear import backward_real
from idgan_fast.precision import Precision

BOTTLENECK_BETA = 0.1  # VGAN's first multiplier


def teacher_view(x: Tensor) -> Tensor:
    """GAN images [N, C, S, S] in [-1, 1] -> what the encoder reads: [N, C, 64, 64] in [0, 1]."""
    x = x * 0.5 + 0.5
    return x if x.shape[-1] == IMAGE_SIZE else F.adaptive_avg_pool2d(x, IMAGE_SIZE)


def build_networks(config: Config, channels: int) -> tuple[nn.Module, nn.Module]:
    """G and D of the settings, in torch's default initialisation."""
    gan, size = config.gan, config.images.size
    if gan.model == "dsprites":
        generator = DSpritesGenerator(gan.s_dim, config.vae.c_dim, channels, gan.width)
        return generator, DSpritesDiscriminator(channels, gan.width)
    kind = VGANDiscriminator if gan.bottleneck else ResnetDiscriminator
    return (
        ResnetGenerator(size, gan.s_dim, config.vae.c_dim, gan.width, gan.max_width, channels),
        kind(size, gan.width, gan.max_width, channels),
    )


class GANStage:
    """Networks, optimisers and random state of stage 2. `state_dict()` holds all of it but the teacher."""

    name = "gan"

    def __init__(self, config: Config, channels: int, device: torch.device, precision: Precision, vae: VAE) -> None:
        self.config, self.images, self.device, self.precision = config.gan, config.images, device, precision
        self.iters, self.batch_size = self.config.iters, self.config.batch_size
        self.c_dim, self.channels = config.vae.c_dim, channels
        self.teacher = copy.deepcopy(vae.encoder).requires_grad_(False).eval()
        generator, discriminator = build_networks(config, channels)
        if self.config.warm_start:
            generator.copy_decoder(vae.decoder)  # type: ignore[operator]
        place: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
        self.generator, self.discriminator = generator.to(**place), discriminator.to(**place)
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self._average = get_ema_multi_avg_fn(self.config.ema)
        rmsprop: dict[str, Any] = {"alpha": 0.99, "eps": 1e-8, "foreach": True}
        self.optimizer_g = torch.optim.RMSprop(self.generator.parameters(), self.config.lr_g, **rmsprop)
        self.optimizer_d = torch.optim.RMSprop(self.discriminator.parameters(), self.config.lr_d, **rmsprop)
        self.scaler = precision.scaler()
        self.rng = torch.Generator(device).manual_seed(2 * config.seed + 1)
        self.bottleneck_beta = torch.tensor(BOTTLENECK_BETA, device=device)

    def step(self, batch: Tensor, iteration: int) -> dict[str, Tensor]:
        """One update of D, G and G's average from uint8 images [N, C, S, S]; returns detached metrics."""
        x = self.real_images(batch)
        c = self.posterior_sample(x)
        penalise = iteration % self.config.r1_every == 0
        metrics = self._step_d(x, c, penalise) | self._step_g(c)
        self.scaler.update()
        self._average(list(self.average.parameters()), list(self.generator.parameters()), iteration)
        return metrics

    def real_images(self, batch: Tensor) -> Tensor:
        flip = noise = None
        if self.images.flip:
            flip = torch.rand(len(batch), generator=self.rng, device=self.device) < 0.5
        if self.images.dequantise:
            noise = torch.rand(batch.shape, generator=self.rng, device=self.device)
        return to_signed(batch, self.device, flip, noise).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def posterior_sample(self, x: Tensor) -> Tensor:
        """c ~ q(c|x) [N, c_dim] for images in [-1, 1]."""
        with self.precision.autocast():
            mean, logvar = self.teacher(teacher_view(x))
        return reparameterise(mean.float(), logvar.float(), self.normal(len(x), self.c_dim))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng, device=self.device)

    def _step_d(self, x: Tensor, c: Tensor, penalise: bool) -> dict[str, Tensor]:
        with torch.no_grad(), self.precision.autocast():
            fake = self.generator(self.normal(len(c), self.config.s_dim), c)
        self.optimizer_d.zero_grad()
        weight = self.config.r1_weight * self.config.r1_every if penalise else 0.0
        backward = self._backward_bottleneck if self.config.bottleneck else self._backward_plain
        metrics = backward(x, fake, weight)
        self.scaler.step(self.optimizer_d)
        return metrics

    def _backward_plain(self, x: Tensor, fake: Tensor, r1_weight: float) -> dict[str, Tensor]:
        metrics: dict[str, Tensor] = {}
        with self.precision.autocast():
            if r1_weight:
                real, penalty = backward_real(self.discriminator, x, r1_weight, self._loss_scale())
                metrics["r1"] = penalty
            else:
                real = losses.d_real(self.discriminator(x).float())
                self.scaler.scale(real).backward()
            loss = losses.d_fake(self.discriminator(fake).float())
        self.scaler.scale(loss).backward()
        return {"d_real": real.detach(), "d_fake": loss.detach(), **metrics}

    def _backward_bottleneck(self, x: Tensor, fake: Tensor, r1_weight: float) -> dict[str, Tensor]:
        """VGAN's D is not piecewise linear, so R1 is taken by a double backward."""
        x = x.requires_grad_(r1_weight > 0)
        with self.precision.autocast():
            logits, *real_code = self._discriminate_bottleneck(x)
            fake_logits, *fake_code = self._discriminate_bottleneck(fake)
        real, loss_fake = losses.d_real(logits.float()), losses.d_fake(fake_logits.float())
        mean, logstd = (torch.cat(parts).float() for parts in zip(real_code, fake_code, strict=True))
        kl = losses.bottleneck_kl(mean, logstd)
        loss = real + loss_fake + self.bottleneck_beta * kl
        metrics = {
            "d_real": real,
            "d_fake": loss_fake,
            "bottleneck_kl": kl,
            "bottleneck_beta": self.bottleneck_beta,
        }
        if r1_weight:
            scale = self._loss_scale() / len(x)  # that of an averaged loss
            (gradient,) = torch.autograd.grad((logits * scale).sum(), x, create_graph=True)
            metrics["r1"] = losses.gradient_penalty(gradient.float() / scale)
            loss = loss + r1_weight * metrics["r1"]
        self.scaler.scale(loss).backward()
        moved = losses.next_bottleneck_beta(self.bottleneck_beta, kl.detach())
        self.bottleneck_beta = torch.where(kl.isfinite(), moved, self.bottleneck_beta)  # fp16 may overflow
        return {name: value.detach() for name, value in metrics.items()}

    def _discriminate_bottleneck(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eps = self.normal(len(x), *self.discriminator.bottleneck_shape)  # type: ignore[misc]
        return self.discriminator(x, eps)

    def _loss_scale(self) -> Tensor:
        return self.scaler.scale(torch.ones((), device=self.device))

    def _step_g(self, c: Tensor) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)
        with self.precision.autocast():
            fake = self.generator(self.normal(len(c), self.config.s_dim), c)
            bottleneck = self.config.bottleneck
            logits = self._discriminate_bottleneck(fake)[0] if bottleneck else self.discriminator(fake)
            mean, logvar = self.teacher(teacher_view(fake))
        adversarial = losses.g_fake(logits.float())
        distilled = losses.distillation(c, mean.float(), logvar.float())
        self.optimizer_g.zero_grad()
        self.scaler.scale(adversarial + self.config.distill_weight * distilled).backward()
        self.scaler.step(self.optimizer_g)
        self.discriminator.requires_grad_(True)
        return {"g": adversarial.detach(), "distillation": distilled.detach()}

    def weights(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        return {f"{n}.{key}": p for n, module in networks.items() for key, p in module.named_parameters()}

    def schedule(self, iteration: int) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.state_dict(),
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": self.rng.get_state(),
            "bottleneck_beta": self.bottleneck_beta,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """All but the random state, which another kind of device cannot take: the caller sets `rng`."""
        for name in ("generator", "discriminator", "average", "optimizer_g", "optimizer_d", "scaler"):
            getattr(self, name).load_state_dict(state[name])
        for optimizer, lr in ((self.optimizer_g, self.config.lr_g), (self.optimizer_d, self.config.lr_d)):
            optimizer.param_groups[0]["lr"] = lr  # the run's, which may have changed
        self.bottleneck_beta = state["bottleneck_beta"].to(self.device)

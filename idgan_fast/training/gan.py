"""Stage 2: a GAN G(s, c) whose images the frozen encoder reads c back from (ID-GAN, arXiv 2001.04296, eq. 3-5).

An iteration is up to three updates: of D, with R1 where it is due; of StyleGAN2's G by the path length, where it is
due; of G and its average. Each is a function of tensors, random numbers included, so that each is one compiled graph.
"""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.config.settings import Config
from idgan_fast.models.generator import Latents
from idgan_fast.models.vae import IMAGE_SIZE, VAE, reparameterize
from idgan_fast.training import losses
from idgan_fast.training.discriminator_loss import DiscriminatorLoss, Metrics
from idgan_fast.training.networks import build_networks
from idgan_fast.training.optimizers import Adam, RMSprop, move_average
from idgan_fast.training.precision import Precision
from idgan_fast.training.sampling import DiscriminatorNoise, Sampler
from idgan_fast.training.schedules import distill_weight_at, ema_at
from idgan_fast.training.stage import Stage
from idgan_fast.training.step_compiler import StepCompiler

PATH_AVERAGE_DECAY = 0.99
ADA_EVERY = 4  # iterations from one change of the augmentation's probability to the next


def teacher_view(x: Tensor) -> Tensor:
    """GAN images [N, C, S, S] in [-1, 1] -> what the encoder reads: [N, C, 64, 64] in [0, 1]."""
    x = x * 0.5 + 0.5
    return x if x.shape[-1] == IMAGE_SIZE else F.adaptive_avg_pool2d(x, IMAGE_SIZE)


class GANStage(Stage):
    """Networks, optimizers and random state of stage 2. `state_dict()` holds all of it but the teacher."""

    name = "gan"
    may_overflow = frozenset({"r1", "path_penalty", "path_length"})
    parts = ("generator", "discriminator", "average", "optimizer_g", "optimizer_d", "scale")

    def __init__(
        self,
        config: Config,
        channels: int,
        device: torch.device,
        precision: Precision,
        vae: VAE,
        compiler: StepCompiler | None = None,
    ) -> None:
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
        self.generator_parameters = list(self.generator.parameters())
        self.average_parameters = list(self.average.parameters())
        self.scale = precision.loss_scale(device)
        self.loss_d = DiscriminatorLoss(self.config, self.discriminator, precision, self.scale, device)
        self.has_path = self.config.model == "stylegan2" and self.config.stylegan2.path_weight > 0
        self.path_average = torch.zeros((), device=device)
        self._build_optimizers()
        self.sampler = Sampler(self.config, self.images, self.generator, self.discriminator, 2 * config.seed + 1)
        self.rng = self.sampler.rng
        self._compile_updates(compiler or StepCompiler(False, device))

    def _build_optimizers(self) -> None:
        """Adam's settings for G allow for the updates that the path length adds (arXiv 1912.04958, appendix B)."""
        parameters_g, parameters_d = self.generator_parameters, self.loss_d.parameters
        self.lr_g, self.lr_d, decay = self.config.lr_g, self.config.lr_d, self.config.square_decay
        self.optimizer_g: RMSprop | Adam
        self.optimizer_d: RMSprop | Adam
        if self.config.optimizer == "rmsprop":
            self.optimizer_g, self.optimizer_d = RMSprop(parameters_g, decay), RMSprop(parameters_d, decay)
            return
        every = self.config.stylegan2.path_every
        share = every / (every + 1) if self.has_path else 1.0
        self.lr_g *= share
        self.optimizer_g, self.optimizer_d = Adam(parameters_g, (0.0, decay**share)), Adam(parameters_d, (0.0, decay))

    def _compile_updates(self, compiler: StepCompiler) -> None:
        """A graph for each update that these settings call for."""
        r1 = self.config.r1_weight > 0
        if r1:
            self._update_d_r1 = compiler.step("D with R1", lambda *args: self.update_d(True, *args))
        if not r1 or self.config.r1_every > 1:
            self._update_d = compiler.step("D", lambda *args: self.update_d(False, *args))
        if self.has_path:
            self._update_path = compiler.step("path length", self.update_path)
        self._update_g = compiler.step("G", self.update_g)

    def step(self, batch: Tensor, iteration: int) -> Metrics:
        """The updates of one iteration from uint8 images [N, C, S, S]; returns detached metrics."""
        sampler, n = self.sampler, len(batch)
        x = sampler.real_images(batch)
        eps, latents = sampler.normal(n, self.c_dim), sampler.latents(n)
        with_r1 = self.config.r1_weight > 0 and iteration % self.config.r1_every == 0
        update_d = self._update_d_r1 if with_r1 else self._update_d
        c, metrics = update_d(x, eps, latents, sampler.discriminator_noise(n), sampler.discriminator_noise(n))
        if self.has_path and iteration % self.config.stylegan2.path_every == 0:
            few = max(n // self.config.stylegan2.path_shrink, 1)
            latents, y = sampler.latents(few), sampler.normal(few, *x.shape[1:]) / self.images.size
            metrics |= self._update_path(c[:few], latents, y)
        self.discriminator.requires_grad_(False)
        schedule = (distill_weight_at(self.config, iteration), ema_at(self.config, iteration))
        scalars = [torch.full((), value, device=self.device) for value in schedule]
        metrics |= self._update_g(c, sampler.latents(n), sampler.discriminator_noise(n), *scalars)
        self.discriminator.requires_grad_(True)
        if self.loss_d.ada is not None:
            metrics["augment_p"] = self.loss_d.ada.p.clone()
            if (iteration + 1) % ADA_EVERY == 0:
                self.loss_d.ada.adjust(ADA_EVERY * n, self.config.ada_target, self.config.ada_images)
        return metrics

    def log_values(self, metrics: Metrics, iteration: int) -> dict[str, Any]:
        values: dict[str, Any] = {name: value.tolist() for name, value in metrics.items()}
        if self.config.distill_warmup:
            values["distill_weight"] = distill_weight_at(self.config, iteration)
        if self.config.ema_rampup:
            values["ema"] = ema_at(self.config, iteration)
        return values

    # ---- the updates, functions of tensors

    def update_d(
        self,
        with_r1: bool,
        x: Tensor,
        eps: Tensor,
        latents: Latents,
        noise_real: DiscriminatorNoise,
        noise_fake: DiscriminatorNoise,
    ) -> tuple[Tensor, Metrics]:
        """D's update from real images x [N, C, S, S] in [-1, 1] and c ~ q(c|x) [N, c_dim], which it returns."""
        c = self.posterior_sample(x, eps)
        with torch.no_grad(), self.precision.autocast():
            fake = self.generator.synthesize(self.generator.styles(latents, c), c, latents.noise)
            real, fake = self.loss_d.augment(x, noise_real), self.loss_d.augment(fake, noise_fake)
        r1_weight = self.config.r1_weight * self.config.r1_every if with_r1 else 0.0
        metrics, gradients = self.loss_d.gradients(real, fake, noise_real, noise_fake, r1_weight)
        self.apply(self.optimizer_d, gradients, self.lr_d)
        return c, metrics

    @torch.no_grad()
    def posterior_sample(self, x: Tensor, eps: Tensor) -> Tensor:
        """c ~ q(c|x) [N, c_dim] for images in [-1, 1]."""
        with self.precision.autocast():
            mean, logvar = self.teacher(teacher_view(x))
        return reparameterize(mean.float(), logvar.float(), eps)

    def update_path(self, c: Tensor, latents: Latents, y: Tensor) -> Metrics:
        """StyleGAN2's path length regularization (arXiv 1912.04958, equation 4). y: N(0, 1) / size, as the images."""
        settings = self.config.stylegan2
        with self.precision.autocast():
            styles = self.generator.styles(latents, c)
            images = self.generator.synthesize(styles, c, latents.noise)
        scale = self.scale.factor / len(y)  # that of an averaged loss
        (gradient,) = torch.autograd.grad((images * y).sum() * scale, styles, create_graph=True)
        lengths = losses.path_lengths(gradient / scale)
        average = self.path_average.lerp(lengths.detach().mean(), 1 - PATH_AVERAGE_DECAY)
        penalty = losses.path_penalty(lengths, average)
        loss = self.scale.scaled(settings.path_weight * settings.path_every * penalty)
        parameters = self.generator_parameters
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)  # to-RGB's biases have no part in it
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        self.apply(self.optimizer_g, filled, self.lr_g)
        self.path_average.copy_(torch.where(average.isfinite(), average, self.path_average))
        return {"path_penalty": penalty.detach(), "path_length": lengths.detach().mean()}

    def update_g(
        self, c: Tensor, latents: Latents, noise: DiscriminatorNoise, distill_weight: Tensor, ema_decay: Tensor
    ) -> Metrics:
        """G's update from c [N, c_dim], and that of its average."""
        with self.precision.autocast():
            styles = self.generator.styles(latents, c)
            fake = self.generator.synthesize(styles, c, latents.noise)
            mean, logvar = self.teacher(teacher_view(fake))
        logits, _ = self.loss_d.discriminate(self.loss_d.augment(fake, noise), noise)
        adversarial = losses.g_fake(logits)
        distillation = losses.distillation(c, mean.float(), logvar.float(), self.config.distill_eps)
        loss = self.scale.scaled(adversarial + distill_weight * distillation)
        self.apply(self.optimizer_g, torch.autograd.grad(loss, self.generator_parameters), self.lr_g)
        move_average(self.average_parameters, self.generator_parameters, ema_decay)
        for network in (self.generator, self.average):
            network.update_w_average(styles)
        return {"g": adversarial.detach(), "distillation": distillation.detach()}

    # ---- the state

    def weights(self) -> dict[str, Tensor]:
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        return {f"{n}.{key}": p for n, module in networks.items() for key, p in module.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        ada = self.loss_d.ada
        return {
            **super().state_dict(),
            "bottleneck_beta": self.loss_d.bottleneck_beta,
            "path_average": self.path_average,
            "ada": {} if ada is None else ada.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.loss_d.bottleneck_beta.copy_(state["bottleneck_beta"])
        self.path_average.copy_(state["path_average"])
        if self.loss_d.ada is not None:
            self.loss_d.ada.load_state_dict(state["ada"])

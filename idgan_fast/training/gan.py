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
from idgan_fast.models.vae import IMAGE_SIZE, VAE, reparameterise
from idgan_fast.training import losses
from idgan_fast.training.augmentation import AdaptiveProbability, augment
from idgan_fast.training.networks import build_networks
from idgan_fast.training.optimizers import Adam, RMSprop, move_average
from idgan_fast.training.precision import Precision
from idgan_fast.training.r1 import real_gradients
from idgan_fast.training.sampling import Draws, ForD
from idgan_fast.training.schedules import distill_weight_at, ema_at
from idgan_fast.training.step_compiler import StepCompiler

BOTTLENECK_BETA = 0.1  # VGAN's first multiplier
PATH_AVERAGE_DECAY = 0.99
ADA_EVERY = 4  # iterations from one change of the augmentation's probability to the next

Metrics = dict[str, Tensor]
Gradients = list[Tensor] | tuple[Tensor, ...]


def teacher_view(x: Tensor) -> Tensor:
    """GAN images [N, C, S, S] in [-1, 1] -> what the encoder reads: [N, C, 64, 64] in [0, 1]."""
    x = x * 0.5 + 0.5
    return x if x.shape[-1] == IMAGE_SIZE else F.adaptive_avg_pool2d(x, IMAGE_SIZE)


class GANStage:
    """Networks, optimisers and random state of stage 2. `state_dict()` holds all of it but the teacher."""

    name = "gan"
    may_overflow = frozenset({"r1", "path_penalty", "path_length"})
    _PARTS = ("generator", "discriminator", "average", "optimizer_g", "optimizer_d", "scale")

    def __init__(
        self,
        config: Config,
        channels: int,
        device: torch.device,
        precision: Precision,
        vae: VAE,
        graphs: StepCompiler | None = None,
    ) -> None:
        self.config, self.images, self.device, self.precision = config.gan, config.images, device, precision
        self.iters, self.batch_size = self.config.iters, self.config.batch_size
        self.c_dim, self.channels = config.vae.c_dim, channels
        self.styled = self.config.model == "stylegan2"
        self.teacher = copy.deepcopy(vae.encoder).requires_grad_(False).eval()
        generator, discriminator = build_networks(config, channels)
        if self.config.warm_start:
            generator.copy_decoder(vae.decoder)  # type: ignore[operator]
        place: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
        self.generator, self.discriminator = generator.to(**place), discriminator.to(**place)
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.of_g, self.of_d = list(self.generator.parameters()), list(self.discriminator.parameters())
        self.of_average = list(self.average.parameters())
        self.has_path = self.styled and self.config.stylegan2.path_weight > 0
        self._make_optimizers()
        self.scale = precision.loss_scale(device)
        self.draw = Draws(self.config, self.images, self.generator, self.discriminator, 2 * config.seed + 1)
        self.bottleneck_beta = torch.full((), BOTTLENECK_BETA, device=device)
        self.path_average = torch.zeros((), device=device)
        self.ada = AdaptiveProbability(device=device) if self.config.ada else None
        graphs = graphs or StepCompiler(False, device)
        if self.config.r1_weight > 0:
            self._update_d_r1 = graphs.step("D with R1", lambda *args: self.update_d(True, *args))
        if self.config.r1_weight == 0 or self.config.r1_every > 1:
            self._update_d = graphs.step("D", lambda *args: self.update_d(False, *args))
        if self.has_path:
            self._update_path = graphs.step("path length", self.update_path)
        self._update_g = graphs.step("G", self.update_g)

    def _make_optimizers(self) -> None:
        """Adam's settings for G allow for the updates that the path length adds (arXiv 1912.04958, appendix B)."""
        self.lr_g, self.lr_d, decay = self.config.lr_g, self.config.lr_d, self.config.square_decay
        self.optimizer_g: RMSprop | Adam
        self.optimizer_d: RMSprop | Adam
        if self.config.optimizer == "rmsprop":
            self.optimizer_g, self.optimizer_d = RMSprop(self.of_g, decay), RMSprop(self.of_d, decay)
            return
        share = 1.0
        if self.has_path:
            every = self.config.stylegan2.path_every
            share = every / (every + 1)
        self.lr_g *= share
        self.optimizer_g, self.optimizer_d = Adam(self.of_g, (0.0, decay**share)), Adam(self.of_d, (0.0, decay))

    @property
    def rng(self) -> torch.Generator:
        return self.draw.rng

    def step(self, batch: Tensor, iteration: int) -> Metrics:
        """The updates of one iteration from uint8 images [N, C, S, S]; returns detached metrics."""
        x = self.draw.real_images(batch)
        n = len(x)
        of_c, latents = self.draw.normal(n, self.c_dim), self.draw.latents(n)
        penalise = self.config.r1_weight > 0 and iteration % self.config.r1_every == 0
        update_d = self._update_d_r1 if penalise else self._update_d
        c, metrics = update_d(x, of_c, latents, self.draw.of_discriminator(n), self.draw.of_discriminator(n))
        if self.has_path and iteration % self.config.stylegan2.path_every == 0:
            few = max(n // self.config.stylegan2.path_shrink, 1)
            latents, y = self.draw.latents(few), self.draw.normal(few, *x.shape[1:]) / self.images.size
            metrics |= self._update_path(c[:few], latents, y)
        self.discriminator.requires_grad_(False)
        changing = (distill_weight_at(self.config, iteration), ema_at(self.config, iteration))
        schedule = [torch.full((), value, device=self.device) for value in changing]
        metrics |= self._update_g(c, self.draw.latents(n), self.draw.of_discriminator(n), *schedule)
        self.discriminator.requires_grad_(True)
        if self.ada is not None:
            metrics["augment_p"] = self.ada.p.clone()
            if (iteration + 1) % ADA_EVERY == 0:
                self.ada.adjust(ADA_EVERY * n, self.config.ada_target, self.config.ada_images)
        return metrics

    def log_values(self, metrics: Metrics, iteration: int) -> dict[str, Any]:
        values: dict[str, Any] = {name: value.tolist() for name, value in metrics.items()}
        if self.config.distill_warmup:
            values["distill_weight"] = distill_weight_at(self.config, iteration)
        if self.config.ema_rampup:
            values["ema"] = ema_at(self.config, iteration)
        return values

    def collapsed(self, values: dict[str, Any], iteration: int) -> bool:
        """Never by its metrics: whether G's images tell of c is read back from them."""
        return False

    # ---- the updates, functions of tensors

    def update_d(
        self,
        penalise: bool,
        x: Tensor,
        of_c: Tensor,
        latents: Latents,
        draws_real: ForD,
        draws_fake: ForD,
    ) -> tuple[Tensor, Metrics]:
        """D's update from real images x [N, C, S, S] in [-1, 1] and c ~ q(c|x) [N, c_dim], which it returns."""
        c = self.posterior_sample(x, of_c)
        with torch.no_grad(), self.precision.autocast():
            fake = self.generator.synthesize(self.generator.styles(latents, c), c, latents.noise)
            x, fake = self._seen(x, draws_real), self._seen(fake, draws_fake)
        weight = self.config.r1_weight * self.config.r1_every if penalise else 0.0
        if penalise and not self.styled and not self.config.bottleneck:
            with self.precision.autocast():
                logits, penalty, with_r1 = real_gradients(self.discriminator, x, weight, self.scale.factor)
            metrics = {"d_real": losses.d_real(logits), "r1": penalty}
            of_real: Gradients = with_r1
            self._observe(logits)
        else:
            metrics, of_real = self._of_real(x, draws_real, weight)
        of_fake_metrics, of_fake = self._of_fake(fake, draws_fake)
        metrics |= of_fake_metrics
        if self.config.bottleneck:
            metrics["bottleneck_kl"] = 0.5 * (metrics.pop("kl_real") + metrics.pop("kl_fake"))
            metrics["bottleneck_beta"] = self.bottleneck_beta.clone()
            self._move_bottleneck_beta(metrics["bottleneck_kl"])
        gradients, overflow = self.scale.unscaled(torch._foreach_add(list(of_real), list(of_fake)))
        self.optimizer_d.step(gradients, self.lr_d, overflow)
        self.scale.update(overflow)
        return c, metrics

    @torch.no_grad()
    def posterior_sample(self, x: Tensor, eps: Tensor) -> Tensor:
        """c ~ q(c|x) [N, c_dim] for images in [-1, 1]."""
        with self.precision.autocast():
            mean, logvar = self.teacher(teacher_view(x))
        return reparameterise(mean.float(), logvar.float(), eps)

    def _seen(self, x: Tensor, draws: ForD) -> Tensor:
        """Images as D gets to see them: augmented, if they are to be."""
        return x if self.ada is None else augment(x, draws["augment"], self.ada.p)

    def _observe(self, logits: Tensor) -> None:
        if self.ada is not None:
            self.ada.observe(logits)

    def _discriminate(self, x: Tensor, draws: ForD) -> tuple[Tensor, Tensor | None]:
        """Logits, and the KL of VGAN's bottleneck."""
        with self.precision.autocast():
            if not self.config.bottleneck:
                return self.discriminator(x).float(), None
            logits, mean, logstd = self.discriminator(x, draws["eps"])
        return logits.float(), losses.bottleneck_kl(mean.float(), logstd.float())

    def _of_real(self, x: Tensor, draws: ForD, r1_weight: float) -> tuple[Metrics, Gradients]:
        """D's loss on real images and its gradients, with R1 by a double backward."""
        x = x.detach().requires_grad_(r1_weight > 0)
        logits, kl = self._discriminate(x, draws)
        self._observe(logits.detach())
        loss = losses.d_real(logits)
        metrics = {"d_real": loss.detach()}
        if r1_weight:
            scale = self.scale.factor / len(x)  # that of an averaged loss
            (gradient,) = torch.autograd.grad((logits * scale).sum(), x, create_graph=True)
            penalty = losses.gradient_penalty(gradient.float() / scale)
            metrics["r1"] = penalty.detach()
            loss = loss + r1_weight * penalty
        return self._with_bottleneck(loss, kl, metrics, "kl_real")

    def _of_fake(self, fake: Tensor, draws: ForD) -> tuple[Metrics, Gradients]:
        """D's loss on generated images and its gradients."""
        logits, kl = self._discriminate(fake, draws)
        loss = losses.d_fake(logits)
        return self._with_bottleneck(loss, kl, {"d_fake": loss.detach()}, "kl_fake")

    def _with_bottleneck(
        self, loss: Tensor, kl: Tensor | None, metrics: Metrics, name: str
    ) -> tuple[Metrics, Gradients]:
        """The gradients of D's loss, half of the bottleneck's term counted in: its KL is the mean over both sides."""
        if kl is not None:
            metrics[name] = kl.detach()
            loss = loss + self.bottleneck_beta * 0.5 * kl
        return metrics, torch.autograd.grad(self.scale.scaled(loss), self.of_d)

    def _move_bottleneck_beta(self, kl: Tensor) -> None:
        moved = losses.next_bottleneck_beta(self.bottleneck_beta, kl)
        self.bottleneck_beta.copy_(torch.where(kl.isfinite(), moved, self.bottleneck_beta))  # fp16 may overflow

    def update_g(self, c: Tensor, latents: Latents, draws: ForD, distill_weight: Tensor, ema_decay: Tensor) -> Metrics:
        """G's update from c [N, c_dim], and that of its average."""
        with self.precision.autocast():
            styles = self.generator.styles(latents, c)
            fake = self.generator.synthesize(styles, c, latents.noise)
            mean, logvar = self.teacher(teacher_view(fake))
        logits, _ = self._discriminate(self._seen(fake, draws), draws)
        adversarial = losses.g_fake(logits)
        distilled = losses.distillation(c, mean.float(), logvar.float(), self.config.distill_eps)
        loss = self.scale.scaled(adversarial + distill_weight * distilled)
        gradients, overflow = self.scale.unscaled(torch.autograd.grad(loss, self.of_g))
        self.optimizer_g.step(gradients, self.lr_g, overflow)
        self.scale.update(overflow)
        move_average(self.of_average, self.of_g, ema_decay)
        for network in (self.generator, self.average):
            network.update_w_average(styles)
        return {"g": adversarial.detach(), "distillation": distilled.detach()}

    def update_path(self, c: Tensor, latents: Latents, y: Tensor) -> Metrics:
        """StyleGAN2's path length regularisation (arXiv 1912.04958, equation 4). y: N(0, 1) / size, as the images."""
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
        found = torch.autograd.grad(loss, self.of_g, allow_unused=True)  # to-RGB's biases have no part in it
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.of_g, strict=True)]
        gradients, overflow = self.scale.unscaled(filled)
        self.optimizer_g.step(gradients, self.lr_g, overflow)
        self.scale.update(overflow)
        self.path_average.copy_(torch.where(average.isfinite(), average, self.path_average))
        return {"path_penalty": penalty.detach(), "path_length": lengths.detach().mean()}

    def weights(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        return {f"{n}.{key}": p for n, module in networks.items() for key, p in module.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name).state_dict() for name in self._PARTS},
            "rng": self.rng.get_state(),
            "bottleneck_beta": self.bottleneck_beta,
            "path_average": self.path_average,
            "ada": {} if self.ada is None else self.ada.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """All but the random state, which another kind of device cannot take: the caller sets `rng`."""
        for name in self._PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.bottleneck_beta.copy_(state["bottleneck_beta"])
        self.path_average.copy_(state["path_average"])
        if self.ada is not None:
            self.ada.load_state_dict(state["ada"])

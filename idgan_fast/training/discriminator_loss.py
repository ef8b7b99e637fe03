"""D's loss in stage 2 and its gradients, with what belongs to them: augmentation, R1 and VGAN's bottleneck."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from idgan_fast.config.settings import GANConfig
from idgan_fast.training import losses
from idgan_fast.training.augmentation import AdaptiveProbability, augment
from idgan_fast.training.precision import LossScale, Precision
from idgan_fast.training.r1 import real_gradients
from idgan_fast.training.sampling import DiscriminatorNoise

BOTTLENECK_BETA = 0.1  # VGAN's first multiplier

Metrics = dict[str, Tensor]
Gradients = Sequence[Tensor]


class DiscriminatorLoss:
    """The loss of one discriminator.

    `ada`: the adaptive augmentation's probability, None without augmentation. `bottleneck_beta`: VGAN's multiplier, a
    scalar. Both change in place, so that a compiled graph may hold them.
    """

    def __init__(
        self,
        config: GANConfig,
        discriminator: nn.Module,
        precision: Precision,
        scale: LossScale,
        device: torch.device,
    ) -> None:
        self.discriminator, self.precision, self.scale = discriminator, precision, scale
        self.parameters = list(discriminator.parameters())
        self.has_bottleneck = config.bottleneck
        self.is_piecewise_linear = config.model != "stylegan2" and not config.bottleneck
        self.ada = AdaptiveProbability(device=device) if config.ada else None
        self.bottleneck_beta = torch.full((), BOTTLENECK_BETA, device=device)

    def augment(self, x: Tensor, noise: DiscriminatorNoise) -> Tensor:
        """Images as D sees them: augmented, if the settings say so."""
        return x if self.ada is None else augment(x, noise["augment"], self.ada.p)

    def discriminate(self, x: Tensor, noise: DiscriminatorNoise) -> tuple[Tensor, Tensor | None]:
        """Logits [N] in float32, and the KL of VGAN's bottleneck or None."""
        with self.precision.autocast():
            if not self.has_bottleneck:
                return self.discriminator(x).float(), None
            logits, mean, logstd = self.discriminator(x, noise["eps"])
        return logits.float(), losses.bottleneck_kl(mean.float(), logstd.float())

    def gradients(
        self,
        real: Tensor,
        fake: Tensor,
        noise_real: DiscriminatorNoise,
        noise_fake: DiscriminatorNoise,
        r1_weight: float,
    ) -> tuple[Metrics, Gradients]:
        """Metrics, and the gradients of the scaled loss by D's parameters, from augmented images [N, C, S, S]."""
        by_real: Gradients
        if r1_weight and self.is_piecewise_linear:
            with self.precision.autocast():
                logits, penalty, by_real = real_gradients(self.discriminator, real, r1_weight, self.scale.factor)
            self._observe(logits)
            metrics, kl_real = {"d_real": losses.d_real(logits), "r1": penalty}, None
        else:
            metrics, by_real, kl_real = self._real(real, noise_real, r1_weight)
        logits, kl_fake = self.discriminate(fake, noise_fake)
        loss = losses.d_fake(logits)
        metrics["d_fake"] = loss.detach()
        by_fake = self._backward(loss, kl_fake)
        if kl_real is not None and kl_fake is not None:
            kl = 0.5 * (kl_real + kl_fake).detach()
            metrics |= {"bottleneck_kl": kl, "bottleneck_beta": self.bottleneck_beta.clone()}
            moved = losses.next_bottleneck_beta(self.bottleneck_beta, kl)
            self.bottleneck_beta.copy_(torch.where(kl.isfinite(), moved, self.bottleneck_beta))  # fp16 may overflow
        return metrics, torch._foreach_add(list(by_real), list(by_fake))

    def _real(self, x: Tensor, noise: DiscriminatorNoise, r1_weight: float) -> tuple[Metrics, Gradients, Tensor | None]:
        """The part of real images, with R1 by a double backward; the bottleneck's KL comes last."""
        x = x.detach().requires_grad_(r1_weight > 0)
        logits, kl = self.discriminate(x, noise)
        self._observe(logits.detach())
        loss = losses.d_real(logits)
        metrics = {"d_real": loss.detach()}
        if r1_weight:
            scale = self.scale.factor / len(x)  # that of an averaged loss
            (gradient,) = torch.autograd.grad((logits * scale).sum(), x, create_graph=True)
            penalty = losses.gradient_penalty(gradient.float() / scale)
            metrics["r1"] = penalty.detach()
            loss = loss + r1_weight * penalty
        return metrics, self._backward(loss, kl), kl

    def _backward(self, loss: Tensor, kl: Tensor | None) -> Gradients:
        """The gradients of one side's loss. The bottleneck's KL is the mean over both sides, so half of it counts."""
        if kl is not None:
            loss = loss + self.bottleneck_beta * 0.5 * kl
        return torch.autograd.grad(self.scale.scaled(loss), self.parameters)

    def _observe(self, logits: Tensor) -> None:
        if self.ada is not None:
            self.ada.observe(logits)

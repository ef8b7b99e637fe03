"""Stage 1: a beta-VAE learns the code c (Higgins et al., ICLR 2017), with a schedule for beta."""

from typing import Any

import torch
from torch import Tensor

from idgan_fast.config.settings import Config, VAEConfig
from idgan_fast.data import to_unit
from idgan_fast.models.vae import VAE
from idgan_fast.training import losses
from idgan_fast.training.optimizers import Adam
from idgan_fast.training.precision import Precision
from idgan_fast.training.stage import Stage
from idgan_fast.training.step_compiler import StepCompiler


def beta_at(config: VAEConfig, iteration: int) -> float:
    """The KL weight: `beta_start` for `beta_hold` of the run, then geometrically down to `beta` at `beta_reach`."""
    if config.beta_start is None:
        return config.beta
    first, last = config.beta_hold * config.iters, config.beta_reach * config.iters
    progress = min(max((iteration - first) / max(last - first, 1e-9), 0.0), 1.0)
    return config.beta_start * (config.beta / config.beta_start) ** progress


def lr_at(config: VAEConfig, iteration: int) -> float:
    """The learning rate: up linearly over `lr_warmup` of the run, constant, linearly to 0 over the last `lr_decay`."""
    done = (iteration + 1) / max(config.lr_warmup * config.iters, 1)
    left = (config.iters - iteration) / max(config.lr_decay * config.iters, 1)
    return config.lr * min(done, left, 1.0)


class VAEStage(Stage):
    """Network, optimizer and random state of stage 1. `state_dict()` holds all of it."""

    name = "vae"
    parts = ("vae", "optimizer", "scale")

    def __init__(
        self,
        config: Config,
        channels: int,
        device: torch.device,
        precision: Precision,
        compiler: StepCompiler | None = None,
    ) -> None:
        self.config, self.device, self.precision = config.vae, device, precision
        self.iters, self.batch_size = self.config.iters, self.config.batch_size
        self.vae = VAE(self.config.c_dim, channels, self.config.width, self.config.init)
        self.vae.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = list(self.vae.parameters())
        self.optimizer = Adam(self.parameters, betas=(0.9, 0.999))
        self.scale = precision.loss_scale(device)
        self.rng = torch.Generator(device).manual_seed(2 * config.seed)
        self._update = (compiler or StepCompiler(False, device)).step("vae", self.update)

    def step(self, batch: Tensor, iteration: int) -> dict[str, Tensor]:
        """One update from uint8 images [N, C, 64, 64]; returns detached metrics, `kl_per_dim` [c_dim] among them."""
        x = to_unit(batch, self.device).contiguous(memory_format=torch.channels_last)
        eps = torch.randn(len(x), self.config.c_dim, generator=self.rng, device=self.device)
        schedule = (beta_at(self.config, iteration), lr_at(self.config, iteration))
        return self._update(x, eps, *[torch.full((), value, device=self.device) for value in schedule])

    def update(self, x: Tensor, eps: Tensor, beta: Tensor, lr: Tensor) -> dict[str, Tensor]:
        """The step as a function of tensors: images [N, C, 64, 64] in [0, 1], eps ~ N(0, I) [N, c_dim], two scalars."""
        with self.precision.autocast():
            logits, mean, logvar = self.vae(x, eps)
        reconstruction = losses.reconstruction(logits.float(), x, self.config.reconstruction)
        kl_per_dim = losses.kl_per_dim(mean.float(), logvar.float())
        kl = kl_per_dim.sum()
        loss = reconstruction + beta * kl
        self.apply(self.optimizer, torch.autograd.grad(self.scale.scaled(loss), self.parameters), lr)
        metrics = {"loss": loss, "reconstruction": reconstruction, "kl": kl, "kl_per_dim": kl_per_dim}
        return {name: value.detach() for name, value in metrics.items()}

    def weights(self) -> dict[str, Tensor]:
        return dict(self.vae.named_parameters())

    def log_values(self, metrics: dict[str, Tensor], iteration: int) -> dict[str, Any]:
        values: dict[str, Any] = {name: value.tolist() for name, value in metrics.items()}
        values["active"] = sum(kl > losses.ACTIVE_NATS for kl in values["kl_per_dim"])
        return values | {"beta": beta_at(self.config, iteration), "lr": lr_at(self.config, iteration)}

    def collapsed(self, values: dict[str, Any], iteration: int) -> bool:
        """No dimension of the code is active, though beta has fallen, or a tenth of the iterations is done."""
        settled = self.config.beta_reach if self.config.beta_start is not None else 0.1
        return values["active"] == 0 and iteration + 1 > settled * self.iters

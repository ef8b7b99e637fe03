"""What a run's report measures: the code of real images, and how well it is read back from generated ones.

Random numbers come from generators of their own here, so that measuring never changes a training run.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.data import Dataset, to_unit
from idgan_fast.evaluation.disentanglement import correlation, mig, r2_per_dim
from idgan_fast.models.vae import IMAGE_SIZE, Encoder, reparameterize
from idgan_fast.training.gan import GANStage, teacher_view
from idgan_fast.training.losses import ACTIVE_NATS, kl_per_dim

BATCH = 64  # images of 64x64 at a time, and larger ones in proportion
READ_BACK = 2048  # generated images of 64x64 that are read back for a report, and larger ones in proportion
SHOWN_SIDE = 128  # the largest side of a generated image in the report, in pixels


@dataclass(frozen=True)
class Codes:
    """N random real images, uint8 [N, C, 64, 64], their codes' mean and logvar, [N, d] on the CPU, and true factors."""

    images: Tensor
    mean: Tensor
    logvar: Tensor
    factors: np.ndarray | None

    @property
    def kl(self) -> Tensor:
        """KL of each dimension to the prior in nats: [d]."""
        return kl_per_dim(self.mean, self.logvar)

    @property
    def active(self) -> Tensor:
        """Which dimensions carry more than ACTIVE_NATS: bool [d]."""
        return self.kl > ACTIVE_NATS

    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """c ~ q(c|x) for the first `count` images: [count, d]."""
        mean, logvar = self.mean[:count], self.logvar[:count]
        return reparameterize(mean, logvar, torch.randn(mean.shape, generator=rng))


@torch.no_grad()
def read_codes(dataset: Dataset, encoder: Encoder, count: int, device: torch.device, seed: int = 0) -> Codes:
    """Encode `count` random images, and get their true factors where the data set knows them."""
    count = min(count, len(dataset))
    rng = torch.Generator().manual_seed(seed)
    indices = torch.randint(len(dataset), (count,), generator=rng)
    images = torch.cat([dataset[part] for part in indices.split(BATCH)])
    readings = [encoder(to_unit(part, device)) for part in images.split(BATCH)]
    mean, logvar = (torch.cat(parts).float().cpu() for parts in zip(*readings, strict=True))
    return Codes(images, mean, logvar, dataset.factors(indices))


def affordable(count: int, size: int) -> int:
    """How many images of size x size hold the pixels of `count` images of 64x64; one at least."""
    return max(count * IMAGE_SIZE**2 // size**2, 1)


@torch.no_grad()
def generate(stage: GANStage, s: Tensor, c: Tensor) -> Tensor:
    """Images by G's average to look at: [N, C, S, S] in [0, 1], S at most SHOWN_SIDE, on the CPU."""
    batch, images = affordable(BATCH, stage.images.size), []
    for a, b in zip(s.split(batch), c.split(batch), strict=True):
        x = stage.average(a.to(stage.device), b.to(stage.device)).float() * 0.5 + 0.5
        if x.shape[-1] > SHOWN_SIDE:
            x = F.adaptive_avg_pool2d(x, SHOWN_SIDE)
        images.append(x.cpu())
    return torch.cat(images)


@torch.no_grad()
def read_back(stage: GANStage, c: Tensor, rng: torch.Generator) -> np.ndarray:
    """R^2 per dimension of the encoder's mean of G(s, c) against c [N, d], with G's average and fresh s: [d]."""
    means = []
    for part in c.split(affordable(BATCH, stage.images.size)):
        s = torch.randn(len(part), stage.config.s_dim, generator=rng).to(stage.device)
        mean, _ = stage.teacher(teacher_view(stage.average(s, part.to(stage.device))))
        means.append(mean.float().cpu())
    return r2_per_dim(c.numpy().astype(np.float64), torch.cat(means).numpy())


@dataclass(frozen=True)
class Summary:
    """A finished run in numbers; what the report shows."""

    encoded: int  # real images that kl, correlation and mig were measured on
    kl: list[float]
    active: list[int]
    correlation: list[list[float]] | None  # [factor][dimension]
    mig: float | None
    r2_posterior: list[float]
    r2_prior: list[float]

    def mean_r2(self, source: str) -> float | None:
        """Over the active dimensions."""
        values = self.r2_posterior if source == "posterior" else self.r2_prior
        return float(np.mean([values[i] for i in self.active])) if self.active else None


def summarize(stage: GANStage, codes: Codes, seed: int = 0) -> Summary:
    """Measure with READ_BACK generated images for each source of c, fewer of larger ones."""
    rng = torch.Generator().manual_seed(seed)
    c = codes.sample(max(affordable(READ_BACK, stage.images.size), 128), rng)
    posterior = read_back(stage, c, rng)
    prior = read_back(stage, torch.randn(c.shape, generator=rng), rng)
    table = gap = None
    if codes.factors is not None:
        table = correlation(codes.factors, codes.mean.numpy()).tolist()
        gap = mig(codes.factors, codes.mean.numpy()) if codes.mean.shape[1] > 1 else None
    active = codes.active.nonzero().flatten().tolist()
    return Summary(len(codes.mean), codes.kl.tolist(), active, table, gap, posterior.tolist(), prior.tolist())

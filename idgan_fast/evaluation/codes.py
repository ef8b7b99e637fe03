"""What a run's report measures: the code of real images, and how well it is read back from generated ones.

Random numbers come from generators of their own here, so that measuring never changes a training run.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.data import Dataset, to_unit
from idgan_fast.evaluation.budget import Budget
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
def read_codes(
    dataset: Dataset, encoder: Encoder, count: int, device: torch.device, *, budget: Budget, seed: int = 0
) -> Codes:
    """Encode `count` random images, 256 at the least, and get their true factors where the data set knows them."""
    count = min(count, len(dataset))
    rng = torch.Generator().manual_seed(seed)
    indices = torch.randint(len(dataset), (count,), generator=rng)
    images, readings = [], []
    for part in budget.batches("reading the codes of images", indices.split(BATCH), least=256, share=1):
        images.append(dataset[part])
        readings.append(encoder(to_unit(images[-1], device)))
    mean, logvar = (torch.cat(parts).float().cpu() for parts in zip(*readings, strict=True))
    return Codes(torch.cat(images), mean, logvar, dataset.factors(indices[: len(mean)]))


def affordable(count: int, size: int) -> int:
    """How many images of size x size hold the pixels of `count` images of 64x64; one at least."""
    return max(count * IMAGE_SIZE**2 // size**2, 1)


@torch.no_grad()
def generate(
    stage: GANStage, s: Tensor, c: Tensor, what: str, *, budget: Budget, least: int | None = None, share: float = 1
) -> Tensor:
    """Images by G's average to look at: [N, C, S, S] in [0, 1], S at most SHOWN_SIDE, on the CPU.

    what: names them for whoever hears of the progress. least: how many suffice where the budget's share is spent; by
    default all of them are made.
    """
    rows = torch.arange(len(s)).split(affordable(BATCH, stage.images.size))
    images = []
    for part in budget.batches(what, rows, least=least or len(s), share=share):
        x = stage.average(s[part].to(stage.device), c[part].to(stage.device)).float() * 0.5 + 0.5
        if x.shape[-1] > SHOWN_SIDE:
            x = F.adaptive_avg_pool2d(x, SHOWN_SIDE)
        images.append(x.cpu())
    return torch.cat(images)


@torch.no_grad()
def read_back(
    stage: GANStage, c: Tensor, rng: torch.Generator, *, budget: Budget, least: int, share: float
) -> tuple[np.ndarray, int]:
    """R^2 per dimension of the encoder's mean of G(s, c) against c [N, d], with G's average and fresh s.

    Returns it as [d], and the number of images that it was measured on: N, or `least` to N within the budget's share.
    """
    means: list[Tensor] = []
    parts = c.split(affordable(BATCH, stage.images.size))
    for part in budget.batches("reading c back", parts, least=least, share=share):
        s = torch.randn(len(part), stage.config.s_dim, generator=rng).to(stage.device)
        mean, _ = stage.teacher(teacher_view(stage.average(s, part.to(stage.device))))
        means.append(mean.float().cpu())
    prediction = torch.cat(means).numpy()
    return r2_per_dim(c[: len(prediction)].numpy().astype(np.float64), prediction), len(prediction)


@dataclass(frozen=True)
class Summary:
    """A finished run in numbers; what the report shows."""

    encoded: int  # real images that kl, correlation and mig were measured on
    read_back: list[int]  # generated images that r2_posterior and r2_prior were measured on
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


def summarize(stage: GANStage, codes: Codes, *, budget: Budget, seed: int = 0) -> Summary:
    """Measure with READ_BACK generated images for each source of c; fewer of larger ones, and of slow ones.

    Two thirds of the budget are for it.
    """
    rng = torch.Generator().manual_seed(seed)
    c = codes.sample(max(affordable(READ_BACK, stage.images.size), 128), rng)
    share: dict[str, Any] = {"budget": budget, "least": 64, "share": 1 / 3}
    posterior, n_posterior = read_back(stage, c, rng, **share)
    prior, n_prior = read_back(stage, torch.randn(c.shape, generator=rng), rng, **share)
    table = gap = None
    if codes.factors is not None:
        table = correlation(codes.factors, codes.mean.numpy()).tolist()
        gap = mig(codes.factors, codes.mean.numpy()) if codes.mean.shape[1] > 1 else None
    active = codes.active.nonzero().flatten().tolist()
    return Summary(
        encoded=len(codes.mean),
        read_back=[n_posterior, n_prior],
        kl=codes.kl.tolist(),
        active=active,
        correlation=table,
        mig=gap,
        r2_posterior=posterior.tolist(),
        r2_prior=prior.tolist(),
    )

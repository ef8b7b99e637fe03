"""The losses of both stages. Shapes: images [N, C, H, W], codes [N, d], logits of D [N]; results are scalars.

Sources: ID-GAN (arXiv 2001.04296), beta-VAE (Higgins et al., ICLR 2017), R1 (Mescheder et al., arXiv 1801.04406,
eq. 9), VGAN (Peng et al., arXiv 1810.00821), StyleGAN2 (Karras et al., arXiv 1912.04958). Units are nats.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVE_NATS = 0.5  # a dimension of the code with more KL than this is active: it carries information
VARIANCE_EPS = 1e-8


def reconstruction(logits: Tensor, x: Tensor, distribution: str) -> Tensor:
    """-log p(x|c) up to a constant: summed over pixels, averaged over the batch; x in [0, 1].

    "bernoulli": binary cross entropy. "gaussian": sum of (x - sigmoid(logits))^2, without 1/2 or variance, as in
    the public code, so that its betas carry over.
    """
    if distribution == "bernoulli":
        total = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    else:
        total = F.mse_loss(torch.sigmoid(logits), x, reduction="sum")
    return total / len(x)


def kl_per_dim(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of each code dimension, averaged over the batch: [d]."""
    return -0.5 * (1 + logvar - mean.square() - logvar.exp()).mean(0)


def d_real(logits: Tensor) -> Tensor:
    """BCE(D(x), 1) (ID-GAN eq. 3, the non-saturating form)."""
    return F.softplus(-logits).mean()


def d_fake(logits: Tensor) -> Tensor:
    """BCE(D(G(s, c)), 0)."""
    return F.softplus(logits).mean()


def g_fake(logits: Tensor) -> Tensor:
    """BCE(D(G(s, c)), 1)."""
    return F.softplus(-logits).mean()


def distillation(c: Tensor, mean: Tensor, logvar: Tensor, eps: float = VARIANCE_EPS) -> Tensor:
    """-log q(c | G(s, c)), summed over dimensions, averaged over the batch (ID-GAN eq. 5: minus R_ID, less H(c)).

    mean, logvar: the frozen encoder's reading of G(s, c). The variance is not detached; eps is added to it.
    """
    nll = math.log(2 * math.pi) + logvar + (c - mean).square() / (logvar.exp() + eps)
    return 0.5 * nll.sum(1).mean()


def gradient_penalty(gradient: Tensor) -> Tensor:
    """E ||grad_x D(x)||^2 of R1, without the 1/2 of the paper, from the gradient of sum D(x) by x [N, C, H, W]."""
    return gradient.square().sum((1, 2, 3)).mean()


def path_lengths(gradient: Tensor) -> Tensor:
    """|J^T y| for each image [N], from the gradient of sum(G(w) y) by w [N, L, w_dim]; root mean square over L.

    y ~ N(0, I) / sqrt(H W), one for each image [N, C, H, W] (arXiv 1912.04958, equation 4).
    """
    return gradient.square().sum(2).mean(1).sqrt()


def path_penalty(lengths: Tensor, average: Tensor) -> Tensor:
    """E (|J^T y| - a)^2 with the moving average a of the lengths [N], a constant here (arXiv 1912.04958, eq. 4)."""
    return (lengths - average).square().mean()


def bottleneck_kl(mean: Tensor, logstd: Tensor) -> Tensor:
    """KL of VGAN's bottleneck to N(0, I): summed over channels, averaged over batch and positions.

    mean, logstd: [N, K, 4, 4].
    """
    return (0.5 * (mean.square() + (2 * logstd).exp() - 1) - logstd).sum(1).mean()


def next_bottleneck_beta(beta: Tensor, kl: Tensor, rate: float = 1e-5, target: float = 0.1) -> Tensor:
    """Dual ascent on the multiplier of VGAN's constraint KL <= target (Peng et al., eq. 6)."""
    return (beta + rate * (kl - target)).clamp_min(0)

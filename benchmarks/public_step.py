"""The stage-2 step as the public ID-GAN code takes it: plain eager PyTorch, contiguous (NCHW), R1 by double backward.

Written from the method's formulas, on our networks (their weights carry over), so that both steps can be compared.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def generate(g: nn.Module, s: Tensor, c: Tensor) -> Tensor:
    """The ResNet generator as published: upsampling and convolution are layers of their own."""
    h = g.get_submodule("fc")(torch.cat([s, c], dim=1)).view(len(c), -1, 4, 4)
    h = g.get_submodule("resnet")(h)
    return torch.tanh(g.get_submodule("conv_img")(F.leaky_relu(h, 0.2)))


class PublicStep:
    """Takes over G, D and the encoder; `step(x, ...)` updates them once. Noise comes in, so that runs can be equal."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, encoder: nn.Module) -> None:
        self.g, self.d, self.e = (copy.deepcopy(m).to(memory_format=torch.contiguous_format) for m in
                                  (generator, discriminator, encoder))  # fmt: skip
        self.average = copy.deepcopy(self.g)
        self.optimizer_g = torch.optim.RMSprop(self.g.parameters(), 1e-4, alpha=0.99, eps=1e-8)
        self.optimizer_d = torch.optim.RMSprop(self.d.parameters(), 1e-4, alpha=0.99, eps=1e-8)

    def step(self, x: Tensor, eps: Tensor, s_d: Tensor, s_g: Tensor, r1: float, weight: float) -> dict[str, Tensor]:
        """Images [N, C, S, S] in [-1, 1], eps for c ~ q(c|x), s for D's and G's turn; the losses."""
        with torch.no_grad():
            mean, logvar = self.e((x + 1) / 2)
            c = mean + (0.5 * logvar).exp() * eps

        self.d.requires_grad_(True)
        self.g.requires_grad_(False)
        self.optimizer_d.zero_grad()
        x = x.requires_grad_()
        logits = self.d(x)
        real = bce(logits, 1.0)
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        penalty = gradient.pow(2).reshape(len(x), -1).sum(1).mean()
        (real + r1 * penalty).backward()
        with torch.no_grad():
            generated = generate(self.g, s_d, c)
        fake = bce(self.d(generated), 0.0)
        fake.backward()
        self.optimizer_d.step()

        self.d.requires_grad_(False)
        self.g.requires_grad_(True)
        self.optimizer_g.zero_grad()
        generated = generate(self.g, s_g, c)
        adversarial = bce(self.d(generated), 1.0)
        mean, logvar = self.e((generated + 1) / 2)
        nll = torch.log(torch.tensor(2 * torch.pi)) + logvar + (c - mean).pow(2) / (logvar.exp() + 1e-8)
        distilled = (0.5 * nll).sum(1).mean()
        (adversarial + weight * distilled).backward()
        self.optimizer_g.step()
        with torch.no_grad():
            for ours, theirs in zip(self.average.parameters(), self.g.parameters(), strict=True):
                ours.copy_(0.999 * ours + 0.001 * theirs)
        values = {"d_real": real, "r1": penalty, "d_fake": fake, "g": adversarial, "distillation": distilled}
        return {name: value.detach() for name, value in values.items()}

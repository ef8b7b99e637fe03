"""The convolutional VAE of stage 1 and the pair of dSprites networks built from its halves.

Source: ID-GAN (arXiv 2001.04296), appendix; layer numbers inside `layer` are those of the public checkpoints.
"""

import torch
from torch import Tensor, nn

from idgan_fast.models.generator import Generator

IMAGE_SIZE = 64  # the encoder's four strided convolutions and its 4x4 head fix this size


def _conv_trunk(channels: int, width: int) -> list[nn.Module]:
    """64x64 -> 8 * width features: conv4x4 stride 2 (w, w, 2w, 2w), conv4x4 -> 8w, ReLU after each."""
    w = width
    return [
        *(nn.Conv2d(channels, w, 4, 2, 1), nn.ReLU()),  # 0: [N, w, 32, 32]
        *(nn.Conv2d(w, w, 4, 2, 1), nn.ReLU()),  # 2: [N, w, 16, 16]
        *(nn.Conv2d(w, 2 * w, 4, 2, 1), nn.ReLU()),  # 4: [N, 2w, 8, 8]
        *(nn.Conv2d(2 * w, 2 * w, 4, 2, 1), nn.ReLU()),  # 6: [N, 2w, 4, 4]
        *(nn.Conv2d(2 * w, 8 * w, 4), nn.ReLU()),  # 8: [N, 8w, 1, 1]
        nn.Flatten(),
    ]


def _deconv_trunk(code_dim: int, channels: int, width: int) -> list[nn.Module]:
    """Code -> 64x64 logits: the mirror of `_conv_trunk`."""
    w = width
    return [
        *(nn.Linear(code_dim, 8 * w), nn.ReLU(), nn.Unflatten(1, (8 * w, 1, 1))),  # 0
        *(nn.ConvTranspose2d(8 * w, 2 * w, 4), nn.ReLU()),  # 3: [N, 2w, 4, 4]
        *(nn.ConvTranspose2d(2 * w, 2 * w, 4, 2, 1), nn.ReLU()),  # 5: [N, 2w, 8, 8]
        *(nn.ConvTranspose2d(2 * w, w, 4, 2, 1), nn.ReLU()),  # 7: [N, w, 16, 16]
        *(nn.ConvTranspose2d(w, w, 4, 2, 1), nn.ReLU()),  # 9: [N, w, 32, 32]
        nn.ConvTranspose2d(w, channels, 4, 2, 1),  # 11: [N, C, 64, 64]
    ]


class Encoder(nn.Module):
    """q(c|x): images [N, C, 64, 64] in [0, 1] -> mean and log-variance, both [N, c_dim]."""

    def __init__(self, c_dim: int = 10, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        self.c_dim, self.channels, self.width = c_dim, channels, width
        self.layer = nn.Sequential(*_conv_trunk(channels, width), nn.Linear(8 * width, 2 * c_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.layer(x).chunk(2, dim=1)
        return mean, logvar


class Decoder(nn.Module):
    """p(x|c): codes [N, c_dim] -> logits [N, C, 64, 64]."""

    def __init__(self, c_dim: int = 10, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        self.c_dim, self.channels, self.width = c_dim, channels, width
        self.layer = nn.Sequential(*_deconv_trunk(c_dim, channels, width))

    def forward(self, c: Tensor) -> Tensor:
        return self.layer(c)


class VAE(nn.Module):
    """Encoder and decoder of stage 1.

    `init`: "normal" samples the weights from N(0, 0.02) with zero biases, as the public code does; "kaiming"
    keeps the variance of activations through the ReLUs, which short schedules need.
    """

    def __init__(self, c_dim: int = 10, channels: int = 3, width: int = 32, init: str = "normal") -> None:
        super().__init__()
        self.encoder = Encoder(c_dim, channels, width)
        self.decoder = Decoder(c_dim, channels, width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                if init == "normal":
                    nn.init.normal_(module.weight, 0.0, 0.02)
                else:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [N, C, 64, 64] in [0, 1] and eps ~ N(0, I) [N, c_dim] -> logits, mean, log-variance."""
        mean, logvar = self.encoder(x)
        return self.decoder(reparameterize(mean, logvar, eps)), mean, logvar


def reparameterize(mean: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """A sample mean + std * eps of N(mean, exp(logvar)) (Kingma & Welling, arXiv 1312.6114, section 2.4)."""
    return mean + eps * torch.exp(0.5 * logvar)


class DSpritesGenerator(Generator):
    """The VAE's decoder with a tanh: G(s, c), s [N, s_dim] and c [N, c_dim] -> [N, C, 64, 64] in [-1, 1]."""

    def __init__(self, s_dim: int = 0, c_dim: int = 10, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        self.s_dim, self.c_dim, self.channels, self.width = s_dim, c_dim, channels, width
        self.layer = nn.Sequential(*_deconv_trunk(s_dim + c_dim, channels, width), nn.Tanh())

    def forward(self, s: Tensor, c: Tensor) -> Tensor:
        return self.layer(torch.cat([s, c], dim=1))

    @torch.no_grad()
    def copy_decoder(self, decoder: Decoder) -> None:
        """Start from the VAE: then G(0, c) = 2 sigmoid(decoder(c)) - 1, exactly, as tanh(l/2) = 2 sigmoid(l) - 1.

        The weights by which s enters stay as they are.
        """
        weights_of_s = self.layer.state_dict()["0.weight"][:, : self.s_dim]
        weights = decoder.layer.state_dict()
        weights["0.weight"] = torch.cat([weights_of_s, weights["0.weight"]], dim=1)
        weights["11.weight"], weights["11.bias"] = weights["11.weight"] / 2, weights["11.bias"] / 2
        self.layer.load_state_dict(weights)


class DSpritesDiscriminator(nn.Module):
    """The VAE's encoder with one output: images [N, C, 64, 64] in [-1, 1] -> logits [N]."""

    def __init__(self, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.layer = nn.Sequential(*_conv_trunk(channels, width), nn.Linear(8 * width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).squeeze(1)

"""The paper's ResNet generator and discriminator for 64x64 to 1024x1024, and the VGAN discriminator.

Source: ID-GAN (arXiv 2001.04296), appendix, after Mescheder et al. (arXiv 1801.04406); the VGAN form after
Peng et al. (arXiv 1810.00821). Module names are those of the public checkpoints (`fc`, `resnet.<i>`, `conv_img`).
No normalization anywhere, so ResnetDiscriminator is piecewise linear in its input (see training/r1.py).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idgan_fast.models.equalized import resolutions
from idgan_fast.models.generator import Generator

SLOPE = 0.2  # negative slope of every leaky ReLU
RESIDUAL_GAIN = 0.1  # factor of every residual branch


def conv3_upsampled(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A padded 3x3 convolution of x [N, I, H, W] after nearest upsampling by 2: [N, O, 2H, 2W], in 4/9 of the work.

    An output row 2i reads the rows i-1, i, i of x, and a row 2i+1 reads i, i, i+1: taps that meet the same pixel are
    added up, which leaves a 2x2 convolution of x for each of the four phases.
    """
    n, _, height, width = x.shape
    top, middle, bottom = conv.weight.unbind(2)  # [O, I, 3] each
    rows = (torch.stack([top, middle + bottom], 2), torch.stack([top + middle, bottom], 2))  # [O, I, 2, 3]
    phases = []
    for a, row in enumerate(rows):
        left, center, right = row.unbind(3)
        for b, taps in enumerate(((left, center + right), (left + center, right))):
            out = F.conv2d(x, torch.stack(taps, 3), conv.bias, padding=1)  # one row and column too many
            phases.append(out[:, :, a : a + height, b : b + width].permute(0, 2, 3, 1))
    grid = torch.stack(phases, 3).unflatten(3, (2, 2))  # [N, H, W, a, b, O]
    return grid.transpose(2, 3).reshape(n, 2 * height, 2 * width, conv.out_channels).permute(0, 3, 1, 2)


class ResnetBlock(nn.Module):
    """x [N, I, H, W] -> shortcut(x) + 0.1 * conv3(lrelu(conv3(lrelu(x)))) [N, O, H, W], hidden width min(I, O).

    With `upsample`, the same of nearest-upsampled x: [N, O, 2H, 2W].
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = min(in_channels, out_channels)
        self.conv_0 = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.conv_1 = nn.Conv2d(hidden, out_channels, 3, padding=1)
        self.conv_s = nn.Conv2d(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else None

    def forward(self, x: Tensor, upsample: bool = False) -> Tensor:
        h = F.leaky_relu(x, SLOPE)
        h = conv3_upsampled(h, self.conv_0) if upsample else self.conv_0(h)
        h = self.conv_1(F.leaky_relu(h, SLOPE))
        shortcut = x if self.conv_s is None else self.conv_s(x)
        if upsample:  # pointwise, so it may come before
            shortcut = F.interpolate(shortcut, scale_factor=2)
        return torch.add(shortcut, h, alpha=RESIDUAL_GAIN)


def _levels(size: int) -> int:
    """The number of doublings from 4x4 to size x size."""
    return len(resolutions(size)) - 1


class ResnetGenerator(Generator):
    """G(s, c): s [N, s_dim] and c [N, c_dim] -> images [N, channels, size, size] in [-1, 1].

    `width` is the number of channels at full size; it doubles at each halving up to `max_width`.
    """

    def __init__(
        self,
        size: int = 64,
        s_dim: int = 256,
        c_dim: int = 20,
        *,
        width: int = 64,
        max_width: int = 512,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.s_dim, self.c_dim = s_dim, c_dim
        widths = [min(width << level, max_width) for level in range(_levels(size), -1, -1)]
        self.fc = nn.Linear(s_dim + c_dim, widths[0] * 4 * 4)
        blocks: list[nn.Module] = []
        for wide, narrow in zip(widths, widths[1:], strict=False):
            blocks += [ResnetBlock(wide, narrow), nn.Upsample(scale_factor=2)]
        self.resnet = nn.Sequential(*blocks, ResnetBlock(width, width))
        self.conv_img = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, s: Tensor, c: Tensor) -> Tensor:
        h = self.fc(torch.cat([s, c], dim=1)).unflatten(1, (-1, 4, 4))
        if h.device.type == "cpu":  # elsewhere four small convolutions for a large one are not measured
            first, *others = self.resnet[::2]
            h = first(h)
            for block in others:
                h = block(h, upsample=True)
        else:
            h = self.resnet(h)
        return torch.tanh(self.conv_img(F.leaky_relu(h, SLOPE)))


class _Trunk(nn.Module):
    """What both discriminators share: images [N, channels, size, size] -> features [N, `features`, 4, 4]."""

    def __init__(self, size: int = 64, width: int = 64, max_width: int = 512, channels: int = 3) -> None:
        super().__init__()
        widths = [min(width << level, max_width) for level in range(_levels(size) + 1)]
        self.features = widths[-1]
        self.conv_img = nn.Conv2d(channels, width, 3, padding=1)
        blocks: list[nn.Module] = [ResnetBlock(width, width)]
        for narrow, wide in zip(widths, widths[1:], strict=False):
            blocks += [nn.AvgPool2d(3, 2, 1), ResnetBlock(narrow, wide)]
        self.resnet = nn.Sequential(*blocks)
        self.fc = nn.Linear(self.features * 4 * 4, 1)

    def trunk(self, x: Tensor) -> Tensor:
        return self.resnet(self.conv_img(x))

    def head(self, h: Tensor) -> Tensor:
        return self.fc(F.leaky_relu(h, SLOPE).flatten(1)).squeeze(1)


class ResnetDiscriminator(_Trunk):
    """D(x): images [N, channels, size, size] in [-1, 1] -> logits [N]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


class VGANDiscriminator(_Trunk):
    """D with a variational bottleneck: (x, eps) -> logits [N], mean and log-std, both [N, features, 4, 4].

    eps ~ N(0, I): [N, *bottleneck_shape].
    """

    def __init__(self, size: int = 64, width: int = 64, max_width: int = 512, channels: int = 3) -> None:
        super().__init__(size, width, max_width, channels)
        self.bottleneck_shape = (self.features, 4, 4)
        self.mean_fn = nn.Conv2d(self.features, self.features, 1)
        self.logstd_fn = nn.Conv2d(self.features, self.features, 1)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.trunk(x)
        mean, logstd = self.mean_fn(h), self.logstd_fn(h)
        return self.head(mean + eps * logstd.exp()), mean, logstd

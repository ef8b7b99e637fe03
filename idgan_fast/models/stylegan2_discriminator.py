"""StyleGAN2's residual discriminator with the minibatch standard deviation.

Source: Karras et al. (arXiv 1912.04958), figure 7; the statistic: Karras et al. (arXiv 1710.10196), section 3. Module
and parameter names are those of the published stylegan2-ada weights.
"""

import torch
from torch import Tensor, nn

from idgan_fast.config.settings import StyleGAN2Config
from idgan_fast.models.equalized import (
    CLAMP,
    HALF,
    EqualizedConv2d,
    FullyConnected,
    channels_at,
    check_shape,
    is_low_precision,
    no_autocast,
    resolutions,
    run_block,
    to_accumulation,
)

GROUP = 4  # the most samples that share a statistic


def minibatch_std(x: Tensor, group: int = GROUP) -> Tensor:
    """x [N, C, H, W] -> [N, C + 1, H, W]: the mean over C, H, W of the standard deviation over a group of samples.

    Sample n is in group n mod (N / G), G the largest divisor of N that is no larger than `group`.
    """
    n, c, h, w = x.shape
    if n == 0:
        return x.new_empty(0, c + 1, h, w)
    size = max(g for g in range(1, min(group, n) + 1) if n % g == 0)
    y = x.reshape(size, -1, c, h, w)
    y = y - y.mean(0)
    y = (y.square().mean(0) + 1e-8).sqrt().mean((1, 2, 3))  # [N / G]
    statistic = y.repeat(size).reshape(n, 1, 1, 1).expand(-1, -1, h, w)
    return torch.cat([x, statistic.to(x.dtype)], dim=1)


class DiscriminatorBlock(nn.Module):
    """x [N, I, R, R] (an image in the first block) -> [N, O, R / 2, R / 2]: two convolutions beside a 1x1 one."""

    def __init__(self, c_image: int, c_in: int, c_out: int, low: bool) -> None:
        super().__init__()
        self.low_precision = low
        clamp = CLAMP if low else None
        if c_image:
            self.fromrgb = EqualizedConv2d(c_image, c_in, 1, act="lrelu", clamp=clamp)
        self.has_image = c_image > 0
        self.conv0 = EqualizedConv2d(c_in, c_in, 3, act="lrelu", clamp=clamp)
        scaled_clamp = None if clamp is None else clamp * HALF
        self.conv1 = EqualizedConv2d(c_in, c_out, 3, act="lrelu", down=2, gain=HALF, clamp=scaled_clamp)
        self.skip = EqualizedConv2d(c_in, c_out, 1, bias=False, down=2, gain=HALF)

    def forward(self, x: Tensor) -> Tensor:
        with no_autocast(x, when=not self.low_precision):
            x = x if self.low_precision else to_accumulation(x)
            x = self.fromrgb(x) if self.has_image else x
            return self.skip(x) + self.conv1(self.conv0(x))


class DiscriminatorEpilogue(nn.Module):
    """x [N, C, 4, 4] -> logits [N]; always in float32."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = EqualizedConv2d(c + 1, c, 3, act="lrelu")
        self.fc = FullyConnected(c * 16, c, "lrelu")
        self.out = FullyConnected(c, 1)

    def forward(self, x: Tensor) -> Tensor:
        with no_autocast(x):
            x = self.conv(minibatch_std(to_accumulation(x)))
            return self.out(self.fc(x.flatten(1))).squeeze(1)


class StyleGAN2Discriminator(nn.Module):
    """D(x): images [N, channels, size, size] in [-1, 1] -> logits [N]. Arguments as in `StyleGAN2Generator`."""

    def __init__(
        self,
        size: int = 256,
        channels: int = 3,
        config: StyleGAN2Config = StyleGAN2Config(),  # noqa: B008 (it is frozen)
    ) -> None:
        super().__init__()
        self.levels, self.recompute = resolutions(size)[:0:-1], config.recompute
        self.size, self.channels = size, channels
        widths = (config.channel_base, config.channel_max)
        for resolution in self.levels:
            c_in, c_out = channels_at(resolution, *widths), channels_at(resolution // 2, *widths)
            low = is_low_precision(resolution, size, config.low_precision_levels)
            setattr(self, f"b{resolution}", DiscriminatorBlock(channels if resolution == size else 0, c_in, c_out, low))
        self.b4 = DiscriminatorEpilogue(channels_at(4, *widths))

    def forward(self, x: Tensor) -> Tensor:
        check_shape("StyleGAN2Discriminator", "x", x, "N", self.channels, self.size, self.size)
        for resolution in self.levels:
            x = run_block(getattr(self, f"b{resolution}"), self.recompute, x)
        return self.b4(x)

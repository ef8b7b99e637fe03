"""The operators as modules, under the names that StyleGAN code knows."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idgan_fast.ops.bias_act import bias_act
from idgan_fast.ops.modulated_conv2d import modulated_conv2d
from idgan_fast.ops.upfirdn2d import downsample2d, setup_filter, upfirdn2d, upsample2d


class FusedLeakyReLU(nn.Module):
    """scale * lrelu(x + bias); x: [N, channel, ...]."""

    def __init__(
        self, channel: int, bias: bool = True, negative_slope: float = 0.2, scale: float = math.sqrt(2)
    ) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel)) if bias else None
        self.negative_slope, self.scale = negative_slope, scale

    def forward(self, x: Tensor) -> Tensor:
        return bias_act(x, self.bias, act="lrelu", alpha=self.negative_slope, gain=self.scale)


class _Filtered(nn.Module):
    """Holds a 2-D filter as the buffer `kernel`, which stays float32 where the module is cast, as the operators ask."""

    kernel: Tensor

    def __init__(self, kernel: object, gain: float = 1, *, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer("kernel", setup_filter(kernel, separable=False, gain=gain), persistent=persistent)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_Filtered":
        taps = self.kernel
        super()._apply(fn, recurse)
        if self.kernel.dtype != taps.dtype:
            self.kernel = taps.to(self.kernel.device)
        return self


class Upsample(_Filtered):
    """x [N, C, H, W] -> [N, C, H factor, W factor]; kernel: taps, 1-D or 2-D, whose sum does not matter."""

    def __init__(self, kernel: object = (1, 3, 3, 1), factor: int = 2) -> None:
        super().__init__(kernel, factor**2)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return upsample2d(x, self.kernel, self.factor, gain=1 / self.factor**2)


class Downsample(_Filtered):
    """x [N, C, H, W] -> [N, C, H / factor, W / factor]; kernel as in `Upsample`."""

    def __init__(self, kernel: object = (1, 3, 3, 1), factor: int = 2) -> None:
        super().__init__(kernel)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return downsample2d(x, self.kernel, self.factor)


class Blur(_Filtered):
    """Filters x; pad: (before, after) of both axes. upsample_factor: of the convolution before it."""

    def __init__(self, kernel: object, pad: tuple[int, int], upsample_factor: int = 1) -> None:
        super().__init__(kernel, upsample_factor**2)
        self.pad = (pad[0], pad[1], pad[0], pad[1])

    def forward(self, x: Tensor) -> Tensor:
        return upfirdn2d(x, self.kernel, padding=self.pad)


class ModulatedConv2d(_Filtered):
    """Modulated convolution with an equalised learning rate; the style comes through a linear layer of its own.

    forward(input [N, in_channel, H, W], style [N, style_dim]) -> [N, out_channel, H', W']; H' = 2 H with `upsample`,
    H / 2 with `downsample`. `weight` [1, out_channel, in_channel, k, k] is N(0, 1), scaled by 1 / sqrt(fan in) in use.
    Dtypes that differ are promoted as torch does.
    `modulation` starts with bias 1, so that a zero style changes nothing.
    """

    def __init__(
        self,
        in_channel: int,
        out_channel: int,
        kernel_size: int,
        style_dim: int,
        demodulate: bool = True,
        upsample: bool = False,
        downsample: bool = False,
        blur_kernel: object = (1, 3, 3, 1),
    ) -> None:
        if upsample and downsample:
            raise ValueError("ModulatedConv2d: upsample and downsample exclude each other, got both")
        super().__init__(blur_kernel, persistent=False)
        self.weight = nn.Parameter(torch.randn(1, out_channel, in_channel, kernel_size, kernel_size))
        self.scale = 1 / math.sqrt(in_channel * kernel_size**2)
        self.modulation = EqualLinear(style_dim, in_channel, bias_init=1)
        self.demodulate, self.up, self.down = demodulate, 2 if upsample else 1, 2 if downsample else 1
        self.padding = kernel_size // 2

    def forward(self, input: Tensor, style: Tensor) -> Tensor:
        dtype = torch.promote_types(input.dtype, self.weight.dtype)
        return modulated_conv2d(
            input,
            self.weight[0].to(dtype) * self.scale,
            self.modulation(style.to(torch.promote_types(style.dtype, dtype))),
            up=self.up,
            down=self.down,
            padding=self.padding,
            resample_filter=self.kernel if self.up > 1 or self.down > 1 else None,
            demodulate=self.demodulate,
        )


class EqualLinear(nn.Module):
    """x W^T / sqrt(in_dim) + bias, W ~ N(0, 1): equalised learning rate (arXiv 1710.10196, section 4.1)."""

    def __init__(self, in_dim: int, out_dim: int, bias_init: float = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim))
        self.bias = nn.Parameter(torch.full((out_dim,), float(bias_init)))
        self.scale = 1 / math.sqrt(in_dim)

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        return F.linear(x.to(dtype), self.weight.to(dtype) * self.scale, self.bias.to(dtype))

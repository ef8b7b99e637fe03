"""Layers with an equalized learning rate, of which both StyleGAN2 networks are made: weights N(0, 1), scaled in use.

Source: Karras et al., Progressive Growing of GANs (arXiv 1710.10196), section 4.1.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from idgan_fast import ops
from idgan_fast.ops import _tensors
from idgan_fast.ops.modulated_conv2d import cast_to_autocast_dtype

CLAMP = 256.0  # largest activation of the layers that mixed precision computes in a half type
HALF = math.sqrt(0.5)  # gain of both branches of a residual sum, which halves their power


def resolutions(size: int) -> list[int]:
    """[4, 8, ..., size]. Raises ValueError unless size is a power of two of at least 8."""
    if size < 8 or size & (size - 1):
        raise ValueError(f"size must be a power of two of at least 8, got {size}")
    return [4 << level for level in range(size.bit_length() - 2)]


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """min(channel_base / resolution, channel_max), and 1 at least."""
    return max(min(channel_base // resolution, channel_max), 1)


def is_low_precision(resolution: int, size: int, levels: int) -> bool:
    """Whether a resolution is among the `levels` highest of those up to size."""
    return resolution << levels > size


def run_block(block: nn.Module, recompute: bool, *args: Any) -> Any:
    """block(*args); with `recompute` its activations are not kept, but computed again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False)
    return block(*args)


def to_accumulation(x: Tensor) -> Tensor:
    """A half type cast to float32, in which sums are taken; other types as they are."""
    return x.to(_tensors.accumulation(x.dtype))


def no_autocast(x: Tensor, when: bool = True) -> AbstractContextManager:
    return _tensors.no_autocast(x.device.type) if when else nullcontext()


def check_shape(function: str, name: str, x: Tensor, *wanted: Any) -> None:
    """Raise ValueError, one line, unless x has this shape; a string names a size that may be any."""
    fits = x.ndim == len(wanted) and all(isinstance(w, str) or w == s for w, s in zip(wanted, x.shape, strict=False))
    if not fits:
        shape = ", ".join(map(str, wanted))
        raise ValueError(f"{function}: {name} must be [{shape}], got {list(x.shape)}")


class FullyConnected(nn.Module):
    """x [N, I] -> act(x W^T lr_multiplier / sqrt(I) + lr_multiplier b) [N, O].

    W is N(0, 1) / lr_multiplier, so that a multiplier below 1 changes nothing but how fast the layer learns.
    """

    def __init__(
        self, c_in: int, c_out: int, act: str = "linear", *, lr_multiplier: float = 1.0, bias_init: float = 0.0
    ) -> None:
        super().__init__()
        self.act, self.lr_multiplier = act, lr_multiplier
        self.weight = nn.Parameter(torch.randn(c_out, c_in) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((c_out,), bias_init))
        self.scale = lr_multiplier / math.sqrt(c_in)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (self.weight * self.scale).to(x.dtype), (self.bias * self.lr_multiplier).to(x.dtype)
        if self.act == "linear":
            return F.linear(x, weight, bias)
        return ops.bias_act(F.linear(x, weight), bias, act=self.act)


class EqualizedConv2d(nn.Module):
    """x [N, I, H, W] -> clamp(gain act(convolution + b)) [N, O, up H / down, up W / down], padded to keep the image.

    The weight [O, I, k, k] is N(0, 1), scaled by 1 / sqrt(I k^2); resampling is by the taps (1, 3, 3, 1).
    """

    resample_filter: Tensor

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int,
        *,
        bias: bool = True,
        act: str = "linear",
        up: int = 1,
        down: int = 1,
        gain: float = 1.0,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.act, self.up, self.down, self.gain, self.clamp = act, up, down, gain, clamp
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self.scale = 1 / math.sqrt(c_in * kernel_size**2)
        self.padding = kernel_size // 2
        self.register_buffer("resample_filter", ops.setup_filter((1, 3, 3, 1)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = cast_to_autocast_dtype(x)
        is_linear = self.bias is None and self.act == "linear"  # then the gain joins the weight
        weight = (self.weight * (self.scale * self.gain if is_linear else self.scale)).to(x.dtype)
        f = self.resample_filter.float() if self.up > 1 or self.down > 1 else None
        x = ops.conv2d_resample(x, weight, f, self.up, self.down, self.padding)
        if is_linear:
            return x
        gain = self.gain * math.sqrt(2) if self.act == "lrelu" else self.gain
        return ops.bias_act(x, self.bias, act=self.act, gain=gain, clamp=self.clamp)

"""A whole StyleGAN2 layer: modulated convolution, resampling, noise, bias, activation, gain and clamp."""

from collections.abc import Sequence

import torch
from torch import Tensor

from idgan_fast.ops._tensors import check_floating
from idgan_fast.ops.bias_act import biased
from idgan_fast.ops.conv2d_resample import resampled
from idgan_fast.ops.modulated_conv2d import autocast, check_operands, modulate, prepared, scaled_with_noise
from idgan_fast.ops.upfirdn2d import setup_filter


def styled_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    noise_strength: Tensor | None = None,
    bias: Tensor | None = None,
    up: int = 1,
    resample_filter: Tensor | Sequence[float] = (1, 3, 3, 1),
    demodulate: bool = True,
    act: str = "lrelu",
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """clamp(gain * act(modulated convolution of x + noise_strength * noise + bias)); arXiv 1912.04958, figure 2.

    x: [N, I, H, W]. weight: [O, I, k, k], k odd, padded by k // 2. styles: [N, I]. bias: [O] or None.
    noise: [N, 1, H up, W up] or [H up, W up], or None; noise_strength: a scalar tensor or None for 1.
    up: int. resample_filter: taps (made into a filter at each call) or a filter as in `upfirdn2d`.
    act, gain, clamp: as in `bias_act`. Dtypes, autocast and float16: as in `modulated_conv2d`.
    Returns [N, O, H up, W up] in the dtype of x. Gradients of every order by every tensor but the filter.
    Raises TypeError, ValueError: one line on the argument. BackendError: impl cannot run here.
    """
    check_operands("styled_conv2d", x, weight, styles)
    kh, kw = weight.shape[2:]
    if kh % 2 == 0 or kw % 2 == 0:
        raise ValueError(f"styled_conv2d: weight must have an odd kernel, got {kh} x {kw}")
    if noise is not None:
        check_floating("styled_conv2d", "noise", noise)
    if noise_strength is not None:
        check_floating("styled_conv2d", "noise_strength", noise_strength)
        if noise is None or noise_strength.numel() != 1:
            shape = tuple(noise_strength.shape)
            raise ValueError(f"styled_conv2d: noise_strength must be a scalar that comes with noise, got shape {shape}")
    x = autocast(x)
    with torch.autocast(x.device.type, enabled=False):
        weight, styles, scale = prepared(weight, styles, x.dtype, demodulate)
        f = None
        if up != 1:
            f = resample_filter if isinstance(resample_filter, Tensor) else setup_filter(resample_filter, x.device)
        pad = (kw // 2, kw // 2, kh // 2, kh // 2)
        x = modulate(x, styles)
        y = resampled("styled_conv2d", x, weight.to(x.dtype), f, up, 1, pad, 1, True, False, impl)
        if noise is not None and noise_strength is not None:
            noise = noise * noise_strength.reshape(())
        y = scaled_with_noise("styled_conv2d", y, scale, noise)
        return biased("styled_conv2d", y, bias, 1, act, None, gain, clamp, impl)

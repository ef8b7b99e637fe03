"""The Triton convolution against torch's in float64: random shapes and options, x between NaN."""

import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.kernels.modulated_conv2d import modulated_conv2d_fwd
from tests.ops.fuzz import ROUNDING, assert_same, option


def between_nan(x: Tensor) -> Tensor:
    around = torch.full((x.numel() + 1024,), torch.nan, dtype=x.dtype)
    _, c, h, w = x.shape
    return around.as_strided(x.shape, (c * h * w, 1, w * c, c), 512).copy_(x)


def convolved(x: Tensor, weight: Tensor, form: str) -> Tensor:
    if form == "same":
        return F.conv2d(x, weight, padding=weight.shape[2] // 2)
    if form == "transposed":
        return F.conv_transpose2d(x, weight.transpose(0, 1).flip(2, 3), stride=2)
    y = F.conv2d(x, weight, padding=1)
    return F.pixel_shuffle(y.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2), 2)


@pytest.mark.parametrize("form", ["same", "composite", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_forward(dtype: torch.dtype, form: str) -> None:
    rng = random.Random(7)
    for _ in range(16):
        n, c_in, c_out = rng.choice([1, 1, 2, 3]), rng.choice([1, 3, 16, 40, 72]), rng.choice([1, 3, 16, 24, 40])
        h, w, k = rng.randint(1, 13), rng.randint(1, 17), rng.choice([1, 3]) if form == "same" else 3
        x = between_nan(torch.randn(n, c_in, h, w).to(dtype))
        weight = (torch.randn(c_out * (4 if form == "composite" else 1), c_in, k, k) / (c_in * k * k) ** 0.5).to(dtype)
        styles, next_styles = option(rng, torch.randn(n, c_in)), option(rng, torch.randn(n, c_out))
        scale, b = option(rng, torch.rand(n, c_out) + 0.5), option(rng, torch.randn(c_out))
        modulated = x if styles is None else (x.float() * styles[:, :, None, None]).to(dtype)
        y = convolved(modulated.double(), weight.double(), form)
        noise = option(rng, torch.randn(rng.choice([1, n]), 1, *y.shape[2:]))
        strength = None if noise is None else option(rng, torch.randn(()))
        slope, gain, clamp = rng.choice([1.0, 0.0, 0.2]), rng.choice([1.4, -0.7]), rng.choice([None, 0.75])
        v = y if scale is None else y * scale[:, :, None, None]
        if noise is not None:
            v = v + noise * (1 if strength is None else strength)
        v = v if b is None else v + b[:, None, None]
        z = F.leaky_relu(v, slope) * gain
        z = z if clamp is None else z.clamp(-clamp, clamp)
        wanted = z if next_styles is None else z * next_styles[:, :, None, None]
        what = (n, c_in, c_out, h, w, k, form)
        tensors = (styles, scale, noise, strength, b, next_styles)
        keep = rng.random() < 0.5
        out, kept = modulated_conv2d_fwd(x, weight, *tensors, form, slope, gain, clamp, keep)
        assert_same(out, wanted.to(dtype).contiguous(memory_format=torch.channels_last), ROUNDING[dtype], what)
        if keep and next_styles is not None:
            assert_same(kept, z.to(dtype).contiguous(memory_format=torch.channels_last), ROUNDING[dtype], what)
        else:
            assert kept.numel() == 0

"""StyleGAN2's skip generator as plain torch, on the weights of ours: what the whole network is compared with."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.models.stylegan2 import StyleGAN2Generator, SynthesisLayer, ToRGB
from idgan_fast.ops.bias_act import plain_bias_act
from idgan_fast.ops.modulated_conv2d import plain_modulated_conv2d
from idgan_fast.ops.upfirdn2d import blur_filter, plain_upfirdn2d


def generator(g: StyleGAN2Generator, s: Tensor, c: Tensor, noise: Tensor) -> Tensor:
    """Every sample gets weights of its own, in a grouped convolution; one operator of torch a step."""
    f = blur_filter(s.device)
    w = s * (s.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    for i in range(g.mapping.layers):
        layer = getattr(g.mapping, f"fc{i}")
        w = F.linear(w, layer.weight * layer.scale, layer.bias * layer.lr_multiplier)
        w = F.leaky_relu(w, 0.2) * math.sqrt(2)
    w = torch.cat([w, c], dim=1)
    x = g.synthesis.b4.const.expand(len(s), -1, -1, -1)  # type: ignore[union-attr, operator]
    image: Tensor | None = None
    at = 0
    for block in g.synthesis.blocks():
        for layer in [block.conv1] if block.size == 4 else [block.conv0, block.conv1]:
            pixels = layer.size**2
            x = styled(layer, x, w, noise[:, at : at + pixels].reshape(-1, 1, layer.size, layer.size), f)
            at += pixels
        assert block.torgb is not None
        rgb = to_rgb(block.torgb, x, w)
        image = rgb if image is None else rgb + plain_upfirdn2d(image, f, up=2, padding=(2, 1, 2, 1), gain=4)
    assert image is not None
    return image


def styled(layer: SynthesisLayer, x: Tensor, w: Tensor, noise: Tensor, f: Tensor) -> Tensor:
    styles = F.linear(w, layer.affine.weight * layer.affine.scale, layer.affine.bias)
    y = plain_modulated_conv2d(x, layer.weight, styles, f, layer.up) + noise * layer.noise_strength
    return plain_bias_act(y, layer.bias, clamp=layer.clamp)


def to_rgb(layer: ToRGB, x: Tensor, w: Tensor) -> Tensor:
    styles = F.linear(w, layer.affine.weight * layer.affine.scale, layer.affine.bias) * layer.scale
    n, i, height, width = x.shape
    o = len(layer.weight)
    weights = (layer.weight[None] * styles.reshape(n, 1, i, 1, 1)).reshape(n * o, i, 1, 1)
    y = F.conv2d(x.reshape(1, n * i, height, width), weights, groups=n).reshape(n, o, height, width)
    return plain_bias_act(y, layer.bias, "linear", layer.clamp)

"""StyleGAN2's layers: against a composition of plain torch, the published size of D, and the passes over memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from idgan_fast.tools.costs.layer import Layer
from idgan_fast.tools.costs.stylegan2 import stylegan2_layers

N = 4
FULL = {256: 16384, 1024: 32768}


def meta(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def conv(layer: Layer, x: Tensor, k: int, stride: int = 1) -> Tensor:
    weight = meta(layer.c_out, layer.c_in, k, k)
    return F.conv2d(x, weight, stride=stride, padding=k // 2 if stride == 1 else 0)


def up2(layer: Layer, x: Tensor) -> Tensor:
    y = F.conv_transpose2d(x, meta(layer.c_in, layer.c_out, 3, 3), stride=2)
    assert y.shape[2] == 2 * layer.size_in + 1
    return y[..., :-1, :-1]  # the filter's shape; filters are not counted


RUN: dict[str, Callable[[Layer, Tensor], Tensor]] = {
    "styled conv": lambda layer, x: conv(layer, x, 3),
    "styled conv up=2": up2,
    "to-RGB": lambda layer, x: conv(layer, x, 1),
    "skip up=2": lambda layer, x: x.repeat_interleave(2, 2).repeat_interleave(2, 3),
    "from-RGB": lambda layer, x: conv(layer, x, 1),
    "conv": lambda layer, x: conv(layer, x, 3),
    "conv down=2": lambda layer, x: conv(layer, F.pad(x, (1, 0, 1, 0)), 3, 2),
    "shortcut down=2": lambda layer, x: conv(layer, x[..., ::2, ::2], 1),
    "minibatch std": lambda layer, x: torch.cat([x, meta(N, 1, 4, 4)], 1),
    "linear": lambda layer, x: F.linear(x.flatten(1), meta(layer.c_out, layer.c_in))[..., None, None],
}


def counted(layer: Layer, x: Tensor) -> Tensor:
    """Run a layer; its flops and its shapes are those of the list."""
    with FlopCounterMode(display=False) as counter:
        y = RUN[layer.kind](layer, x)
    assert counter.get_total_flops() == layer.flops, layer
    assert y.shape == (layer.n, layer.c_out, layer.size_out, layer.size_out), layer
    return y


@pytest.mark.parametrize("size", FULL)
def test_a_plain_composition_has_the_same_shapes_and_flops(size: int) -> None:
    layers = stylegan2_layers(size, FULL[size], N, 2)
    x, image = meta(N, 512, 4, 4), meta(N, 3, 4, 4)
    for layer in (layer for layer in layers if layer.network == "G"):
        if layer.kind == "skip up=2":
            image = counted(layer, image)
        elif layer.kind == "to-RGB":
            assert counted(layer, x).shape[1:] == (3, layer.size_out, layer.size_out)
        else:
            x = counted(layer, x)
    assert image.shape == (N, 3, size, size)
    x, before = image, image
    for layer in (layer for layer in layers if layer.network == "D"):
        if layer.kind == "shortcut down=2":
            assert counted(layer, before).shape == x.shape
        else:
            if layer.name.endswith("conv0"):
                before = x
            x = counted(layer, x)
    assert x.shape == (N, 1, 1, 1)


def test_widths() -> None:
    """config-f at 1024x1024, and half of it at 256x256."""
    for size, base in FULL.items():
        layers = stylegan2_layers(size, base, N, 2)
        widths = {layer.size_out: layer.c_out for layer in layers if layer.kind == "styled conv"}
        assert widths == {s: min(512, base // s) for s in (4, 8, 16, 32, 64, 128, 256, 512, 1024) if s <= size}


def test_the_discriminator_has_its_published_size() -> None:
    """29,012,513 parameters at 1024x1024 (the public training log of config-f)."""
    taps = {"conv": 9, "conv down=2": 9, "from-RGB": 1, "shortcut down=2": 1, "linear": 1}
    parameters = 0
    for layer in stylegan2_layers(1024, 32768, N, 2):
        if layer.kind in taps and layer.network == "D":
            bias = 0 if layer.kind == "shortcut down=2" else layer.c_out
            parameters += taps[layer.kind] * layer.c_in * layer.c_out + bias
    assert parameters == 29_012_513


def test_unfused_layers_make_the_passes_of_the_public_operators() -> None:
    """Equal channels: 3I + 5A, and 3I + 7A where the image between the kernels counts as A; then weights and noise."""
    size, c = 32, 512
    weight = 9 * c * c
    weights = weight + (weight + N * c + N * weight) + 2 * N * weight + (N * weight + N * c)
    vectors = N * c + N * c + c  # styles of the input, coefficients, bias
    i = a = N * c * size**2
    noise = 3 * N * size**2  # times its strength, then added
    assert moved(layer_of("G", "b32.conv1")) == 3 * i + 5 * a + weights + vectors + noise

    i = N * c * 16**2
    between = N * c * 33**2
    layer = layer_of("G", "b32.conv0")
    assert layer.c_in == layer.c_out == c
    assert moved(layer) == 3 * i + 5 * a + 2 * between + weights + vectors + noise
    assert a < between < 1.07 * a


def test_discriminators_downsampling_layer() -> None:
    """3I + 3A where what lies between the kernels counts as I; compulsory I + A."""
    layer = layer_of("D", "b1024.conv1")
    i, between, a = N * 32 * 1024**2, N * 32 * 1025**2, N * 64 * 512**2
    weight, bias = 9 * 32 * 64, 64
    assert moved(layer) == i + 2 * between + 3 * a + weight + bias
    assert layer.compulsory == 2 * (i + a + weight + bias)


def test_our_styled_layer_is_one_pass() -> None:
    """I + W + noise + A, small vectors, and the coefficients that come before."""
    layer = layer_of("G", "b1024.conv1")
    c, pixels = 32, N * 1024**2
    *coefficients, one = layer.ours
    assert one.bytes == 2 * (2 * c * pixels + 9 * c * c + pixels + N * c + N * c + c)
    assert sum(kernel.bytes for kernel in coefficients) == 2 * (11 * c * c + 2 * N * c)
    assert layer.compulsory == one.bytes - 2 * N * c


@pytest.mark.parametrize("size", FULL)
def test_a_form_never_moves_less_than_it_must_nor_multiplies_less(size: int) -> None:
    for layer in stylegan2_layers(size, FULL[size], N, 2):
        for form in (layer.ours, layer.unfused, layer.composite or layer.ours):
            assert sum(kernel.bytes for kernel in form) >= layer.compulsory, layer
            assert sum(kernel.flops for kernel in form) >= layer.flops, layer
        assert sum(kernel.bytes for kernel in layer.ours) <= sum(kernel.bytes for kernel in layer.unfused)


def layer_of(network: str, name: str) -> Layer:
    layers = stylegan2_layers(1024, 32768, N, 2)
    (found,) = (layer for layer in layers if (layer.network, layer.name) == (network, name))
    return found


def moved(layer: Layer) -> int:
    """Numbers that the unfused form moves, of 2 bytes each."""
    return sum(kernel.bytes for kernel in layer.unfused) // 2

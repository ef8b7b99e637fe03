"""The ResNet family's layers, read off the modules: flops against torch's counter, bytes by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from idgan_fast.config.presets import PRESETS
from idgan_fast.tools.costs.layer import Layer
from idgan_fast.tools.costs.resnet import resnet_layers
from idgan_fast.training import gan

N = 2


@pytest.mark.parametrize("preset", ["celeba-64", "celeba-256", "celebahq-1024", "images-quick"])
def test_flops_of_every_layer_are_those_that_torch_counts(preset: str) -> None:
    config = PRESETS[preset]
    with torch.device("meta"):
        networks = gan.build_networks(config, 3)
        inputs = ((torch.empty(N, 256), torch.empty(N, 20)), (torch.empty(N, 3, *[config.images.size] * 2),))
    layers = resnet_layers(config, N, 2)
    for name, network, given in zip("GD", networks, inputs, strict=True):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(*given)
        mine = {layer.name: layer.flops for layer in layers if layer.network == name}
        assert sum(mine.values()) == counter.get_total_flops()
        weighted = [part for part, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        for part in weighted:
            assert mine[part] == sum(counter.get_flop_counts()[f"{type(network).__name__}.{part}"].values()), part
        assert {part for part, flops in mine.items() if flops} == set(weighted)


def layer_of(network: str, name: str) -> Layer:
    layers = resnet_layers(PRESETS["celeba-64"], N, 2)
    (found,) = (layer for layer in layers if (layer.network, layer.name) == (network, name))
    return found


def test_bytes_of_a_convolution_with_its_activation() -> None:
    layer = layer_of("G", "resnet.6.conv_0")  # 128 -> 64 channels at 32x32
    i, a, weight, bias = N * 128 * 32**2, N * 64 * 32**2, 9 * 128 * 64, 64
    assert (layer.n, layer.c_in, layer.c_out, layer.size_in, layer.size_out) == (N, 128, 64, 32, 32)
    assert layer.compulsory == 2 * (i + weight + bias + a)
    assert [kernel.name for kernel in layer.unfused] == ["leaky_relu", "convolution", "bias"]
    assert [kernel.bytes // 2 for kernel in layer.unfused] == [2 * i, i + weight + a, 2 * a + bias]
    assert layer.ours == layer.unfused


def test_the_residual_addition_joins_the_layer_before_it() -> None:
    layer = layer_of("G", "resnet.6.conv_s")  # 1x1 without a bias
    i, a, weight = N * 128 * 32**2, N * 64 * 32**2, 128 * 64
    assert [kernel.name for kernel in layer.unfused] == ["convolution", "add"]
    assert layer.unfused[-1].bytes == 2 * 3 * a
    assert layer.compulsory == 2 * (i + weight + a + a)


def test_the_first_and_the_last_layer() -> None:
    first = layer_of("G", "fc")
    x, y = N * 276, N * 512 * 16
    assert [kernel.name for kernel in first.unfused] == ["cat", "addmm"]
    assert first.compulsory == 2 * (x + 276 * 512 * 16 + 512 * 16 + y)
    last = layer_of("G", "conv_img")
    assert [kernel.name for kernel in last.unfused] == ["leaky_relu", "convolution", "bias", "tanh"]
    assert last.compulsory == 2 * (N * 64 * 64**2 + 9 * 64 * 3 + 3 + N * 3 * 64**2)


def test_resampling() -> None:
    up, down = layer_of("G", "resnet.1"), layer_of("D", "resnet.1")
    assert (up.kind, up.size_in, up.size_out) == ("upsample nearest", 4, 8)
    assert up.compulsory == 2 * 5 * N * 512 * 16
    assert (down.kind, down.size_in, down.size_out) == ("average pool", 64, 32)
    assert down.compulsory == 2 * (N * 64 * 64**2 + N * 64 * 32**2)


def test_the_widths_are_those_of_the_preset() -> None:
    config = PRESETS["celeba-64"]
    config = replace(config, gan=replace(config.gan, width=32))
    assert [layer.c_in for layer in resnet_layers(config, N, 2) if layer.name == "conv_img"] == [32, 3]


def test_an_unknown_operator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(nn.Module):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return inputs[0].sin()

    monkeypatch.setattr("idgan_fast.tools.costs.resnet.build_networks", lambda *_: (Odd(), Odd()))
    with pytest.raises(ValueError, match=r"^roofline: no cost is known for the operator sin in the network$"):
        resnet_layers(PRESETS["celeba-64"], N, 2)

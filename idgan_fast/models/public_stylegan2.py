"""Public StyleGAN2 weights: which network a state dict holds, its sizes, and our module with its weights.

Two families of names: that of stylegan2-ada-pytorch, and that of the rosinality implementation, which many pretrained
files have. Verified on weights that the tests make themselves, not on the published files.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from idgan_fast import ops
from idgan_fast.errors import UserError, nearest
from idgan_fast.models.equalized import EqualizedConv2d, channels_at, resolutions
from idgan_fast.models.stylegan2 import MappingNetwork, StyleGAN2Generator, SynthesisBlock, SynthesisLayer
from idgan_fast.models.stylegan2_discriminator import DiscriminatorBlock, StyleGAN2Discriminator

W_SAMPLES = 4096  # of which w_avg is the mean, where the file has none


class Entry(NamedTuple):
    """Where an entry of the file goes, and how it differs from ours."""

    name: str  # in our module
    before: int = 0  # dimensions of size 1 that stand before ours
    after: int = 0  # and after
    flip: bool = False  # a kernel stored for a transposed convolution
    scaled: bool = False  # theirs is multiplied by 1 / sqrt(fan-in) in use, ours is not


class Plan(NamedTuple):
    """What a state dict should hold. entries: its names; filters: names of FIR filters, and the sum of their taps."""

    network: str
    module: nn.Module
    entries: dict[str, Entry]
    filters: dict[str, float]


def load_public_stylegan2(weights: Mapping[str, Tensor]) -> nn.Module:
    """A `StyleGAN2Generator` (c_dim=0) or `StyleGAN2Discriminator`, in float32 on the CPU, of a public state dict.

    weights: as stylegan2-ada-pytorch names them, or as the rosinality implementation does (its files hold them under
    "g_ema", "g" and "d"). The latter's networks know neither a clamp nor a half type: they come with
    low_precision_levels=0. Where the file has no average of w, it is estimated from samples.
    Raises UserError where it is neither, an entry is missing, unexpected or of a wrong size, the network takes labels
    or has other filters than (1, 3, 3, 1).
    """
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            came = f"{type(value).__name__} under {key!r}"
            raise UserError(f"StyleGAN2 weights: wanted names and tensors of one network, as under 'g_ema', got {came}")
    if any(key.startswith("mapping.embed.") for key in weights):
        raise UserError("StyleGAN2 weights: wanted a network without labels, got one with them (mapping.embed)")
    plan = _plan(weights)
    _check_names(plan, weights)
    own = plan.module.state_dict()
    _check_shapes(plan, weights, own)
    state = {name: value for name, value in own.items() if name == "mapping.w_avg"}  # not every file has it
    for key, entry in plan.entries.items():
        value = weights[key].detach().to("cpu", torch.float32).reshape(own[entry.name].shape)
        value = value.flip(2, 3) if entry.flip else value
        state[entry.name] = value / math.sqrt(value[0].numel()) if entry.scaled else value
    plan.module.load_state_dict(state)
    averaged = any(entry.name == "mapping.w_avg" for entry in plan.entries.values())
    if isinstance(plan.module, StyleGAN2Generator) and not averaged:
        _estimate_average(plan.module.mapping, plan.module.s_dim)
    return plan.module


def _plan(weights: Mapping[str, Tensor]) -> Plan:
    if "synthesis.b4.const" in weights:
        return _ada_generator(weights)
    if "b4.fc.weight" in weights:
        return _ada_discriminator(weights)
    if "input.input" in weights:
        return _rosinality_generator(weights)
    if "final_linear.0.weight" in weights:
        return _rosinality_discriminator(weights)
    wanted = "synthesis.b4.const, b4.fc.weight, input.input or final_linear.0.weight"
    first = ", ".join(sorted(weights)[:3]) or "nothing"
    raise UserError(f"StyleGAN2 weights: wanted an entry {wanted} of a generator or discriminator, got {first} ...")


def _ada_generator(weights: Mapping[str, Tensor]) -> Plan:
    size = max(_numbers(weights, r"synthesis\.b(\d+)\."))
    widths = {
        resolution: _shape(weights, f"synthesis.b{resolution}.conv1.weight", 4)[0] for resolution in _levels(size)
    }
    w_dim, s_dim = _shape(weights, "mapping.fc0.weight", 2)
    residual = any(re.fullmatch(r"synthesis\.b\d+\.skip\.weight", key) for key in weights)
    module = StyleGAN2Generator(
        size,
        s_dim=s_dim,
        c_dim=0,
        w_dim=w_dim,
        mapping_layers=len(_numbers(weights, r"mapping\.fc(\d+)\.weight")),
        channels=_shape(weights, f"synthesis.b{size}.torgb.weight", 4)[0],
        architecture="residual" if residual else "skip",
        **_channels(widths),
    )
    return _ada_plan("generator", size, module)


def _ada_discriminator(weights: Mapping[str, Tensor]) -> Plan:
    size = max(_numbers(weights, r"b(\d+)\."))
    widths = {resolution: _shape(weights, f"b{resolution}.conv0.weight", 4)[0] for resolution in _levels(size)[1:]}
    widths[4] = _shape(weights, "b4.conv.weight", 4)[0]
    channels = _shape(weights, f"b{size}.fromrgb.weight", 4)[1]
    return _ada_plan("discriminator", size, StyleGAN2Discriminator(size, channels=channels, **_channels(widths)))


def _ada_plan(network: str, size: int, module: nn.Module) -> Plan:
    """Our names are theirs, but for the filters."""
    flipped = re.compile(r"synthesis\.b\d+\.conv0\.weight")
    entries = {name: Entry(name, flip=bool(flipped.fullmatch(name))) for name in module.state_dict()}
    filtering = (SynthesisLayer, SynthesisBlock, EqualizedConv2d, DiscriminatorBlock)
    named = [name for name, part in module.named_modules() if isinstance(part, filtering)]
    filters = {f"{name}.resample_filter": 1.0 for name in named}
    return Plan(f"stylegan2-ada-pytorch {network} of size {size}", module, entries, filters)


def _rosinality_generator(weights: Mapping[str, Tensor]) -> Plan:
    blocks = len(_numbers(weights, r"to_rgbs\.(\d+)\.bias"))
    size = 4 << blocks
    levels = _levels(size)
    widths = {4: _shape(weights, "conv1.conv.weight", 5)[1]}
    for k, resolution in enumerate(levels[1:]):
        widths[resolution] = _shape(weights, f"convs.{2 * k + 1}.conv.weight", 5)[1]
    w_dim, s_dim = _shape(weights, "style.1.weight", 2)
    layers = len(_numbers(weights, r"style\.(\d+)\.weight"))
    module = StyleGAN2Generator(
        size,
        s_dim=s_dim,
        c_dim=0,
        w_dim=w_dim,
        mapping_layers=layers,
        channels=_shape(weights, "to_rgb1.conv.weight", 5)[1],
        low_precision_levels=0,
        **_channels(widths),
    )
    entries = {"input.input": Entry("synthesis.b4.const", before=1)}
    filters: dict[str, float] = {}
    for i in range(layers):
        for kind in ("weight", "bias"):
            entries[f"style.{i + 1}.{kind}"] = Entry(f"mapping.fc{i}.{kind}")
    entries |= _rosinality_layer("conv1", "synthesis.b4.conv1", 0, up=False)
    entries |= _rosinality_rgb("to_rgb1", "synthesis.b4.torgb")
    for k, resolution in enumerate(levels[1:]):
        entries |= _rosinality_layer(f"convs.{2 * k}", f"synthesis.b{resolution}.conv0", 2 * k + 1, up=True)
        entries |= _rosinality_layer(f"convs.{2 * k + 1}", f"synthesis.b{resolution}.conv1", 2 * k + 2, up=False)
        entries |= _rosinality_rgb(f"to_rgbs.{k}", f"synthesis.b{resolution}.torgb")
        filters |= {f"convs.{2 * k}.conv.blur.kernel": 4.0, f"to_rgbs.{k}.upsample.kernel": 4.0}
    return Plan(f"rosinality generator of size {size}", module, entries, filters)


def _rosinality_layer(theirs: str, ours: str, noise: int, up: bool) -> dict[str, Entry]:
    return {
        f"{theirs}.conv.weight": Entry(f"{ours}.weight", before=1, flip=up, scaled=True),
        f"{theirs}.conv.modulation.weight": Entry(f"{ours}.affine.weight"),
        f"{theirs}.conv.modulation.bias": Entry(f"{ours}.affine.bias"),
        f"{theirs}.noise.weight": Entry(f"{ours}.noise_strength", before=1),
        f"{theirs}.activate.bias": Entry(f"{ours}.bias"),
        f"noises.noise_{noise}": Entry(f"{ours}.noise_const", before=2),
    }


def _rosinality_rgb(theirs: str, ours: str) -> dict[str, Entry]:
    """Ours scales the styles as theirs scales the weight."""
    return {
        f"{theirs}.bias": Entry(f"{ours}.bias", before=1, after=2),
        f"{theirs}.conv.weight": Entry(f"{ours}.weight", before=1),
        f"{theirs}.conv.modulation.weight": Entry(f"{ours}.affine.weight"),
        f"{theirs}.conv.modulation.bias": Entry(f"{ours}.affine.bias"),
    }


def _rosinality_discriminator(weights: Mapping[str, Tensor]) -> Plan:
    blocks = len(_numbers(weights, r"convs\.(\d+)\.conv1\.0\.weight"))
    size = _levels(4 << blocks)[-1]
    widths = {size: _shape(weights, "convs.0.0.weight", 4)[0]}
    entries = {"convs.0.0.weight": Entry(f"b{size}.fromrgb.weight"), "convs.0.1.bias": Entry(f"b{size}.fromrgb.bias")}
    filters: dict[str, float] = {}
    for k in range(1, blocks + 1):
        resolution = size >> (k - 1)
        widths[resolution // 2] = _shape(weights, f"convs.{k}.conv2.1.weight", 4)[0]
        entries |= {
            f"convs.{k}.conv1.0.weight": Entry(f"b{resolution}.conv0.weight"),
            f"convs.{k}.conv1.1.bias": Entry(f"b{resolution}.conv0.bias"),
            f"convs.{k}.conv2.1.weight": Entry(f"b{resolution}.conv1.weight"),
            f"convs.{k}.conv2.2.bias": Entry(f"b{resolution}.conv1.bias"),
            f"convs.{k}.skip.1.weight": Entry(f"b{resolution}.skip.weight"),
        }
        filters |= {f"convs.{k}.conv2.0.kernel": 1.0, f"convs.{k}.skip.0.kernel": 1.0}
    entries |= {"final_conv.0.weight": Entry("b4.conv.weight"), "final_conv.1.bias": Entry("b4.conv.bias")}
    for i, ours in enumerate(("fc", "out")):
        for kind in ("weight", "bias"):
            entries[f"final_linear.{i}.{kind}"] = Entry(f"b4.{ours}.{kind}")
    channels = _shape(weights, "convs.0.0.weight", 4)[1]
    module = StyleGAN2Discriminator(size, channels=channels, low_precision_levels=0, **_channels(widths))
    return Plan(f"rosinality discriminator of size {size}", module, entries, filters)


def _numbers(weights: Mapping[str, Tensor], pattern: str) -> set[int]:
    """The numbers in the names that start with the pattern."""
    return {int(match[1]) for match in map(re.compile(pattern).match, weights) if match}


def _levels(size: int) -> list[int]:
    try:
        return resolutions(size)
    except ValueError:
        raise UserError(f"StyleGAN2 weights: wanted a size of 8, 16, 32, ..., got one of {size}") from None


def _shape(weights: Mapping[str, Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    if key not in weights:
        raise UserError(f"StyleGAN2 weights: wanted an entry {key}, got none of that name; {nearest(key, weights)}")
    shape = tuple(weights[key].shape)
    if len(shape) != dimensions or 0 in shape:
        raise UserError(f"StyleGAN2 weights: wanted {dimensions} dimensions that are not empty in {key}, got {shape}")
    return shape


def _channels(widths: Mapping[int, int]) -> dict[str, Any]:
    """channel_base and channel_max that give these widths; widths: resolution -> channels."""
    most = max(widths.values())
    # Every width is at least 1, so one of 1 does not tell the base.
    base = max((resolution * width for resolution, width in widths.items() if width > 1), default=1)
    if any(channels_at(resolution, base, most) != width for resolution, width in widths.items()):
        came = ", ".join(f"{width} at {resolution}" for resolution, width in sorted(widths.items()))
        raise UserError(f"StyleGAN2 weights: wanted min(base // size, most) channels at each size, got {came}")
    return {"channel_base": base, "channel_max": most}


def _check_names(plan: Plan, weights: Mapping[str, Tensor]) -> None:
    for key in [*plan.entries, *plan.filters]:
        if key not in weights:
            raise UserError(f"StyleGAN2 weights: the {plan.network} lacks {key}")
    for key in weights:
        if key not in plan.entries and key not in plan.filters:
            raise UserError(f"StyleGAN2 weights: the {plan.network} should not have {key}")


def _check_shapes(plan: Plan, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for key, entry in plan.entries.items():
        wanted, came = (1,) * entry.before + tuple(own[entry.name].shape) + (1,) * entry.after, weights[key].shape
        if came != wanted:
            raise UserError(f"StyleGAN2 weights: {key} of the {plan.network} must be {wanted}, got {tuple(came)}")
    for key, total in plan.filters.items():
        wanted_filter, filter_ = ops.setup_filter((1, 3, 3, 1)) * total, weights[key].detach().float().cpu()
        if filter_.shape != wanted_filter.shape or not torch.allclose(filter_, wanted_filter, rtol=1e-3):
            raise UserError(f"StyleGAN2 weights: {key} must be (1, 3, 3, 1)^2 with sum {total:g}, it is another filter")


def _estimate_average(mapping: MappingNetwork, s_dim: int) -> None:
    s = torch.randn(W_SAMPLES, s_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mapping.w_avg.copy_(mapping(s).mean(0))

"""Public StyleGAN2 weights: which network a state dict holds, its sizes, and our module with its weights.

Two families of names: that of stylegan2-ada-pytorch, and that of the rosinality implementation, which many pretrained
files have. Verified on weights that the tests make themselves, not on the published files.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from idgan_fast import ops
from idgan_fast.config.settings import StyleGAN2Config
from idgan_fast.errors import UserError, nearest, shown
from idgan_fast.models.equalized import EqualizedConv2d, channels_at, resolutions
from idgan_fast.models.stylegan2 import MappingNetwork, StyleGAN2Generator, SynthesisBlock, SynthesisLayer
from idgan_fast.models.stylegan2_discriminator import DiscriminatorBlock, StyleGAN2Discriminator

LARGEST_SIZE = 4096  # of the images
W_SAMPLES = 4096  # of which w_avg is the mean, where the file has none


class Entry(NamedTuple):
    """Where the file has an entry of ours, and how it differs there."""

    name: str
    before: int = 0  # dimensions of size 1 that stand before ours
    after: int = 0  # and after
    flip: bool = False  # a kernel stored for a transposed convolution
    scaled: bool = False  # theirs is multiplied by 1 / sqrt(fan-in) in use, ours is not


EntryOf = Callable[[str, int], Entry | None]
"""The entry of the file for a name of ours in a network of a size; None where the file has none."""


class Plan(NamedTuple):
    """What a state dict should hold. entries: by our names; filters: the sum of the taps by their names."""

    network: str
    module: nn.Module
    entries: dict[str, Entry]
    filters: dict[str, float]


# Rosinality's names by ours within a block; conv stands for conv0 and conv1. Our to-RGB scales the styles as theirs
# scales the weight.
ROSINALITY_GENERATOR = {
    "const": Entry("input.input", before=1),
    "conv.weight": Entry("{conv}.conv.weight", before=1, scaled=True),
    "conv.affine.weight": Entry("{conv}.conv.modulation.weight"),
    "conv.affine.bias": Entry("{conv}.conv.modulation.bias"),
    "conv.noise_strength": Entry("{conv}.noise.weight", before=1),
    "conv.noise_const": Entry("noises.noise_{noise}", before=2),
    "conv.bias": Entry("{conv}.activate.bias"),
    "torgb.weight": Entry("{torgb}.conv.weight", before=1),
    "torgb.affine.weight": Entry("{torgb}.conv.modulation.weight"),
    "torgb.affine.bias": Entry("{torgb}.conv.modulation.bias"),
    "torgb.bias": Entry("{torgb}.bias", before=1, after=2),
}
ROSINALITY_DISCRIMINATOR = {
    "fromrgb.weight": "convs.0.0.weight",
    "fromrgb.bias": "convs.0.1.bias",
    "conv0.weight": "convs.{block}.conv1.0.weight",
    "conv0.bias": "convs.{block}.conv1.1.bias",
    "conv1.weight": "convs.{block}.conv2.1.weight",
    "conv1.bias": "convs.{block}.conv2.2.bias",
    "skip.weight": "convs.{block}.skip.1.weight",
    "conv.weight": "final_conv.0.weight",
    "conv.bias": "final_conv.1.bias",
    "fc.weight": "final_linear.0.weight",
    "fc.bias": "final_linear.0.bias",
    "out.weight": "final_linear.1.weight",
    "out.bias": "final_linear.1.bias",
}


def load_public_stylegan2(weights: Mapping[str, Tensor]) -> nn.Module:
    """A `StyleGAN2Generator` (c_dim=0) or `StyleGAN2Discriminator`, in float32 on the CPU, of a public state dict.

    weights: as stylegan2-ada-pytorch names them, or as the rosinality implementation does (its files hold them under
    "g_ema", "g" and "d"). The latter's networks know neither a clamp nor a half type: they come with
    low_precision_levels=0. Where the file has no average of w, it is estimated from samples.
    Raises UserError where it is neither, an entry is missing, unexpected or of a wrong size, the network takes labels
    or has other filters than (1, 3, 3, 1).
    """
    if not isinstance(weights, Mapping):
        raise UserError(f"StyleGAN2 weights: wanted names and tensors of one network, got a {type(weights).__name__}")
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            came = f"{type(value).__name__} under {shown(key)}"
            raise UserError(f"StyleGAN2 weights: wanted names and tensors of one network, as under 'g_ema', got {came}")
    if any(key.startswith("mapping.embed.") for key in weights):
        raise UserError("StyleGAN2 weights: wanted a network without labels, got one with them (mapping.embed)")
    with torch.device("meta"):  # memory is taken once all shapes are known to be the file's
        plan = _plan(weights)
        own = plan.module.state_dict()
    _check_names(plan, weights)
    _check_shapes(plan, weights, own)
    plan = _plan(weights)
    own = plan.module.state_dict()
    state = {name: value for name, value in own.items() if name == "mapping.w_avg"}  # not every file has it
    for name, entry in plan.entries.items():
        value = weights[entry.name].detach().to("cpu", torch.float32).reshape(own[name].shape)
        value = value.flip(2, 3) if entry.flip else value
        state[name] = value / math.sqrt(value[0].numel()) if entry.scaled else value
    plan.module.load_state_dict(state)
    if isinstance(plan.module, StyleGAN2Generator) and "mapping.w_avg" not in plan.entries:
        _estimate_average(plan.module.mapping, plan.module.s_dim)
    return plan.module


def _plan(weights: Mapping[str, Tensor]) -> Plan:
    """Raises UserError where no entry tells the family. Rosinality's files hold no clamp and no half type."""
    if "synthesis.b4.const" in weights:
        size = max(_numbers(weights, r"synthesis\.b(\d+)\."))
        layers = len(_numbers(weights, r"mapping\.fc(\d+)\.weight"))
        residual = any(re.fullmatch(r"synthesis\.b\d+\.skip\.weight", key) for key in weights)
        module = _generator(weights, _ada_entry, size, layers, architecture="residual" if residual else "skip")
        return _ada_plan("generator", size, module)
    if "b4.fc.weight" in weights:
        size = max(_numbers(weights, r"b(\d+)\."))
        return _ada_plan("discriminator", size, _discriminator(weights, _ada_entry, size))
    if "input.input" in weights:
        blocks = range(len(_numbers(weights, r"to_rgbs\.(\d+)\.bias")))
        size, layers = 4 << len(blocks), len(_numbers(weights, r"style\.(\d+)\.weight"))
        module = _generator(weights, _rosinality_entry, size, layers, low_precision_levels=0)
        kernels = [f"convs.{2 * i}.conv.blur.kernel" for i in blocks] + [f"to_rgbs.{i}.upsample.kernel" for i in blocks]
        return _plan_of("rosinality generator", size, module, _rosinality_entry, dict.fromkeys(kernels, 4.0))
    if "final_linear.0.weight" in weights:
        blocks = range(1, len(_numbers(weights, r"convs\.(\d+)\.conv1\.0\.weight")) + 1)
        size = 4 << len(blocks)
        module = _discriminator(weights, _rosinality_entry, size, low_precision_levels=0)
        kernels = [f"convs.{i}.{part}.0.kernel" for i in blocks for part in ("conv2", "skip")]
        return _plan_of("rosinality discriminator", size, module, _rosinality_entry, dict.fromkeys(kernels, 1.0))
    wanted = "synthesis.b4.const, b4.fc.weight, input.input or final_linear.0.weight"
    first = ", ".join(sorted(weights)[:3]) or "nothing"
    raise UserError(f"StyleGAN2 weights: wanted an entry {wanted} of a generator or discriminator, got {first} ...")


def _ada_plan(network: str, size: int, module: nn.Module) -> Plan:
    """Their blocks of D have a filter beside those of their layers."""
    filtering = (SynthesisLayer, SynthesisBlock, EqualizedConv2d, DiscriminatorBlock)
    kernels = [f"{name}.resample_filter" for name, part in module.named_modules() if isinstance(part, filtering)]
    return _plan_of(f"stylegan2-ada-pytorch {network}", size, module, _ada_entry, dict.fromkeys(kernels, 1.0))


def _plan_of(network: str, size: int, module: nn.Module, entry_of: EntryOf, filters: dict[str, float]) -> Plan:
    entries = {name: entry for name in module.state_dict() if (entry := entry_of(name, size)) is not None}
    return Plan(f"{network} of size {size}", module, entries, filters)


def _ada_entry(name: str, size: int) -> Entry:
    """Our names are theirs."""
    return Entry(name, flip=bool(re.fullmatch(r"synthesis\.b\d+\.conv0\.weight", name)))


def _rosinality_entry(name: str, size: int) -> Entry | None:
    if name == "mapping.w_avg":
        return None
    if match := re.fullmatch(r"mapping\.fc(\d+)\.(\w+)", name):
        return Entry(f"style.{int(match[1]) + 1}.{match[2]}")
    block, _, part = name.removeprefix("synthesis.").partition(".")
    resolution = int(block.removeprefix("b"))
    if not name.startswith("synthesis."):  # blocks are counted from the image on
        return Entry(ROSINALITY_DISCRIMINATOR[part].format(block=(size // resolution).bit_length()))
    level = (resolution // 4).bit_length() - 2  # 0 at 8x8
    number = 2 * level + part.startswith("conv1")
    conv, torgb = (f"convs.{number}", f"to_rgbs.{level}") if level >= 0 else ("conv1", "to_rgb1")
    entry = ROSINALITY_GENERATOR[re.sub(r"^conv[01]", "conv", part)]
    theirs = entry.name.format(conv=conv, torgb=torgb, noise=number + 1)
    return entry._replace(name=theirs, flip=part == "conv0.weight")


def _generator(weights: Mapping[str, Tensor], entry_of: EntryOf, size: int, layers: int, **options: Any) -> nn.Module:
    """A generator of the file's sizes."""
    widths = {r: _shape(weights, entry_of(f"synthesis.b{r}.conv1.weight", size), 4)[0] for r in _levels(size)}
    w_dim, s_dim = _shape(weights, entry_of("mapping.fc0.weight", size), 2)
    channels = _shape(weights, entry_of(f"synthesis.b{size}.torgb.weight", size), 4)[0]
    config = StyleGAN2Config(w_dim=w_dim, mapping_layers=layers, **_channels(widths), **options)
    return StyleGAN2Generator(size, s_dim, 0, channels, config)


def _discriminator(weights: Mapping[str, Tensor], entry_of: EntryOf, size: int, **options: Any) -> nn.Module:
    """A discriminator of the file's sizes."""
    widths = {r: _shape(weights, entry_of(f"b{r}.conv0.weight", size), 4)[0] for r in _levels(size)[1:]}
    widths[4] = _shape(weights, entry_of("b4.conv.weight", size), 4)[0]
    channels = _shape(weights, entry_of(f"b{size}.fromrgb.weight", size), 4)[1]
    return StyleGAN2Discriminator(size, channels, StyleGAN2Config(**_channels(widths), **options))


def _numbers(weights: Mapping[str, Tensor], pattern: str) -> set[int]:
    """The numbers in the names that start with the pattern."""
    return {int(match[1][:9]) for match in map(re.compile(pattern).match, weights) if match}


def _levels(size: int) -> list[int]:
    try:
        if size > LARGEST_SIZE:
            raise ValueError
        return resolutions(size)
    except ValueError:
        wanted = f"wanted a size of 8, 16, 32, ..., {LARGEST_SIZE}"
        raise UserError(f"StyleGAN2 weights: {wanted}, got one of {shown(size)}") from None


def _shape(weights: Mapping[str, Tensor], entry: Entry | None, dimensions: int) -> tuple[int, ...]:
    """The shape of an entry of so many dimensions, as ours has it."""
    assert entry is not None
    key, dimensions = entry.name, dimensions + entry.before
    if key not in weights:
        raise UserError(f"StyleGAN2 weights: wanted an entry {key}, got none of that name; {nearest(key, weights)}")
    shape = tuple(weights[key].shape)
    if len(shape) != dimensions or 0 in shape:
        raise UserError(f"StyleGAN2 weights: wanted {dimensions} dimensions that are not empty in {key}, got {shape}")
    return shape[entry.before :]


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
    names = dict.fromkeys([*(entry.name for entry in plan.entries.values()), *plan.filters])
    for key in names:
        if key not in weights:
            raise UserError(f"StyleGAN2 weights: the {plan.network} lacks {key}")
    for key in weights:
        if key not in names:
            raise UserError(f"StyleGAN2 weights: the {plan.network} should not have {key}")


def _check_shapes(plan: Plan, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for name, (key, before, after, *_) in plan.entries.items():
        wanted, came = (1,) * before + tuple(own[name].shape) + (1,) * after, weights[key].shape
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

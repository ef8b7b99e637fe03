"""Networks from the checkpoints that the public ID-GAN code wrote (github.com/1Konny/idgan)."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from idgan_fast.errors import UserError, shortened
from idgan_fast.models.resnet import ResnetDiscriminator, ResnetGenerator, VGANDiscriminator
from idgan_fast.models.vae import VAE, DSpritesDiscriminator, DSpritesGenerator
from idgan_fast.models.weights_file import read_weights

MOST_BLOCKS = 9  # those of 1024x1024


def load_public(path: str | Path, c_dim: int | None = None) -> dict[str, nn.Module]:
    """Networks of a checkpoint that the public ID-GAN code wrote; their sizes are read from the file.

    A VAE file gives {"vae"}, a GAN file {"generator", "discriminator", "average"} (its `generator_test`).
    c_dim: how much of G's input is the code; the file does not say. None takes the public settings': 20 for the
    ResNet, all of it for dSprites. We take s to come first in that input. Raises UserError where the file is neither.
    """
    content = read_weights(Path(path))
    try:
        if "model_states" in content:
            return {"vae": _public_vae(dict(content["model_states"]["net"].items()))}
        weights = {
            name: {key.removeprefix("module."): tensor for key, tensor in content[name].items()}
            for name in ("generator", "discriminator", "generator_test")
        }
        return {
            "generator": _public_generator(weights["generator"], c_dim),
            "discriminator": _public_discriminator(weights["discriminator"]),
            "average": _public_generator(weights["generator_test"], c_dim),
        }
    except MemoryError:
        raise
    except Exception as error:  # entries of any type can be anywhere
        reason = shortened(f"{type(error).__name__}: {error}".splitlines()[0], 300)
        raise UserError(f"load_public: {path} is not a checkpoint of the public ID-GAN code ({reason})") from error


Weights = dict[str, torch.Tensor]


def _loaded(make: Callable[[], nn.Module], weights: Weights) -> nn.Module:
    """The module that `make` returns, with these weights.

    It takes memory only once all its shapes are known to be the file's, since few of them tell what to make.
    """
    with torch.device("meta"):
        wanted = make().state_dict()
    for name, value in wanted.items():
        if weights[name].shape != value.shape:
            raise ValueError(f"wanted {tuple(value.shape)} in {name}, got {tuple(weights[name].shape)}")
    module = make()
    module.load_state_dict(weights)
    return module


def _public_vae(weights: Weights) -> nn.Module:
    width, channels = weights["encoder.layer.0.weight"].shape[:2]
    c_dim = len(weights["encoder.layer.11.weight"]) // 2
    return _loaded(lambda: VAE(c_dim, channels, width), weights)


def _resnet_shape(weights: Weights) -> tuple[int, int]:
    """Image size and the widest block's channels, from the blocks `resnet.<i>`."""
    blocks = {int(key.split(".")[1]) for key in weights if key.startswith("resnet.")}
    if not len(blocks) <= MOST_BLOCKS:
        raise ValueError(f"wanted up to {MOST_BLOCKS} blocks, got {len(blocks)}")
    widest = max(len(weights[f"resnet.{i}.conv_1.weight"]) for i in blocks)
    return 4 << (len(blocks) - 1), widest


def _public_generator(weights: Weights, c_dim: int | None) -> nn.Module:
    if "layer.0.weight" in weights:
        inputs = weights["layer.0.weight"].shape[1]
        width, channels = weights["layer.11.weight"].shape[:2]
        code_size = inputs if c_dim is None else c_dim
        return _loaded(lambda: DSpritesGenerator(inputs - code_size, code_size, channels, width), weights)
    code_size = 20 if c_dim is None else c_dim
    channels, width = weights["conv_img.weight"].shape[:2]
    size, widest = _resnet_shape(weights)
    widest = max(widest, weights["resnet.0.conv_0.weight"].shape[1])
    s_dim = weights["fc.weight"].shape[1] - code_size
    return _loaded(
        lambda: ResnetGenerator(size, s_dim, code_size, width=width, max_width=widest, channels=channels), weights
    )


def _public_discriminator(weights: Weights) -> nn.Module:
    if "layer.0.weight" in weights:
        width, channels = weights["layer.0.weight"].shape[:2]
        return _loaded(lambda: DSpritesDiscriminator(channels, width), weights)
    width, channels = weights["conv_img.weight"].shape[:2]
    size, widest = _resnet_shape(weights)
    kind = VGANDiscriminator if "mean_fn.weight" in weights else ResnetDiscriminator
    return _loaded(lambda: kind(size, width, widest, channels), weights)

"""Checkpoints: written atomically, loaded weights-only; and the import of the public code's files."""

import pickle
import re
import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from idgan_fast.errors import UserError, disk_full
from idgan_fast.files import atomically
from idgan_fast.models.resnet import ResnetDiscriminator, ResnetGenerator, VGANDiscriminator
from idgan_fast.models.vae import VAE, DSpritesDiscriminator, DSpritesGenerator

FORMAT = 2
KEEP = 2  # the newest checkpoints that stay, so that a damaged one never costs a run
STAGES = ("vae", "gan")


class Damaged(UserError):
    """The file was read and is not what was once written."""


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """The file holds either all of `data` or what it held before. Raises UserError on a full disk."""
    try:
        with atomically(path) as file:
            file.write(data)
    except OSError as error:
        if disk_full(error):
            need = len(data) / 2**20
            raise UserError(f"disk full: {path} needs {need:.0f} MiB; free some space and start again") from error
        raise


def save(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state` (see Trainer._save) as STAGE-ITERATION.pt into `folder`; drop all but the newest.

    The last one of stage 1 stays: other generators can start from its encoder.
    """
    buffer = BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    path = folder / f"{state['stage']}-{state['iteration']:08d}.pt"
    write_atomically(path, buffer.getbuffer())
    kept = newest_first(folder)
    stage_1 = [old for old in kept if old.name.startswith("vae-")]
    for old in kept[KEEP:]:
        if old not in stage_1[:1]:
            old.unlink()
    return path


def newest_first(folder: Path) -> list[Path]:
    """The run's checkpoints, furthest first."""
    found = []
    for path in folder.glob("*.pt"):
        match = re.fullmatch(r"(vae|gan)-(\d+)\.pt", path.name)
        if match:
            found.append((STAGES.index(match[1]), int(match[2]), path))
    return [path for _, _, path in sorted(found, reverse=True)]


def load(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, on the CPU. Raises UserError with one line that says what is wrong with the file."""
    state = _read(path)
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(f"checkpoint: {path} is not one of idgan-fast; the public code's load by load_public")
    if state["format"] != FORMAT:
        raise UserError(f"checkpoint: {path} has format {state['format']}, this version reads {FORMAT}")
    return state


def _read(path: Path) -> Any:
    """Tensors and plain values of a file that torch.save wrote."""
    try:
        content = BytesIO(path.read_bytes())
    except OSError as error:
        raise UserError(f"checkpoint: cannot read {path}: {error.strerror or error}") from error
    try:
        if zipfile.is_zipfile(content):
            with zipfile.ZipFile(content) as archive:
                damaged = archive.testzip()  # torch.load does not look at the checksums
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
        content.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, beside our one line
            return torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Damaged(f"checkpoint: {path} is damaged, or holds more than tensors and plain values") from error
    except Exception as error:  # a damaged file can make the unpickler raise anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise Damaged(f"checkpoint: {path} is damaged or no checkpoint ({reason})") from error


def load_public(path: str | Path, c_dim: int | None = None) -> dict[str, nn.Module]:
    """Networks of a checkpoint that the public ID-GAN code wrote; their sizes are read from the file.

    A VAE file gives {"vae"}, a GAN file {"generator", "discriminator", "average"} (its `generator_test`).
    c_dim: how much of G's input is the code; the file does not say. None takes the public settings': 20 for the
    ResNet, all of it for dSprites. We take s to come first in that input. Raises UserError where the file is neither.
    """
    content = _read(Path(path))
    try:
        if "model_states" in content:
            return {"vae": _public_vae(content["model_states"]["net"])}
        weights = {
            name: {key.removeprefix("module."): tensor for key, tensor in content[name].items()}
            for name in ("generator", "discriminator", "generator_test")
        }
        return {
            "generator": _public_generator(weights["generator"], c_dim),
            "discriminator": _public_discriminator(weights["discriminator"]),
            "average": _public_generator(weights["generator_test"], c_dim),
        }
    except (KeyError, TypeError, RuntimeError, ValueError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"load_public: {path} is not a checkpoint of the public ID-GAN code ({reason})") from error


Weights = dict[str, torch.Tensor]


def _public_vae(weights: Weights) -> VAE:
    width, channels = weights["encoder.layer.0.weight"].shape[:2]
    vae = VAE(len(weights["encoder.layer.11.weight"]) // 2, channels, width)
    vae.load_state_dict(weights)
    return vae


def _resnet_shape(weights: Weights) -> tuple[int, int]:
    """Image size and the widest block's channels, from the blocks `resnet.<i>`."""
    blocks = {int(key.split(".")[1]) for key in weights if key.startswith("resnet.")}
    widest = max(len(weights[f"resnet.{i}.conv_1.weight"]) for i in blocks)
    return 4 << (len(blocks) - 1), widest


def _public_generator(weights: Weights, c_dim: int | None) -> nn.Module:
    module: nn.Module
    if "layer.0.weight" in weights:
        inputs = weights["layer.0.weight"].shape[1]
        width, channels = weights["layer.11.weight"].shape[:2]
        c_dim = inputs if c_dim is None else c_dim
        module = DSpritesGenerator(inputs - c_dim, c_dim, channels, width)
    else:
        c_dim = 20 if c_dim is None else c_dim
        channels, width = weights["conv_img.weight"].shape[:2]
        size, widest = _resnet_shape(weights)
        widest = max(widest, weights["resnet.0.conv_0.weight"].shape[1])
        module = ResnetGenerator(size, weights["fc.weight"].shape[1] - c_dim, c_dim, width, widest, channels)
    module.load_state_dict(weights)
    return module


def _public_discriminator(weights: Weights) -> nn.Module:
    module: nn.Module
    if "layer.0.weight" in weights:
        width, channels = weights["layer.0.weight"].shape[:2]
        module = DSpritesDiscriminator(channels, width)
    else:
        width, channels = weights["conv_img.weight"].shape[:2]
        size, widest = _resnet_shape(weights)
        kind = VGANDiscriminator if "mean_fn.weight" in weights else ResnetDiscriminator
        module = kind(size, width, widest, channels)
    module.load_state_dict(weights)
    return module

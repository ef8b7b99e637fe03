"""Valid small files of every kind that the program reads, and seeded ways to break them."""

import io
import json
import math
import tarfile
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

from idgan_fast.config.arguments import parse
from idgan_fast.config.fields import settings_of
from idgan_fast.config.settings import Config, ImagesConfig, StyleGAN2Config, flatten, to_yaml
from idgan_fast.data.dsprites import DSpritesFile
from idgan_fast.data.images import ImageFiles
from idgan_fast.data.sources import Source
from idgan_fast.models.public_idgan import load_public
from idgan_fast.models.public_stylegan2 import _ada_plan, load_public_stylegan2
from idgan_fast.models.stylegan2 import StyleGAN2Generator
from idgan_fast.models.vae import VAE
from idgan_fast.models.weights_file import read_weights
from idgan_fast.ops import setup_filter
from idgan_fast.run.checkpoint import FORMAT, load
from idgan_fast.run.resume import Checkpoint, restoring
from idgan_fast.training.precision import Precision
from idgan_fast.training.vae import VAEStage

CONFIG = parse(["--vae.width", "4", "--gan.no-warm-start"])
NUMBERS = [0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1]
TOKENS = [
    *("9" * 400, "-1", "1e999", ".nan", "null", "true", "[]", "{}", "[[", "{", ":", "- ", "? ", "&a ", "*a", "<<: "),
    *("!!int x", "!!binary x", "2020-99-99", "0x" + "f" * 5000, "\n", "\t", "\0", "\x1b[31m", '"', "'", "é", "\\ud800"),
]
ODD_VALUES: list[Any] = [
    *(None, True, -1, 10**400, 1.5, math.nan, math.inf, "", "x\ny", [], {}, {"a": {"b": 1}}, [[]], b"x"),
    *(torch.zeros(0), torch.zeros(3), torch.zeros(()), torch.zeros(1).expand(2**40), torch.zeros(2, dtype=torch.bool)),
]


# ---- ways to break


def broken_bytes(content: bytes, random: Random) -> bytes:
    """Some bytes flipped, overwritten by a number, cut out, doubled, inserted or cut off."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        at = random.randrange(len(data) + 1)
        length = random.choice((1, 2, 4, 8, 64, len(data) // 4))
        number = random.choice(NUMBERS).to_bytes(8, random.choice(("little", "big")))
        match random.randrange(6):
            case 0:
                data[at : at + 1] = bytes([random.randrange(256)])
            case 1:
                data[at : at + 4] = number[:4] if random.random() < 0.5 else number[4:]
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at:at] = random.randbytes(length)
            case _:
                del data[at:]
    return bytes(data)


def broken_text(content: bytes, random: Random) -> bytes:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return broken_bytes(content, random)
    for _ in range(random.choice((1, 1, 3))):
        at = random.randrange(len(text) + 1)
        many = random.choice((1, 1, 1, 2000))
        text = text[:at] + random.choice(TOKENS)[: 40_000 // many] * many + text[at + random.choice((0, 1, 20)) :]
    return text.encode(errors="surrogatepass") if random.random() < 0.8 else broken_bytes(content, random)


def broken_value(value: Any, random: Random) -> Any:
    """A nest of mappings with one entry left out, added or replaced somewhere."""
    if not isinstance(value, dict) or not value or random.random() < 0.1:
        return random.choice(ODD_VALUES)
    value = dict(value)
    key = random.choice(list(value))
    match random.randrange(5):
        case 0:
            del value[key]
        case 1:
            value[random.choice(["", "x", "resnet.99999.conv_1.weight", "synthesis.b" + "9" * 5000 + ".x", 3])] = 1
        case _:
            value[key] = broken_value(value[key], random)
    return value


def broken_directory(content: bytes, random: Random) -> bytes:
    """A zip with another value in one field of a member: its version, flags, method, checksum, sizes, ..."""
    data, signature = bytearray(content), b"PK\x01\x02"
    entries = [at for at in range(len(data)) if data[at : at + 4] == signature]
    entry, field = random.choice(entries), random.randrange(2, 23)
    value = random.choice([1, 8, 99, 255, 2**15, 2**16 - 1])
    local = int.from_bytes(data[entry + 42 : entry + 46], "little")
    data[entry + 2 * field : entry + 2 * field + 2] = value.to_bytes(2, "little")
    if 3 <= field <= 13 and random.random() < 0.5:  # the same field lies 2 bytes earlier in the local header
        data[local + 2 * field - 2 : local + 2 * field] = value.to_bytes(2, "little")
    return bytes(data)


def broken_archive(content: bytes, random: Random, harm: Callable[[bytes, Random], bytes] = broken_bytes) -> bytes:
    """A zip with a broken member under a right checksum, a broken directory, or broken anywhere."""
    if random.random() < 0.3:
        return broken_bytes(content, random)
    if random.random() < 0.5:
        return broken_directory(content, random)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(buffer, "w") as other:
        unlucky = random.choice(archive.namelist())
        for info in archive.infolist():
            data = archive.read(info)
            data = harm(data, random) if info.filename == unlucky else data
            other.writestr(info.filename, data, info.compress_type)
    return buffer.getvalue()


def broken_checkpoint(content: bytes, random: Random) -> bytes:
    if random.random() < 0.4:
        return broken_archive(content, random)
    buffer = io.BytesIO()
    torch.save(broken_value(torch.load(io.BytesIO(content), weights_only=True), random), buffer)
    return buffer.getvalue()


# ---- valid files


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def image(suffix: str, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, suffix)
    return buffer.getvalue()


def checkpoint() -> bytes:
    stage = VAEStage(CONFIG, 1, torch.device("cpu"), Precision("off", "cpu", ""))
    choices = {"device": "cpu", "amp": "off"}
    state = {"format": FORMAT, "version": "0", "data": "x", "config": flatten(CONFIG), "choices": choices}
    return saved({**state, "stage": "vae", "iteration": 3, "seconds": 1.5, "vae": stage.state_dict()})


def public() -> bytes:
    return saved({"model_states": {"net": VAE(3, 1, 4).state_dict()}})


def npz() -> bytes:
    grid = np.array(list(product([0], *map(range, (2, 1, 2, 1, 2)))), np.int64)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, imgs=np.zeros((len(grid), 64, 64), np.uint8), latents_classes=grid)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    labels = {"labels": [["0.png", 3], ["1.jpg", [0.5, 1]]]}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", image("png"))
        archive.writestr("1.jpg", image("jpeg"))
        archive.writestr("dataset.json", json.dumps(labels))
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as shard:
        for name, content in (("0.png", image("png")), ("0.cls", b"3"), ("1.webp", image("webp")), ("1.json", b"[1]")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def stylegan2() -> bytes:
    config = StyleGAN2Config(channel_base=64, channel_max=8, w_dim=8, mapping_layers=2)
    generator = StyleGAN2Generator(16, 8, 0, 3, config)
    filters = dict.fromkeys(_ada_plan("generator", 16, generator).filters, setup_filter((1, 3, 3, 1)))
    return saved({**generator.state_dict(), **filters})


# ---- readers


def restore(path: Path) -> None:
    start = Checkpoint(path, load(path))
    if start.stage == "vae":
        stage = VAEStage(CONFIG, 1, torch.device("cpu"), Precision("off", "cpu", ""))
        with restoring(start, "vae"):
            stage.load_state_dict(start.state["vae"])
            stage.rng.set_state(start.state["vae"]["rng"])


def read_images(path: Path) -> None:
    files = ImageFiles(path, 64, ImagesConfig())
    files[list(range(len(files)))]
    Source(path).labels()


def in_folder(path: Path) -> None:
    read_images(path.parent)


def read_stylegan2(path: Path) -> None:
    load_public_stylegan2(read_weights(path))


Harm = Callable[[bytes, Random], bytes]
KINDS: dict[str, tuple[str, Callable[[], bytes], Harm, Callable[[Path], object]]] = {
    "settings": ("s.yaml", lambda: to_yaml(CONFIG).encode(), broken_text, lambda p: parse(["--config", str(p)])),
    "checkpoint": ("vae-00000003.pt", checkpoint, broken_checkpoint, restore),
    "public": (
        "last",
        lambda: saved({"model_states": {"net": VAE(3, 1, 4).state_dict()}}),
        broken_checkpoint,
        load_public,
    ),
    "stylegan2": ("g.pt", stylegan2, broken_checkpoint, read_stylegan2),
    "npz": ("d.npz", npz, broken_archive, DSpritesFile),
    "zip": ("p.zip", zipped, broken_archive, read_images),
    "tar": ("p.tar", tarred, broken_bytes, read_images),
    "dataset.json": ("p.zip", zipped, lambda c, r: broken_archive(c, r, broken_text), read_images),
    "png": ("0.png", lambda: image("png"), broken_bytes, in_folder),
    "jpg": ("0.jpg", lambda: image("jpeg"), broken_bytes, in_folder),
    "webp": ("0.webp", lambda: image("webp"), broken_bytes, in_folder),
}
OPTIONS = ["--" + key.replace("_", "-") for key, _, _ in settings_of(Config()) if key != "dataset"]


def odd_command_line(random: Random) -> list[str]:
    argv = []
    for _ in range(random.choice((1, 1, 2))):
        option = random.choice(OPTIONS)
        value = random.choice([*TOKENS, "5", "x" * 5000, "None", "--seed", "", ".", "/dev/null"])
        argv += [f"{option}={value}"] if random.random() < 0.5 else [option, value]
    return argv

"""Images of any size and format, framed alike for both stages.

Framing is deterministic: turn as the EXIF says, center crop (or squash), Lanczos to size x size. What is random
(flip, dequantization noise) happens later on whole batches, on the device.
"""

import math
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data.faults import Unusable, try_to_read
from idgan_fast.data.fingerprint import Fingerprint
from idgan_fast.data.headers import orientation, versions
from idgan_fast.data.sources import Source
from idgan_fast.errors import UserError

T = TypeVar("T")

# Pillow warns of large images and of what it passes over in a file. Whether an image can be used is said by name.
warnings.filterwarnings("ignore", module=r"PIL\.")


UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, config: ImagesConfig) -> Image.Image:
    """An encoded image, decoded by Pillow. Raises Unusable over the limit, and whatever Pillow raises.

    That Pillow reads all of its pixels without an error is what makes a file an image, whichever loader is used.
    """
    first: Exception | None = None
    for version in versions(data):
        try:
            return _decode(version, config)
        except (Unusable, MemoryError):
            raise
        except Exception as error:  # Pillow raises nearly anything on a damaged file
            first = first or error
    assert first is not None
    raise first


def _decode(data: bytes, config: ImagesConfig) -> Image.Image:
    limit = config.max_megapixels * 1e6
    if Image.MAX_IMAGE_PIXELS is not None and limit > 2 * Image.MAX_IMAGE_PIXELS:  # Pillow refuses over twice its own
        Image.MAX_IMAGE_PIXELS = math.ceil(limit / 2)
    try:
        image = Image.open(BytesIO(data))
    except Image.DecompressionBombError as error:
        raise Unusable(OVER_LIMIT.format(limit=config.max_megapixels)) from error
    require_pixels(image.size, config)
    image.load()
    return image


def upright(image: Image.Image) -> Image.Image:
    """The image turned as EXIF's orientation says."""
    turn = UPRIGHT.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Any image -> "L" or "RGB"; transparent parts become white, 16-bit gray keeps its upper byte."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image if image.mode == mode else image.convert(mode)


OVER_LIMIT = "it has more than {limit:g} megapixels; a higher images.max-megapixels takes it"


def require_pixels(size: tuple[int, int], config: ImagesConfig) -> None:
    """Raises Unusable for an image of more pixels than the settings allow."""
    if size[0] * size[1] > config.max_megapixels * 1e6:
        raise Unusable(OVER_LIMIT.format(limit=config.max_megapixels))


def require_side(size: tuple[int, int], config: ImagesConfig) -> None:
    """Raises Unusable for an image under the settings' least side, or of a pixel's width."""
    if min(size) == 1:
        raise Unusable(f"it is {size[0]}x{size[1]} pixels, no picture")
    if min(size) < config.min_side:
        raise Unusable(f"its shorter side is {min(size)}, under images.min-side {config.min_side}")


def prepare(image: Image.Image, config: ImagesConfig) -> Image.Image:
    """A decoded image, upright and in the run's channels. Raises Unusable."""
    image = upright(image)
    require_side(image.size, config)
    return to_mode(image, "L" if config.channels == 1 else "RGB")


def square(height: Any, width: Any, crop: int | None, least: Callable[[Any, Any], Any] = min) -> tuple[Any, Any, Any]:
    """Top, left and side of the centered square of `crop` pixels, or as wide as the shorter side.

    least: the minimum of two numbers; DALI has its own for the sizes of its graph.
    """
    side = least(height, width)
    side = side if crop is None else least(side, crop)
    return (height - side) // 2, (width - side) // 2, side


def frame(image: Image.Image, size: int, config: ImagesConfig) -> np.ndarray:
    """A decoded image -> uint8 [channels, size, size]. Raises Unusable."""
    image = prepare(image, config)
    if config.framing == "crop":
        top, left, side = square(image.height, image.width, config.crop)
        if image.size != (side, side):
            image = image.crop((left, top, left + side, top + side))
    pixels = np.array(image.resize((size, size), Image.Resampling.LANCZOS), np.uint8)
    return pixels.reshape(size, size, config.channels).transpose(2, 0, 1)


class ImageFiles:
    """Decoded images by index. `self[indices]`: a list or int64 tensor [N] -> uint8 [N, channels, size, size].

    An image that cannot be used is named in `skipped` (path: reason) and the next good one stands in its place.
    Images that fit in `images.cache_gib` are decoded once and kept in memory.
    """

    def __init__(self, path: Path, size: int, config: ImagesConfig) -> None:
        self.path, self.size, self.config = path, size, config
        self.channels: int = config.channels
        self.name = f"pictures in {path}"
        self.source = Source(path)
        self.paths = self.source.names
        self.skipped: dict[str, str] = {}
        self._fingerprint = Fingerprint(self.source)
        self.fingerprint = self._fingerprint.text
        self.shorter_side: int | None = None
        self._cache: Tensor | None = None
        if len(self.paths) * config.channels * size * size <= config.cache_gib * 2**30:
            self._fill_cache()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def cached(self) -> bool:
        return self._cache is not None

    def changed(self) -> list[str]:
        """The names of images whose files are not what they were when they were listed."""
        return self._fingerprint.changed()

    def factors(self, indices: Tensor) -> None:
        """Nobody knows the true factors of photographs."""

    def __getitem__(self, indices: list[int] | Tensor) -> Tensor:
        if self._cache is not None:
            return self._cache[torch.as_tensor(indices)]
        return torch.stack([self.this_or_next(int(i), self._decode, self.skipped)[1] for i in indices])

    def _fill_cache(self) -> None:
        pixels = torch.empty(len(self.paths), self.channels, self.size, self.size, dtype=torch.uint8)

        def put(index: int) -> bool:
            image = self._attempt(self.paths[index], self._decode, self.skipped)
            if image is not None:
                pixels[index] = image
            return image is not None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            good = torch.tensor(list(pool.map(put, range(len(self.paths)))))
        if not good.any():
            raise self._nothing_left(self.skipped)
        self.paths = [path for path, kept in zip(self.paths, good.tolist(), strict=True) if kept]
        self._cache = pixels if good.all() else pixels[good]

    def _attempt(self, name: str, read: Callable[[str], T], skipped: dict[str, str]) -> T | None:
        """What `read` gives for an image; None where it is left out, for the reason in `skipped`. Raises UserError."""
        if name in skipped:
            return None
        try:
            return try_to_read(read, name, self.path)
        except Unusable as error:
            skipped[name] = str(error)
            return None

    def this_or_next(self, index: int, read: Callable[[str], T], skipped: dict[str, str]) -> tuple[str, T]:
        """Name and image at an index, or those of the next good one. Raises UserError where there is none, or a disk,
        a network or memory fails."""
        for step in range(len(self.paths)):
            name = self.paths[(index + step) % len(self.paths)]
            image = self._attempt(name, read, skipped)
            if image is not None:
                return name, image
        raise self._nothing_left(skipped)

    def read(self, name: str) -> bytes:
        """An image's file. Raises Unusable over the settings' limit, and what the source raises."""
        return self.source.read(name, self.config.max_file_mib)

    def _decode(self, name: str) -> Tensor:
        image = decode(self.read(name), self.config)
        self.shorter_side = self.shorter_side or min(image.size)
        return torch.from_numpy(frame(image, self.size, self.config).copy())

    def _nothing_left(self, skipped: dict[str, str]) -> UserError:
        name, reason = next(iter(skipped.items()))
        return UserError(f"data: none of the {len(skipped)} pictures in {self.path} can be used: {name}: {reason}")

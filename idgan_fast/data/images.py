"""Pictures of any size and format from a folder (nested ones too) or a zip, framed alike for both stages.

Framing is deterministic: turn as the EXIF says, centre crop (or squash), Lanczos to size x size. What is random
(flip, dequantisation noise) happens later on whole batches, on the device.
"""

import hashlib
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idgan_fast.config import ImagesConfig
from idgan_fast.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class TooSmall(Exception):
    """The shorter side is under `images.min_side`."""


UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF's orientation says; a broken EXIF block says nothing."""
    try:
        turn = UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # Pillow's parser raises nearly anything on a broken block
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Any picture -> "L" or "RGB"; transparent parts become white, 16-bit grey keeps its upper byte."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


def frame(image: Image.Image, size: int, config: ImagesConfig) -> np.ndarray:
    """A decoded picture -> uint8 [channels, size, size]. Raises TooSmall."""
    image = _upright(image)
    shorter = min(image.size)
    if shorter < config.min_side:
        raise TooSmall(f"its shorter side is {shorter}, under images.min-side {config.min_side}")
    image = _to_mode(image, "L" if config.channels == 1 else "RGB")
    if config.framing == "crop":
        side = shorter if config.crop is None else min(shorter, config.crop)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    pixels = np.array(image.resize((size, size), Image.Resampling.LANCZOS), np.uint8)
    return pixels.reshape(size, size, config.channels).transpose(2, 0, 1)


class ImageFiles:
    """Decoded pictures by index. `self[indices]`: a list or int64 tensor [N] -> uint8 [N, channels, size, size].

    A picture that cannot be used is named in `skipped` (path: reason) and the next good one stands in its place.
    Pictures that fit in `images.cache_gib` are decoded once and kept in memory.
    """

    def __init__(self, path: Path, size: int, config: ImagesConfig) -> None:
        self.path, self.size, self.config = path, size, config
        self.channels: int = config.channels
        self.name = f"pictures in {path}"
        self.paths = _list(path)
        self.skipped: dict[str, str] = {}
        self.fingerprint = _fingerprint(self.paths)
        self.shorter_side: int | None = None  # of the first picture that was read
        self._archive: tuple[int, zipfile.ZipFile] | None = None
        self._cache: Tensor | None = None
        picture_bytes = config.channels * size * size
        if len(self.paths) * picture_bytes <= config.cache_gib * 2**30:
            self._fill_cache()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def cached(self) -> bool:
        return self._cache is not None

    def __getitem__(self, indices: list[int] | Tensor) -> Tensor:
        if self._cache is not None:
            return self._cache[torch.as_tensor(indices)]
        return torch.stack([self._read_or_next(int(i)) for i in indices])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_archive": None}  # an open archive does not travel to a worker process

    def _fill_cache(self) -> None:
        pixels = torch.empty(len(self.paths), self.channels, self.size, self.size, dtype=torch.uint8)

        def put(index: int) -> bool:
            picture = self._read(index)
            if picture is not None:
                pixels[index] = picture
            return picture is not None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            good = torch.tensor(list(pool.map(put, range(len(self.paths)))))
        if not good.any():
            raise self._nothing_left()
        self.paths = [path for path, kept in zip(self.paths, good.tolist(), strict=True) if kept]
        self._cache = pixels if good.all() else pixels[good]

    def _read_or_next(self, index: int) -> Tensor:
        for step in range(len(self.paths)):
            picture = self._read((index + step) % len(self.paths))
            if picture is not None:
                return picture
        raise self._nothing_left()

    def _read(self, index: int) -> Tensor | None:
        name = self.paths[index]
        if name in self.skipped:
            return None
        try:
            with Image.open(BytesIO(self._bytes(name))) as image:
                self.shorter_side = self.shorter_side or min(image.size)
                return torch.from_numpy(frame(image, self.size, self.config).copy())
        except TooSmall as error:
            self.skipped[name] = str(error)
        except Exception as error:  # zipfile and the decoders raise nearly anything on a damaged file
            self.skipped[name] = f"unreadable ({type(error).__name__}: {error})"
        return None

    def _bytes(self, name: str) -> bytes:
        if self.path.is_dir():
            return (self.path / name).read_bytes()
        if self._archive is None or self._archive[0] != os.getpid():  # one handle a process
            self._archive = (os.getpid(), zipfile.ZipFile(self.path))
        return self._archive[1].read(name)

    def _nothing_left(self) -> UserError:
        name, reason = next(iter(self.skipped.items()))
        return UserError(f"data: none of the {len(self.skipped)} pictures in {self.path} can be used: {name}: {reason}")


def _list(path: Path) -> list[str]:
    """The pictures' names below the folder or in the zip, sorted; what macOS leaves beside them is passed over."""
    try:
        if path.is_dir():
            names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
        else:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"data: --data wants a folder or a zip of pictures, got {path} ({reason})") from error
    pictures = [
        name
        for name in names
        if name.lower().endswith(SUFFIXES) and "__MACOSX" not in name and not name.split("/")[-1].startswith("._")
    ]
    if not pictures:
        raise UserError(f"data: no pictures in {path}; wanted files ending in {' '.join(SUFFIXES)}")
    return sorted(pictures)


def _fingerprint(paths: list[str]) -> str:
    """Tells whether two sets of pictures have the same names in the same order, wherever they lie."""
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16]

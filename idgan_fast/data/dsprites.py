"""dSprites: binary 64x64 images on a full grid of factors, addressed by index.

The grid is that of the public set (Matthey et al., 2017): shape (3) x scale (6) x orientation (40) x x (32) x y (32)
= 737,280 images, y fastest. Our images are drawn by this module: the same factors and values, not the same pixels.
Each of the 720 shapes is drawn once on a canvas; a position is a window on it, so the whole set is 6.5 MB of bytes.
"""

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from idgan_fast.errors import UserError, shortened

SIZE = 64
FACTORS = ("shape", "scale", "orientation", "x", "y")
GRID = (3, 6, 40, 32, 32)
SHAPES = ("square", "ellipse", "heart")
SCALES = np.linspace(0.5, 1.0, 6)
ORIENTATIONS = np.linspace(0.0, 2 * math.pi, 40)  # both ends, as in the public set

MOST_IMAGES = 2**20  # of a file: packed they take 512 MiB
_RADIUS = 15.5  # of the circle that every shape at scale 1 stays in, in pixels: 32 positions one pixel apart fit
_CANVAS = SIZE + GRID[3] - 1


def factor_indices(indices: Tensor, grid: tuple[int, ...] = GRID) -> Tensor:
    """Positions in the set [N] -> the index of each factor [N, 5], in the order of FACTORS."""
    return torch.stack(torch.unravel_index(indices, grid), dim=1)


def flat_index(factors: Tensor, grid: tuple[int, ...] = GRID) -> Tensor:
    """The inverse of `factor_indices`: [N, 5] -> [N]."""
    strides = torch.tensor([math.prod(grid[i + 1 :]) for i in range(len(grid))])
    return (factors * strides).sum(1)


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points of the unit circle's plane (v upwards) lie in the shape, whose farthest point is at 1."""
    if shape == "square":
        return np.maximum(abs(u), abs(v)) <= math.sqrt(0.5)
    if shape == "ellipse":
        return u**2 + (v / 0.6) ** 2 <= 1
    a, b = u * 1.35, v * 1.35 + 0.1  # heart: (a^2 + b^2 - 1)^3 <= a^2 b^3
    return (a**2 + b**2 - 1) ** 3 <= a**2 * b**3


def _draw_canvases() -> Tensor:
    """A canvas for each shape, scale and orientation, drawn in its middle: uint8 [720, 95, 95], 0 or 255."""
    axis = np.arange(_CANVAS) - (_CANVAS - 1) / 2
    right, up = np.meshgrid(axis, -axis)  # [95, 95]
    angle = ORIENTATIONS[:, None, None]
    turned_u = np.cos(angle) * right + np.sin(angle) * up  # [40, 95, 95]
    turned_v = -np.sin(angle) * right + np.cos(angle) * up
    canvases = np.empty((*GRID[:3], _CANVAS, _CANVAS), np.uint8)
    for i, shape in enumerate(SHAPES):
        for j, scale in enumerate(SCALES):
            canvases[i, j] = 255 * _inside(shape, turned_u / (scale * _RADIUS), turned_v / (scale * _RADIUS))
    return torch.from_numpy(canvases).flatten(0, 2)


class _OnGrid:
    """What both sets share. `grid`: how many values each of FACTORS has."""

    channels = 1
    cached = True
    shorter_side: int | None = None

    def __init__(self, name: str, fingerprint: str, grid: tuple[int, ...]) -> None:
        self.name, self.fingerprint, self.grid = name, fingerprint, grid
        self.skipped: dict[str, str] = {}

    def changed(self) -> list[str]:
        """The images are in memory or drawn."""
        return []

    def factors(self, indices: Tensor) -> np.ndarray:
        return factor_indices(indices, self.grid).numpy()


class DSprites(_OnGrid):
    """The rendered set. `self[indices]`: a list or int64 tensor [N] -> uint8 [N, 1, 64, 64], 0 or 255."""

    def __init__(self) -> None:
        super().__init__("dSprites, rendered", "rendered", GRID)
        self._windows = _draw_canvases().unfold(1, SIZE, 1).unfold(2, SIZE, 1)  # [720, 32, 32, 64, 64], a view

    def __len__(self) -> int:
        return math.prod(GRID)

    def __getitem__(self, indices: list[int] | Tensor) -> Tensor:
        shape, x, y = torch.unravel_index(torch.as_tensor(indices), (math.prod(GRID[:3]), *GRID[3:]))
        top, left = GRID[4] - 1 - y, GRID[3] - 1 - x  # a window further left shows the shape further right
        return self._windows[shape, top, left].unsqueeze(1)


class DSpritesFile(_OnGrid):
    """The public `.npz` as it is distributed, kept as packed bits (377 MB in all, never unpacked at once)."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                with archive.open("latents_classes.npy") as member:
                    grid = _full_grid(_read_classes(member))
                with archive.open("imgs.npy") as member:
                    self._bits = _read_packed(member, math.prod(grid))
        except MemoryError:
            raise
        except Exception as error:  # a damaged file can make the parsers of zip and npy raise anything
            reason = f"{type(error).__name__}: {shortened(str(error), 200)}"
            raise UserError(f"data: {path} is not the public dSprites file ({reason}); download it again") from error
        super().__init__(f"dSprites from {path.name}", "public", grid)

    def __len__(self) -> int:
        return len(self._bits)

    def __getitem__(self, indices: list[int] | Tensor) -> Tensor:
        bits = self._bits[np.asarray(indices)]
        return torch.from_numpy(np.unpackbits(bits, axis=1) * np.uint8(255)).view(-1, 1, SIZE, SIZE)


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an .npy stream, which stands at its data then. ValueError where it is not in C's order."""
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("wanted version 1.0 of npy")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    if fortran and len(shape) > 1:
        raise ValueError("wanted C's order of dimensions, got Fortran's")
    return shape, dtype


def _read_exactly(member: IO[bytes], size: int) -> bytes:
    data = member.read(size)
    if len(data) < size:
        raise ValueError(f"{member.name} ends too early")
    return data


def _read_classes(member: IO[bytes]) -> np.ndarray:
    """An .npy stream of factor indices [N, 6] or [N, 5]. No more memory is taken than MOST_IMAGES rows need."""
    shape, dtype = _read_header(member)
    columns = (len(FACTORS), len(FACTORS) + 1)  # the public file has a constant color in front
    if len(shape) != 2 or shape[1] not in columns or not 0 < shape[0] <= MOST_IMAGES or dtype.kind not in "iu":
        raise ValueError(f"latents_classes is not a full grid: wanted integers [N, 6], got {dtype} {shape}")
    return np.frombuffer(_read_exactly(member, math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


def _full_grid(classes: np.ndarray) -> tuple[int, ...]:
    """The factors' sizes, from the rows of factor indices; ValueError unless they are a full grid in order."""
    classes = classes[:, -len(FACTORS) :]
    grid = tuple(int(n) + 1 for n in classes.max(0))
    if math.prod(grid) == len(classes):
        in_order = np.stack(np.unravel_index(np.arange(len(classes)), grid), 1)
        if np.array_equal(in_order, classes):
            return grid
    raise ValueError("latents_classes is not a full grid of factors in order")


def _read_packed(member: IO[bytes], count: int, chunk: int = 4096) -> np.ndarray:
    """An .npy stream of bytes [count, 64, 64] -> bits [count, 512], a chunk of images at a time."""
    shape, dtype = _read_header(member)
    if shape != (count, SIZE, SIZE) or dtype != np.uint8:
        raise ValueError(f"imgs must be uint8 [{count}, 64, 64], got {dtype} {shape}")
    packed = np.empty((count, SIZE * SIZE // 8), np.uint8)
    for start in range(0, count, chunk):
        rows = packed[start : start + chunk]
        raw = np.frombuffer(_read_exactly(member, len(rows) * SIZE * SIZE), np.uint8)
        rows[:] = np.packbits(raw.reshape(len(rows), -1), axis=1)
    if member.read(1):  # the checksum is compared at the end of the member
        raise ValueError("imgs is longer than its header says")
    return packed

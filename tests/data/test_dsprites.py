"""The rendered dSprites set and the public file."""

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from idgan_fast.data.dsprites import (
    FACTORS,
    GRID,
    ORIENTATIONS,
    SCALES,
    SHAPES,
    DSprites,
    DSpritesFile,
    factor_indices,
    flat_index,
)
from tests.common import error_of

TOTAL = 737_280
RADIUS = 15.5  # of the circle around every shape at scale 1, in pixels
SMALL_GRID = (2, 2, 3, 2, 2)


@pytest.fixture(scope="module")
def sprites() -> DSprites:
    return DSprites()


def pictures_at(sprites: DSprites, **factors: int | Tensor) -> Tensor:
    """Pictures [N, 64, 64] as booleans; factors that are not named are 0."""
    columns = torch.broadcast_tensors(*(torch.as_tensor(factors.get(name, 0)) for name in FACTORS))
    return sprites[flat_index(torch.stack(columns, dim=-1).reshape(-1, len(FACTORS)))][:, 0] == 255


def all_shapes_at(sprites: DSprites, x: int, y: int) -> Tensor:
    """The 720 combinations of shape, scale and orientation at one position: [3, 6, 40, 64, 64]."""
    shapes = torch.cartesian_prod(*(torch.arange(n) for n in GRID[:3]))
    pictures = pictures_at(sprites, shape=shapes[:, 0], scale=shapes[:, 1], orientation=shapes[:, 2], x=x, y=y)
    return pictures.unflatten(0, GRID[:3])


def held_bytes(dataset: object) -> int:
    """The bytes of all arrays and tensors that the object keeps."""
    total = 0
    for value in vars(dataset).values():
        if isinstance(value, Tensor):
            total += value.untyped_storage().nbytes()
        elif isinstance(value, np.ndarray):
            total += value.nbytes
    return total


def test_the_grid_is_the_public_one(sprites: DSprites) -> None:
    assert FACTORS == ("shape", "scale", "orientation", "x", "y")
    assert sprites.grid == GRID == (3, 6, 40, 32, 32)
    assert len(sprites) == math.prod(GRID) == TOTAL
    assert SHAPES == ("square", "ellipse", "heart")
    np.testing.assert_allclose(SCALES, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    np.testing.assert_allclose(ORIENTATIONS, [2 * math.pi * k / 39 for k in range(40)])


def test_factor_indices_and_flat_index_are_inverse() -> None:
    everything = torch.arange(TOTAL)
    factors = factor_indices(everything)
    assert factors.shape == (TOTAL, 5)
    assert torch.equal(factors.amax(0), torch.tensor(GRID) - 1)
    assert torch.equal(factors.amin(0), torch.zeros(5, dtype=torch.int64))
    assert torch.equal(flat_index(factors), everything)


def test_y_varies_fastest_and_shape_slowest() -> None:
    assert factor_indices(torch.tensor([1, 32, 1024, 40_960, 245_760])).tolist() == [
        [0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
    ]


def test_other_grids() -> None:
    factors = factor_indices(torch.arange(48), SMALL_GRID)
    assert factors.tolist() == [list(f) for f in product(*map(range, SMALL_GRID))]
    assert torch.equal(flat_index(factors, SMALL_GRID), torch.arange(48))


def test_pictures_are_binary_bytes(sprites: DSprites) -> None:
    pictures = sprites[torch.randint(TOTAL, (500,), generator=torch.Generator().manual_seed(0))]
    assert pictures.shape == (500, 1, 64, 64)
    assert pictures.dtype == torch.uint8
    assert pictures.unique().tolist() == [0, 255]


def test_lists_and_tensors_address_the_same_pictures(sprites: DSprites) -> None:
    indices = [0, 5, TOTAL - 1, 5, 300_000]
    pictures = sprites[indices]
    assert torch.equal(pictures, sprites[torch.tensor(indices)])
    assert torch.equal(pictures[1], pictures[3])
    for position, index in enumerate(indices):
        assert torch.equal(sprites[[index]][0], pictures[position])


@pytest.mark.parametrize("shape", range(3))
def test_the_whole_shape_is_inside_at_every_corner(sprites: DSprites, shape: int) -> None:
    center = all_shapes_at(sprites, 16, 16)[shape].sum((-1, -2))
    assert center.min() > 50
    for x, y in product((0, 31), repeat=2):
        assert torch.equal(all_shapes_at(sprites, x, y)[shape].sum((-1, -2)), center)


def test_positions_use_the_picture_evenly(sprites: DSprites) -> None:
    """Over all positions, the shapes leave as much room on the left as on the right, and above as below."""
    first, last = all_shapes_at(sprites, 0, 0), all_shapes_at(sprites, 31, 31)
    used = (first | last).flatten(0, 2).any(0)
    for axis in (0, 1):
        filled = used.any(axis).nonzero()
        assert filled.min() == 63 - filled.max()


@pytest.mark.parametrize("shape", range(3))
def test_one_step_in_x_is_one_pixel_to_the_right(sprites: DSprites, shape: int) -> None:
    pictures = pictures_at(sprites, shape=shape, scale=3, orientation=7, x=torch.arange(32), y=9)
    assert torch.equal(pictures[1:, :, 1:], pictures[:-1, :, :-1])
    assert not pictures[1:, :, 0].any()


@pytest.mark.parametrize("shape", range(3))
def test_one_step_in_y_is_one_pixel_downward(sprites: DSprites, shape: int) -> None:
    pictures = pictures_at(sprites, shape=shape, scale=3, orientation=7, x=9, y=torch.arange(32))
    assert torch.equal(pictures[1:, 1:, :], pictures[:-1, :-1, :])
    assert not pictures[1:, 0, :].any()


def test_area_grows_with_the_square_of_the_scale(sprites: DSprites) -> None:
    areas = all_shapes_at(sprites, 16, 16).sum((-1, -2)).double()  # [3, 6, 40]
    assert (areas.diff(dim=1) > 0).all()
    mean = areas.mean(2).numpy()
    np.testing.assert_allclose(mean / mean[:, -1:], np.broadcast_to(SCALES**2, mean.shape), rtol=0.03)


def test_turning_keeps_the_area(sprites: DSprites) -> None:
    largest = all_shapes_at(sprites, 16, 16)[:, -1].sum((-1, -2)).double()  # [3, 40]
    np.testing.assert_allclose(largest / largest.mean(1, keepdim=True), 1, atol=0.09)


def test_the_first_and_last_orientation_are_the_same_picture(sprites: DSprites) -> None:
    pictures = all_shapes_at(sprites, 3, 28)
    assert torch.equal(pictures[:, :, 0], pictures[:, :, 39])
    assert not torch.equal(pictures[:, :, 0], pictures[:, :, 1])


def test_the_three_shapes_differ(sprites: DSprites) -> None:
    square, ellipse, heart = pictures_at(sprites, shape=torch.arange(3), scale=5, x=16, y=16)
    for one, other in ((square, ellipse), (ellipse, heart), (square, heart)):
        assert (one ^ other).sum() > 60


def test_the_heart_stands_upright_at_orientation_0(sprites: DSprites) -> None:
    (heart,) = pictures_at(sprites, shape=2, scale=5, x=16, y=16)
    columns = heart.any(0).nonzero()
    heart = heart[:, columns.min() : columns.max() + 1]
    assert torch.equal(heart, heart.flip(1))
    widths = heart.sum(1)[heart.any(1)]
    assert widths[-1] <= 4, "the point is below"
    assert widths.argmax() < len(widths) / 2, "the wide part is above"
    top = heart[heart.any(1).nonzero().min()]
    assert not top[len(top) // 2], "there is a notch between the two halves"


def draw_slowly(inside: Callable[[float, float], bool], x: int, y: int) -> Tensor:
    """A picture from a test of each pixel's center; right and up are counted from the shape's center."""
    picture = torch.zeros(64, 64, dtype=torch.bool)
    for row in range(64):
        for column in range(64):
            picture[row, column] = inside(column - (16 + x), (16 + y) - row)
    return picture


@pytest.mark.parametrize("orientation", [0, 5, 31])
def test_an_ellipse_against_its_two_foci(sprites: DSprites, orientation: int) -> None:
    """Half axes r and 0.6 r, the long one turned counterclockwise from the right."""
    scale, x, y = 4, 20, 7
    half_axis = RADIUS * (0.5 + 0.1 * scale)
    angle = 2 * math.pi * orientation / 39
    focus = 0.8 * half_axis * math.cos(angle), 0.8 * half_axis * math.sin(angle)

    def inside(right: float, up: float) -> bool:
        one = math.hypot(right - focus[0], up - focus[1])
        other = math.hypot(right + focus[0], up + focus[1])
        return one + other <= 2 * half_axis

    (picture,) = pictures_at(sprites, shape=1, scale=scale, orientation=orientation, x=x, y=y)
    assert (picture ^ draw_slowly(inside, x, y)).sum() <= 4


@pytest.mark.parametrize("orientation", [0, 5, 31])
def test_a_square_against_its_four_corners(sprites: DSprites, orientation: int) -> None:
    scale, x, y = 2, 3, 30
    radius = RADIUS * (0.5 + 0.1 * scale)
    angles = [2 * math.pi * orientation / 39 + math.pi / 4 + k * math.pi / 2 for k in range(5)]
    corners = [(radius * math.cos(a), radius * math.sin(a)) for a in angles]

    def inside(right: float, up: float) -> bool:
        """On the left of every side, walking around counterclockwise."""
        sides = zip(corners[:-1], corners[1:], strict=True)
        return all((bx - ax) * (up - ay) - (by - ay) * (right - ax) >= 0 for (ax, ay), (bx, by) in sides)

    (picture,) = pictures_at(sprites, shape=0, scale=scale, orientation=orientation, x=x, y=y)
    assert (picture ^ draw_slowly(inside, x, y)).sum() <= 4


class LargestResult(TorchDispatchMode):
    """Remembers the bytes of the largest new storage that an operator returned."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known, self.largest = known, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


def test_the_set_is_small_and_fetching_makes_no_more_than_the_batch(sprites: DSprites) -> None:
    assert 0 < held_bytes(sprites) < 10e6
    before = {v.untyped_storage().data_ptr() for v in vars(sprites).values() if isinstance(v, Tensor)}
    with LargestResult(before) as seen:
        batch = sprites[torch.arange(0, TOTAL, TOTAL // 256)[:256]]
    assert 0 < seen.largest <= 256 * 64 * 64
    assert batch.untyped_storage().nbytes() == 256 * 64 * 64
    assert {v.untyped_storage().data_ptr() for v in vars(sprites).values() if isinstance(v, Tensor)} == before


def test_a_batch_is_a_copy(sprites: DSprites) -> None:
    batch = sprites[[1000]]
    expected = batch.clone()
    batch.fill_(7)
    assert torch.equal(sprites[[1000]], expected)


def test_two_sets_are_equal(sprites: DSprites) -> None:
    indices = torch.randint(TOTAL, (300,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(DSprites()[indices], sprites[indices])


class Forbidden:
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple:
        return exec, ("raise AssertionError('the file was unpickled')",)


def public_arrays(grid: tuple[int, ...] = SMALL_GRID) -> dict[str, np.ndarray]:
    """The arrays of the public file on a small grid, with random pictures."""
    count = math.prod(grid)
    classes = np.array(list(product([0], *map(range, grid))), np.int64)
    pictures = np.random.default_rng(0).integers(0, 2, (count, 64, 64), np.uint8)
    pickled = np.empty((), object)
    pickled[()] = Forbidden()
    return {
        "metadata": pickled,
        "imgs": pictures,
        "latents_classes": classes,
        "latents_values": classes.astype(np.float64),
    }


def write(path: Path, arrays: dict[str, np.ndarray], compressed: bool = True) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("compressed", [True, False])
def test_the_public_file(tmp_path: Path, compressed: bool) -> None:
    arrays = public_arrays()
    dataset = DSpritesFile(write(tmp_path / "dsprites.npz", arrays, compressed))
    assert len(dataset) == 48
    assert dataset.grid == SMALL_GRID
    assert dataset.channels == 1
    pictures = dataset[torch.arange(48)]
    assert pictures.shape == (48, 1, 64, 64)
    assert pictures.dtype == torch.uint8
    assert torch.equal(pictures[:, 0], torch.from_numpy(arrays["imgs"] * np.uint8(255)))
    assert torch.equal(dataset[[47, 3, 3]], pictures[[47, 3, 3]])
    factors = factor_indices(torch.arange(48), dataset.grid)
    assert np.array_equal(factors.numpy(), arrays["latents_classes"][:, 1:])


def test_a_public_file_longer_than_one_chunk_is_kept_as_bits(tmp_path: Path) -> None:
    grid = (1, 1, 1, 60, 75)
    arrays = public_arrays((1, 1, 1, 1, 1))
    arrays["latents_classes"] = np.array(list(product([0], *map(range, grid))), np.int64)
    numbers = np.arange(4500)
    arrays["imgs"] = np.zeros((4500, 64, 64), np.uint8)
    arrays["imgs"][:, 5, :16] = numbers[:, None] >> np.arange(16) & 1  # each picture shows its own number
    dataset = DSpritesFile(write(tmp_path / "long.npz", arrays))
    assert held_bytes(dataset) == 4500 * 64 * 64 // 8
    shown = dataset[numbers.tolist()][:, 0, 5, :16].numpy() // 255
    assert np.array_equal((shown.astype(np.int64) << np.arange(16)).sum(1), numbers)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 0.9999])
def test_a_truncated_public_file(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "cut.npz", public_arrays())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    text = error_of(lambda: DSpritesFile(path))
    assert str(path) in text
    assert "download it again" in text


@pytest.mark.parametrize("key", ["imgs", "latents_classes"])
def test_a_public_file_without_a_key(tmp_path: Path, key: str) -> None:
    arrays = public_arrays()
    del arrays[key]
    path = write(tmp_path / "less.npz", arrays)
    text = error_of(lambda: DSpritesFile(path))
    assert str(path) in text
    assert key in text


def test_a_public_file_with_a_hole_in_the_grid(tmp_path: Path) -> None:
    arrays = public_arrays()
    for key in ("imgs", "latents_classes"):
        arrays[key] = np.delete(arrays[key], 20, axis=0)
    path = write(tmp_path / "hole.npz", arrays)
    text = error_of(lambda: DSpritesFile(path))
    assert str(path) in text
    assert "full grid" in text


def test_a_public_file_in_another_order(tmp_path: Path) -> None:
    arrays = public_arrays()
    arrays["latents_classes"] = arrays["latents_classes"][::-1]
    path = write(tmp_path / "order.npz", arrays)
    assert "full grid of factors in order" in error_of(lambda: DSpritesFile(path))


def test_a_public_file_with_fewer_pictures_than_factors(tmp_path: Path) -> None:
    arrays = public_arrays()
    arrays["imgs"] = arrays["imgs"][:-1]
    path = write(tmp_path / "fewer.npz", arrays)
    assert str(path) in error_of(lambda: DSpritesFile(path))


@pytest.mark.parametrize("wrong", [np.zeros((48, 32, 32), np.uint8), np.zeros((48, 64, 64), np.float32)])
def test_pictures_of_another_size_or_type(tmp_path: Path, wrong: np.ndarray) -> None:
    path = write(tmp_path / "size.npz", {**public_arrays(), "imgs": wrong})
    assert "imgs must be uint8 [48, 64, 64]" in error_of(lambda: DSpritesFile(path))


def test_classes_that_need_unpickling_are_refused(tmp_path: Path) -> None:
    arrays = public_arrays()
    path = write(tmp_path / "pickled.npz", {**arrays, "latents_classes": arrays["metadata"]})
    assert str(path) in error_of(lambda: DSpritesFile(path))


def test_a_public_file_that_is_not_there(tmp_path: Path) -> None:
    assert "nowhere.npz" in error_of(lambda: DSpritesFile(tmp_path / "nowhere.npz"))


def npz(path: Path, classes: np.ndarray, count: int | None = None) -> Path:
    classes = np.asarray(classes)
    imgs = np.zeros((len(classes) if count is None else count, 64, 64), np.uint8)
    np.savez_compressed(path, imgs=imgs, latents_classes=classes)
    return path


def grid() -> np.ndarray:
    return np.array(list(product([0], *map(range, (2, 2, 2, 2, 2)))), np.int64)


@pytest.mark.parametrize("kept", [17, 31])
def test_a_public_file_whose_end_is_missing(tmp_path: Path, kept: int) -> None:
    path = npz(tmp_path / "a.npz", grid()[:kept])
    assert "full grid" in error_of(lambda: DSpritesFile(path))


@pytest.mark.parametrize(
    "classes",
    [np.concatenate([grid(), grid()]), np.zeros(4, np.int64), np.zeros((0, 6), np.int64), np.zeros((4, 6), np.float32)],
    ids=["twice", "flat", "empty", "float"],
)
def test_a_public_file_with_odd_classes(tmp_path: Path, classes: np.ndarray) -> None:
    path = npz(tmp_path / "a.npz", classes)
    assert str(path) in error_of(lambda: DSpritesFile(path))


def test_a_public_file_damaged_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    pictures = np.random.default_rng(0).integers(0, 2, (32, 64, 64), np.uint8)
    np.savez_compressed(path, imgs=pictures, latents_classes=grid())
    content = bytearray(path.read_bytes())
    for i in range(300, 400):
        content[i] ^= 0x33
    path.write_bytes(content)
    assert str(path) in error_of(lambda: DSpritesFile(path))

"""Pictures from a folder or a zip: formats, framing, and what is skipped."""

import io
import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data import batches
from idgan_fast.data.images import ImageFiles
from tests.common import error_of

UNCACHED = ImagesConfig(cache_gib=0)


def noise(width: int = 64, height: int = 64, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random pixels [height, width, channels], or [height, width] for one channel."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def smooth(width: int, height: int) -> np.ndarray:
    """A picture without fine detail, different at every place."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    parts = [np.sin(5 * x + 2 * y), np.cos(3 * x - 6 * y), np.sin(7 * x * y + 1)]
    return np.rint(127.5 + 120 * np.stack(parts, -1)).astype(np.uint8)


def put(folder: Path, name: str, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    """Save a picture below the folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def solid(folder: Path, name: str, value: int) -> None:
    put(folder, name, np.full((64, 64, 3), value, np.uint8))


def only(folder: Path, size: int = 64, **settings: object) -> np.ndarray:
    """The folder's one picture as [size, size, channels]."""
    dataset = ImageFiles(folder, size, ImagesConfig(**settings))  # type: ignore[arg-type]
    assert len(dataset) == 1
    assert dataset.skipped == {}
    pictures = dataset[[0]]
    assert pictures.dtype == torch.uint8
    assert pictures.shape == (1, dataset.channels, size, size)
    return pictures[0].permute(1, 2, 0).numpy()


def spoil(folder: Path) -> set[str]:
    """Put pictures that cannot be read into the folder; their names."""
    whole = put(folder, "whole.png", noise(100, 100)).read_bytes()
    (folder / "whole.png").unlink()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.webp").write_bytes(b"")
    (folder / "text.jpg").write_text("this is no picture")
    return {"cut.png", "empty.webp", "text.jpg"}


# ---- where pictures come from


def test_a_nested_folder(tmp_path: Path) -> None:
    for number, name in enumerate(["b.png", "a/2.png", "a/deep/er/1.PNG", "c.bmp"]):
        solid(tmp_path, name, 10 * number)
    dataset = ImageFiles(tmp_path, 64, ImagesConfig())
    assert sorted(dataset.paths) == ["a/2.png", "a/deep/er/1.PNG", "b.png", "c.bmp"]
    assert dataset.paths == sorted(dataset.paths)
    assert len(dataset) == 4
    assert dataset[torch.arange(4)][:, 0, 0, 0].tolist() == [10, 20, 0, 30]


@pytest.mark.parametrize("cache_gib", [2.0, 0.0])
def test_a_zip_gives_what_its_folder_gives(tmp_path: Path, cache_gib: float) -> None:
    folder, config = tmp_path / "pictures", ImagesConfig(cache_gib=cache_gib)
    for number in range(5):
        put(folder, f"{number % 2}/{number}.png", noise(70 + number, 80, seed=number))
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.mkdir("0") if hasattr(file, "mkdir") else None
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder).as_posix())
    unpacked, packed = ImageFiles(folder, 64, config), ImageFiles(archive, 64, config)
    assert packed.cached is unpacked.cached is (cache_gib > 0)
    assert packed.paths == unpacked.paths
    assert torch.equal(packed[[4, 0, 2]], unpacked[[4, 0, 2]])


def test_other_files_and_the_mac_copies_in_a_zip_are_passed_over(tmp_path: Path) -> None:
    solid(tmp_path / "in", "face.png", 9)
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(tmp_path / "in" / "face.png", "faces/face.png")
        file.writestr("__MACOSX/faces/._face.png", b"\x00\x05\x16\x07")
        file.writestr("faces/list.txt", "face.png 1")
        file.writestr("faces/labels.csv", "1,2")
    dataset = ImageFiles(archive, 64, ImagesConfig())
    assert dataset.paths == ["faces/face.png"]
    assert dataset.skipped == {}


def test_other_files_in_a_folder_are_passed_over(tmp_path: Path) -> None:
    solid(tmp_path, "face.png", 9)
    for name in ("readme.txt", "Thumbs.db", ".DS_Store", "png", "movie.mp4"):
        (tmp_path / name).write_text("other")
    (tmp_path / "folder.png").mkdir()
    dataset = ImageFiles(tmp_path, 64, ImagesConfig())
    assert dataset.paths == ["face.png"]
    assert dataset.skipped == {}


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.png", {}, 0),
        ("a.bmp", {}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("b.webp", {"quality": 95}, 14),
        ("a.jpg", {"quality": 95}, 8),
        ("a.jpeg", {"quality": 95, "progressive": True}, 8),
        ("A.JPG", {"quality": 95}, 8),
    ],
)
def test_formats(tmp_path: Path, name: str, options: dict, tolerance: int) -> None:
    pixels = smooth(64, 64)
    put(tmp_path, name, pixels, **options)
    assert abs(only(tmp_path).astype(int) - pixels).max() <= tolerance


# ---- gray, transparent and unusual pictures


@pytest.mark.parametrize("name", ["a.png", "a.bmp"])
def test_gray_becomes_three_equal_channels(tmp_path: Path, name: str) -> None:
    pixels = noise(channels=1)
    put(tmp_path, name, pixels)
    assert np.array_equal(only(tmp_path), np.repeat(pixels[:, :, None], 3, axis=2))


def test_one_channel_of_a_gray_picture(tmp_path: Path) -> None:
    pixels = noise(channels=1)
    put(tmp_path, "a.png", pixels)
    assert np.array_equal(only(tmp_path, channels=1)[:, :, 0], pixels)


def test_one_channel_of_a_colored_picture(tmp_path: Path) -> None:
    pixels = noise()
    put(tmp_path, "a.png", pixels)
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    assert abs(only(tmp_path, channels=1)[:, :, 0] - luma).max() <= 1


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    pixels = np.dstack([noise(), np.full((64, 64), 255, np.uint8)])
    pixels[:32, :, 3] = 0
    pixels[32:40, :] = (0, 100, 200, 128)
    put(tmp_path, "a.png", pixels)
    result = only(tmp_path)
    assert (result[:32] == 255).all()
    assert abs(result[32:40].astype(int) - [127, 177, 227]).max() <= 1
    assert np.array_equal(result[40:], pixels[40:, :, :3])


def test_transparent_webp(tmp_path: Path) -> None:
    pixels = np.dstack([noise(), np.full((64, 64), 255, np.uint8)])
    pixels[:32, :, 3] = 0
    put(tmp_path, "a.webp", pixels, lossless=True)
    result = only(tmp_path)
    assert (result[:32] == 255).all()
    assert np.array_equal(result[32:], pixels[32:, :, :3])


def test_transparent_gray(tmp_path: Path) -> None:
    pixels = np.dstack([noise(channels=1), np.full((64, 64), 255, np.uint8)])
    pixels[:, 10:20, 1] = 0
    put(tmp_path, "a.png", Image.fromarray(pixels, "LA"))
    result = only(tmp_path, channels=1)[:, :, 0]
    assert (result[:, 10:20] == 255).all()
    assert np.array_equal(result[:, 20:], pixels[:, 20:, 0])


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    indices = np.random.default_rng(0).integers(0, 3, (64, 64), np.uint8)
    image = Image.fromarray(indices, "P")
    palette = [200, 10, 20, 1, 2, 3, 90, 80, 70]
    image.putpalette(palette)
    put(tmp_path, "a.png", image, transparency=transparency)
    expected = np.array(palette, np.uint8).reshape(3, 3)
    expected[1] = 255
    assert np.array_equal(only(tmp_path), expected[indices])


def test_palette_without_transparency(tmp_path: Path) -> None:
    indices = np.random.default_rng(0).integers(0, 3, (64, 64), np.uint8)
    image = Image.fromarray(indices, "P")
    palette = [200, 10, 20, 1, 2, 3, 90, 80, 70]
    image.putpalette(palette)
    put(tmp_path, "a.png", image)
    assert np.array_equal(only(tmp_path), np.array(palette, np.uint8).reshape(3, 3)[indices])


@pytest.mark.parametrize(("transparent", "pixels"), [((7, 8, 9), noise()), (7, noise(channels=1))])
def test_one_transparent_color(tmp_path: Path, transparent: int | tuple, pixels: np.ndarray) -> None:
    pixels = pixels.copy()
    pixels[:5, :5] = transparent
    put(tmp_path, "a.png", pixels, transparency=transparent)
    result = only(tmp_path)
    assert (result[:5, :5] == 255).all()
    assert (result[5:] != 255).any()


def test_black_and_white(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (64, 64)).astype(bool)
    put(tmp_path, "a.png", pixels)
    assert np.array_equal(only(tmp_path, channels=1)[:, :, 0], pixels * np.uint8(255))


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_gray_keeps_the_upper_byte(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (64, 64)).astype(np.uint16)
    put(tmp_path, "a.png", pixels)
    result = only(tmp_path, channels=channels)
    assert np.array_equal(result, np.repeat((pixels // 256).astype(np.uint8)[:, :, None], channels, axis=2))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", Image.new("CMYK", (64, 64), (0, 255, 255, 0)), quality=95)
    assert abs(only(tmp_path).astype(int) - [255, 0, 0]).max() <= 4


# ---- EXIF

TURNED = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    pixels = noise()
    exif = Image.Exif()
    exif[0x0112] = orientation
    put(tmp_path, "a.png", pixels, exif=exif)
    assert np.array_equal(only(tmp_path), TURNED[orientation](pixels))


def test_a_turned_jpeg_is_turned_before_it_is_cropped(tmp_path: Path) -> None:
    """Stored lying, shown standing: the crop takes the middle of what is shown."""
    shown = np.zeros((128, 64, 3), np.uint8)
    shown[32:64], shown[64:96] = (200, 0, 0), (0, 0, 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    put(tmp_path, "a.jpg", np.ascontiguousarray(np.rot90(shown)), exif=exif, quality=100, subsampling=0)
    result = only(tmp_path).astype(int)
    assert abs(result[:30] - [200, 0, 0]).max() <= 12
    assert abs(result[34:] - [0, 0, 200]).max() <= 12


# ---- framing


@pytest.mark.parametrize("framing", ["crop", "squash"])
def test_a_picture_of_the_right_size_is_untouched(tmp_path: Path, framing: str) -> None:
    pixels = noise()
    put(tmp_path, "a.png", pixels)
    assert np.array_equal(only(tmp_path, framing=framing), pixels)


@pytest.mark.parametrize(("width", "height"), [(160, 64), (64, 160), (161, 64), (64, 65)])
def test_the_crop_is_centered(tmp_path: Path, width: int, height: int) -> None:
    pixels = noise(width, height)
    put(tmp_path, "a.png", pixels)
    left, top = (width - 64) // 2, (height - 64) // 2
    assert np.array_equal(only(tmp_path), pixels[top : top + 64, left : left + 64])


def test_a_given_crop_is_centered(tmp_path: Path) -> None:
    """CelebA's: 160 of 178 x 218."""
    pixels = np.zeros((218, 178, 3), np.uint8)
    pixels[29:189, 9:169] = 255
    put(tmp_path, "a.png", pixels)
    result = only(tmp_path, crop=160)
    assert (result[4:-4, 4:-4] == 255).all()
    assert np.array_equal(result, result[::-1, ::-1])
    assert (only(tmp_path, crop=166)[[0, -1]] < 100).all()


def test_a_crop_of_exactly_the_target_size(tmp_path: Path) -> None:
    pixels = noise(200, 100)
    put(tmp_path, "a.png", pixels)
    assert np.array_equal(only(tmp_path, crop=64), pixels[18:82, 68:132])


def test_a_crop_larger_than_the_picture_takes_the_shorter_side(tmp_path: Path) -> None:
    put(tmp_path, "a.png", noise(150, 120))
    assert np.array_equal(only(tmp_path, crop=500), only(tmp_path))


def test_a_picture_smaller_than_the_target_is_enlarged(tmp_path: Path) -> None:
    pixels = smooth(20, 16)
    put(tmp_path, "a.png", pixels)
    result = only(tmp_path).astype(float)
    shrunk = result.reshape(16, 4, 16, 4, 3).mean((1, 3))
    assert abs(shrunk - pixels[:, 2:18]).mean() < 4


def test_squash_keeps_the_whole_picture(tmp_path: Path) -> None:
    pixels = np.zeros((64, 256, 3), np.uint8)
    pixels[:, 128:] = 255
    put(tmp_path, "a.png", pixels)
    result = only(tmp_path, framing="squash")
    assert (result[:, :28] == 0).all()
    assert (result[:, 36:] == 255).all()
    assert (only(tmp_path) == 0)[:, :28].all()


def test_squash_of_a_standing_picture(tmp_path: Path) -> None:
    pixels = np.zeros((256, 64, 3), np.uint8)
    pixels[:32], pixels[224:] = 255, 255
    put(tmp_path, "a.png", pixels)
    assert (only(tmp_path) == 0).all()
    result = only(tmp_path, framing="squash")
    assert (result[:5] == 255).all()
    assert (result[-5:] == 255).all()
    assert (result[12:-12] == 0).all()


def test_resizing_is_lanczos(tmp_path: Path) -> None:
    pixels = noise(150, 100)
    put(tmp_path, "a.png", pixels)
    expected = Image.fromarray(pixels[:, 25:125]).resize((64, 64), Image.Resampling.LANCZOS)
    inner = slice(4, -4)
    assert np.array_equal(only(tmp_path)[inner, inner], np.asarray(expected)[inner, inner])


@pytest.mark.parametrize("settings", [{}, {"crop": 160}, {"framing": "squash"}])
@pytest.mark.parametrize(("width", "height"), [(178, 218), (300, 200)])
def test_both_stages_see_the_same_framing(tmp_path: Path, settings: dict, width: int, height: int) -> None:
    put(tmp_path, "a.png", smooth(width, height))
    small = only(tmp_path, **settings).astype(float)
    large = only(tmp_path, size=256, **settings).astype(float)
    shrunk = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert abs(shrunk - small).mean() < 1
    assert abs(shrunk - small).max() < 6


@pytest.mark.parametrize("cache_gib", [2.0, 0.0])
def test_pictures_under_min_side_are_skipped_and_counted(tmp_path: Path, cache_gib: float) -> None:
    put(tmp_path, "big.png", np.full((64, 65, 3), 1, np.uint8))
    put(tmp_path, "low.png", np.full((63, 300, 3), 2, np.uint8))
    put(tmp_path, "narrow.png", np.full((300, 63, 3), 3, np.uint8))
    dataset = ImageFiles(tmp_path, 64, ImagesConfig(min_side=64, framing="squash", cache_gib=cache_gib))
    assert (dataset[torch.arange(len(dataset))] == 1).all()
    assert set(dataset.skipped) == {"low.png", "narrow.png"}
    assert all("63" in reason and "64" in reason for reason in dataset.skipped.values())


# ---- pictures that cannot be read


def test_unreadable_pictures_are_left_out_of_the_cache(tmp_path: Path) -> None:
    for number in range(3):
        solid(tmp_path, f"good{number}.png", number)
    bad = spoil(tmp_path)
    dataset = ImageFiles(tmp_path, 64, ImagesConfig())
    assert dataset.cached
    assert set(dataset.skipped) == bad
    assert all(dataset.skipped.values())
    assert len(dataset) == len(dataset.paths) == 3
    assert dataset[[0, 1, 2]][:, 0, 0, 0].tolist() == [0, 1, 2]


def test_unreadable_pictures_are_replaced_where_nothing_is_cached(tmp_path: Path) -> None:
    for number in range(3):
        solid(tmp_path, f"good{number}.png", number)
    bad = spoil(tmp_path)
    dataset = ImageFiles(tmp_path, 64, UNCACHED)
    assert not dataset.cached
    assert dataset.skipped == {}
    pictures = dataset[torch.arange(len(dataset))]
    assert len(pictures) == 6
    values = pictures.flatten(1)
    assert (values == values[:, :1]).all(), "each picture is one of the solid ones"
    assert set(values[:, 0].tolist()) == {0, 1, 2}
    assert set(dataset.skipped) == bad
    assert torch.equal(dataset[torch.arange(6)], pictures)
    assert set(dataset.skipped) == bad


def test_unreadable_pictures_in_a_zip(tmp_path: Path) -> None:
    good = io.BytesIO()
    Image.fromarray(noise()).save(good, "PNG")
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a/good.png", good.getvalue())
        file.writestr("a/cut.png", good.getvalue()[:300])
    for config in (ImagesConfig(), UNCACHED):
        dataset = ImageFiles(archive, 64, config)
        pictures = dataset[list(range(len(dataset)))]
        assert np.array_equal(pictures[0].permute(1, 2, 0).numpy(), noise())
        assert set(dataset.skipped) == {"a/cut.png"}


def test_a_damaged_stored_member_of_a_zip_is_skipped(tmp_path: Path) -> None:
    """The bytes are there but fail the archive's checksum."""
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(2):
            buffer = io.BytesIO()
            Image.fromarray(noise(seed=number)).save(buffer, "BMP")
            file.writestr(f"{number}.bmp", buffer.getvalue())
    content = bytearray(archive.read_bytes())
    content[5000] ^= 0xFF
    archive.write_bytes(content)
    dataset = ImageFiles(archive, 64, ImagesConfig())
    assert set(dataset.skipped) == {"0.bmp"}
    assert np.array_equal(dataset[[0]][0].permute(1, 2, 0).numpy(), noise(seed=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_loader_process_skips_is_counted(tmp_path: Path, workers: int) -> None:
    for number in range(4):
        solid(tmp_path, f"good{number}.png", number)
    bad = spoil(tmp_path)
    dataset = ImageFiles(tmp_path, 64, UNCACHED)
    source = batches(dataset, batch_size=4, seed=0, start=0, workers=workers)
    fetched = torch.cat(list(islice(source, 4)))  # two epochs of seven and more
    assert set(fetched[:, 0, 0, 0].tolist()) == {0, 1, 2, 3}
    assert set(dataset.skipped) == bad
    assert all(dataset.skipped.values())


def test_what_the_cache_skipped_stays_counted_while_batches_are_read(tmp_path: Path) -> None:
    solid(tmp_path, "good.png", 5)
    bad = spoil(tmp_path)
    dataset = ImageFiles(tmp_path, 64, ImagesConfig())
    next(batches(dataset, batch_size=2, seed=0, start=0, workers=1))
    assert set(dataset.skipped) == bad


@pytest.mark.parametrize("config", [ImagesConfig(), UNCACHED], ids=["cached", "uncached"])
def test_nothing_but_unreadable_pictures(tmp_path: Path, config: ImagesConfig) -> None:
    bad = spoil(tmp_path)
    text = error_of(lambda: ImageFiles(tmp_path, 64, config)[[0]])
    assert str(tmp_path) in text
    assert "3 pictures" in text
    assert any(name in text for name in bad)


def test_an_empty_folder(tmp_path: Path) -> None:
    text = error_of(lambda: ImageFiles(tmp_path, 64, ImagesConfig()))
    assert str(tmp_path) in text
    assert ".png" in text


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("none here")
    assert "no pictures" in error_of(lambda: ImageFiles(tmp_path, 64, ImagesConfig()))


def test_a_zip_without_pictures(tmp_path: Path) -> None:
    archive = tmp_path / "empty.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "none here")
    text = error_of(lambda: ImageFiles(archive, 64, ImagesConfig()))
    assert str(archive) in text
    assert "no pictures" in text


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    text = error_of(lambda: ImageFiles(tmp_path / "nowhere", 64, ImagesConfig()))
    assert str(tmp_path / "nowhere") in text
    assert "No such file" in text


def test_a_file_that_is_no_zip(tmp_path: Path) -> None:
    path = tmp_path / "faces.zip"
    path.write_text("this is no archive")
    text = error_of(lambda: ImageFiles(path, 64, ImagesConfig()))
    assert str(path) in text
    assert "folder or a zip" in text


def test_a_truncated_zip(tmp_path: Path) -> None:
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", noise().tobytes())
    archive.write_bytes(archive.read_bytes()[:-40])
    assert str(archive) in error_of(lambda: ImageFiles(archive, 64, ImagesConfig()))


# ---- the cache


def test_cached_and_uncached_pictures_are_equal(tmp_path: Path) -> None:
    for number in range(6):
        put(tmp_path, f"{number}.jpg", noise(90, 70 + number, seed=number))
    cached, uncached = ImageFiles(tmp_path, 64, ImagesConfig()), ImageFiles(tmp_path, 64, UNCACHED)
    assert cached.cached
    assert not uncached.cached
    order = torch.tensor([5, 0, 3, 3])
    assert torch.equal(cached[order], uncached[order])
    assert torch.equal(cached[order.tolist()], uncached[order.tolist()])


def test_the_cache_is_bounded_by_cache_gib(tmp_path: Path) -> None:
    for number in range(4):
        solid(tmp_path, f"{number}.png", number)
    need = 4 * 3 * 64 * 64 / 2**30
    assert ImageFiles(tmp_path, 64, ImagesConfig(cache_gib=need)).cached
    assert not ImageFiles(tmp_path, 64, ImagesConfig(cache_gib=0.99 * need)).cached


CONFIGS = pytest.mark.parametrize("config", [ImagesConfig(), ImagesConfig(cache_gib=0)], ids=["cached", "uncached"])


def bmp(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 40, (64, 64, 3), np.uint8)).save(buffer, "BMP")
    return buffer.getvalue()


def archive(path: Path) -> tuple[Path, bytearray, int, list[int]]:
    """A deflated zip of two pictures, its bytes, and where its directory and members start."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("0.bmp", bmp(0))
        file.writestr("1.bmp", bmp(1))
    with zipfile.ZipFile(path) as file:
        return path, bytearray(path.read_bytes()), file.start_dir, [i.header_offset for i in file.infolist()]


@CONFIGS
def test_a_damaged_deflated_member_is_skipped(tmp_path: Path, config: ImagesConfig) -> None:
    path, content, _, (first, _) = archive(tmp_path / "a.zip")
    content[first + 60 : first + 160] = b"\xff" * 100
    path.write_bytes(content)
    dataset = ImageFiles(path, 64, config)
    dataset[[0]]
    assert set(dataset.skipped) == {"0.bmp"}


@CONFIGS
@pytest.mark.parametrize("kind", ["encrypted", "unknown compression"])
def test_a_member_that_zipfile_cannot_read_is_skipped(tmp_path: Path, kind: str, config: ImagesConfig) -> None:
    path, content, directory, (first, _) = archive(tmp_path / "a.zip")
    if kind == "encrypted":
        content[directory + 8] |= 1
        content[first + 6] |= 1
    else:
        content[directory + 10] = content[first + 8] = 97
    path.write_bytes(content)
    dataset = ImageFiles(path, 64, config)
    dataset[[0]]
    assert set(dataset.skipped) == {"0.bmp"}


def test_a_zip_with_a_damaged_directory(tmp_path: Path) -> None:
    path, content, directory, _ = archive(tmp_path / "a.zip")
    content[directory] ^= 1
    path.write_bytes(content)
    assert str(path) in error_of(lambda: ImageFiles(path, 64, ImagesConfig()))


def test_nothing_outside_the_crop_leaks_in(tmp_path: Path) -> None:
    pixels = np.zeros((218, 178, 3), np.uint8)
    pixels[29:189, 9:169] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    dataset = ImageFiles(tmp_path, 64, ImagesConfig(crop=160))
    assert (dataset[[0]] == 255).all()


@pytest.mark.parametrize("block", [b"Exif\0\0" + b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 40, b"Exif\0\0II*\0"])
def test_a_broken_exif_block_says_nothing(tmp_path: Path, block: bytes) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=block)
    dataset = ImageFiles(tmp_path, 64, ImagesConfig())
    assert dataset.skipped == {}
    assert dataset[[0]].float().std() > 20

"""Which files are images: what Pillow reads without an error, whichever loader is used; the others are named alike."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data import dali
from idgan_fast.data.headers import plain_size
from idgan_fast.data.images import ImageFiles
from tests.data.test_dali import by_dali, by_torch, files, turned
from tests.data.test_images import UNCACHED, noise, put, smooth

CPU = torch.device("cpu")
needs_dali = pytest.mark.skipif(dali.why_not(CPU) is not None, reason=str(dali.why_not(CPU)))
Data = dict[str, bytes]


def encoded(fmt: str, pixels: np.ndarray | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(smooth(97, 71) if pixels is None else pixels).save(buffer, fmt, **options)
    return buffer.getvalue()


def write(folder: Path, data: Data) -> ImageFiles:
    for name, content in data.items():
        (folder / name).write_bytes(content)
    return files(folder)


def verdicts(folder: Path, data: Data, *, levels: int = 2) -> dict[str, str]:
    """The reason for each image that both loaders skip. Their batches are equal."""
    first, second = write(folder, data), files(folder)
    count = len(data)
    got, expected = by_dali(first, 4, -(-count // 4) + 1), by_torch(second, 4, -(-count // 4) + 1)
    assert first.skipped == second.skipped
    for a, b in zip(got, expected, strict=True):
        assert (a.int() - b.int()).abs().max() <= levels
    return first.skipped


# ---- damage that a decoder of DALI's takes in silence


def with_marker(data: bytes) -> bytes:
    """A byte of the coded pixels became one that no decoder knows as a marker."""
    at = len(data) * 3 // 4
    return data[:at] + b"\xff\x8b" + data[at + 2 :]


def marker_behind(data: bytes) -> bytes:
    """All pixels are there, then comes a marker that belongs to no JPEG."""
    return data[:-2] + b"\xff\x8b" + data[-2:]


def second_scan(data: bytes) -> bytes:
    """The whole image is in the first scan; then another one begins."""
    begin = data.index(b"\xff\xda")
    return data[:-2] + data[begin:]


def stated_short(data: bytes) -> bytes:
    """A WebP that says that it ends within its pixels; its bytes go on behind that."""
    (coded,) = struct.unpack_from("<I", data, 16)
    short = coded * 3 // 4 // 2 * 2
    return data[:4] + struct.pack("<I", short + 12) + data[8:16] + struct.pack("<I", short) + data[20:]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def behind_header(data: bytes, *more: bytes) -> bytes:
    """A PNG with more chunks."""
    return data[:33] + b"".join(more) + data[33:]


DAMAGED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "marker.jpg": ("JPEG", with_marker),
    "marker behind.jpg": ("JPEG", marker_behind),
    "second scan.jpg": ("JPEG", second_scan),
    "stated short.webp": ("WEBP", stated_short),
}


@needs_dali
@pytest.mark.parametrize("name", DAMAGED)
def test_what_pillow_refuses_is_skipped_by_both_loaders(tmp_path: Path, name: str) -> None:
    fmt, damage = DAMAGED[name]
    good = {f"{i}.png": encoded("PNG", noise(seed=i)) for i in range(5)}
    pixels = np.asarray(Image.fromarray(smooth(97, 71)).convert("L")) if name == "marker.jpg" else noise(97, 71)
    skipped = verdicts(tmp_path, {**good, name: damage(encoded(fmt, pixels))})
    assert list(skipped) == [name]
    assert skipped[name].startswith("unreadable (")


@pytest.mark.parametrize("name", DAMAGED)
def test_only_pillow_gets_what_it_refuses(name: str) -> None:
    fmt, damage = DAMAGED[name]
    whole = encoded(fmt, noise(97, 71))
    assert plain_size(whole) == (97, 71)
    assert plain_size(damage(whole)) is None


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"quality": 100}], ids=str)
@pytest.mark.parametrize("behind", [b"", b"\0\xff\x8b", bytes(99)], ids=["end", "marker", "zeros"])
def test_what_comes_behind_the_end_of_a_jpeg_says_nothing(options: dict, behind: bytes) -> None:
    assert plain_size(encoded("JPEG", noise(97, 71), **options) + behind) == (97, 71)


@needs_dali
@pytest.mark.parametrize("fmt", ["JPEG", "WEBP", "PNG"])
def test_flipped_bytes_get_one_verdict(tmp_path: Path, fmt: str) -> None:
    """Of the images that both take, some are damaged too: then their pixels are equal."""
    rng = np.random.default_rng(5)
    data = {}
    for i in range(48):
        options = {"progressive": i % 3 == 0, "restart_marker_rows": i % 2} if fmt == "JPEG" else {}
        content = bytearray(encoded(fmt, **options))
        for at in rng.integers(0 if i % 4 == 0 else len(content) // 4, len(content), rng.integers(1, 4)):
            content[at] = rng.integers(256)
        if i % 5 == 0:
            at = int(rng.integers(len(content) // 2, len(content)))
            content[at : at + int(rng.integers(0, 9))] = rng.bytes(int(rng.integers(0, 9)))
        data[f"{i:02}.{fmt.lower()}"] = bytes(content)
    data["whole.png"] = encoded("PNG")
    skipped = verdicts(tmp_path, data, levels=3)
    assert 0 < len(skipped) < 49


# ---- PNGs whose pixels are good


PROFILE = chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(2 << 20)))
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/></rdf:RDF></x:xmpmeta>'
)
XMP_CHUNK = b"XML:com.adobe.xmp\0"
GOOD_PIXELS: dict[str, bytes] = {
    "a large profile": PROFILE,
    "large texts": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (2 << 20))) * 2,
    "a large international text": chunk(b"iTXt", b"Title\0\1\0\0\0" + zlib.compress(b"y" * (2 << 20))),
    "a profile packed in a way that nobody knows": chunk(b"iCCP", b"name\0\7" + bytes(9)),
    "a short gamma": chunk(b"gAMA", b"\0"),
    "a damaged text": chunk(b"tEXt", b"Comment\0text")[:-1] + b"\0",
    "large XMP": chunk(b"iTXt", XMP_CHUNK + b"\1\0\0\0" + zlib.compress(XMP + b" " * (2 << 20))),
}


@pytest.mark.parametrize("name", GOOD_PIXELS)
def test_texts_and_profiles_cost_no_png_its_pixels(tmp_path: Path, name: str) -> None:
    pixels = noise()
    (tmp_path / "a.png").write_bytes(behind_header(encoded("PNG", pixels), GOOD_PIXELS[name]))
    for settings in (ImagesConfig(), UNCACHED):
        dataset = ImageFiles(tmp_path, 64, settings)
        assert np.array_equal(dataset[[0]][0].permute(1, 2, 0).numpy(), pixels)
        assert dataset.skipped == {}
    if dali.why_not(CPU) is None:
        dataset = files(tmp_path)
        assert np.array_equal(by_dali(dataset, 1, 1)[0][0].permute(1, 2, 0).numpy(), pixels)
        assert dataset.skipped == {}


def test_a_chunk_between_the_pixels_of_a_png(tmp_path: Path) -> None:
    pixels = noise()
    whole = encoded("PNG", pixels)
    begin = whole.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", whole, begin)
    coded = whole[begin + 8 : begin + 8 + length]
    parts = chunk(b"IDAT", coded[:500]) + chunk(b"tIME", bytes(7)) + chunk(b"IDAT", coded[500:])
    dataset = write(tmp_path, {"a.png": whole[:begin] + parts + whole[begin + 12 + length :]})
    assert np.array_equal(dataset[[0]][0].permute(1, 2, 0).numpy(), pixels)
    if dali.why_not(CPU) is None:
        assert np.array_equal(by_dali(dataset, 1, 1)[0][0].permute(1, 2, 0).numpy(), pixels)


def test_an_orientation_is_kept_where_a_profile_is_left_out(tmp_path: Path) -> None:
    pixels = noise()
    xmp = chunk(b"iTXt", XMP_CHUNK + b"\0\0\0\0" + XMP)
    put(tmp_path, "exif.png", pixels, exif=turned(3))
    data = {
        "exif.png": behind_header((tmp_path / "exif.png").read_bytes(), PROFILE),
        "xmp.png": behind_header(encoded("PNG", pixels), PROFILE, xmp),
    }
    dataset = write(tmp_path, data)
    for image in dataset[[0, 1]]:
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels[::-1, ::-1])


def test_a_png_with_damaged_pixels_stays_refused(tmp_path: Path) -> None:
    whole = encoded("PNG", noise())
    data = {"cut.png": behind_header(whole[:3000], PROFILE), "good.png": whole}
    dataset = write(tmp_path, data)
    dataset[[0, 1]]
    assert list(dataset.skipped) == ["cut.png"]
    assert "Decompressed data too large" in dataset.skipped["cut.png"]


# ---- gray


@needs_dali
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_gray_is_made_of_the_colors(tmp_path: Path, fmt: str) -> None:
    """Saturated squares: a JPEG's own brightness is another one where a color was clipped, by up to 25 levels."""
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = np.kron(rng.integers(0, 2, (8, 8, 3)) * 255, np.ones((8, 8, 1))).astype(np.uint8)
        put(tmp_path, f"{i}.{fmt.lower()}", pixels, quality=95)
    dataset = files(tmp_path, channels=1)
    (got,), (expected,) = by_dali(dataset, 4, 1), by_torch(dataset, 4, 1)
    assert got.shape == (4, 1, 64, 64)
    assert (got.int() - expected.int()).abs().max() <= 3

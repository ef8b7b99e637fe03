"""The limits on an image's pixels and on its file's bytes, which settings raise: in both loaders and in `pack`."""

import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data.faults import Unusable
from idgan_fast.data.images import ImageFiles, decode, to_mode
from idgan_fast.data.sources import Source
from idgan_fast.tools import pack
from tests.data.test_dali import by_dali, files
from tests.data.test_images import noise, put
from tests.data.test_sources import KINDS, png, write
from tests.data.test_verdict import needs_dali

PIXELS = "it has more than 0.005 megapixels; a higher images.max-megapixels takes it"
BYTES = "it takes 0.2 MiB, over the 0.1 of images.max-file-mib; a higher one takes it"


def large_and_small(folder: Path) -> None:
    put(folder, "large.png", np.full((80, 80, 3), 9, np.uint8))
    put(folder, "small.png", np.full((64, 64, 3), 5, np.uint8))


@pytest.mark.parametrize("cache_gib", [2.0, 0.0])
@pytest.mark.parametrize("name", ["large.png", "large.jpg", "large.webp", "large.bmp"])
def test_pixels(tmp_path: Path, name: str, cache_gib: float) -> None:
    put(tmp_path, name, np.full((80, 80, 3), 9, np.uint8))
    put(tmp_path, "small.png", np.full((64, 64, 3), 5, np.uint8))
    dataset = ImageFiles(tmp_path, 64, ImagesConfig(max_megapixels=0.005, cache_gib=cache_gib))
    assert (dataset[torch.arange(len(dataset))] == 5).all()
    assert dataset.skipped == {name: PIXELS}
    assert len(ImageFiles(tmp_path, 64, ImagesConfig(max_megapixels=0.0064))) == 2


@needs_dali
@pytest.mark.parametrize("name", ["large.png", "large.jpg", "large.webp", "large.bmp"])
def test_pixels_by_dali(tmp_path: Path, name: str) -> None:
    put(tmp_path, name, np.full((80, 80, 3), 9, np.uint8))
    put(tmp_path, "small.png", np.full((64, 64, 3), 5, np.uint8))
    dataset = files(tmp_path, max_megapixels=0.005)
    (batch,) = by_dali(dataset, 2, 1)
    assert (batch == 5).all()
    assert dataset.skipped == {name: PIXELS}


def test_the_setting_goes_over_pillows_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is of 179 megapixels; here it is of 1,000 pixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    data = png(0)
    with pytest.raises(Unusable, match=r"more than 0.001 megapixels; a higher images.max-megapixels takes it"):
        decode(data, ImagesConfig(max_megapixels=0.001))
    assert decode(data, ImagesConfig(max_megapixels=0.0041)).size == (64, 64)


def test_a_png_that_states_many_pixels_is_not_decoded() -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    whole = png(0)
    data = whole[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + whole[33:]
    tracemalloc.start()
    try:
        with pytest.raises(Unusable, match="more than 178 megapixels"):
            decode(data, ImagesConfig())
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_gray_of_16_bits_is_decoded_in_little_memory() -> None:
    """What numpy takes of it."""
    image = Image.fromarray(np.full((1000, 1000), 0x1234, np.uint16))
    tracemalloc.start()
    try:
        assert np.asarray(to_mode(image, "L")).max() == 0x12
        assert tracemalloc.get_traced_memory()[1] < 9 * 1000 * 1000
    finally:
        tracemalloc.stop()


# ---- bytes


@pytest.mark.parametrize("kind", KINDS)
def test_bytes(tmp_path: Path, kind: str) -> None:
    path = write(kind, tmp_path, {"large.png": png(0) + bytes(200_000), "small.png": png(1)})
    dataset = ImageFiles(path, 64, ImagesConfig(max_file_mib=0.1))
    assert len(dataset) == 1
    assert list(dataset.skipped.values()) == [BYTES]
    assert len(ImageFiles(path, 64, ImagesConfig(max_file_mib=0.3))) == 2


@needs_dali
def test_bytes_by_dali(tmp_path: Path) -> None:
    path = write("zip", tmp_path, {"large.png": png(0) + bytes(200_000), "small.png": png(1)})
    dataset = files(path, max_file_mib=0.1)
    assert len(by_dali(dataset, 2, 1)) == 1
    assert dataset.skipped == {"large.png": BYTES}


def test_a_member_is_unpacked_as_far_as_its_stated_size(tmp_path: Path) -> None:
    """32 MiB that state 1,000 bytes: the archive lies, which its checksum tells."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(32 << 20))
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\1\2")
    data[directory + 24 : directory + 28] = struct.pack("<I", 1000)
    path.write_bytes(data)
    source = Source(path)
    tracemalloc.start()
    try:
        with pytest.raises(zipfile.BadZipFile, match="Bad CRC"):
            source.read("a.png", 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_a_member_that_states_much_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(8 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(Unusable, match=r"it takes 8.0 MiB, over the 4 of images.max-file-mib"):
            Source(path).read("a.png", 4)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_of_many_bytes_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.png", "wb") as file:
        os.truncate(file.fileno(), 1 << 40)  # it takes no room
    with pytest.raises(Unusable, match=r"it takes 1,048,576.0 MiB, over the 256 of images.max-file-mib"):
        Source(tmp_path).read("a.png", ImagesConfig().max_file_mib)


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 300_000])
def test_members_come_whole(tmp_path: Path, how: int, size: int) -> None:
    content = np.random.default_rng(0).bytes(size)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", how) as archive:
        archive.writestr("a.png", content)
    assert Source(tmp_path / "a.zip").read("a.png") == content


# ---- pack


def packed(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    large_and_small(tmp_path / "in")
    assert pack.main([str(tmp_path / "in"), str(tmp_path / "out"), "--size", "16", "--workers", "1", *options]) == 0
    return capsys.readouterr().out.splitlines()[-1]


def test_pack_leaves_out_what_is_over_its_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = packed(tmp_path, capsys, "--max-megapixels", "0.005")
    assert "; skipped 1 (large.png): it has more than 0.005 megapixels; a higher --max-megapixels takes it" in line


def test_pack_takes_what_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "packed 2 pictures" in packed(tmp_path, capsys, "--max-megapixels", "0.0065", "--max-file-mib", "0.1")


def test_pack_knows_the_bytes_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "in", "noise.png", noise(80, 80))
    line = packed(tmp_path, capsys, "--max-file-mib", "0.01")
    assert "; skipped 1 (noise.png): it takes 0.0 MiB, over the 0.01 of --max-file-mib; a higher one takes it" in line


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e999", "much"])
def test_pack_wants_a_number_above_0(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack.main([str(tmp_path), str(tmp_path / "out"), "--max-megapixels", text]) == 2
    assert f"must be a number above 0, got {text!r}" in capsys.readouterr().err

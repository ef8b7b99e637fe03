"""Zips whose directory or dataset.json zipfile and json cannot read: one line, or an image that is left out."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data.images import ImageFiles
from idgan_fast.data.sources import Source
from tests.common import error_of
from tests.malformed import image


def write(path: Path, listing: bytes = b'{"labels": []}', harm: Callable[[bytearray, int], None] | None = None) -> Path:
    """Two images and a listing, the last member, whose entry of the directory `harm` is told."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", image("png"))
        archive.writestr("1.png", image("png", 1))
        archive.writestr("dataset.json", listing)
    content = bytearray(buffer.getvalue())
    if harm is not None:
        harm(content, content.rindex(b"PK\x01\x02"))
    path.write_bytes(content)
    return path


def local(content: bytearray, entry: int) -> int:
    """Where the member of an entry of the directory begins."""
    return int.from_bytes(content[entry + 42 : entry + 46], "little")


def encrypt(content: bytearray, entry: int) -> None:
    content[entry + 8] |= 1
    content[local(content, entry) + 6] |= 1


def take_an_unknown_method(content: bytearray, entry: int) -> None:
    content[entry + 10] = content[local(content, entry) + 8] = 99


def need_a_future_version(content: bytearray, entry: int) -> None:
    content[entry + 6] = 255


@pytest.mark.parametrize("harm", [encrypt, take_an_unknown_method])
def test_a_listing_that_cannot_be_read(harm: Callable[[bytearray, int], None], tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", harm=harm)
    text = error_of(Source(path).labels)
    assert f"dataset.json in {path} cannot be read" in text
    assert ImageFiles(path, 64, ImagesConfig()).skipped == {}


@pytest.mark.parametrize(
    "listing",
    [
        b"[" * 100_000,
        b'{"labels": ' + b"[" * 100_000,
        b'{"labels": [["0.png", ' + b"9" * 5000 + b"]]}",
        b"\xff\xfe",
        b"",
    ],
    ids=["brackets", "labels", "digits", "bytes", "nothing"],
)
def test_a_listing_of_something_else(listing: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", listing)
    text = error_of(Source(path).labels)
    assert f"dataset.json in {path} cannot be read" in text
    assert len(text) < 600


@pytest.mark.parametrize("harm", [encrypt, take_an_unknown_method])
def test_an_image_that_cannot_be_read(harm: Callable[[bytearray, int], None], tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", harm=lambda content, entry: harm(content, content.index(b"PK\x01\x02")))
    files = ImageFiles(path, 64, ImagesConfig())
    assert list(files.skipped) == ["0.png"]
    assert "\n" not in files.skipped["0.png"]


def test_a_version_of_the_future(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", harm=need_a_future_version)
    text = error_of(lambda: Source(path))
    assert str(path) in text
    assert "25.5" in text

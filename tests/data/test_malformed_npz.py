"""Files that say they are the public dSprites: one line each, and no memory by what they claim."""

import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from idgan_fast.data.dsprites import DSpritesFile
from tests.common import error_of, limited_memory

GRID = np.array(list(product([0], *map(range, (2, 2, 2, 2, 2)))), np.int64)
PICTURES = np.zeros((32, 64, 64), np.uint8)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0))
    return buffer.getvalue()


def header(shape: object, descr: str = "<i8", content: bytes = b"") -> bytes:
    return raw_header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n") + content


def raw_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


CLASSES = {
    "a huge shape": header((99_999_999_999, 6)),
    "a shape beyond any": header((10**30, 6)),
    "a negative shape": header((-5, -6), content=bytes(4800)),
    "a shape of truths": header((True, 6), content=bytes(48)),
    "an unfinished header": raw_header("{'descr': '<i8', 'fortran_or"),
    "a deep header": raw_header("(" * 9000),
    "a header that calls": raw_header("{'descr': __import__('os')}"),
    "one column": npy(GRID[:, -1:]),
    "three columns": npy(GRID[:, :3]),
    "no column": npy(np.zeros((4, 0), np.int64)),
    "indices beyond the rows": npy(np.array([[0, 1000, 1000, 1000, 1000, 1000]])),
    "indices beyond any": npy(np.full((2, 6), 2**63 - 1, np.int64)),
    "negative indices": npy(-GRID - 1),
    "objects": header((2, 6), "|O", b"\x80\x04N."),
    "another version": b"\x93NUMPY\x09\x00",
    "nothing": b"",
}
IMAGES = {
    "an unfinished header": raw_header("{'descr"),
    "too few bytes": npy(PICTURES)[:-4096],
    "a row that would stand for all": npy(PICTURES)[: -31 * 4096],
    "too many bytes": npy(PICTURES) + b"x",
    "objects": header((32, 64, 64), "|O"),
}


def write(path: Path, classes: bytes = npy(GRID), images: bytes = npy(PICTURES)) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("latents_classes.npy", classes)
        archive.writestr("imgs.npy", images)
    return path


@pytest.fixture
def little_memory() -> Iterator[None]:
    """An allocation of more than a GiB fails, and is no UserError."""
    with limited_memory(2**30):
        yield


def refused(path: Path) -> str:
    line = error_of(lambda: DSpritesFile(path))
    assert str(path) in line
    assert "download it again" in line
    assert len(line) < 600
    return line


def test_the_grid_is_taken(tmp_path: Path, little_memory: None) -> None:
    assert DSpritesFile(write(tmp_path / "a.npz")).grid == (2, 2, 2, 2, 2)
    assert DSpritesFile(write(tmp_path / "b.npz", npy(GRID[:, 1:]))).grid == (2, 2, 2, 2, 2)


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str, tmp_path: Path, little_memory: None) -> None:
    refused(write(tmp_path / "a.npz", CLASSES[name]))


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str, tmp_path: Path, little_memory: None) -> None:
    refused(write(tmp_path / "a.npz", images=IMAGES[name]))


def encrypted(content: bytearray, directory: int) -> None:
    content[6] |= 1
    content[directory + 8] |= 1


def unknown_method(content: bytearray, directory: int) -> None:
    content[8] = content[directory + 10] = 99


def future_version(content: bytearray, directory: int) -> None:
    content[directory + 6] = 255


@pytest.mark.parametrize("harm", [encrypted, unknown_method, future_version])
def test_archives(harm: Callable[[bytearray, int], None], tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz")
    content = bytearray(path.read_bytes())
    harm(content, content.index(b"PK\x01\x02"))
    path.write_bytes(content)
    refused(path)


def test_as_many_rows_as_fit_are_not_read_before_the_shape_is_known(tmp_path: Path, little_memory: None) -> None:
    """Zeros that are a thousandth of their size in the file."""
    rows = 40_000_000
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("latents_classes.npy", "w") as member:
            member.write(header((rows, 6)))
            member.write(bytes(2**22))
        archive.writestr("imgs.npy", npy(PICTURES))
    assert f"({rows}, 6)" in refused(path)
    assert math.prod((rows, 6)) * 8 > 2**30

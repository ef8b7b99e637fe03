"""What decoders print of damaged images stays off the terminal, in loader processes too; what others print does not."""

import subprocess
import sys
from pathlib import Path

import pytest

from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data.headers import plain_size
from idgan_fast.data.images import decode
from tests.data.test_images import noise, put, smooth
from tests.data.test_verdict import encoded, needs_dali

BEGIN = """
import ctypes, sys, torch
from itertools import islice
from pathlib import Path
from PIL import Image
from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data import batches, dali
from idgan_fast.data.images import ImageFiles
Image.MAX_IMAGE_PIXELS = 60 * 60
dataset = ImageFiles(Path(sys.argv[1]), 64, ImagesConfig(cache_gib=0.0))
"""
BY_TORCH = BEGIN + "list(islice(batches(dataset, 8, 0, 0, 1), 2)); dataset[[0, 1]]; print(sorted(dataset.skipped))"
BY_DALI = (
    BEGIN
    + """
list(islice(dali.batches(dataset, 8, 0, 0, 2, torch.device('cpu')), 2))
libc = ctypes.CDLL(None)
libc.fputs(b"libfoo: this is something else\\n", ctypes.c_void_p.in_dll(libc, "stderr"))
print("and so is this", file=sys.stderr)
print(sorted(dataset.skipped))
"""
)


def run(code: str, folder: Path) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Of these all decoders complain. Pillow refuses the last one."""
    for i in range(4):
        data = bytearray(encoded("JPEG", noise(97, 71, seed=i), restart_marker_rows=i % 2))
        at = len(data) * 2 // 3
        data[at : at + 20] = bytes(range(20))
        assert plain_size(bytes(data)) == (97, 71)
        assert decode(bytes(data), ImagesConfig()).size == (97, 71)
        (tmp_path / f"{i}.jpg").write_bytes(data)
    put(tmp_path, "4.jpg", smooth(64, 64), exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 40)
    data = bytearray(encoded("PNG", noise(64, 64)))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "5.png").write_bytes(data)
    return tmp_path


def test_torch(damaged: Path) -> None:
    assert run(BY_TORCH, damaged) == ("['5.png']\n", "")


@needs_dali
def test_dali(damaged: Path) -> None:
    out, error = run(BY_DALI, damaged)
    assert out == "['5.png']\n"
    assert sorted(error.splitlines()) == ["and so is this", "libfoo: this is something else"]

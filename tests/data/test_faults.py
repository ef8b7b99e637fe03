"""Reading that fails: what passes is tried again and then ends the run; only an image's own fault leaves it out."""

import errno
import os
import shutil
import struct
import time
import zlib
from itertools import islice
from pathlib import Path

import pytest

from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data import batches, faults
from idgan_fast.data.images import ImageFiles
from idgan_fast.data.sources import Source
from idgan_fast.tools import pack
from tests.common import error_of
from tests.data.test_dali import by_dali
from tests.data.test_images import UNCACHED, solid
from tests.data.test_verdict import needs_dali

WAITS = faults.WAITS  # as they are before the fixture
ONCE_MORE = "and start the same command again, which goes on from what is saved"
FAULTS: dict[str, tuple[Exception, str]] = {
    "EIO": (
        OSError(errno.EIO, os.strerror(errno.EIO)),
        "Input/output error (EIO); the picture is not at fault: see to",
    ),
    "ESTALE": (
        OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
        "(ESTALE); the picture is not at fault: see to",
    ),
    "EMFILE": (
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        "Too many open files (EMFILE); take fewer --workers",
    ),
    "memory": (MemoryError(), "out of memory; fewer --workers need less"),
    "Pillow's memory": (OSError("out of memory when reading image file"), "out of memory; fewer --workers need less"),
}


class Failing:
    """Stands in for `Source.read`: it fails for one image, as often as said, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, times: float) -> None:
        self.calls, original = 0, Source.read

        def read(source: Source, wanted: str, *limits: float) -> bytes:
            if wanted == name:
                self.calls += 1
                if self.calls <= times:
                    raise error
            return original(source, wanted, *limits)

        monkeypatch.setattr(Source, "read", read)


def test_a_second_in_all() -> None:
    assert sum(WAITS) == pytest.approx(1)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "WAITS", (0.0, 0.001, 0.001))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for i in range(6):
        solid(folder, f"{i}.png", i)
    return folder


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", FAULTS)
def test_what_passes_costs_no_image(pictures: Path, name: str, cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = ImageFiles(pictures, 64, UNCACHED)
    failing = Failing(monkeypatch, "3.png", FAULTS[name][0], 3)
    dataset = ImageFiles(pictures, 64, ImagesConfig() if cached else UNCACHED)
    assert dataset[list(range(6))][:, 0, 0, 0].tolist() == list(range(6))
    assert dataset.skipped == {}
    assert dataset.fingerprint == unbroken.fingerprint
    assert failing.calls == 5, "three tries in vain, one for the fingerprint, one for the image"


def test_a_fingerprint_is_not_made_of_a_disks_fault(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Failing(monkeypatch, "3.png", FAULTS["EIO"][0], 4)
    assert "Input/output error (EIO)" in error_of(lambda: ImageFiles(pictures, 64, UNCACHED))


@pytest.mark.parametrize("name", FAULTS)
def test_what_stays_is_named_and_no_fault_of_the_image(
    pictures: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, words = FAULTS[name]
    dataset = ImageFiles(pictures, 64, UNCACHED)
    failing = Failing(monkeypatch, "3.png", error, 4)
    text = error_of(lambda: dataset[[3]])
    assert text.startswith(f"data: 3.png in {pictures} was tried 4 times within a second: ")
    assert words in text
    assert text.endswith(ONCE_MORE)
    assert dataset.skipped == {}
    assert dataset[[3]].max() == 3
    assert failing.calls == 5


@needs_dali
@pytest.mark.parametrize("times", [3, 4])
def test_dali(pictures: Path, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ImageFiles(pictures, 64, UNCACHED)
    Failing(monkeypatch, "3.png", FAULTS["EIO"][0], times)
    if times == 3:
        assert sorted(by_dali(dataset, 6, 1)[0][:, 0, 0, 0].tolist()) == list(range(6))
    else:
        assert "Input/output error (EIO)" in error_of(lambda: by_dali(dataset, 6, 1))
    assert dataset.skipped == {}


@needs_dali
def test_a_fault_while_dali_searches_for_a_damaged_image(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search reads the images again; one that cannot be read then is not the damaged one."""
    dataset = ImageFiles(pictures, 64, UNCACHED)
    data = bytearray((pictures / "5.png").read_bytes())
    at = data.index(b"IDAT") + 6
    data[at] ^= 0xFF
    (length,) = struct.unpack_from(">I", data, data.index(b"IDAT") - 4)
    begin = data.index(b"IDAT")
    data[begin + 4 + length : begin + 8 + length] = struct.pack(">I", zlib.crc32(data[begin : begin + 4 + length]))
    (pictures / "5.png").write_bytes(data)
    failing = Failing(monkeypatch, "3.png", FAULTS["EIO"][0], 0)
    original = Source.read

    def read(source: Source, name: str, *limits: float) -> bytes:
        if name == "3.png" and failing.calls == 1:
            failing.calls += 1
            raise FAULTS["EIO"][0]
        return original(source, name, *limits)

    monkeypatch.setattr(Source, "read", read)
    by_dali(dataset, 6, 2)
    assert list(dataset.skipped) == ["5.png"]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EINVAL])
def test_a_fault_of_one_file_leaves_it_out_at_once(
    pictures: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ImageFiles(pictures, 64, UNCACHED)
    failing = Failing(monkeypatch, "3.png", OSError(number, os.strerror(number)), 99)
    assert dataset[[3]].max() == 4
    assert os.strerror(number) in dataset.skipped["3.png"]
    assert failing.calls == 1


def test_a_file_that_is_gone(pictures: Path) -> None:
    dataset = ImageFiles(pictures, 64, UNCACHED)
    (pictures / "3.png").unlink()
    dataset[[3]]
    assert dataset.skipped == {"3.png": "it is gone (No such file or directory)"}


def test_a_folder_that_is_gone_costs_no_image(pictures: Path) -> None:
    dataset = ImageFiles(pictures, 64, UNCACHED)
    shutil.move(pictures, pictures.with_name("moved"))
    text = error_of(lambda: dataset[[3]])
    assert f"{pictures} is gone; bring it back, {ONCE_MORE}" in text
    assert dataset.skipped == {}


@pytest.mark.parametrize("workers", [0, 1])
def test_the_error_comes_out_of_a_loader_process(pictures: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ImageFiles(pictures, 64, UNCACHED)
    Failing(monkeypatch, "3.png", FAULTS["EIO"][0], 99)
    began = time.monotonic()
    text = error_of(lambda: list(islice(batches(dataset, 6, 0, 0, workers), 1)))
    assert "Input/output error (EIO)" in text
    assert "\n" not in text
    assert time.monotonic() - began < 20


def test_pack(pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = pictures.with_name("out")
    command = [str(pictures), str(out), "--size", "16", "--workers", "1"]
    Failing(monkeypatch, "3.png", FAULTS["EIO"][0], 4)
    assert pack.main(command) == 2
    assert f"error: data: 3.png in {pictures} was tried 4 times" in capsys.readouterr().err
    assert pack.main(command) == 0
    assert "packed 6 pictures" in capsys.readouterr().out

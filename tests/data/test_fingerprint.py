"""Whether images are the same as before, by names, sizes and contents."""

import os
import pickle
import shutil
from pathlib import Path

import pytest

from idgan_fast.data.fingerprint import SAMPLES, Fingerprint, agrees
from idgan_fast.data.sources import Source
from tests.common import error_of
from tests.data.test_sources import KINDS, PICTURES, write


def fingerprint(path: Path) -> str:
    return Fingerprint(Source(path)).text


@pytest.mark.parametrize("kind", KINDS)
def test_equal_images_have_one_wherever_they_lie(kind: str, tmp_path: Path) -> None:
    others = dict(reversed(PICTURES.items())) if kind != "shards" else PICTURES
    here, there = (write(kind, tmp_path / at, files) for at, files in (("here", PICTURES), ("there/deep", others)))
    assert fingerprint(here) == fingerprint(there)


def test_a_folder_and_its_zip_have_one(tmp_path: Path) -> None:
    folder, packed = (write(kind, tmp_path, {**PICTURES, f"{kind}.txt": b""}) for kind in ("folder", "zip"))
    assert fingerprint(folder) == fingerprint(packed)


@pytest.mark.parametrize("kind", KINDS)
def test_other_names_have_another(kind: str, tmp_path: Path) -> None:
    sets = [["a.png", "b.png"], ["a.png", "c.png"], ["a.png"], ["a.png", "b.png", "c.png"], ["a.png", "B.png"]]
    sets += [["d/a.png", "d/b.png"], ["a.pngb.png"], ["ab.png", ".png"]]
    made = [write(kind, tmp_path / str(n), dict.fromkeys(names, b"1")) for n, names in enumerate(sets)]
    assert len({fingerprint(path).split("-")[0] for path in made}) == len(sets)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["longer", "other bytes"])
def test_other_contents_under_the_same_names(kind: str, change: str, tmp_path: Path) -> None:
    name = sorted(PICTURES)[-1]
    data = PICTURES[name] + b"!" if change == "longer" else bytes(byte ^ 1 for byte in PICTURES[name])
    old, new = (
        fingerprint(write(kind, tmp_path / at, files))
        for at, files in (("a", PICTURES), ("b", {**PICTURES, name: data}))
    )
    assert old != new
    assert old.split("-")[0] == new.split("-")[0]


def test_all_sizes_count_and_some_contents(tmp_path: Path) -> None:
    """In a large set: one file that has grown, among those that are not read, and a set of other contents."""
    files = {f"{i:04d}.png": b"0123" for i in range(20 * SAMPLES)}
    old = fingerprint(write("folder", tmp_path / "old", files))
    assert fingerprint(write("folder", tmp_path / "one", {**files, "0007.png": b"01234"})) != old
    assert fingerprint(write("folder", tmp_path / "all", dict.fromkeys(files, b"3210"))) != old


def test_a_fingerprint_of_names_alone_agrees_by_the_names() -> None:
    assert agrees("0123456789abcdef", "0123456789abcdef-ffff")
    assert not agrees("0123456789abcdee", "0123456789abcdef-ffff")
    assert not agrees("0123456789abcdef-eeee", "0123456789abcdef-ffff")
    assert agrees("dsprites", "dsprites")


@pytest.mark.parametrize("kind", KINDS)
def test_files_replaced_in_mid_run(kind: str, tmp_path: Path) -> None:
    path = write(kind, tmp_path / "a", PICTURES)
    source = Source(path)
    before = Fingerprint(source)
    assert before.changed() == []
    if path.is_dir() and kind == "folder":
        changed, gone = source.names[0], source.names[1]
        (path / changed).write_bytes(b"something longer than it was before")
        (path / gone).unlink()
        assert before.changed() == [changed, gone]
        return
    archive = next(path.rglob("*.tar")) if path.is_dir() else path
    shutil.copy(archive, tmp_path / "copy")
    os.utime(tmp_path / "copy", (1, 1))
    os.replace(tmp_path / "copy", archive)
    assert before.changed() == source.names


def test_a_zip_that_is_replaced_is_not_read_as_the_one_of_before(tmp_path: Path) -> None:
    """By a process that opens it later, such as a loader's."""
    path = write("zip", tmp_path / "a", PICTURES)
    source = pickle.loads(pickle.dumps(Source(path)))
    os.replace(write("zip", tmp_path / "b", {**PICTURES, "more.png": b"1"}), path)
    assert "was replaced while it was read" in error_of(lambda: source.read(source.names[0]))

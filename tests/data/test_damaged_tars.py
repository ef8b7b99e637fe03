"""Tars with damaged headers, and tars that are cut off: whatever has a header is read, and the damage is named."""

import os
import random
import tarfile
from pathlib import Path

import pytest

from idgan_fast.__main__ import main
from idgan_fast.data.sources import Source
from idgan_fast.data.tars import read_members
from tests.common import error_of
from tests.data.test_sources import contents, png, some_bytes, write_tar

HOW = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
FILES = {f"{n:02d}.png": some_bytes(n, 600 + 100 * n) for n in range(20)}


def headers(path: Path) -> dict[str, int]:
    with tarfile.open(path) as archive:
        return {member.name: member.offset for member in archive}


def overwrite(path: Path, at: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    return path


def read_back(path: Path) -> dict[str, bytes]:
    return {name.split("/", 1)[1]: data for name, data in contents(Source(path)).items()}


DAMAGE = {"a flipped byte": (3, b"\xff"), "zeros": (0, bytes(512)), "noise": (0, some_bytes(3, 512))}
DAMAGE |= {"a lost sector": (-512, bytes(4096)), "its checksum": (148, b"000000\0 "), "a text": (0, b"9" * 512)}


@pytest.mark.parametrize(("at", "damage"), DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("number", [0, 2, 10, 19])
def test_one_damaged_header(tmp_path: Path, number: int, at: int, damage: bytes) -> None:
    path = write_tar(tmp_path / "0.tar", FILES)
    places = headers(path)
    start = places[f"{number:02d}.png"]
    overwrite(path, max(start + at, 0), damage)
    hit = {name for name, place in places.items() if start <= place < max(start + at, 0) + len(damage)}
    source = Source(path)
    found = {name.split("/")[1]: source.read(name) for name in source.names}
    assert set(found) == set(FILES) - hit
    before = f"{number - 1:02d}.png"  # the lost sector took its end
    assert {name: data for name, data in found.items() if FILES[name] != data}.keys() <= {before}
    line = "".join(source.remarks)
    if number < 19:
        after = min(place for name, place in places.items() if place > start and name not in hit)
        assert line == f"1 damaged tar: 0.tar has no valid header at byte {start:,}; read on from byte {after:,}"
    elif len(damage) == 512:
        assert line == f"1 damaged tar: 0.tar has no valid header at byte {start:,}, nor behind it"


def test_as_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The drill of a user: 20 pictures, one header damaged."""
    path = write_tar(tmp_path / "in" / "0.tar", {f"{n:02d}.png": png(n, 8) for n in range(20)})
    at = headers(path)["03.png"]
    overwrite(path, at, b"\xff")
    assert main(["pack", str(path.parent), str(tmp_path / "out"), "--size", "8", "--workers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pack: 19 pictures in ")
    assert lines[1].startswith(f"1 damaged tar: 0.tar has no valid header at byte {at:,}; read on from byte ")


@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
def test_any_block_may_be_lost(tmp_path: Path, how: int) -> None:
    """Long names have headers of their own; whichever block is lost, the members without it are whole."""
    files = {f"{'n' * 90}{n}.png": some_bytes(n, 700) for n in range(4)}
    if how != tarfile.USTAR_FORMAT:
        files |= {f"{'d' * 120}/{n}.png": some_bytes(n, 700) for n in range(4)}
    path = write_tar(tmp_path / "0.tar", files, how)
    whole, rng = path.read_bytes(), random.Random(0)
    with tarfile.open(path) as archive:
        starts = [member.offset for member in archive]
        end = archive.offset
    for start, stop in zip(starts, [*starts[1:], end], strict=True):
        for at in range(start, stop, 512):
            path.write_bytes(whole[:at] + rng.randbytes(512) + whole[at + 512 :])
            found = read_back(path)
            rest = {name: data for n, (name, data) in enumerate(files.items()) if starts[n] != start}
            assert {name: found.get(name) for name in rest} == rest


@pytest.mark.parametrize("size", [0, 100, 511])
def test_nothing_but_a_cut_header(tmp_path: Path, size: int) -> None:
    path = write_tar(tmp_path / "0.tar", FILES)
    os.truncate(path, size)
    text = error_of(lambda: Source(path))
    assert f"no pictures in {path}" in text
    assert text.endswith("ends at byte 0 without an end mark" if not size else f"ends at byte {size}, within a header")


def test_cut_anywhere(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", FILES)
    places, whole = headers(path), path.read_bytes()
    ends = {name: place + 512 + len(FILES[name]) for name, place in places.items()}
    end = -(-ends["19.png"] // 512) * 512
    for size in range(700, end + 1, 211):
        path.write_bytes(whole[:size])
        source = Source(path)
        kept = [name for name, stop in ends.items() if stop <= size]
        cut = [name for name, place in places.items() if place + 512 <= size < ends[name]]
        assert source.names == [f"0.tar/{name}" for name in (*kept, *cut)]
        assert all(source.read(f"0.tar/{name}") == FILES[name] for name in kept)
        for name in cut:
            with pytest.raises(tarfile.ReadError):
                source.read(f"0.tar/{name}")
        within_header = [name for name, place in places.items() if place < size < place + 512]
        how = ", within a header" if within_header else " without an end mark"
        how = f", within {cut[0]}" if cut else how
        assert source.remarks == [f"1 damaged tar: 0.tar ends at byte {size:,}{how}"]


def test_tars_joined_to_one_file(tmp_path: Path) -> None:
    for n in range(3):
        write_tar(tmp_path / f"{n}.tar", {f"{n}.png": some_bytes(n)})
    path = tmp_path / "joined.tar"
    path.write_bytes(b"".join((tmp_path / f"{n}.tar").read_bytes() for n in range(3)))
    assert list(read_back(path)) == ["0.png", "1.png", "2.png"]
    (line,) = Source(path).remarks
    assert line.count("has no valid header at byte") == 2


@pytest.mark.parametrize("how", ["gz", "bz2", "xz"])
def test_a_compressed_tar(tmp_path: Path, how: str) -> None:
    path = tmp_path / "0.tar"
    with tarfile.open(path, f"w:{how}") as archive:  # type: ignore[call-overload]
        archive.addfile(tarfile.TarInfo("a.png"))
    assert "is compressed by " in error_of(lambda: Source(path))
    assert "is compressed by " in error_of(lambda: Source(tmp_path))


def test_many_damaged_tars_are_one_line(tmp_path: Path) -> None:
    for n in range(7):
        path = write_tar(tmp_path / f"{n}.tar", FILES)
        for name, place in headers(path).items():
            if name > "00.png":
                overwrite(path, place, bytes(512))
    (line,) = Source(tmp_path).remarks
    assert line.startswith("7 damaged tars: 0.tar has no valid header at byte ")
    assert line.endswith("; and 4 more")


@pytest.mark.parametrize("size", [-1, -512, -1024, -100_000, 2**63, 2**70])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE])
def test_headers_of_impossible_sizes_end(tmp_path: Path, size: int, kind: bytes) -> None:
    good = write_tar(tmp_path / "good.tar", {"a.png": b"1"}).read_bytes()
    member = tarfile.TarInfo("b.png")
    member.type = kind
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header).ljust(512))[0]
    (tmp_path / "0.tar").write_bytes(good[:1024] + header + good)
    faults: list[str] = []
    names = [member.name for member in read_members(tmp_path / "0.tar", faults)]
    assert names.count("a.png") >= 1
    assert faults or size == -1
    for member in Source(tmp_path / "0.tar")._members.values():
        assert 0 <= member[2] <= 12 * 1024


def test_a_shuffled_tar_ends_too(tmp_path: Path) -> None:
    path, rng = write_tar(tmp_path / "0.tar", FILES), random.Random(0)
    whole = path.read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 40)):
            place = rng.choice(list(range(0, len(data), 512))) + rng.choice([0, 124, 148, 156, 157, 345])
            data[place : place + 8] = rng.randbytes(8)[: len(data) - place]
        path.write_bytes(data)
        list(read_members(path, []))

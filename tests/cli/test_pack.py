"""`idgan-fast pack`: what is written, what a second run leaves alone, and what the user can mend."""

import errno
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from idgan_fast import __main__
from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data import shards
from idgan_fast.data.images import ImageFiles, frame
from idgan_fast.data.sources import Source
from idgan_fast.tools import pack

SMALL = ("--size", "16", "--shard-size", "3", "--workers", "1")
BAD = {"b1.png": b"this is no picture", "b4.png": b""}  # after b.png: places 2 and 5 of test_skipped's pictures


def png(seed: int, width: int = 40, height: int = 30, gray: bool = False) -> bytes:
    shape = (height, width) if gray else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eight pictures: three parts of SMALL."""
    return write(tmp_path / "in", {f"{i % 2}/{i}.png": png(i, 30 + 5 * i) for i in range(8)})


def run(*arguments: object, small: bool = True) -> int:
    return pack.main([*map(str, arguments), *(SMALL if small else ())])


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def wanted(source: Path, **settings: object) -> torch.Tensor:
    """What training sees of the pictures at 16x16."""
    config = ImagesConfig(size=16, **settings)  # type: ignore[arg-type]
    opened = Source(source)
    framed = [frame(Image.open(io.BytesIO(opened.read(name))), 16, config) for name in opened.names]
    return torch.from_numpy(np.stack(framed))


def read_back(path: Path, channels: int = 3) -> torch.Tensor:
    files = ImageFiles(path, 16, ImagesConfig(size=16, channels=channels))  # type: ignore[arg-type]
    assert files.skipped == {}
    return files[list(range(len(files)))]


def bytes_of(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {file.name: file.read_bytes() for file in path.iterdir()}


# ---- what is written


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {}),
        (["--channels", "1"], {"channels": 1}),
        (["--framing", "squash"], {"framing": "squash"}),
        (["--crop", "20"], {"crop": 20}),
    ],
)
def test_folder_to_zip_to_shards(pictures: Path, tmp_path: Path, options: list[str], settings: dict) -> None:
    packed, shards = tmp_path / "out.zip", tmp_path / "made" / "out"
    assert run(pictures, packed, *options) == 0
    pixels, channels = wanted(pictures, **settings), settings.get("channels", 3)
    assert torch.equal(read_back(packed, channels), pixels)
    assert not (tmp_path / "out.zip.parts").exists()
    assert not (tmp_path / "out.zip.part").exists()
    assert run(packed, shards, "--channels", channels) == 0
    assert torch.equal(read_back(shards, channels), pixels)
    with zipfile.ZipFile(packed) as archive, archive.open("00000/img00000000.png") as file:
        assert Image.open(file).mode == ("L" if channels == 1 else "RGB")
    again = tmp_path / "again.zip"
    assert run(shards, again, "--channels", channels) == 0
    assert again.read_bytes() == packed.read_bytes()


def test_names_go_on_from_part_to_part(pictures: Path, tmp_path: Path) -> None:
    assert run(pictures, tmp_path / "out.zip") == run(pictures, tmp_path / "out") == 0
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == [f"00000/img{i:08d}.png" for i in range(8)]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    members = {}
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path) as shard:
            members[path.name] = shard.getnames()
            assert {(m.mtime, m.uid, m.gid, m.uname) for m in shard} == {(0, 0, 0, "")}
    numbers = [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert members == {f"shard-{n:05d}.tar": [f"{i:08d}.png" for i in part] for n, part in enumerate(numbers)}


def test_folders_of_a_zip_hold_a_thousand(tmp_path: Path) -> None:
    content = png(0, 4, 4)
    source = tmp_path / "in.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for i in range(1001):
            archive.writestr(f"{i:05d}.png", content)
    assert run(source, tmp_path / "out.zip", "--size", "4", "--workers", "1", small=False) == 0
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist()[-2:] == ["00000/img00000999.png", "00001/img00001000.png"]


def test_jpg_is_near(tmp_path: Path) -> None:
    x = np.linspace(0, 255, 40, dtype=np.uint8)
    smooth = np.stack([np.tile(x, (40, 1)), np.tile(x[:, None], (1, 40)), np.full((40, 40), 90, np.uint8)], -1)
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(smooth).save(source / "a.png")
    sizes = []
    for quality in ([], ["--quality", "60"]):
        packed = tmp_path / f"{len(quality)}.zip"
        assert run(source, packed, "--format", "jpg", *quality) == 0
        assert (read_back(packed).int() - wanted(source).int()).abs().max() < (8 if not quality else 60)
        with zipfile.ZipFile(packed) as archive:
            (entry,) = archive.infolist()
            assert entry.filename == "00000/img00000000.jpg"
            sizes.append(entry.file_size)
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize("label", [lambda i: i % 3, lambda i: [0.5, float(i)]])
def test_labels(tmp_path: Path, label: Callable[[int], object], capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{i}.png" for i in range(6)]
    labels = {"labels": [[name, label(i)] for i, name in enumerate(names) if i != 4][::-1]}
    files = {name: png(i) for i, name in enumerate(names)} | {"2.png": b"", "dataset.json": json.dumps(labels).encode()}
    source = write(tmp_path / "in", files)
    assert run(source, tmp_path / "out.zip") == run(source, tmp_path / "out") == 0
    assert "labels: 1 of the pictures have none" in capsys.readouterr().out
    labeled = (0, 1, 3, 5)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        content = json.loads(archive.read("dataset.json"))
    assert content == {"labels": [[f"00000/img{i:08d}.png", label(i)] for i in labeled]}
    assert Source(tmp_path / "out.zip").labels() == (dict(content["labels"]), [])
    found, order = {}, []
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path) as shard:
            for member in shard:
                name, suffix = member.name.split(".")
                order.append(int(name))
                if suffix != "png":
                    assert suffix == ("cls" if isinstance(label(0), int) else "json")
                    found[int(name)] = json.load(shard.extractfile(member))  # type: ignore[arg-type]
    assert found == {i: label(i) for i in labeled}
    assert order == sorted(order), "a sample's files lie together"


@pytest.mark.parametrize("name", ["out.zip", pytest.param("out", marks=pytest.mark.slow)])
def test_two_processes_write_the_same_bytes(pictures: Path, tmp_path: Path, name: str) -> None:
    write(pictures, BAD)
    for workers in (1, 2):
        dest = tmp_path / str(workers) / name
        assert run(pictures, dest, "--size", "16", "--shard-size", "2", "--workers", workers, small=False) == 0
    assert bytes_of(tmp_path / "1" / name) == bytes_of(tmp_path / "2" / name)


# ---- a second run


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int, number: signal.Signals = signal.SIGINT) -> None:
    """A signal comes after `count` pictures."""
    encode, calls = shards.encode, [0]

    def counted(*arguments: object) -> bytes | str:
        calls[0] += 1
        if calls[0] == count:
            signal.raise_signal(number)
        return encode(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "encode", counted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["out.zip", "out"])
def test_a_stopped_run_goes_on(
    pictures: Path, tmp_path: Path, name: str, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    dest, parts = tmp_path / name, tmp_path / ("out.zip.parts" if name == "out.zip" else "out")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 5, number)
        assert run(pictures, dest) == 128 + number
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"{number.name}: stopped with 1 of 3 parts in {parts}; the same command goes on from there"
    (first,) = parts.glob("shard-*")
    before = first.stat().st_ino
    assert run(pictures, dest) == 0
    assert capsys.readouterr().out.startswith(f"pack: 8 pictures in {pictures}; 3 of them are done already")
    if name == "out":
        assert first.stat().st_ino == before
    assert run(pictures, tmp_path / "whole" / name) == 0
    assert bytes_of(dest) == bytes_of(tmp_path / "whole" / name)


def test_a_stop_while_the_zip_is_joined(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dest, join = tmp_path / "out.zip", pack.join

    def stopped(*arguments: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        join(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(pack, "join", stopped)
        assert run(pictures, dest) == 143
    assert "stopped with 3 of 3 parts" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.zip.parts"]
    assert run(pictures, dest) == 0
    assert torch.equal(read_back(dest), wanted(pictures))


def test_finished_parts_are_left_alone(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "out"
    assert run(pictures, dest) == 0
    whole = bytes_of(dest)
    (dest / "shard-00001.tar").unlink()
    (dest / "shard-00001.tar.part").write_text("of a run that was killed")
    old = {path: path.stat() for path in dest.glob("*.tar")}
    with monkeypatch.context() as patch:
        seen: list[object] = []
        encode = shards.encode
        patch.setattr(shards, "encode", lambda *given: (seen.append(given[1]), encode(*given))[1])
        assert run(pictures, dest) == 0
    assert seen == Source(pictures).names[3:6]
    assert {path: path.stat() for path in old} == old
    assert bytes_of(dest) == whole
    capsys.readouterr()
    assert run(pictures, dest) == 0
    assert f"{dest} is complete already: 8 pictures of 16x16" in capsys.readouterr().out
    assert {path: path.stat() for path in old} == old


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--size", "8"], "size 16, now 8"),
        (["--shard-size", "4"], "shard-size 3, now 4"),
        (["--format", "jpg"], "format png, now jpg; quality None, now 95"),
        (["--crop", "9", "--min-side", "2"], "crop None, now 9; min-side 0, now 2"),
    ],
)
def test_other_settings_are_refused(
    pictures: Path, tmp_path: Path, options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "out"
    assert run(pictures, dest) == 0
    before = bytes_of(dest)
    capsys.readouterr()
    assert pack.main([str(pictures), str(dest), *SMALL, *options]) == 2
    line = error_line(capsys)
    assert f"{dest} was begun with {expected}: give what it was begun with, or delete it first" in line
    assert bytes_of(dest) == before


def test_other_pictures_and_labels_are_refused(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "out"
    assert run(pictures, dest) == 0
    write(pictures, {"dataset.json": json.dumps({"labels": [["0/0.png", 1]]}).encode()})
    assert run(pictures, dest) == 2
    assert "labels 0 (" in error_line(capsys)
    write(pictures, {"more.png": png(9)})
    assert run(pictures, dest) == 2
    assert "pictures 8 (" in error_line(capsys)


@pytest.mark.parametrize("name", ["out.zip", "out"])
def test_skipped_pictures_are_named_and_not_forgotten(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"{letter}.png": png(i) for i, letter in enumerate("abcdef")} | {"small.png": png(8, 40, 9)}
    source = write(tmp_path / "in", files | BAD)  # a b b1 | b4 c d | e f small
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 5)
        assert run(source, tmp_path / name, "--min-side", "10") == 130
    capsys.readouterr()
    assert run(source, tmp_path / name, "--min-side", "10") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"packed 6 pictures of 16x16 into {tmp_path / name} (0.0 MiB) in 0:0")
    assert "; skipped 3 (b1.png, b4.png, small.png): unreadable (" in last
    assert "0x" not in last
    assert last.endswith("its shorter side is 9, under --min-side 10")
    numbers = [int(path.split("/")[-1].removeprefix("img")[:8]) for path in Source(tmp_path / name).names]
    assert numbers == [0, 1, 4, 5, 6, 7], "numbers are places in the source"
    if name == "out":  # parts of other contents are not mixed
        write(source, {"b1.png": png(9)})
        (tmp_path / "out" / "shard-00000.tar").unlink()
        assert run(source, tmp_path / name, "--min-side", "10") == 2
        assert "was begun with pictures 9 (" in error_line(capsys)


def test_more_than_three_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in", {f"{i}.png": b"" for i in range(5)} | {"a.png": png(0)})
    assert run(source, tmp_path / "out") == 0
    assert "skipped 5 (0.png, 1.png, 2.png, ...): unreadable" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["out.zip", "out"])
def test_no_picture_can_be_used(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in", BAD)
    assert run(source, tmp_path / name) == 2
    assert f"none of the 2 pictures in {source} can be used: b1.png: unreadable (" in error_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# ---- processes


def start(source: Path, dest: Path) -> subprocess.Popen:
    """The command with two workers in a process group of its own, once it has written a part."""
    options = ["--size", "400", "--shard-size", "4", "--workers", "2"]
    command = [sys.executable, "-m", "idgan_fast", "pack", str(source), str(dest), *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(dest.glob("*.tar")) and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def worker_of(process: subprocess.Popen) -> int:
    """A worker's id: a child that is not the tracker of shared memory."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return next(int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes())


@pytest.mark.parametrize(
    "how", ["SIGINT", "worker", *(pytest.param(h, marks=pytest.mark.slow) for h in ("SIGTERM", "parent"))]
)
def test_signals_with_worker_processes(tmp_path: Path, how: str) -> None:
    """To the whole group, as a terminal sends them; SIGKILL to one process, as a lack of memory does."""
    content = png(0, 500, 500)
    source = write(tmp_path / "in", {f"{i:03d}.png": content for i in range(400)})
    dest = tmp_path / "out"
    process = start(source, dest)
    if how == "worker":
        os.kill(worker_of(process), signal.SIGKILL)
    elif how == "parent":
        process.kill()
    else:
        os.killpg(process.pid, signal.Signals[how])
    output, errors = process.communicate(timeout=60)  # which waits for the workers too: they hold the pipes
    there = len(list(dest.glob("*.tar")))
    assert 0 < there < 100
    if how == "worker":
        assert process.returncode == 2
        (line,) = errors.splitlines()
        assert line.startswith("error: pack: a worker process was killed; fewer --workers need less memory, and the")
    elif how == "parent":
        assert process.returncode == -signal.SIGKILL
    else:
        assert errors == ""
        assert process.returncode == 128 + signal.Signals[how]
        assert output.splitlines()[-1].startswith(f"{how}: stopped with {there} of 100 parts in {dest}; the same")


def test_faults_in_a_worker_process_are_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder stands where the worker's file should be."""
    dest = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 1)
        assert run(pictures, dest) == 130
    (dest / "shard-00001.tar.part").mkdir()
    assert run(pictures, dest, *SMALL, "--workers", "2", small=False) == 2
    line = error_line(capsys)
    assert "Is a directory: " in line
    assert "shard-00001.tar.part; mend it, and the same command goes on from there" in line


# ---- what the user can mend


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--size", "0"], "argument --size: must be a whole number from 1 to 16384, got '0'"),
        (["--size", "1.5"], "argument --size: must be a whole number from 1 to 16384, got '1.5'"),
        (["--crop", "-3"], "argument --crop: "),
        (["--min-side", "x"], "argument --min-side: must be a whole number of 0 or more, got 'x'"),
        (["--quality", "101", "--format", "jpg"], "argument --quality: must be a whole number from 1 to 100"),
        (["--quality", "90"], "--quality: only jpg has one"),
        (["--channels", "4"], "argument --channels: invalid choice: 4"),
        (["--framing", "fit"], "argument --framing: invalid choice: 'fit'"),
        (["--format", "gif"], "argument --format: invalid choice: 'gif'"),
        (["--workers", "0"], "argument --workers: "),
        (["--shard-size", "0"], "argument --shard-size: "),
        (["--shardsize", "5"], "--shardsize: no such option; did you mean --shard-size?"),
    ],
)
def test_wrong_options(
    pictures: Path, tmp_path: Path, options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pictures, tmp_path / "out", *options, small=False) == 2
    assert error_line(capsys).startswith(f"error: {expected}")
    assert not (tmp_path / "out").exists()


def test_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["pack"]) == 2
    assert "required: SOURCE, DEST; idgan-fast pack --help shows what there is" in error_line(capsys)


@pytest.mark.parametrize(
    ("source", "dest", "expected"),
    [
        ("nowhere", "out", "error: SOURCE: wants a folder or a zip of pictures, or tar shards, got {tmp}/nowhere (No"),
        ("text.txt", "out", "error: SOURCE: wants a folder or a zip of pictures, or tar shards, got {tmp}/text.txt ("),
        ("empty", "out", "error: no pictures in {tmp}/empty"),
        ("in", "in/out", "error: DEST: {tmp}/in/out lies in SOURCE, {tmp}/in"),
        ("in", "in", "error: DEST: {tmp}/in lies in SOURCE"),
        ("in", "in/out.zip", "error: DEST: {tmp}/in/out.zip lies in SOURCE"),
        ("in", "there.zip", "error: DEST: {tmp}/there.zip exists already; delete it first"),
        ("in", "out.tar", "error: DEST: wants a name that ends in .zip, or a folder for tar shards, got {tmp}/out.tar"),
        ("in", "text.txt", "error: DEST: wants a name that ends in .zip, or a folder for tar shards, got {tmp}/text"),
        ("in", "text.txt/out", "error: DEST: cannot write into {tmp}/text.txt/out (Not a directory)"),
        ("in", "text.txt/out.zip", "error: DEST: cannot write into {tmp}/text.txt/out.zip.parts (Not a directory)"),
        ("in", "full", "error: DEST: {tmp}/full holds other files; give an empty folder or a new one"),
    ],
)
def test_wrong_places(
    pictures: Path, tmp_path: Path, source: str, dest: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {"text.txt": b"text", "there.zip": b"", "full/letter.txt": b"text"})
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert run(tmp_path / source, tmp_path / dest) == 2
    assert error_line(capsys).startswith(expected.format(tmp=tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["out.zip", "out"])
def test_disk_full(
    pictures: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tmp_path / ("out.zip.parts" if name == "out.zip" else "out")

    def full(descriptor: int) -> None:
        if (parts / "shard-00001.tar.part").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run(pictures, tmp_path / name) == 2
    place = parts / "shard-00001.tar"
    assert error_line(capsys) == f"error: disk full: {place}; mend it, and the same command goes on from there"
    assert [path.name for path in parts.glob("shard-*")] == ["shard-00000.tar"]
    assert run(pictures, tmp_path / name) == 0
    assert torch.equal(read_back(tmp_path / name), wanted(pictures))


def test_a_source_that_vanishes_is_no_damage(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read, moved = Source.read, tmp_path / "moved"

    def vanish(source: Source, name: str, *limits: float) -> bytes:
        if name.endswith("6.png") and (tmp_path / "out" / "pack.json").exists():  # not for the fingerprint
            pictures.rename(moved)
        return read(source, name, *limits)

    with monkeypatch.context() as patch:
        patch.setattr(Source, "read", vanish)
        assert run(pictures, tmp_path / "out") == 2
    assert f"{pictures} is gone; bring it back" in error_line(capsys)
    moved.rename(pictures)
    assert run(pictures, tmp_path / "out") == 0
    assert torch.equal(read_back(tmp_path / "out"), wanted(pictures))


def test_no_memory_is_no_damage(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(shards, "frame", no_memory)
    assert run(pictures, tmp_path / "out") == 2
    assert "out of memory; fewer --workers" in error_line(capsys)


def test_damaged_records_and_parts(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest, parts = tmp_path / "out.zip", tmp_path / "out.zip.parts"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 8)
        assert run(pictures, dest) == 130
    capsys.readouterr()
    shard = (parts / "shard-00000.tar").read_bytes()
    (parts / "shard-00000.tar").write_bytes(shard[:700])
    assert run(pictures, dest) == 2
    assert f"{parts / 'shard-00000.tar'} is damaged" in error_line(capsys)
    assert not dest.exists()
    (parts / "shard-00000.tar").unlink()
    record = (parts / "pack.json").read_text()
    for broken in (record[:50], "[1]"):
        (parts / "pack.json").write_text(broken)
        assert run(pictures, dest) == 2
        assert "pack.json is damaged (" in error_line(capsys)
    (parts / "pack.json").write_text(record)
    assert run(pictures, dest) == 0
    assert torch.equal(read_back(dest), wanted(pictures))


def test_two_runs_do_not_share_a_place(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(pictures, tmp_path / "out") == 2
        assert f"another process is packing into {tmp_path / 'out'}" in error_line(capsys)
    assert run(pictures, tmp_path / "out") == 0


def test_lines_of_progress(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("idgan_fast.run.console.QUIET_SECONDS", -1.0)
    assert run(pictures, tmp_path / "out.zip") == 0
    first, *progress, last = capsys.readouterr().out.splitlines()
    assert first == f"pack: 8 pictures in {pictures}; 0 of them are done already"
    assert [line.split("  ")[0] for line in progress] == [f"pack {i}/8" for i in range(1, 9)]
    assert last.startswith(f"packed 8 pictures of 16x16 into {tmp_path / 'out.zip'} (0.0 MiB) in 0:0")

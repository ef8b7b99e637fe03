"""Where encoded pictures lie: folders, zips, tars and folders of shards; their names, bytes, labels and errors."""

import io
import json
import multiprocessing
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data.fingerprint import Fingerprint
from idgan_fast.data.images import ImageFiles
from idgan_fast.data.sources import Source
from tests.common import error_of
from tests.data.test_images import noise

KINDS = ("folder", "zip", "tar", "shards")
UNCACHED = ImagesConfig(cache_gib=0)
Files = dict[str, bytes]


def some_bytes(seed: int, count: int = 3000) -> bytes:
    return np.random.default_rng(seed).bytes(count)


def png(seed: int, side: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(side, side, seed=seed)).save(buffer, "png")
    return buffer.getvalue()


def write_folder(path: Path, files: Files) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path: Path, files: Files, how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: Files, how: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=how) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write(kind: str, folder: Path, files: Files) -> Path:
    """The files as one of the KINDS, in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        return write_folder(folder / "pictures", files)
    if kind == "zip":
        return write_zip(folder / "pictures.zip", files)
    if kind == "tar":
        return write_tar(folder / "pictures.tar", files)
    names = list(files)
    for number, part in enumerate((names[::2], names[1::2])):
        write_tar(folder / "shards" / f"{number:05d}.tar", {name: files[name] for name in part})
    return folder / "shards"


def cut(path: Path, name: str, kept: int) -> Path:
    """Cut a tar off, this many bytes into one of its members."""
    with tarfile.open(path) as archive:
        end = archive.getmember(name).offset_data + kept
    os.truncate(path, end)
    return path


def contents(source: Source) -> Files:
    return {name: source.read(name) for name in source.names}


def members(source: Source, among: Sequence[str]) -> list[str]:
    """Which members the names stand for: a name from a tar may say more than its member's."""
    return sorted(next(m for m in among if name == m or name.endswith("/" + m)) for name in source.names)


def name_of(source: Source, member: str) -> str:
    (name,) = [n for n in source.names if n == member or n.endswith("/" + member)]
    return name


PICTURES = {f"{n % 3}/{n:02d}{end}": some_bytes(n) for n, end in enumerate([".png", ".jpg", ".jpeg", ".webp", ".bmp"])}


# ---- names and bytes


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_every_ending_in_any_case(tmp_path: Path, kind: str) -> None:
    endings = [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".PNG", ".JPG", ".JPEG", ".WEBP", ".BMP", ".Png", ".jPeG"]
    pictures = {f"{n:02d}{end}": some_bytes(n) for n, end in enumerate(endings)}
    others = ["list.txt", "a.gif", "a.tiff", "png", "a.png.txt", "a.pngx", ".json", "a.npz", "apng", "bjpg"]
    source = Source(write(kind, tmp_path, {**pictures, **dict.fromkeys(others, b"other")}))
    assert members(source, list(pictures)) == sorted(pictures)
    assert sorted(contents(source).values()) == sorted(pictures.values())


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_sorted_and_reach_into_nested_folders(tmp_path: Path, kind: str) -> None:
    names = [
        "z.png",
        "b/2.png",
        "b/10.png",
        "B/1.png",
        "a/b/c/d.png",
        "a.png",
        "a/b.png",
        "a-b/1.png",
        "with space.png",
    ]
    files = {name: some_bytes(n) for n, name in enumerate(names)}
    source = Source(write(kind, tmp_path, files))
    assert isinstance(source.names, list)
    assert source.names == sorted(source.names)
    assert members(source, sorted(names, key=len, reverse=True)) == sorted(names)
    assert sorted(contents(source).values()) == sorted(files.values())


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_names_of_a_folder_and_of_a_zip_are_relative_paths(tmp_path: Path, kind: str) -> None:
    source = Source(write(kind, tmp_path, PICTURES))
    assert source.names == sorted(PICTURES)
    assert contents(source) == PICTURES


@pytest.mark.parametrize("kind", KINDS)
def test_each_name_gives_its_bytes_in_any_order_and_again(tmp_path: Path, kind: str) -> None:
    files = {f"{n}.png": some_bytes(n, count) for n, count in enumerate([1, 511, 512, 513, 5000, 70_000, 0])}
    source = Source(write(kind, tmp_path, files))
    for member in [*reversed(files), *files]:
        assert source.read(name_of(source, member)) == files[member]


@pytest.mark.parametrize("kind", KINDS)
def test_what_macos_leaves_is_passed_over(tmp_path: Path, kind: str) -> None:
    left = ["__MACOSX/._face.png", "__MACOSX/a/face.png", "._face.png", "a/._face.jpg", "a/__MACOSX/face.png"]
    files = {"face.png": b"1", "a/.face.png": b"2", **dict.fromkeys(left, b"\x00\x05\x16\x07")}
    source = Source(write(kind, tmp_path, files))
    assert sorted(contents(source).values()) == [b"1", b"2"]


def test_a_folder_whose_name_ends_like_a_picture(tmp_path: Path) -> None:
    (tmp_path / "in" / "empty.png").mkdir(parents=True)
    write_folder(tmp_path / "in", {"faces.jpg/1.png": b"1"})
    assert contents(Source(tmp_path / "in")) == {"faces.jpg/1.png": b"1"}
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("empty.png/", b"")
        archive.writestr("faces.jpg/1.png", b"1")
    assert contents(Source(tmp_path / "in.zip")) == {"faces.jpg/1.png": b"1"}
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(tmp_path / "in", ".")
    assert list(contents(Source(tmp_path / "in.tar")).values()) == [b"1"]


def test_a_compressed_zip(tmp_path: Path) -> None:
    files = {f"{n}.png": bytes(1000) + some_bytes(n) for n in range(4)}
    assert contents(Source(write_zip(tmp_path / "a.zip", files, zipfile.ZIP_DEFLATED))) == files


@pytest.mark.parametrize("kind", KINDS)
def test_names_beyond_ascii(tmp_path: Path, kind: str) -> None:
    files = {"gesicht-ä.png": b"1", "顔/一.png": b"2"}
    source = Source(write(kind, tmp_path, files))
    assert sorted(contents(source).values()) == [b"1", b"2"]
    assert source.names == Source(tmp_path / source.path.name).names


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_name_that_is_no_utf8(tmp_path: Path, kind: str) -> None:
    files = {os.fsdecode(b"gesicht-\xe4.png"): b"1", "b.png": b"2"}
    source = Source(write(kind, tmp_path, files))
    assert sorted(contents(source).values()) == [b"1", b"2"]
    assert Fingerprint(source).text


# ---- labels


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("label", [(3, 0, 12), ([0.0, 1.0], [0.5, -2.0], [1, 0])])
def test_labels_of_a_dataset_json(tmp_path: Path, kind: str, label: tuple) -> None:
    names = [f"00000/img{n:08d}.png" for n in range(3)]
    wanted = dict(zip(names, label, strict=True))
    listed = json.dumps({"labels": [[name, value] for name, value in wanted.items()]}).encode()
    source = Source(write(kind, tmp_path, {**dict.fromkeys(names, b"1"), "dataset.json": listed}))
    assert source.names == names
    found, remarks = source.labels()
    assert remarks == []
    assert found == wanted
    assert [type(value) for value in found.values()] == [type(value) for value in label]  # type: ignore[union-attr]
    assert pickle.loads(pickle.dumps(source)).labels() == (wanted, [])


@pytest.mark.parametrize("kind", KINDS)
def test_no_dataset_json_means_no_labels(tmp_path: Path, kind: str) -> None:
    assert Source(write(kind, tmp_path, {**PICTURES, "other.json": b'{"labels": 3}'})).labels() == ({}, [])


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("listed", [b'{"labels": null}', b"{}", b'{"other": 1}'])
def test_a_dataset_json_without_labels(tmp_path: Path, kind: str, listed: bytes) -> None:
    assert Source(write(kind, tmp_path, {**PICTURES, "dataset.json": listed})).labels() == ({}, [])


BROKEN = {
    "empty": b"",
    "cut": b'{"labels": [["a.png", 3], ["b.p',
    "no json": b"a.png 3\nb.png 4\n",
    "no utf8": b'{"labels": [["\xe4.png", 3]]}',
    "a list": b'[["a.png", 3]]',
    "a number": b"3",
    "labels is a number": b'{"labels": 3}',
    "labels is true": b'{"labels": true}',
    "labels is a text": b'{"labels": "cat"}',
    "numbers alone": b'{"labels": [3, 4]}',
    "names alone": b'{"labels": [["a.png"], ["b.png"]]}',
    "triples": b'{"labels": [["a.png", 3, 4]]}',
    "names are lists": b'{"labels": [[["a.png"], 3]]}',
    "null among pairs": b'{"labels": [["a.png", 3], null]}',
    "names are numbers": b'{"labels": [[3, 4]]}',
    "pairs are texts": b'{"labels": ["ab"]}',
    "label is a text": b'{"labels": [["a.png", "cat"]]}',
    "label is null": b'{"labels": [["a.png", null]]}',
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("listed", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_dataset_json(tmp_path: Path, kind: str, listed: bytes) -> None:
    source = Source(write(kind, tmp_path, {"a.png": b"1", "b.png": b"2", "dataset.json": listed}))
    assert "dataset.json" in error_of(source.labels)


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_dataset_json_that_is_damaged_in_its_zip(tmp_path: Path, how: int) -> None:
    listed = json.dumps({"labels": [["a.png", 12345]]}).encode()
    path = write_zip(tmp_path / "a.zip", {"dataset.json": listed, "a.png": b"1"}, how)
    data = bytearray(path.read_bytes())
    at = 30 + len("dataset.json")  # where a zip's first member begins
    for place in range(at + 8, at + 20):
        data[place] ^= 0xFF
    path.write_bytes(data)
    assert "dataset.json" in error_of(Source(path).labels)


# ---- nothing there


def a_text(path: Path) -> Path:
    path.write_text("this is no archive\n" * 100)
    return path


def half_a_zip(path: Path) -> Path:
    write_zip(path, PICTURES)
    os.truncate(path, path.stat().st_size // 2)
    return path


TEXTS = {"a.txt": b"1", "b/c.json": b"{}"}
NOTHING: dict[str, Callable[[Path], Path]] = {
    "nothing": lambda path: path,
    "nothing, a zip's name": lambda path: path.with_suffix(".zip"),
    "nothing, a tar's name": lambda path: path.with_suffix(".tar"),
    "a text": lambda path: a_text(path),
    "a text, a zip's name": lambda path: a_text(path.with_suffix(".zip")),
    "a text, a tar's name": lambda path: a_text(path.with_suffix(".tar")),
    "an empty file": lambda path: write_folder(path.parent, {path.name: b""}) / path.name,
    "one picture": lambda path: write_folder(path.parent, {"a.png": png(0)}) / "a.png",
    "an empty folder": lambda path: write_folder(path, {}),
    "a folder of texts": lambda path: write_folder(path, TEXTS),
    "a folder of what macOS leaves": lambda path: write_folder(path, {"__MACOSX/a.png": b"1", "._b.png": b"2"}),
    "an empty zip": lambda path: write_zip(path, {}),
    "a zip of texts": lambda path: write_zip(path, TEXTS),
    "a cut-off zip": half_a_zip,
    "an empty tar": lambda path: write_tar(path, {}),
    "a tar of texts": lambda path: write_tar(path, TEXTS),
    "shards of texts": lambda path: write_tar(path / "0.tar", TEXTS).parent,
    "a folder of a text, a tar's name": lambda path: write_folder(path, {"a.tar": b"this is no archive\n" * 100}),
}


@pytest.mark.parametrize("make", NOTHING.values(), ids=NOTHING.keys())
def test_nothing_to_read_is_one_line(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "there")
    text = error_of(lambda: Source(path))
    assert text.startswith("data:")
    assert str(path) in text


# ---- processes and threads


@pytest.mark.parametrize("before", [False, True], ids=["fresh", "read from"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_pickles(tmp_path: Path, kind: str, before: bool) -> None:
    source = Source(write(kind, tmp_path, PICTURES))
    if before:
        source.read(source.names[0])
    other = pickle.loads(pickle.dumps(source))
    assert other.names == source.names
    assert contents(other) == contents(source)
    again = pickle.loads(pickle.dumps(other))
    del other
    assert sorted(contents(again).values()) == sorted(PICTURES.values())
    assert contents(source) == contents(again)


def fork(run: Callable[[], object], count: int) -> list[int | None]:
    """Exit codes of forked processes that run this at once."""
    context: Any = multiprocessing.get_context("fork")
    children = [context.Process(target=run) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        child.kill()
    return [child.exitcode for child in children]


@pytest.mark.parametrize("before", [False, True], ids=["fresh", "read from"])
@pytest.mark.parametrize("kind", KINDS)
def test_forked_processes(tmp_path: Path, kind: str, before: bool) -> None:
    files = {f"{n:02d}.png": some_bytes(n, 20_000) for n in range(20)}
    path = write(kind, tmp_path, files)
    source, wanted = Source(path), contents(Source(path))
    assert sorted(wanted.values()) == sorted(files.values())
    if before:
        source.read(source.names[0])

    def run() -> None:
        for _ in range(5):
            assert contents(source) == wanted

    assert fork(run, 3) == [0, 0, 0]
    run()  # the children have closed nothing of their parent's


def test_spawned_processes(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for kind in KINDS:
            source = Source(write(kind, tmp_path, PICTURES))
            wanted = contents(source)
            assert list(pool.map(source.read, source.names)) == list(wanted.values())


@pytest.mark.parametrize("how", ["stored", "deflated", "folder", "tar", "shards"])
def test_eight_threads_at_once(tmp_path: Path, how: str) -> None:
    files = {f"{n:02d}.png": bytes(5000) + some_bytes(n, 20_000) for n in range(24)}
    if how in KINDS:
        path = write(how, tmp_path, files)
    else:
        method = zipfile.ZIP_STORED if how == "stored" else zipfile.ZIP_DEFLATED
        path = write_zip(tmp_path / "a.zip", files, method)
    wanted = contents(Source(path))
    for _ in range(5):  # each opens the archive from eight threads
        source = Source(path)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(source.read, source.names * 4))
        assert found == list(wanted.values()) * 4


def test_many_sources_leave_no_files_open(tmp_path: Path) -> None:
    paths = [write(kind, tmp_path, PICTURES) for kind in KINDS]
    before = len(os.listdir("/proc/self/fd"))
    for path in paths * 10:
        source = Source(path)
        contents(pickle.loads(pickle.dumps(source)))
        contents(source)
    del source
    assert len(os.listdir("/proc/self/fd")) <= before


# ---- shards of a WebDataset


def sample(number: int) -> Files:
    key = f"{number:09d}"
    return {f"{key}.cls": b"3", f"{key}.jpg": some_bytes(number), f"{key}.json": b"{}", f"{key}.txt": b"a face"}


def test_other_members_beside_pictures_are_passed_over(tmp_path: Path) -> None:
    for shard in range(3):
        files = {name: data for n in range(4) for name, data in sample(4 * shard + n).items()}
        write_tar(tmp_path / f"{shard:05d}.tar", files)
    write_folder(tmp_path, {"00000.json": b"{}", "00000.parquet": b"", "readme.txt": b"", "dataset.json": b"{}"})
    source = Source(tmp_path)
    assert sorted(contents(source).values()) == sorted(some_bytes(n) for n in range(12))
    assert source.labels()[0] == dict.fromkeys(source.names, 3)


def test_equal_names_in_two_shards_are_both_kept(tmp_path: Path) -> None:
    for n, name in enumerate(["0.tar", "1.tar", "a/0.tar", "b/0.tar"]):
        write_tar(tmp_path / name, {"face.png": some_bytes(2 * n), "in/face.png": some_bytes(2 * n + 1)})
    source = Source(tmp_path)
    assert len(set(source.names)) == len(source.names) == 8
    assert sorted(contents(source).values()) == sorted(some_bytes(n) for n in range(8))


def test_a_nested_folder_of_shards(tmp_path: Path) -> None:
    for n, name in enumerate(["train/0/0.tar", "train/1.tar", "val/0.tar", "2.TAR"]):
        write_tar(tmp_path / name, {f"{n}.png": some_bytes(n)})
    assert sorted(contents(Source(tmp_path)).values()) == sorted(some_bytes(n) for n in range(4))


def test_a_folder_with_pictures_of_its_own_is_no_folder_of_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"b.png": b"2"})
    write_folder(tmp_path, {"in/a.png": b"1"})
    assert contents(Source(tmp_path)) == {"in/a.png": b"1"}


@pytest.mark.parametrize("left", ["._a.png", "__MACOSX/a.png"])
def test_what_macos_leaves_beside_shards_is_no_picture(tmp_path: Path, left: str) -> None:
    write_tar(tmp_path / "0.tar", {"b.png": b"2"})
    write_folder(tmp_path, {left: b"\x00\x05\x16\x07"})
    assert list(contents(Source(tmp_path)).values()) == [b"2"]


@pytest.mark.parametrize("left", ["._0.tar", "__MACOSX/._0.tar"])
def test_what_macos_leaves_beside_shards_is_no_shard(tmp_path: Path, left: str) -> None:
    write_tar(tmp_path / "0.tar", {"b.png": b"2"})
    write_folder(tmp_path, {left: b"\x00\x05\x16\x07" + bytes(159)})
    assert list(contents(Source(tmp_path)).values()) == [b"2"]


def test_a_shard_without_pictures_among_others(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", TEXTS)
    write_tar(tmp_path / "1.tar", {})
    write_tar(tmp_path / "2.tar", {"b.png": b"2"})
    assert list(contents(Source(tmp_path)).values()) == [b"2"]


@pytest.mark.parametrize("how", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("kind", ["tar", "shards"])
def test_long_names(tmp_path: Path, how: int, kind: str) -> None:
    names = ["s" * 90 + ".png", "d" * 100 + "/" + "f" * 80 + ".png"]
    if how != tarfile.USTAR_FORMAT:
        names += ["n" * 240 + ".png", "/".join(["deep" * 20] * 6) + "/1.png", "ä" * 120 + ".jpg"]
    files = {name: some_bytes(n) for n, name in enumerate(names)}
    path = write_tar(tmp_path / "in" / "0.tar", {"first.txt": b"1", **files})
    source = Source(path if kind == "tar" else path.parent)
    assert {member: source.read(name_of(source, member)) for member in names} == files
    assert len(source.names) == len(names)


CUTS = {"at its start": 0, "at once": 1, "in its middle": 2000, "in its last byte": 3999}


@pytest.mark.parametrize("kept", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("kind", ["tar", "shards"])
def test_the_pictures_before_a_cut_read_well(tmp_path: Path, kind: str, kept: int) -> None:
    files = {name: some_bytes(n, 4000) for n, name in enumerate(["0.png", "1.jpg", "2.png", "3.png"])}
    path = cut(write_tar(tmp_path / "in" / "0.tar", files), "2.png", kept)
    after = {"8.png": b"8", "9.png": b"9"}
    if kind == "shards":
        files |= after
        write_tar(tmp_path / "in" / "1.tar", after)
    source = Source(path if kind == "tar" else path.parent)
    for member in ["0.png", "1.jpg", *(after if kind == "shards" else ())]:
        assert source.read(name_of(source, member)) == files[member]
    assert not any(name.endswith("3.png") for name in source.names)
    for name in source.names:  # never a part of a picture in place of it
        if name.endswith("2.png"):
            with pytest.raises(Exception):  # noqa: B017, PT011 - which one is the archive's
                source.read(name)


@pytest.mark.parametrize("more", [0, 10], ids=["after a block", "in the padding"])
def test_a_shard_cut_off_behind_a_picture(tmp_path: Path, more: int) -> None:
    size = 1024 if not more else 1000
    files = {f"{n}.png": some_bytes(n, size) for n in range(3)}
    path = cut(write_tar(tmp_path / "0.tar", files), "1.png", size + more)
    assert list(contents(Source(path)).values()) == [files["0.png"], files["1.png"]]


# ---- as pictures


@pytest.mark.parametrize("kind", ["zip", "tar", "shards"])
def test_pixels_are_those_of_the_folder(tmp_path: Path, kind: str) -> None:
    files = {f"{n}.png": png(n, 64 + 3 * n) for n in range(5)}
    plain = ImageFiles(write("folder", tmp_path, files), 64, UNCACHED)
    packed = ImageFiles(write(kind, tmp_path, files), 64, UNCACHED)
    order = [[name.split("/")[-1] for name in dataset.paths] for dataset in (plain, packed)]
    pixels = [dict(zip(names, d[list(range(5))], strict=True)) for names, d in zip(order, (plain, packed), strict=True)]
    assert sorted(order[0]) == sorted(order[1]) == sorted(files)
    for name in files:
        assert torch.equal(pixels[0][name], pixels[1][name])
    assert plain.skipped == packed.skipped == {}


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_picture_is_skipped_and_named(tmp_path: Path, kind: str) -> None:
    files = {f"{n}.png": png(n) for n in range(3)}
    files["1.png"] = files["1.png"][: len(files["1.png"]) // 2]
    dataset = ImageFiles(write(kind, tmp_path, files), 64, UNCACHED)
    seen = {picture.numpy().tobytes() for picture in dataset[[0, 1, 2]]}
    wanted = {noise(seed=n).transpose(2, 0, 1).tobytes() for n in (0, 2)}
    assert seen == wanted
    assert list(dataset.skipped) == [name_of(dataset.source, "1.png")]


@pytest.mark.parametrize("cache_gib", [0.0, 2.0])
@pytest.mark.parametrize("kind", ["tar", "shards"])
def test_the_picture_that_a_shard_is_cut_off_in_is_skipped_and_named(
    tmp_path: Path, kind: str, cache_gib: float
) -> None:
    files = {f"{n}.png": png(n) for n in range(3)}
    path = cut(write_tar(tmp_path / "in" / "0.tar", files), "2.png", len(files["2.png"]) // 2)
    if kind == "shards":
        write_tar(tmp_path / "in" / "1.tar", {"3.png": png(3)})
    good = (0, 1, 3) if kind == "shards" else (0, 1)
    dataset = ImageFiles(path if kind == "tar" else path.parent, 64, ImagesConfig(cache_gib=cache_gib))
    seen = {picture.numpy().tobytes() for picture in dataset[list(range(len(dataset)))]}
    assert seen == {noise(seed=n).transpose(2, 0, 1).tobytes() for n in good}
    (skipped,) = dataset.skipped
    assert skipped.endswith("2.png")

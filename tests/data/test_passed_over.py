"""What lies beside images and is no image of the source, or an image that is left out: it is counted by reason."""

import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from idgan_fast.config.arguments import parse
from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data import folders, open_data
from idgan_fast.data.images import ImageFiles
from idgan_fast.data.passed_over import PassedOver
from idgan_fast.data.sources import Source
from idgan_fast.run import messages
from tests.common import error_of
from tests.data.test_images import noise, put
from tests.data.test_sources import KINDS, members, write, write_folder, write_tar, write_zip
from tests.run.test_messages import RESOLVED

ASIDE = (
    *(".ipynb_checkpoints/a-checkpoint.png", "b/.thumbnails/x/1.png", ".Trash-1000/files/a.png", "__MACOSX/a.png"),
    *("@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "b/$RECYCLE.BIN/a.png", "#recycle/a.png"),
)


def remarks(path: Path) -> list[str]:
    return Source(path).remarks


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_beside_the_pictures_is_nothing_to_say(tmp_path: Path, kind: str) -> None:
    files = dict.fromkeys(["a.png", "b.d/.c.jpg", "..d.png", "not@eaDir/f.png", "my__MACOSX/g.png"], b"1")
    files |= {} if kind in ("folder", "zip") else {"./h.png": b"1", "./i/../j.png": b"1"}
    source = Source(write(kind, tmp_path, files))
    assert len(source.names) == len(files)
    assert source.remarks == []


@pytest.mark.parametrize("kind", KINDS)
def test_folders_that_are_set_aside(tmp_path: Path, kind: str) -> None:
    files = {"a.png": b"1", "b/c.png": b"2", **dict.fromkeys(ASIDE, b"0")}
    source = Source(write(kind, tmp_path, files))
    assert members(source, ["a.png", "b/c.png"]) == ["a.png", "b/c.png"]
    (line,) = source.remarks
    shown = "#recycle/, $RECYCLE.BIN/, .Trash-1000/, .ipynb_checkpoints/, ..."
    assert line == f"passed over 7 files and folders: 7 hidden or of thumbnails ({shown})"


def test_a_hidden_folder_that_is_asked_for(tmp_path: Path) -> None:
    path = write_folder(tmp_path / ".faces", {"a.png": b"1", "b/c.png": b"2"})
    assert Source(path).names == ["a.png", "b/c.png"]
    path = write_tar(tmp_path / ".cache" / ".0.tar", {"a.png": b"1"})
    assert Source(path).names == [".0.tar/a.png"]
    assert Source(path).remarks == []


@pytest.mark.parametrize("kind", KINDS)
def test_suffixes(tmp_path: Path, kind: str) -> None:
    others = ["1.txt", "2.TXT", "3.gif", "c/4.gif", "5.gif", "c/readme", ".DS_Store", "._a.png", "c/._b.png", "6.avif"]
    (line,) = remarks(write(kind, tmp_path, {"a.png": b"1", "b.png": b"2", **dict.fromkeys(others, b"0")}))
    by_suffix = "8 by suffix (.gif, .txt, .DS_Store, .avif, ...)"
    assert line == f"passed over 10 files and folders: {by_suffix}, 2 left by macOS (._a.png, c/._b.png)"


def test_tars_beside_pictures_and_files_beside_tars(tmp_path: Path) -> None:
    write_tar(write_folder(tmp_path / "a", {"a.png": b"1"}) / "0.tar", {"b.png": b"1"})
    assert remarks(tmp_path / "a") == ["passed over 1 files and folders: 1 by suffix (.tar)"]
    write_tar(write_folder(tmp_path / "b", {"a.json": b"1"}) / "0.tar", {"b.png": b"1", "b.cls": b"3", "b.txt": b""})
    assert remarks(tmp_path / "b") == ["passed over 2 files and folders: 2 by suffix (.json, .txt)"]


def test_the_error_says_what_was_passed_over(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {"a.gif": b"1", ".b/c.png": b"2"})
    text = error_of(lambda: Source(path))
    assert text.endswith(".bmp; passed over 2 files and folders: 1 by suffix (.gif), 1 hidden or of thumbnails (.b/)")


def test_a_name_that_comes_again(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.png": b"1", "b.png": b"2"})
    with tarfile.open(tmp_path / "a.tar", "a") as shard:
        shard.addfile(tarfile.TarInfo("a.png"))
    packed = write_zip(tmp_path / "a.zip", {"a.png": b"1", "b.png": b"2"})
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("a.png", b"")
    for name in ("a.tar", "a.zip"):
        source = Source(tmp_path / name)
        assert [source.read(image) for image in source.names] == [b"", b"2"]  # the last one counts
        assert source.remarks == ["passed over 1 files and folders: 1 of a name that comes again (a.png)"]


# ---- links and other things in folders


def test_linked_folders_and_files(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", {"c.png": b"3", "deep/d.png": b"4"})
    path = write_folder(tmp_path / "in", {"a/a.png": b"1"})
    (path / "b").symlink_to("../elsewhere", target_is_directory=True)
    (path / "e.png").symlink_to("a/a.png")
    source = Source(path)
    assert source.names == ["a/a.png", "b/c.png", "b/deep/d.png", "e.png"]
    assert [source.read(name) for name in source.names] == [b"1", b"3", b"4", b"1"]
    assert source.remarks == []


def test_loops_end_and_each_folder_comes_once_without_a_link(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "in", {"b/c.png": b"1", "d/e/f.png": b"2"})
    (path / "a").symlink_to("b", target_is_directory=True)
    (path / "b" / "up").symlink_to("..", target_is_directory=True)
    (path / "d" / "e" / "self").symlink_to(".", target_is_directory=True)
    (path / "d" / "above").symlink_to("../..", target_is_directory=True)
    write_folder(tmp_path, {"beside/g.png": b"3", "run/samples/h.png": b"4"})
    source = Source(path)
    assert source.names == ["b/c.png", "d/e/f.png"]
    above = "3 linked to a folder above (b/up/, d/above/, d/e/self/)"
    assert source.remarks == [f"passed over 4 files and folders: {above}, 1 linked twice (a/)"]


def test_a_loop_in_a_linked_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", {"b/c.png": b"1", "d.png": b"2"})
    (tmp_path / "elsewhere" / "b" / "up").symlink_to("..", target_is_directory=True)
    path = write_folder(tmp_path / "in", {"a.png": b"3"})
    (path / "b").symlink_to(tmp_path / "elsewhere" / "b", target_is_directory=True)
    assert Source(path).names == ["a.png", "b/c.png"]


def test_links_to_nothing_and_no_plain_files(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "in", {"a.png": b"1"})
    (path / "b.png").symlink_to("gone.png")
    (path / "c.png").symlink_to("c.png")
    os.mkfifo(path / "d.png")
    (path / "e.png").symlink_to("d.png")
    assert Source(path).names == ["a.png"]
    assert remarks(path) == [
        "passed over 4 files and folders: 2 linked to nothing (b.png, c.png), 2 no plain file (d.png, e.png)"
    ]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a.png", "b.png", "d.png"):
            archive.add(path / name)
        hard = tarfile.TarInfo("hard.png")
        hard.type, hard.linkname = tarfile.LNKTYPE, str(path / "a.png").lstrip("/")
        archive.addfile(hard)
    source = Source(tmp_path / "a.tar")
    assert [source.read(name) for name in source.names] == [b"1", b"1"]
    (line,) = source.remarks
    assert line.startswith("passed over 2 files and folders: 2 no plain file (")


def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "neither a folder nor a file" in error_of(lambda: Source(tmp_path / "pipe"))


@pytest.mark.parametrize("at", [6, 8, 10])
def test_a_zip_that_zipfile_does_not_know(tmp_path: Path, at: int) -> None:
    """The version that is needed, flags and the name's encoding in its directory."""
    path = write_zip(tmp_path / "a.zip", {"\xe4.png": b"1"})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + at], data[entry + 46] = 255, 255
    path.write_bytes(data)
    assert str(path) in error_of(lambda: Source(path))


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_folder(tmp_path, {"a.png": b"1", "private/b.png": b"2"})
    scan = os.scandir

    def refuse(folder: str) -> object:
        if Path(folder).name == "private":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    assert remarks(path) == ["passed over 1 files and folders: 1 unreadable (private/: Permission denied)"]
    monkeypatch.setattr(folders.os, "scandir", lambda folder: refuse("private"))
    assert "Permission denied" in error_of(lambda: Source(path))


def test_plain_files_are_not_asked_for_their_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = write_folder(tmp_path, {f"{i % 3}/{i}.png": b"" for i in range(30)}), []
    ask = os.stat

    def count(name: str, **how: bool) -> os.stat_result:
        asked.append(name)
        return ask(name, **how)

    monkeypatch.setattr(folders.os, "stat", count)
    assert len(folders.files_below(path, PassedOver())) == 30
    assert len(asked) == 4  # folders
    assert stat.S_ISDIR(ask(asked[0]).st_mode)


# ---- what a run is told


@pytest.mark.parametrize("config", [ImagesConfig(), ImagesConfig(cache_gib=0.0)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 70), (70, 1)])
def test_a_picture_of_a_pixels_width(tmp_path: Path, config: ImagesConfig, height: int, width: int) -> None:
    put(tmp_path, "a.png", noise(2, 2))
    put(tmp_path, "b.png", noise(width, height))
    dataset = ImageFiles(tmp_path, 64, config)
    dataset[list(range(len(dataset)))]
    assert dataset.skipped == {"b.png": f"it is {width}x{height} pixels, no picture"}


def test_lines_of_a_run(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path, f"{number}.png", noise(64, 64))
    (tmp_path / "list.txt").write_text("")

    def lines(*flags: str) -> list[str]:
        config = parse(["--preset", "images-quick", "--data", str(tmp_path), *flags])
        dataset = open_data(config, 64)
        return [*messages.left_out(dataset, config), *list(messages.beginning(config, tmp_path, RESOLVED, {}))[2:]]

    beside = "passed over 1 files and folders: 1 by suffix (.txt)"
    assert lines("--batch-size", "5") == [beside]
    assert lines("--vae.batch-size", "6", "--gan.batch-size", "5", "--gan.iters", "0") == [
        beside,
        "--vae.batch-size 6 is above the 5 pictures: a batch has some more than once",
        "--gan.iters 0: this stage is not trained",
    ]

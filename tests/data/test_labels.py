"""Labels that reach `pack`: those of shards, and those of a dataset.json whose names are written otherwise."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from idgan_fast.__main__ import main
from idgan_fast.data.labels import match
from idgan_fast.data.sources import Source
from tests.common import error_of
from tests.data.test_sources import Files, png, some_bytes, write_folder, write_tar, write_zip


def packed(source: Path, dest: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], list[str]]:
    """The labels of the zip that `pack` makes, and its lines."""
    capsys.readouterr()
    assert main(["pack", str(source), str(dest), "--size", "8", "--workers", "1", "--shard-size", "2"]) == 0
    return Source(dest).labels()[0], capsys.readouterr().out.splitlines()


def listing(*pairs: tuple[str, Any]) -> bytes:
    return json.dumps({"labels": pairs}).encode()


# ---- shards


@pytest.mark.parametrize("label", [lambda n: 2 * n, lambda n: [0.5, float(n)]], ids=["class", "vector"])
def test_from_a_zip_to_shards_and_back(tmp_path: Path, label: Any, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {f"00000/img{n:08d}.png": label(n) for n in range(5)}
    source = write_zip(tmp_path / "in.zip", {name: png(n, 8) for n, name in enumerate(labels)})
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("dataset.json", listing(*labels.items()))
    assert (
        main(["pack", str(source), str(tmp_path / "shards"), "--size", "8", "--shard-size", "2", "--workers", "1"]) == 0
    )
    assert packed(tmp_path / "shards", tmp_path / "out.zip", capsys)[0] == labels
    assert (tmp_path / "out.zip").read_bytes() != b""


def sample(key: str, **members: bytes) -> Files:
    return {f"{key}.{suffix.replace('_', '.')}": content for suffix, content in members.items()}


def test_members_beside_pictures(tmp_path: Path) -> None:
    files = {
        **sample("in.x/0", cls=b"3\n", png=b"0", json=b'{"caption": "a face"}'),
        **sample("in.x/1", left_png=b"1", right_png=b"1", cls=b" 4"),
        **sample("in.x/2", png=b"2", json=b"[1, 0.5]", txt=b"5"),
        **sample("in.x/3", json=b"[7]", png=b"3", cls=b"6"),
        **sample("in.x/4", png=b"4", json=b'{"a": [1]}'),
        **sample("in.x/5", png=b"5"),
        **sample("6", cls=b"6"),
    }
    write_tar(tmp_path / "0.tar", files)
    write_tar(tmp_path / "1.tar", sample("in.x/5", png=b"5", cls=b"-1"))
    source = Source(tmp_path)
    zero = {"0.png": 3, "1.left.png": 4, "1.right.png": 4, "2.png": [1, 0.5], "3.png": 6}
    wanted = {f"0.tar/in.x/{name}": label for name, label in zero.items()} | {"1.tar/in.x/5.png": -1}
    assert source.labels() == (wanted, [])
    assert source.remarks == ["passed over 2 files and folders: 2 by suffix (.cls, .txt)"]


def test_classes_that_are_no_integers_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [b"cat", b"", b"1.5", b"\xff", b"9" * 5000]
    for n, content in enumerate(bad):
        write_tar(tmp_path / "in" / f"{n}.tar", sample("a", png=png(n, 8), cls=content))
    write_tar(tmp_path / "in" / "5.tar", sample("a", png=png(5, 8), cls=b"5"))
    labels, lines = packed(tmp_path / "in", tmp_path / "out.zip", capsys)
    assert labels == {"00000/img00000005.png": 5}
    assert lines[1] == "labels: 5 members hold no integer, such as 0.tar/a.cls"


def test_labels_of_a_damaged_shard(tmp_path: Path) -> None:
    files = {name: data for n in range(4) for name, data in sample(f"{n}", png=some_bytes(n), cls=b"%d" % n).items()}
    path = write_tar(tmp_path / "0.tar", files)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    assert Source(path).labels()[0] == {f"0.tar/{n}.png": n for n in range(1, 4)}


# ---- a dataset.json

NAMES = ("0/a.png", "0/b.png", "1/a.jpg")
OTHERWISE = {
    "backslashes": ("0\\a.png", "0\\b.png", "1\\a.jpg"),
    "a dot": ("./0/a.png", "./0/b.png", ".\\1\\a.jpg"),
    "a slash": ("/0/a.png", "//0/b.png", "0/../1/a.jpg"),
    "other suffixes": ("0/a.webp", "0/b.jpeg", "1/a.png"),
    "without suffixes": ("0/a", "0/b", "1/a"),
    "a folder": ("faces/0/a.png", "faces/0/b.png", "faces/1/a.jpg"),
    "a path, other suffixes": ("C:\\Users\\me\\0\\a.tif", "C:\\Users\\me\\0\\b.tif", "C:\\Users\\me\\1\\a.tif"),
}


@pytest.mark.parametrize("listed", OTHERWISE.values(), ids=OTHERWISE.keys())
@pytest.mark.parametrize("front", ["", "deep/er/"])
def test_names_written_otherwise(
    tmp_path: Path, front: str, listed: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    files = {front + name: png(n, 8) for n, name in enumerate(NAMES)}
    source = write_folder(tmp_path / "in", {**files, "dataset.json": listing(*zip(listed, (5, 6, 7), strict=True))})
    if front and listed[0].split("/")[0].split("\\")[0] in ("faces", "C:"):
        wanted = {}  # folders on both sides: nothing tells that they are the same
    else:
        wanted = {front + name: label for name, label in zip(NAMES, (5, 6, 7), strict=True)}
    assert Source(source).labels()[0] == wanted
    labels, lines = packed(source, tmp_path / "out.zip", capsys)
    assert sorted(labels.values()) == sorted(wanted.values())
    (line,) = [line for line in lines if line.startswith("labels: dataset.json: ")]
    if wanted:
        assert line.endswith(f"3 of 3 names are written otherwise, such as {listed[0]} for {front}{NAMES[0]}")
    else:
        unlabeled = f"and no name is that of the picture {front}{NAMES[0]}"
        assert line.endswith(f"3 of 3 names are no picture's, or of several, such as {listed[0]}, {unlabeled}")


def test_a_dataset_json_in_the_folder_that_a_zip_holds(tmp_path: Path) -> None:
    files = {"faces/0/a.png": b"1", "faces/b.png": b"2", "faces/deep/dataset.json": b"no json"}
    path = write_zip(tmp_path / "a.zip", {**files, "faces/dataset.json": listing(("0/a.png", 1), ("b.png", 2))})
    assert Source(path).labels() == ({"faces/0/a.png": 1, "faces/b.png": 2}, [])
    assert Source(path).remarks == ["passed over 1 files and folders: 1 by suffix (.json)"]
    path = write_tar(tmp_path / "a.tar", {"./b.png": b"2", "./dataset.json": listing(("b.png", 2))})
    assert Source(path).labels()[0] == {"a.tar/./b.png": 2}


def test_each_of_two_folders_has_its_own(tmp_path: Path) -> None:
    for name, label in (("train", 1), ("val", 2)):
        write_folder(tmp_path / name, {"a.png": b"1", "dataset.json": listing(("a.png", label))})
    write_folder(tmp_path, {"other/dataset.json": b"{", "other/b.png": b"3"})
    labels, (line,) = Source(tmp_path).labels()
    assert labels == {"train/a.png": 1, "val/a.png": 2}
    assert line.startswith("labels: other/dataset.json in ")


def test_a_dataset_json_in_a_hidden_folder_is_none(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": b"1", ".x/dataset.json": listing(("a.png", 1))})
    assert Source(tmp_path).labels() == ({}, [])


def test_a_dataset_json_nested_too_deep_is_one_line(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": b"1", "dataset.json": b"[" * 100_000})
    assert "dataset.json" in error_of(lambda: Source(tmp_path).labels())


def labels_of(names: list[str], *listed: str) -> dict[str, Any]:
    return match([(name, n) for n, name in enumerate(listed)], names)[0]


def test_what_could_mean_several_counts_for_none() -> None:
    assert labels_of(["train/a.png", "val/a.png"], "a.png") == {}
    assert labels_of(["train/a.png", "val/a.png"], "x/train/a.png") == {"train/a.png": 0}
    assert labels_of(["a.png", "a.jpg"], "a.webp") == {}
    assert labels_of(["a.png", "a.jpg"], "a.webp", "a.jpg") == {"a.jpg": 1, "a.png": 0}
    assert labels_of(["a.png"], "./a.png", "x/../a.png") == {}
    assert labels_of(["cats/1.png", "cats/2.png"], "dogs/1.png", "dogs/2.png") == {}
    assert labels_of(["aa.png"], "a.png") == {}


def test_a_name_that_is_right_comes_before_one_that_is_near() -> None:
    assert labels_of(["a.png", "old/a.png"], "a.png") == {"a.png": 0}
    assert labels_of(["a.png", "b.png"], "./a.png", "a.png") == {"a.png": 1}
    assert labels_of(["f/a.png", "f/old/a.png", "f/b.png"], "a.png", "b.png") == {"f/a.png": 0, "f/b.png": 1}


def test_names_of_no_picture_are_counted() -> None:
    names = [f"{n}.png" for n in range(5)]
    labels, text = match([(f"{n}.png", n) for n in range(3, 9)], names)
    assert labels == {"3.png": 3, "4.png": 4}
    wanted = "4 of 6 names are no picture's, or of several, such as 5.png, and no name is that of the picture 0.png"
    assert text == wanted
    assert match([(name, 1) for name in names], names) == (dict.fromkeys(names, 1), "")
    assert match([], names) == ({}, "")


def test_two_labels_of_one_name() -> None:
    pairs: list[tuple[str, int | list[float]]] = [("a.png", 1), ("b.png", 2), ("a.png", 3), ("b.png", 2)]
    labels, text = match(pairs, ["a.png", "b.png"])
    assert labels == {"b.png": 2}
    assert text == "1 names have several labels, such as a.png"

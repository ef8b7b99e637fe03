"""Files that are there whole or not at all, and what the cache folder keeps."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from idgan_fast.files import cache_file, read_json, write_bytes, write_json
from tests.common import error_of


def test_the_error_tells_how_much_room_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "3 MiB" in error_of(lambda: write_bytes(tmp_path / "a", bytes(3 * 2**20)))


def test_the_disk_has_the_bytes_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(number: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{number}"))
        steps.append("folder synced" if name == tmp_path else f"{name.read_bytes().decode()} synced")
        fsync(number)

    def spy_replace(source: Path, target: Path) -> None:
        assert path.read_bytes() == b"old"
        steps.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    write_bytes(path, b"new")
    assert steps == ["new synced", "renamed", "folder synced"]
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "known.json"
    for value in ({}, {"tile": [64, 2], "note": "größer"}):
        write_json(path, value)
        assert read_json(path) == value
    assert os.listdir(path.parent) == ["known.json"]


@pytest.mark.parametrize("content", [None, b"", b"{half", b"[1, 2]", b"3", bytes(range(256))])
def test_what_is_no_mapping_counts_as_nothing(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "known.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json(path) == {}


def test_many_may_write_json_at_once(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(write_json, path, {str(i): [i] * 500}) for i in range(64)]:
            future.result()
    ((key, value),) = json.loads(path.read_text()).items()
    assert value == [int(key)] * 500
    assert os.listdir(tmp_path) == ["known.json"]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["known.json"]


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file("tiles.json") == tmp_path / "idgan_fast" / "tiles.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_file("tiles.json") == Path.home() / ".cache" / "idgan_fast" / "tiles.json"

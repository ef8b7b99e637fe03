"""Checkpoints on disk."""

import builtins
import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from idgan_fast.run import checkpoint
from idgan_fast.run.checkpoint import load, newest_first, save
from tests.common import assert_equal, error_of, state_at


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ---- saving and loading


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    state = {
        "stage": "gan",
        "iteration": 120,
        "config": {"vae.beta": 6.4, "data": None, "images.flip": True, "preset": "celeba-64"},
        "nested": {"deep": {"list": [1, 2.5, "three", (4, None)], "empty": {}}},
        "tensors": {
            "float": torch.randn(3, 4),
            "half": torch.randn(5).bfloat16(),
            "bytes": torch.arange(7, dtype=torch.uint8),
            "scalar": torch.tensor(0.1, dtype=torch.float64),
            "turned": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
            "none": torch.empty(0),
        },
    }
    path = save(tmp_path, state)
    assert path == tmp_path / "gan-00000120.pt"
    loaded = load(path)
    assert loaded.pop("format") == checkpoint.FORMAT
    assert_equal(loaded, state)


def test_a_module_and_its_optimizer_come_back(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.RMSprop(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    path = save(tmp_path, state_at("vae", 1, net=layer.state_dict(), optimizer=optimizer.state_dict()))
    loaded = load(path)
    other = torch.nn.Linear(3, 2)
    other_optimizer = torch.optim.RMSprop(other.parameters())
    other.load_state_dict(loaded["net"])
    other_optimizer.load_state_dict(loaded["optimizer"])
    assert torch.equal(other.weight, layer.weight)
    assert_equal(other_optimizer.state_dict(), optimizer.state_dict())


def test_files_hold_nothing_but_weights_and_plain_values(tmp_path: Path) -> None:
    path = save(tmp_path, state_at("vae", 3))
    assert torch.load(path, weights_only=True)["iteration"] == 3


def test_loading_is_weights_only_and_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, state_at("vae", 3))
    asked: list[dict[str, Any]] = []
    original = torch.load

    def spy(*args: Any, **options: Any) -> Any:
        asked.append(options)
        return original(*args, **options)

    monkeypatch.setattr(torch, "load", spy)
    load(path)
    assert [options["weights_only"] for options in asked] == [True]
    assert torch.device(asked[0]["map_location"]) == torch.device("cpu")


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_file_that_would_run_code_is_refused(tmp_path: Path, write: Callable[[Any, Path], object]) -> None:
    path, harm = tmp_path / "vae-00000001.pt", tmp_path / "harm"
    write({"format": 1, "stage": "vae", "iteration": 1, "x": Harmful(harm)}, path)
    assert str(path) in error_of(lambda: load(path))
    assert not harm.exists()


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.3, 0.5, 0.9, 0.99, 0.9999])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = save(tmp_path, state_at("vae", 3))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert str(path) in error_of(lambda: load(path))


def test_a_file_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "vae-00000001.pt"
    torch.save({**state_at("vae", 1), "format": 99}, path)
    text = error_of(lambda: load(path))
    assert str(path) in text
    assert "99" in text
    assert str(checkpoint.FORMAT) in text


@pytest.mark.parametrize("content", [{"model_states": {}}, {"it": 3, "generator": {}}, [1, 2], torch.zeros(3), 5])
def test_a_file_of_other_code(tmp_path: Path, content: object) -> None:
    path = tmp_path / "last"
    torch.save(content, path)
    text = error_of(lambda: load(path))
    assert str(path) in text
    assert "load_public" in text


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(50)])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    assert str(path) in error_of(lambda: load(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "gan-1.pt", tmp_path):
        assert str(path) in error_of(lambda path=path: load(path))


# ---- which stay


def test_the_newest_two_stay(tmp_path: Path) -> None:
    for iteration in (8, 9, 10, 11):
        save(tmp_path, state_at("vae", iteration))
    assert names(tmp_path) == {"vae-00000010.pt", "vae-00000011.pt"}
    save(tmp_path, state_at("gan", 1))
    assert names(tmp_path) == {"vae-00000011.pt", "gan-00000001.pt"}
    for iteration in (2, 3, 4):
        save(tmp_path, state_at("gan", iteration))
    assert {"gan-00000003.pt", "gan-00000004.pt"} <= names(tmp_path)
    assert not {"gan-00000001.pt", "gan-00000002.pt", "vae-00000010.pt"} & names(tmp_path)


def test_the_last_of_stage_1_stays(tmp_path: Path) -> None:
    """Another generator can start from its encoder."""
    for stage, iteration in (("vae", 10), ("vae", 11), ("gan", 1), ("gan", 2), ("gan", 3)):
        save(tmp_path, state_at(stage, iteration))
    assert names(tmp_path) == {"vae-00000011.pt", "gan-00000002.pt", "gan-00000003.pt"}
    assert load(tmp_path / "vae-00000011.pt")["iteration"] == 11


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    for name in ("best.pt", "vae-x.pt", "notes.txt", "gan-00000001.pt.bak"):
        (tmp_path / name).write_text("mine")
    for iteration in range(4):
        save(tmp_path, state_at("vae", iteration))
    assert {"best.pt", "vae-x.pt", "notes.txt", "gan-00000001.pt.bak"} < names(tmp_path)
    assert len(names(tmp_path)) == 6


def test_saving_the_same_iteration_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, state_at("vae", 5, note="old"))
    path = save(tmp_path, state_at("vae", 5, note="new"))
    assert names(tmp_path) == {path.name}
    assert load(path)["note"] == "new"


def test_newest_first(tmp_path: Path) -> None:
    expected = ["gan-00000012.pt", "gan-00000003.pt", "vae-123456789.pt", "vae-00000700.pt", "vae-00000069.pt"]
    for name in [*reversed(expected), "vae-00000800.pt.part", "gan.pt", "xgan-00000099.pt", "gan-00000099.pth"]:
        (tmp_path / name).touch()
    assert [path.name for path in newest_first(tmp_path)] == expected


def test_newest_first_of_nothing(tmp_path: Path) -> None:
    assert newest_first(tmp_path) == []
    assert newest_first(tmp_path / "nowhere") == []


# ---- writing is atomic


class HalfWritten:
    """A file on a disk that fills up half way through a write."""

    def __init__(self, file: Any, number: int) -> None:
        self.file, self.number = file, number

    def write(self, data: bytes) -> int:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        raise OSError(self.number, os.strerror(self.number))

    def __enter__(self) -> "HalfWritten":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.fixture(params=["open", "write", "fsync", "replace"])
def failing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes one step of writing a file fail with the given errno from now on."""

    def fail(number: int) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        original = builtins.open

        def open_file(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if "w" not in mode:
                return original(path, mode, *args, **options)
            return refuse() if request.param == "open" else HalfWritten(original(path, mode, *args, **options), number)

        if request.param in ("open", "write"):
            monkeypatch.setattr(builtins, "open", open_file)
        else:
            monkeypatch.setattr(os, request.param, refuse)

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_costs_nothing(tmp_path: Path, failing: Callable[[int], None], number: int) -> None:
    old = save(tmp_path, state_at("vae", 5))
    newer = save(tmp_path, state_at("vae", 6))
    content = {path: path.read_bytes() for path in (old, newer)}
    failing(number)
    text = error_of(lambda: save(tmp_path, state_at("vae", 7)))
    assert "disk full" in text
    assert str(tmp_path / "vae-00000007.pt") in text
    assert "free some space" in text
    text = error_of(lambda: save(tmp_path, state_at("vae", 6, note="replaced")))
    assert str(newer) in text
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == content


def test_another_fault_of_the_disk_costs_nothing_either(tmp_path: Path, failing: Callable[[int], None]) -> None:
    path = save(tmp_path, state_at("vae", 5))
    content = path.read_bytes()
    failing(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        save(tmp_path, state_at("vae", 5, note="replaced"))
    assert names(tmp_path) == {path.name}
    assert path.read_bytes() == content


def test_what_an_interrupted_write_left_behind_is_no_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path, state_at("vae", 5))
    (tmp_path / "vae-00000006.pt.part").write_bytes(b"half")
    assert newest_first(tmp_path) == [path]
    assert load(save(tmp_path, state_at("vae", 6)))["iteration"] == 6
    assert names(tmp_path) == {"vae-00000005.pt", "vae-00000006.pt"}


def test_numpy_values_do_not_slip_into_a_checkpoint(tmp_path: Path) -> None:
    """A file that only the full unpickler could read must not be taken for a good one."""
    path = tmp_path / "vae-00000001.pt"
    torch.save({**state_at("vae", 1), "format": 1, "array": np.arange(3)}, path)
    assert str(path) in error_of(lambda: load(path))


@pytest.mark.parametrize(
    "content", [b"a note, not a checkpoint\n", b"12345", b"<!DOCTYPE html>\n<html>", b"}h\n", b"G12"]
)
def test_a_text_file_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vae-00000001.pt"
    path.write_bytes(content)
    assert str(path) in error_of(lambda: load(path))

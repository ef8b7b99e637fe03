"""Checkpoints on disk, and where a run starts from."""

import builtins
import dataclasses
import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from idgan_fast import checkpoint, resume
from idgan_fast.arguments import parse
from idgan_fast.checkpoint import load, newest_first, save, write_atomically
from idgan_fast.config import Config, flatten, to_yaml
from idgan_fast.errors import UserError


def state_at(stage: str, iteration: int, **more: Any) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(iteration)
    return {
        "stage": stage,
        "iteration": iteration,
        stage: {"weight": torch.randn(40, 30, generator=rng), "rng": rng.get_state()},
        **more,
    }


def error_of(make: Callable[[], object]) -> str:
    """The text of the UserError that `make` raises: one line."""
    with pytest.raises(UserError) as caught:
        make()
    text = str(caught.value)
    assert "\n" not in text
    return text


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_equal(one: Any, other: Any) -> None:
    """Equal values of equal types, all the way down."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    else:
        assert one == other


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


def test_a_module_and_its_optimiser_come_back(tmp_path: Path) -> None:
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


def test_the_error_tells_how_much_room_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "3 MiB" in error_of(lambda: write_atomically(tmp_path / "a", bytes(3 * 2**20)))


def test_another_fault_of_the_disk_costs_nothing_either(tmp_path: Path, failing: Callable[[int], None]) -> None:
    path = save(tmp_path, state_at("vae", 5))
    content = path.read_bytes()
    failing(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        save(tmp_path, state_at("vae", 5, note="replaced"))
    assert names(tmp_path) == {path.name}
    assert path.read_bytes() == content


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
    write_atomically(path, b"new")
    assert steps == ["new synced", "renamed", "folder synced"]
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {"file"}


def test_what_an_interrupted_write_left_behind_is_no_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path, state_at("vae", 5))
    (tmp_path / "vae-00000006.pt.part").write_bytes(b"half")
    assert newest_first(tmp_path) == [path]
    assert load(save(tmp_path, state_at("vae", 6)))["iteration"] == 6
    assert names(tmp_path) == {"vae-00000005.pt", "vae-00000006.pt"}


# ---- resuming


class Run:
    """A run's folder with checkpoints, and what `find` says of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = self.settings()
        self.said: list[str] = []

    def settings(self, *argv: str) -> Config:
        return parse(["--preset", "dsprites", "--out", str(self.path), *argv])

    def save(self, stage: str, iteration: int, config: Config | None = None) -> Path:
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        config = self.config if config is None else config
        more = {"config": flatten(config), "choices": {"amp": "off"}, "seconds": 1.5}
        return save(self.path / "checkpoints", state_at(stage, iteration, **more))

    def find(self, *argv: str) -> resume.Resumed | None:
        folder, resumed = resume.find(self.settings(*argv), self.said.append)
        assert folder.path == self.settings(*argv).out
        return resumed

    def refused(self, *argv: str) -> str:
        return error_of(lambda: self.find(*argv))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def raising(error: Exception) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def cut(path: Path) -> bytes:
    """Truncate the file; what is left."""
    content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    return content


def test_a_new_folder_starts_afresh(run: Run) -> None:
    for value in ("auto", "never"):
        assert run.find("--resume", value) is None
    assert run.said == []


def test_auto_takes_the_newest(run: Run) -> None:
    run.save("vae", 900)
    newest = run.save("gan", 5)
    resumed = run.find()
    assert resumed is not None
    assert (resumed.path, resumed.stage, resumed.iteration) == (newest, "gan", 5)
    assert resumed.choices == {"amp": "off"}
    assert_equal(resumed.state, load(newest))
    assert len(run.said) == 1
    assert str(newest) in run.said[0]
    assert "gan iteration 5" in run.said[0]


def test_auto_goes_back_to_the_one_before_a_damaged_one_and_says_so(run: Run) -> None:
    good = run.save("vae", 5)
    damaged = run.save("vae", 6)
    left = cut(damaged)
    resumed = run.find()
    assert resumed is not None
    assert (resumed.path, resumed.iteration) == (good, 5)
    assert str(damaged) in run.said[0]
    assert "damaged" in run.said[0]
    assert "the one before" in run.said[0]
    assert str(good) in run.said[1]
    assert all("\n" not in line for line in run.said)
    assert damaged.with_suffix(".damaged").read_bytes() == left


def test_auto_never_starts_anew_over_damaged_checkpoints(run: Run) -> None:
    kept = {path: cut(path) for path in (run.save("vae", 5), run.save("vae", 6))}
    text = run.refused()
    assert str(run.path / "checkpoints") in text
    assert len(run.said) == 2
    assert str(run.path / "checkpoints") in run.refused()  # the second time too
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.parametrize("why", ["newer format", "input/output error"])
def test_what_is_not_damaged_is_not_passed_over(run: Run, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {path: path.read_bytes() for path in (run.save("vae", 5), run.save("vae", 6))}
    if why == "newer format":
        monkeypatch.setattr(checkpoint, "FORMAT", 0)
    else:
        monkeypatch.setattr(Path, "read_bytes", raising(OSError(errno.EIO, "Input/output error")))
    assert "vae-00000006.pt" in run.refused()
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_path_is_taken(run: Run, tmp_path: Path) -> None:
    older = run.save("vae", 5)
    resumed = run.find("--resume", str(older))
    assert resumed is not None
    assert (resumed.path, resumed.iteration) == (older, 5)


def test_an_older_path_in_a_folder_that_went_further_is_refused(run: Run) -> None:
    """Its new checkpoints would lie behind those that are there."""
    older = run.save("vae", 5)
    run.save("gan", 6)
    assert "gan-00000006.pt" in run.refused("--resume", str(older))


def test_a_path_in_another_folder(run: Run, tmp_path: Path) -> None:
    path = run.save("vae", 5)
    resumed = run.find("--resume", str(path), "--out", str(tmp_path / "elsewhere"))
    assert resumed is not None
    assert resumed.path == path


def test_a_path_that_is_damaged_or_missing_is_refused(run: Run) -> None:
    run.save("vae", 5)
    damaged = run.save("vae", 6)
    cut(damaged)
    missing = run.path / "checkpoints" / "vae-00000007.pt"
    for path in (damaged, missing, run.path):
        text = run.refused("--resume", str(path))
        assert str(path) in text


@pytest.mark.parametrize(
    ("argv", "key", "before", "now"),
    [
        ("--vae.beta 4.5", "vae.beta", "8.0", "4.5"),
        ("--seed 7", "seed", "0", "7"),
        ("--gan.distill-weight 0.5", "gan.distill_weight", "0.0001", "0.5"),
        ("--gan.width 5", "gan.width", "32", "5"),
        ("--vae.c-dim 6", "vae.c_dim", "10", "6"),
    ],
)
@pytest.mark.parametrize("form", ["auto", "path"])
def test_other_settings_are_named(run: Run, argv: str, key: str, before: str, now: str, form: str) -> None:
    path = run.save("gan", 5)
    extra = ["--resume", str(path)] if form == "path" else []
    text = run.refused(*argv.split(), *extra)
    assert key in text
    assert f"was {before}" in text
    assert f"is {now}" in text
    assert str(path) in text
    assert str(run.path / "config.yaml") in text
    assert "more)" not in text


def test_further_differences_are_counted(run: Run) -> None:
    run.save("gan", 5)
    assert "(and 2 more)" in run.refused("--vae.beta", "4.5", "--seed", "7", "--gan.width", "8")


@pytest.mark.parametrize("argv", ["--vae.beta 4.5", "--vae.c-dim 6", "--seed 7"])
def test_stage_1_holds_on_to_its_own_settings(run: Run, argv: str) -> None:
    run.save("vae", 5)
    key = argv.split()[0].removeprefix("--").replace("-", "_")
    assert key in run.refused(*argv.split())


@pytest.mark.parametrize(
    "argv",
    ["--gan.distill-weight 0.5", "--gan.width 5", "--gan.model resnet --gan.s-dim 8"],
)
def test_after_stage_1_alone_all_of_stage_2_may_change(run: Run, argv: str) -> None:
    run.save("vae", 5)
    assert run.find(*argv.split()) is not None
    run.save("gan", 5)
    changed = [flag.removeprefix("--").replace("-", "_") for flag in argv.split()[::2]]
    text = run.refused(*argv.split())
    assert any(f"{key} was" in text for key in changed)


@pytest.mark.parametrize("argv", ["--gan.lr-g 1e-5", "--gan.lr-d 1e-5", "--gan.batch-size 5", "--amp bf16"])
@pytest.mark.parametrize("stage", ["vae", "gan"])
def test_what_a_stuck_run_needs_may_change_and_is_said(run: Run, stage: str, argv: str) -> None:
    run.save(stage, 5)
    assert run.find(*argv.split()) is not None
    key = argv.split()[0].removeprefix("--").replace("-", "_")
    if stage == "gan" or key == "amp":
        assert run.said[-1].startswith(f"from here on {key} is ")


def test_a_setting_that_the_checkpoint_does_not_know_is_no_difference(run: Run) -> None:
    path = run.save("gan", 5)
    state = load(path)
    del state["config"]["vae.lr_warmup"]
    torch.save(state, path)
    assert run.find() is not None


def test_settings_of_how_a_run_is_kept_may_change(run: Run, tmp_path: Path) -> None:
    path = run.save("vae", 5)
    record = tmp_path / "record.yaml"
    record.write_text(to_yaml(run.config))
    free = "--save-every 1 --log-every 2 --picture-every 3 --workers 0 --device cpu --images.cache-gib 1 --gan.iters 9"
    for flag in (*zip(free.split()[::2], free.split()[1::2], strict=True), ("--config", str(record))):
        assert run.find(*flag) is not None
    assert run.find(*free.split(), "--config", str(record)) is not None
    moved = tmp_path / "moved"
    run.path.rename(moved)
    resumed = run.find("--out", str(moved))
    assert resumed is not None
    assert resumed.path == moved / "checkpoints" / path.name


def test_the_stage_that_is_running_may_be_made_longer(run: Run) -> None:
    run.save("vae", 5)
    assert run.find("--vae.iters", "600000", "--gan.iters", "400000") is not None
    run.save("gan", 5)
    assert run.find("--gan.iters", "400000") is not None
    assert "vae.iters" in run.refused("--vae.iters", "600000")


@pytest.mark.parametrize("changes", [{"beta_start": 60.0}, {"lr_decay": 0.2}])
def test_a_scheduled_stage_may_not(run: Run, changes: dict[str, float]) -> None:
    scheduled = dataclasses.replace(run.config, vae=dataclasses.replace(run.config.vae, **changes))
    run.save("vae", 5, scheduled)
    longer = dataclasses.replace(scheduled, vae=dataclasses.replace(scheduled.vae, iters=600_000))
    assert resume.find(scheduled, run.said.append)[1] is not None
    assert "vae.iters" in error_of(lambda: resume.find(longer, run.said.append))


def test_never_moves_the_old_run_aside(run: Run) -> None:
    for number in (1, 2):
        path = run.save("vae", number)
        (run.path / "stats.jsonl").write_text(f"line {number}\n")
        content = path.read_bytes()
        assert run.find("--resume", "never", "--seed", "7") is None
        old = run.path.with_name(f"run-old{number}")
        assert not run.path.exists()
        assert (old / "checkpoints" / path.name).read_bytes() == content
        assert (old / "stats.jsonl").read_text() == f"line {number}\n"
        assert str(old) in run.said[-1]
    assert load(run.path.with_name("run-old1") / "checkpoints" / "vae-00000001.pt")["iteration"] == 1


def test_never_moves_damaged_checkpoints_aside_too(run: Run) -> None:
    cut(run.save("vae", 1))
    assert run.find("--resume", "never") is None
    assert (run.path.with_name("run-old1") / "checkpoints" / "vae-00000001.pt").exists()


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


def test_the_default_folder_is_the_first_without_a_finished_run_of_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So every command has its own, and the same command finds its own again."""
    monkeypatch.chdir(tmp_path)

    def folder(*argv: str) -> str:
        return resume.default_folder(parse(["--preset", "dsprites", "--seed", "4", *argv])).as_posix()

    def leave(path: str, finished: bool, *argv: str) -> None:
        Path(path).mkdir(parents=True)
        (Path(path) / "config.yaml").write_text(to_yaml(parse(["--preset", "dsprites", "--seed", "4", *argv])))
        if finished:
            (Path(path) / "summary.json").write_text("{}")

    assert folder() == folder("--amp") == "runs/dsprites-seed4"
    leave("runs/dsprites-seed4", True)
    assert folder() == "runs/dsprites-seed4"
    assert folder("--amp") == folder("--vae.beta", "3") == "runs/dsprites-seed4-2"
    leave("runs/dsprites-seed4-2", False, "--amp")
    assert folder("--amp") == folder("--vae.beta", "3") == "runs/dsprites-seed4-2"
    (tmp_path / "runs/dsprites-seed4-2/summary.json").write_text("{}")
    assert folder("--amp") == "runs/dsprites-seed4-2"
    assert folder("--vae.beta", "3") == "runs/dsprites-seed4-3"

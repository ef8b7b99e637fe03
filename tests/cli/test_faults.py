"""Faults of a run: one line each, no traceback, nothing lost."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from idgan_fast import train
from idgan_fast.evaluation import drawing
from idgan_fast.run import checkpoint, trainer
from tests.common import TINY, TINY_IMAGES


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        pixels = torch.randint(256, (70, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return folder


def run_train(*arguments: str) -> int:
    return train.main(arguments)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--preset", "celeba64"], "did you mean celeba-64?"),
        (["--vae.bta", "3"], "did you mean --vae.beta?"),
        (["--preset", "celeba-64"], "--data"),
        (["--device", "cuda:77"], "--device cuda:77"),
        (["--device", "gpu"], "--device gpu"),
        (["--resume", "nowhere.pt"], "nowhere.pt"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_faults_are_one_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(*arguments, "--out", str(tmp_path / "run")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert expected in line


def test_empty_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    assert run_train(*TINY_IMAGES, "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no pictures in" in line


def start(arguments: list[str], run: Path) -> subprocess.Popen[str]:
    """The command in a process group of its own, once it has written a checkpoint."""
    command = [sys.executable, "-m", "idgan_fast", "train", *arguments, "--vae.iters", "100000", "--out", str(run)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(run.glob("checkpoints/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_to_the_whole_group_with_loader_processes(
    number: signal.Signals, picture_folder: Path, tmp_path: Path
) -> None:
    """What a terminal or a job scheduler sends: the loader's processes get it too."""
    run = tmp_path / "run"
    options = ["--data", str(picture_folder), "--images.cache-gib", "0", "--workers", "2"]
    process = start([*TINY_IMAGES, *options], run)
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=60)
    assert errors == ""
    assert process.returncode == 128 + number
    saved = checkpoint.load(checkpoint.newest_first(run / "checkpoints")[0])
    assert f"stopped at vae iteration {saved['iteration']}," in output.splitlines()[-1]


def test_a_process_has_its_folder_alone_until_a_signal_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    process = start(TINY, run)
    try:
        for more in ([], ["--resume", "never"]):
            assert run_train(*TINY, "--vae.iters", "100000", "--out", str(run), *more) == 2
            assert f"process {process.pid} on {platform.node()} is training into {run};" in error_line(capsys)
    finally:
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert errors == ""
    assert "SIGINT: stopped at vae iteration" in output.splitlines()[-1]
    saved = checkpoint.load(checkpoint.newest_first(run / "checkpoints")[0])
    assert f"iteration {saved['iteration']}," in output.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing was moved


def test_a_picture_that_cannot_be_drawn_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    def no_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(drawing, "traversal", no_memory)
        assert run_train(*TINY, "--out", str(run), "--picture-every", "6") == 2
    assert "out of memory" in error_line(capsys)
    assert checkpoint.newest_first(run / "checkpoints")[0].name == "gan-00000006.pt"
    assert run_train(*TINY, "--out", str(run), "--picture-every", "6") == 0
    assert (run / "traversals" / "gan-0000006.png").exists()


def test_slow_runs_log_and_save_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "LOG_SECONDS", -1.0)
    monkeypatch.setattr(trainer, "SAVE_SECONDS", -1.0)
    rarely = ["--log-every", "1000", "--save-every", "1000", "--picture-every", "1000"]
    run = tmp_path / "run"
    assert run_train(*TINY, *rarely, "--out", str(run)) == 0
    assert [path.name for path in checkpoint.newest_first(run / "checkpoints")] == [
        "gan-00000006.pt",
        "gan-00000005.pt",
        "vae-00000008.pt",
    ]
    assert (run / "stats.jsonl").read_text().count('"stage": "vae"') == 8


def test_a_collapse_is_said_while_it_can_be_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_train(*TINY, "--vae.iters", "40", "--vae.beta", "1000", "--out", str(tmp_path / "run")) == 0
    lines = capsys.readouterr().out.splitlines()
    collapse = [i for i, line in enumerate(lines) if line.startswith("collapse: no code dimension")]
    assert len(collapse) == 1
    assert collapse[0] < next(i for i, line in enumerate(lines) if line.startswith("vae 40/40"))


def test_one_code_dimension(tmp_path: Path) -> None:
    assert run_train(*TINY, "--vae.c-dim", "1", "--out", str(tmp_path / "run")) == 0


def test_a_file_where_the_folder_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("")
    assert run_train(*TINY, "--out", str(tmp_path / "run")) == 2
    assert str(tmp_path / "run") in error_line(capsys)


@pytest.mark.parametrize("out", ["runs/one", "."])
def test_a_run_within_its_pictures_is_refused(
    out: str, picture_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(picture_folder)
    assert run_train(*TINY_IMAGES, "--data", ".", "--out", out) == 2
    assert "lies in --data" in error_line(capsys)
    assert not (picture_folder / "runs").exists()


def test_pictures_may_move_but_not_change(
    picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TINY_IMAGES, "--out", str(tmp_path / "run")]
    assert run_train(*arguments, "--data", str(picture_folder)) == 0
    moved = shutil.move(picture_folder, tmp_path / "moved")
    assert run_train(*arguments, "--data", str(moved), "--gan.iters", "7") == 0
    shutil.copy(moved / "1.png", moved / "0.png")
    assert run_train(*arguments, "--data", str(moved), "--gan.iters", "8") == 2
    assert "the pictures are not those" in error_line(capsys)


def test_pictures_that_change_in_mid_run_are_said(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw_reconstructions(*_: object) -> dict[str, str]:
        (picture_folder / "0.png").write_bytes(b"another one")
        return {}

    monkeypatch.setattr(trainer, "draw_reconstructions", draw_reconstructions)
    assert run_train(*TINY_IMAGES, "--out", str(tmp_path / "run"), "--data", str(picture_folder)) == 0
    assert "data: 1 pictures changed while the run went on, such as 0.png" in capsys.readouterr().out


def test_a_lower_learning_rate_after_resuming_counts(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def newest() -> list[torch.Tensor]:
        state = checkpoint.load(checkpoint.newest_first(finished_run / "checkpoints")[0])
        return list(state["gan"]["generator"].values())

    before = newest()
    assert run_train(*TINY, "--out", str(finished_run), "--gan.iters", "7", "--gan.lr-g", "1e-7") == 0
    assert "from here on gan.lr_g is 1e-07, it was 0.0002" in capsys.readouterr().out
    moved = max((a - b).abs().max().item() for a, b in zip(before, newest(), strict=True))
    assert 0 < moved < 1e-5


def test_going_on_with_another_kind_of_device(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A GPU's random state means nothing to a CPU."""
    path = checkpoint.newest_first(finished_run / "checkpoints")[0]
    state = checkpoint.load(path)
    state["choices"]["device"] = "cuda:0"
    for stage in ("vae", "gan"):
        state[stage]["rng"] = torch.zeros(16, dtype=torch.uint8)
    torch.save(state, path)
    assert run_train(*TINY, "--out", str(finished_run), "--gan.iters", "7") == 0
    assert "device was cuda:0" in capsys.readouterr().out

"""The end of a run and of its stages under faults: what is missing is made by the next start."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from idgan_fast import train
from idgan_fast.evaluation import drawing
from idgan_fast.run import checkpoint, stage_images, trainer
from idgan_fast.run.console import Console
from tests.common import TINY


def run_train(*arguments: str) -> int:
    return train.main(arguments)


def rows(run: Path) -> list[dict[str, Any]]:
    clock = {"images_per_second", "waited_for_data"}
    lines = (run / "stats.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in clock} for line in lines]


def shown(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*.png") if path.name != "curves.png"}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, little_to_measure_and_draw: None) -> Path:
    """The folder of a run that nothing disturbs, with pictures after 3 and 6 iterations."""
    run = tmp_path_factory.mktemp("straight") / "run"
    assert run_train(*TINY, "--out", str(run), "--picture-every", "3") == 0
    return run


@pytest.mark.parametrize(("part", "iteration"), [("samples", 3), ("traversal", 6), ("read_back", 3), ("read_back", 6)])
def test_a_kill_while_pictures_are_drawn(
    part: str, iteration: int, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the checkpoint of that iteration is written: the next start draws them, and measures R² once."""
    run, calls = tmp_path / "run", []
    arguments = [*TINY, "--out", str(run), "--picture-every", "3"]
    module = stage_images if part == "read_back" else drawing
    original = getattr(module, part)

    def killed(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == iteration // 3:
            raise KeyboardInterrupt
        return original(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(module, part, killed)
        assert run_train(*arguments) == 130
    assert checkpoint.newest_first(run / "checkpoints")[0].name == f"gan-{iteration:08d}.pt"
    assert run_train(*arguments) == 0
    assert rows(run) == rows(straight)
    assert shown(run) == shown(straight)


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    image = Image.new("RGB", (300, 300))
    drawing.save_png(path, image)
    before = path.read_bytes()

    def killed(image: Image.Image, file: Any, *_: Any, **__: Any) -> None:
        file.write(b"half of")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", killed)
    for save in (drawing.save_png, lambda path, image: drawing.save_gif(path, [image])):
        with pytest.raises(KeyboardInterrupt):
            save(path, image)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_partial_files_of_a_killed_process_are_removed(finished_run: Path) -> None:
    left = [finished_run / "checkpoints" / "gan-00000007.pt.part", finished_run / "samples" / "gan-0000007.png.part"]
    for path in left:
        path.write_bytes(b"half of")
    assert run_train(*TINY, "--out", str(finished_run)) == 0
    assert not list(finished_run.rglob("*.part"))


@pytest.mark.parametrize("where", ["reading the codes of images", "drawing traversals"])
def test_a_signal_while_the_report_is_made(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, aside = tmp_path / "run", Console.aside
    arguments = [*TINY, "--out", str(run), "--picture-every", "100"]

    def signaled(console: Console, what: str, done: int, total: int) -> None:
        aside(console, what, done, total)
        ended = checkpoint.newest_first(run / "checkpoints")[0].name == "gan-00000006.pt"
        if what == where and done == 0 and (ended or where.endswith("images")):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Console, "aside", signaled)
        patch.setattr("idgan_fast.evaluation.codes.BATCH", 16)
        assert run_train(*arguments) == 128 + signal.SIGTERM
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"SIGTERM: stopped while {where}, saved in ")
    assert not (run / "report.html").exists()
    assert run_train(*arguments) == 0
    assert (run / "report.html").exists()
    assert len({json.dumps(row) for row in rows(run)}) == len(rows(run))


def test_what_is_measured_is_said_where_it_takes_long(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("idgan_fast.run.console.QUIET_SECONDS", -1.0)
    assert run_train(*TINY, "--out", str(finished_run)) == 0
    output = capsys.readouterr().out
    for line in ("reading the codes of images 0/64", "reading c back 0/64", "drawing traversals 0/"):
        assert line in output


def test_a_slow_device_measures_less_and_says_so(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "MEASURED_SHARE", 0.0)
    monkeypatch.setattr("idgan_fast.evaluation.codes.BATCH", 16)
    assert run_train(*TINY, "--out", str(finished_run)) == 0
    summary = json.loads((finished_run / "summary.json").read_text())
    assert summary["read_back"] == [64, 64]
    assert "on 64 generated pictures (posterior)" in (finished_run / "report.html").read_text()


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "idgan_fast.train", *TINY, *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def test_a_closed_output_ends_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    """As `| head -2` closes it."""
    process = start("--vae.iters", "1000000", "--out", str(tmp_path / "run"))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    (line,) = process.stderr.read().splitlines()
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE
    assert line.startswith("SIGPIPE: stopped at vae iteration ")
    newest = checkpoint.newest_first(tmp_path / "run" / "checkpoints")[0]
    assert str(newest) in line


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells when torch is being loaded")
def test_ctrl_c_while_modules_are_imported(tmp_path: Path) -> None:
    process = start("--out", str(tmp_path / "run"))
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (output, errors, process.returncode) == ("", "", -signal.SIGINT)

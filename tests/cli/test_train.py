"""The main job from its command line: a whole small run, interruption and resumption, faults."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from idgan_fast import train
from idgan_fast.evaluation import drawing
from idgan_fast.run import checkpoint
from idgan_fast.training.gan import GANStage
from idgan_fast.training.vae import VAEStage
from tests.common import TINY, TINY_IMAGES, assert_equal

CURVES = drawing.curves


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures" / "nested"
    folder.mkdir(parents=True)
    for i in range(9):
        pixels = torch.randint(256, (70 + i, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return folder.parent


def stats(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


def comparable(run: Path) -> list[dict]:
    """stats.jsonl without what depends on the clock."""
    clock = {"images_per_second", "waited_for_data"}
    return [{k: v for k, v in row.items() if k not in clock} for row in stats(run)]


def run_train(arguments: Sequence[str]) -> int:
    return train.main(list(arguments))


def test_whole_run_leaves_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drawing, "curves", CURVES)
    run = tmp_path / "run"
    assert run_train([*TINY, "--out", str(run), "--seed", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"report: {run / 'report.html'}"
    assert any("collapse" in line and "--vae.beta" in line for line in lines)
    for name in ("samples/gan-0000006.png", "traversals/gan-0000005.png", "reconstructions/vae-0000008.png"):
        with Image.open(run / name) as image:
            assert image.width > 64
    with Image.open(run / "traversals/gan.gif") as gif:
        assert gif.n_frames > 10
    assert list((run / "tensorboard" / "vae").glob("events*"))
    assert list((run / "tensorboard" / "gan").glob("events*"))

    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["seed"] == 3
    assert settings["vae"]["batch_size"] == 4
    rows = stats(run)
    assert [row["iteration"] for row in rows if row["stage"] == "vae"] == list(range(1, 9))
    assert {"d_real", "d_fake", "r1", "g", "distillation"} <= set(rows[-2])

    summary = json.loads((run / "summary.json").read_text())
    assert len(summary["kl"]) == len(summary["r2_prior"]) == 10
    assert [len(row) for row in summary["correlation"]] == [10] * 5

    page = (run / "report.html").read_text()
    with Image.open(run / "curves.png") as image:
        assert image.width > 500
    assert page.count("data:image/png;base64,") == 4
    assert page.count("data:image/gif;base64,") == 1
    assert "http" not in page
    for text in ("vae.iters", "500000", "Factors and codes", "orientation", "MIG", "Departures"):
        assert text in page


def test_images_run(picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (picture_folder / "broken.jpg").write_bytes(b"not a picture")
    run = tmp_path / "run"
    assert run_train([*TINY_IMAGES, "--data", str(picture_folder), "--out", str(run)]) == 0
    output = capsys.readouterr().out
    assert "skipped 1 of them, such as broken.jpg: unreadable" in output
    assert "skipped 1 pictures (broken.jpg)" in output
    page = (run / "report.html").read_text()
    assert "broken.jpg" in page
    assert "Factors and codes" not in page


def test_both_loaders_train_alike(picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On pictures that need no resizing, which both decode to the same bytes; one is damaged."""
    pytest.importorskip("nvidia.dali")
    for path in sorted(picture_folder.rglob("*.png")):
        with Image.open(path) as image:
            square = image.crop((0, 0, 64, 64))
        square.save(path)
    (picture_folder / "nested" / "2 broken.jpg").write_bytes(b"not a picture")
    options = [*TINY_IMAGES, "--data", str(picture_folder), "--images.cache-gib", "0", "--workers", "1"]
    for loader in ("torch", "dali"):
        assert run_train([*options, "--loader", loader, "--out", str(tmp_path / loader)]) == 0
        output = capsys.readouterr().out
        assert f"data: 10 pictures in {picture_folder}, loader {loader}: as asked" in output
        assert "skipped 1 pictures (nested/2 broken.jpg)" in output
    rows = [comparable(tmp_path / loader) for loader in ("torch", "dali")]
    assert len(rows[0]) == len(rows[1]) > 14
    for one, other in zip(*rows, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, float):
                assert other[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    assert all(0 <= row["waited_for_data"] <= 1 for row in stats(tmp_path / "dali") if "g" in row)


def test_another_loader_goes_on(picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nvidia.dali")
    options = [*TINY_IMAGES, "--data", str(picture_folder), "--out", str(tmp_path / "run"), "--images.cache-gib", "0"]
    options += ["--vae.iters", "1", "--picture-every", "9"]
    assert run_train([*options, "--loader", "dali", "--workers", "1", "--gan.iters", "1"]) == 0
    capsys.readouterr()
    assert run_train([*options, "--loader", "torch", "--workers", "0", "--gan.iters", "2"]) == 0
    assert "loader torch: as asked; dali before: pictures differ by rounding" in capsys.readouterr().out


def test_vgan_run_with_lazy_r1(picture_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--data", str(picture_folder), "--out", str(run), "--gan.bottleneck", "--gan.r1-every", "2"]
    assert run_train([*TINY_IMAGES, *options]) == 0
    rows = [row for row in stats(run) if row["stage"] == "gan" and "g" in row]
    assert [("r1" in row) for row in rows] == [True, False] * 3
    assert all(row["bottleneck_beta"] > 0 for row in rows)


@pytest.mark.parametrize("kind", ["dsprites", pytest.param("images", marks=pytest.mark.slow), "images by dali"])
def test_resumed_run_equals_the_straight_one(
    kind: str, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, after an interruption in each stage: every logged number and every weight."""
    arguments = TINY if kind == "dsprites" else [*TINY_IMAGES, "--data", str(picture_folder)]
    if kind == "images by dali":
        pytest.importorskip("nvidia.dali")
        arguments = [*arguments, "--loader", "dali"]
    assert run_train([*arguments, "--out", str(tmp_path / "straight")]) == 0

    steps = 0

    def interrupting(step):
        def wrapped(self, batch, iteration):
            nonlocal steps
            steps += 1
            if steps in (5, 11):
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, batch, iteration)

        return wrapped

    monkeypatch.setattr(VAEStage, "step", interrupting(VAEStage.step))
    monkeypatch.setattr(GANStage, "step", interrupting(GANStage.step))
    for stopped_at in ("vae-00000005.pt", "gan-00000003.pt"):
        torch.manual_seed(99)  # what the process did in between must not matter
        assert run_train([*arguments, "--out", str(tmp_path / "broken")]) == 128 + signal.SIGTERM
        assert checkpoint.newest_first(tmp_path / "broken" / "checkpoints")[0].name == stopped_at
    assert run_train([*arguments, "--out", str(tmp_path / "broken")]) == 0

    assert comparable(tmp_path / "broken") == comparable(tmp_path / "straight")
    ends = [checkpoint.load(checkpoint.newest_first(tmp_path / name / "checkpoints")[0]) for name in
            ("straight", "broken")]  # fmt: skip
    for stage in ("vae", "gan"):
        assert_equal(ends[0][stage], ends[1][stage])


def test_finished_run_does_not_train_again(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = comparable(finished_run)
    assert run_train([*TINY, "--out", str(finished_run)]) == 0
    assert "resuming" in capsys.readouterr().out
    assert comparable(finished_run) == before


def test_resume_never_keeps_the_old_run(finished_run: Path) -> None:
    assert run_train([*TINY, "--out", str(finished_run), "--resume", "never", "--seed", "1"]) == 0
    assert (finished_run.with_name("run-old1") / "report.html").exists()
    assert yaml.safe_load((finished_run / "config.yaml").read_text())["seed"] == 1


def test_auto_precision_stays_after_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What --amp auto chose is part of the checkpoint."""
    run = tmp_path / "run"
    monkeypatch.setattr("idgan_fast.training.precision._cpu_has_bf16", lambda: True)
    assert run_train([*TINY, "--out", str(run), "--amp"]) == 0
    monkeypatch.setattr("idgan_fast.training.precision._cpu_has_bf16", lambda: False)
    assert run_train([*TINY, "--out", str(run), "--amp", "--gan.iters", "7"]) == 0
    newest = checkpoint.load(checkpoint.newest_first(run / "checkpoints")[0])
    assert newest["choices"]["amp"] == "bf16"
    assert newest["iteration"] == 7


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_low_precision_on_the_cpu(amp: str, tmp_path: Path) -> None:
    assert run_train([*TINY, "--out", str(tmp_path / "run"), "--amp", amp]) == 0


def test_damaged_checkpoint_costs_nothing(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest, before, _ = checkpoint.newest_first(finished_run / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:1000])
    expected = comparable(finished_run)
    assert run_train([*TINY, "--out", str(finished_run)]) == 0
    output = capsys.readouterr().out
    assert "damaged" in output
    assert f"resuming from {before}" in output
    assert comparable(finished_run) == expected


def test_nan_stops_with_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = GANStage.step

    def poisoned(self, batch, iteration):
        if iteration == 4:
            next(self.generator.parameters()).data.fill_(float("nan"))
        return step(self, batch, iteration)

    monkeypatch.setattr(GANStage, "step", poisoned)
    assert run_train([*TINY, "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "gan iteration 5" in line
    assert "not finite" in line
    assert "gan-00000003.pt" in line


def test_nan_weights_never_reach_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The losses of the step that broke the weights were still finite."""
    step = VAEStage.step

    def poisoned(self, batch, iteration):
        metrics = step(self, batch, iteration)
        if iteration == 5:
            next(self.vae.parameters()).data.fill_(float("nan"))
        return metrics

    monkeypatch.setattr(VAEStage, "step", poisoned)
    run = tmp_path / "run"
    assert run_train([*TINY, "--out", str(run)]) == 2
    assert "vae-00000003.pt" in capsys.readouterr().err
    assert [path.name for path in checkpoint.newest_first(run / "checkpoints")] == ["vae-00000003.pt"]


def test_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert run_train([*TINY, "--out", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "disk full" in line
    assert not list(run.rglob("*.part"))
    monkeypatch.setattr(os, "fsync", real)
    assert run_train([*TINY, "--out", str(run)]) == 0

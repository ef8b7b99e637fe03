"""What a person is told at the beginning of a run, of its images, and at its end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from idgan_fast import startup
from idgan_fast.config.arguments import parse
from idgan_fast.data import open_data
from idgan_fast.evaluation.codes import Summary
from idgan_fast.run import messages
from idgan_fast.run.resolved_settings import ResolvedSettings
from idgan_fast.training.precision import Precision

RESOLVED = ResolvedSettings(
    device=torch.device("cpu"),
    precision=Precision("bf16", "cpu", "the CPU has it"),
    compiled=False,
    why_compiled="the run is short",
    loader="torch",
    why_loader="as asked",
    tf32=None,
)


def beginning(resolved: ResolvedSettings = RESOLVED, amp: str = "off", **before: Any) -> list[str]:
    return list(messages.beginning(parse(["--seed", "7", "--amp", amp]), Path("runs/a"), resolved, before))


def test_the_run_and_its_device() -> None:
    first, second = beginning()
    assert first.endswith(": preset dsprites-quick, seed 7, into runs/a")
    assert second == f"device cpu, {startup.threads(torch.get_num_threads())}"
    assert beginning(amp="bf16")[1].endswith("; amp bf16: the CPU has it")
    compiled = replace(RESOLVED, compiled=True, why_compiled="as asked")
    assert beginning(compiled)[1].endswith("; compile on: as asked")


def test_what_differs_from_the_run_that_is_resumed() -> None:
    before = RESOLVED.record()
    assert len(beginning(**before)) == 2
    said = beginning(**before | {"device": "cuda:0", "torch": "1.0", "loader": "dali"})[2:]
    assert said == [
        f"{name} was {value}: the numbers from here on are not those of an unbroken run"
        for name, value in (("device", "cuda:0"), ("torch", "1.0"))
    ]


def data(folder: Path, *flags: str, **before: str) -> list[str]:
    config = parse(["--preset", "celeba-64", "--data", str(folder), *flags])
    return list(messages.data(open_data(config, 64), config, RESOLVED, before))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(3):
        Image.new("RGB", (900, 700), (i, 9, 9)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_images_that_would_lose_their_edges(photos: Path) -> None:
    first, second = data(photos)
    assert first == f"data: 3 pictures in {photos}"
    assert "shorter side is 700 pixels, and --images.crop 160" in second
    assert "--images.crop None keeps all of it" in second
    for fitting in (["--images.crop", "None"], ["--images.crop", "400"], ["--images.framing", "squash"]):
        assert len(data(photos, *fitting)) == 1


def test_who_decodes(photos: Path) -> None:
    flags = ["--images.crop", "None", "--images.cache-gib", "0"]
    line = f"data: 3 pictures in {photos}, loader torch: as asked"
    assert data(photos, *flags) == data(photos, *flags, loader="torch") == [line]
    assert data(photos, *flags, loader="dali") == [f"{line}; dali before: pictures differ by rounding"]
    assert data(photos, *flags, device="cpu") == [line]  # a run of before there was a choice


def test_images_that_are_skipped(photos: Path) -> None:
    (photos / "a.png").write_bytes(b"no picture")
    _, second = data(photos, "--images.crop", "None")
    assert second.startswith("skipped 1 of them, such as a.png: unreadable")


def test_the_end() -> None:
    summary = Summary(64, [32, 32], [1.0, 0.0], [0], None, 0.25, [0.5, 0.0], [0.125, 0.0])
    skipped = dict.fromkeys(["a", "b", "c", "d"], "unreadable")
    first, second = messages.end(summary, skipped, 61)
    assert first == "skipped 4 pictures (a, b, c, ...); the report has the reasons"
    r2 = "R² of c from the posterior 0.50, R² of c from the prior 0.12"
    assert second == f"done in 1:01: 1 active code dimensions, {r2}, MIG 0.25"
    collapsed = replace(summary, active=[], mig=None)
    assert list(messages.end(collapsed, {}, 3600)) == ["done in 1:00:00: 0 active code dimensions"]

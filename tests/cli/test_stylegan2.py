"""The main job with the StyleGAN2 family: a whole small run, resumption, and what --compile comes to."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from idgan_fast import checkpoint, train
from idgan_fast.arguments import parse
from idgan_fast.graphs import Graphs
from tests.common import TINY, assert_equal, error_of

STYLED = [
    *(*TINY, "--preset", "stylegan2-64", "--gan.s-dim", "6", "--gan.r1-every", "2", "--gan.ada"),
    *("--gan.stylegan2.channel-base", "256", "--gan.stylegan2.channel-max", "8", "--gan.stylegan2.w-dim", "6"),
    *("--gan.stylegan2.mapping-layers", "2", "--gan.stylegan2.path-every", "3", "--gan.distill-warmup", "4"),
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(8):
        pixels = torch.randint(256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return folder


def run(pictures: Path, out: Path, *more: str) -> int:
    return train.main([*STYLED, "--data", str(pictures), "--out", str(out), *more])


def newest(out: Path) -> dict:
    return checkpoint.load(checkpoint.newest_first(out / "checkpoints")[0])


def test_a_whole_run_and_its_resumption(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three iterations and three more are six, bit for bit; the pictures and the report are there."""
    assert run(pictures, tmp_path / "whole") == 0
    assert run(pictures, tmp_path / "parts", "--gan.iters", "3") == 0
    assert run(pictures, tmp_path / "parts") == 0
    assert f"report: {tmp_path / 'parts' / 'report.html'}" in capsys.readouterr().out
    one, two = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert one["iteration"] == two["iteration"] == 6
    assert_equal(one["gan"], two["gan"])
    rows = [json.loads(line) for line in (tmp_path / "whole" / "stats.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["stage"] == "gan" and "g" in row]
    assert [("r1" in row, "path_length" in row) for row in trained] == [(i % 2 == 0, i % 3 == 0) for i in range(6)]
    assert [row["distill_weight"] for row in trained] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert all(row["augment_p"] >= 0 and 0 <= row["ema"] < 1 for row in trained)
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "StyleGAN2" in page
    assert (tmp_path / "whole" / "traversals" / "gan.gif").exists()


def test_the_choice_to_compile_is_kept(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """auto on resumption is what it was before; the compiler is stood in for by a wrapper that tells its calls."""
    compiled: list[str] = []

    def step(self: Graphs, name: str, function):  # type: ignore[no-untyped-def]
        def call(*args):  # type: ignore[no-untyped-def]
            self.seconds.setdefault(name, 1.0)
            return function(*args)

        compiled.append(name)
        return call if self.on else function

    monkeypatch.setattr(Graphs, "step", step)
    monkeypatch.setattr(train, "mark_warm", lambda _: None)
    out = tmp_path / "run"
    assert run(pictures, out, "--compile", "on", "--gan.iters", "2") == 0
    assert newest(out)["choices"]["compile"] == "on"
    said = capsys.readouterr().out
    assert "compile on: as asked" in said
    for name in ("vae", "D with R1", "D", "path length", "G"):
        assert said.count(f"compiled the step {name} in 1 s") == 1
    assert run(pictures, out, "--compile", "auto", "--gan.iters", "3") == 0
    assert "compile on: as before" in capsys.readouterr().out
    assert run(pictures, out, "--compile", "off", "--gan.iters", "4") == 0
    said = capsys.readouterr().out
    assert "compile was on: the numbers from here on are not those of an unbroken run" in said
    assert newest(out)["choices"]["compile"] == "off"


def test_what_cannot_go_together_is_said(pictures: Path) -> None:
    arguments = [*STYLED, "--data", str(pictures)]
    text = error_of(lambda: parse([*arguments, "--compile", "on", "--gan.stylegan2.recompute"]))
    assert text.startswith("--compile on: the compiler cannot recompute")
    assert error_of(lambda: parse([*arguments, "--gan.bottleneck"])).startswith("--gan.bottleneck: is the ResNet")
    assert error_of(lambda: parse([*arguments, "--gan.s-dim", "0"])).startswith("--gan.s-dim: StyleGAN2's mapping")
    assert error_of(lambda: parse([*arguments, "--gan.stylegan2.style-mixing", "2"])).startswith(
        "--gan.stylegan2.style-mixing: must be from 0 to 1"
    )

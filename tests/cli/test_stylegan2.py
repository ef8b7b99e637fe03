"""The main job with the StyleGAN2 family: a whole small run, resumption, and what --compile comes to."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from idgan_fast import train
from idgan_fast.config.arguments import parse
from idgan_fast.run import checkpoint, trainer
from idgan_fast.run.resolved_settings import choose_compile
from idgan_fast.training.networks import build_networks
from idgan_fast.training.precision import Precision
from idgan_fast.training.step_compiler import StepCompiler
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
    assert "<td>gan.model</td><td>resnet</td><td>stylegan2</td>" in page
    assert (tmp_path / "whole" / "traversals" / "gan.gif").exists()


def test_the_choice_to_compile_is_kept(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """auto on resumption is what it was before; a wrapper that tells its calls stands in for the compiler."""
    compiled: list[str] = []

    def step(self: StepCompiler, name: str, function):  # type: ignore[no-untyped-def]
        def call(*args):  # type: ignore[no-untyped-def]
            if self.seconds.setdefault(name, 1.0) and name not in compiled:
                compiled.append(name)
            return function(*args)

        self.names.append(name)
        return call if self.on else function

    marked: list[str] = []
    monkeypatch.setattr(StepCompiler, "step", step)
    monkeypatch.setattr(trainer, "mark_warm", marked.append)
    monkeypatch.setattr(trainer, "draw_samples", lambda *_, **__: {})
    monkeypatch.setattr(trainer.Trainer, "_finish", lambda *_: None)
    out = tmp_path / "run"
    assert run(pictures, out, "--compile", "on", "--gan.iters", "2") == 0
    assert newest(out)["choices"]["compile"] == "on"
    assert "compile on: as asked" in capsys.readouterr().out
    assert compiled == ["vae", "D with R1", "path length", "G", "D"]
    assert len(marked) == 1
    assert run(pictures, out, "--compile", "auto", "--gan.iters", "3") == 0
    assert "compile on: as before" in capsys.readouterr().out
    assert len(marked) == 1  # the VAE's step was not compiled this time
    assert run(pictures, out, "--compile", "off", "--gan.iters", "4") == 0
    said = capsys.readouterr().out
    assert "compile was on: the numbers from here on are not those of an unbroken run" in said
    assert newest(out)["choices"]["compile"] == "off"
    assert run(pictures, out, "--compile", "auto", "--gan.iters", "5", "--gan.stylegan2.recompute") == 2
    assert "gan.stylegan2.recompute was False" in capsys.readouterr().err
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert run(pictures, out, "--compile", "on", "--gan.iters", "5") == 2
    assert "--compile on: it needs a C++ compiler, and there is no no-such-compiler" in capsys.readouterr().err


def test_what_compile_auto_comes_to_after_a_checkpoint() -> None:
    config = parse([*STYLED, "--data", "pictures.zip", "--compile", "auto"])
    cpu, off = torch.device("cpu"), Precision("off", "cpu", "")
    before = {"compile": "on", "device": "cpu"}
    assert choose_compile(config, cpu, off, before) == (True, "as before")
    assert choose_compile(config, cpu, off, {**before, "device": "cuda:0"}) == (False, "the run is short")
    recompute = replace(config, gan=replace(config.gan, stylegan2=replace(config.gan.stylegan2, recompute=True)))
    assert choose_compile(recompute, cpu, off, before) == (False, "the compiler cannot recompute")


def test_what_cannot_go_together_is_said(pictures: Path) -> None:
    arguments = [*STYLED, "--data", str(pictures)]
    text = error_of(lambda: parse([*arguments, "--compile", "on", "--gan.stylegan2.recompute"]))
    assert text.startswith("--compile on: the compiler cannot recompute")
    assert error_of(lambda: parse([*arguments, "--gan.bottleneck"])).startswith("--gan.bottleneck: is the ResNet")
    assert error_of(lambda: parse([*arguments, "--gan.s-dim", "0"])).startswith("--gan.s-dim: StyleGAN2's mapping")
    assert error_of(lambda: parse([*arguments, "--gan.stylegan2.style-mixing", "2"])).startswith(
        "--gan.stylegan2.style-mixing: must be from 0 to 1"
    )
    for wrong in (["--gan.stylegan2.code-from", "128"], ["--gan.stylegan2.code-to", "2"]):
        assert "so that G would not see c" in error_of(lambda wrong=wrong: parse([*arguments, *wrong]))
    assert error_of(lambda: parse([*arguments, "--gan.square-decay", "1"])).startswith(
        "--gan.square-decay: must be less"
    )


def test_every_setting_reaches_the_networks() -> None:
    flags = "--gan.stylegan2.code-from 8 --gan.stylegan2.code-to 16 --gan.stylegan2.architecture residual"
    flags += " --gan.stylegan2.low-precision-levels 2 --gan.stylegan2.recompute --gan.stylegan2.w-dim 7"
    config = parse([*STYLED, "--data", "pictures.zip", *flags.split()])
    g, d = build_networks(config, 3)
    assert [b.size for b in g.synthesis.blocks() if b.conv1.affine.weight.shape[1] == 7 + 20] == [8, 16]
    assert [b.size for b in g.synthesis.blocks() if b.low_precision] == [32, 64]
    assert (d.b64.low_precision, d.b32.low_precision, d.b16.low_precision) == (True, True, False)
    assert (g.mapping.layers, g.s_dim, g.synthesis.recompute, d.recompute) == (2, 6, True, True)
    assert g.synthesis.b8.torgb is None
    assert g.synthesis.b64.conv1.weight.shape == (4, 4, 3, 3)
    assert g.synthesis.b4.conv1.weight.shape == (8, 8, 3, 3)
    mapped, _ = build_networks(parse([*STYLED, "--data", "pictures.zip", "--gan.stylegan2.code", "mapping"]), 3)
    assert mapped.mapping.fc0.weight.shape == (6, 6 + 20)

"""Names from outside that are not UTF-8 or steer a terminal: in lines, in the report and in the settings of a run."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idgan_fast import __main__, errors
from idgan_fast.config.arguments import parse
from idgan_fast.data import dali
from idgan_fast.errors import printable
from idgan_fast.tools import doctor
from tests.common import TINY_IMAGES, error_of

LATIN_1 = os.fsdecode(b"gesicht-\xe4.png")
NAMES = {
    LATIN_1: r"gesicht-\xe4.png",
    "a\n\x1b[31mred\u202e.png": r"a\n\x1b[31mred\u202e.png",
    ":cat:.png": ":cat:.png",
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        *NAMES.items(),
        ("", ""),
        ("顔/gesicht-ä é\u3000.png", "顔/gesicht-ä é\u3000.png"),
        ("\r\t\x00\x7f\x9b\u2028\ud800", r"\r\t\x00\x7f\x9b\u2028\ud800"),
        ("\u2066a\u2069\u200b\ufeff", r"\u2066a\u2069\u200b\ufeff"),
    ],
)
def test_a_text_is_shown_on_one_line(text: str, shown: str) -> None:
    assert printable(text) == shown
    shown.encode()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures and three that cannot be read, in a folder whose own name is not UTF-8."""
    folder = tmp_path / os.fsdecode(b"daten-\xe4")
    folder.mkdir()
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    for name in NAMES:
        (folder / name).write_bytes(b"this is no picture")
    return folder


def run(encoding: str, *arguments: object) -> tuple[int, list[str]]:
    """The status of a command and its lines on an output that refuses what the encoding does not have."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding, "strict", write_through=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        status = __main__.main([str(argument) for argument in arguments])
    assert isinstance(stream.buffer, io.BytesIO)
    return status, stream.buffer.getvalue().decode(encoding).split("\n")


ENCODINGS = ("ascii", "utf-8")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_run(pictures: Path, tmp_path: Path, encoding: str) -> None:
    out = tmp_path / "run"
    status, lines = run(encoding, "train", *TINY_IMAGES, "--data", pictures, "--out", out)
    assert status == 0
    assert rf"data: 4 pictures in {tmp_path}/daten-\xe4" in lines
    assert f"skipped 3 pictures ({', '.join(sorted(NAMES.values()))}); the report has the reasons" in lines
    page = (out / "report.html").read_text("utf-8")
    for name in NAMES.values():
        assert f"<td>{name}</td>" in page
    assert parse(["--config", str(out / "config.yaml")]).data == pictures


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_packing(pictures: Path, tmp_path: Path, encoding: str) -> None:
    status, lines = run(encoding, "pack", pictures, tmp_path / "out", "--size", 8, "--workers", 1)
    assert status == 0
    assert f"skipped 3 ({', '.join(sorted(NAMES.values()))})" in lines[-2]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", [["train", "--preset", "images-quick", "--data"], ["pack"]])
def test_an_error(command: list[str], tmp_path: Path, encoding: str) -> None:
    path = tmp_path / ("gone²\x1b[2J\n" + LATIN_1)
    status, lines = run(encoding, *command, path, *([tmp_path / "out"] if command == ["pack"] else []))
    assert status == 2
    (line,) = [line for line in lines if line.startswith("error: ")]
    square = "²" if encoding == "utf-8" else r"\xb2"
    assert rf"{tmp_path}/gone{square}\x1b[2J\ngesicht-\xe4.png" in line


def test_a_run_folder_that_tensorboard_cannot_write() -> None:
    assert "--out: TensorBoard wants a path in UTF-8" in error_of(lambda: parse(["--out", f"runs/{LATIN_1}"]))


def test_output_that_is_no_stream_of_bytes_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stdout", stream)
        errors.let_output_escape()
        assert sys.stdout is stream


def test_the_doctor_shows_brackets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    why = "it is not installed: pip install 'idgan-fast[dali]' :cat:"
    monkeypatch.setattr(dali, "why_not", lambda device: why)
    doctor.show({"system": doctor.system(["cpu"]), "available": {}, "checks": []})
    assert why in capsys.readouterr().out

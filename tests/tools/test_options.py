"""The options of the commands beside `train`: what cannot be is one line that names the option."""

from pathlib import Path

import pytest

from idgan_fast.__main__ import COMMANDS, main
from idgan_fast.tools import memory

HUGE = "9" * 400
NUMERIC = {
    "pack": ["--size", "--crop", "--min-side", "--shard-size", "--workers", "--quality"],
    "roofline": ["--batch"],
    "tune": ["--batch"],
    "memory": ["--batch-size", "--vae.width"],
}
NEEDED = {
    "pack": ["in", "out.zip"],
    "roofline": ["--preset", "celeba-64"],
    "tune": ["--preset", "stylegan2-256"],
    "memory": ["--preset", "celeba-64"],
}


def line_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command ends."""
    assert main(argv) == 2
    output, (line,) = (text.splitlines() for text in capsys.readouterr())
    assert output == []
    assert line.startswith("error: ")
    assert len(line) < 2000
    return line


@pytest.mark.parametrize("text", ["-1", "0.5", HUGE, "9" * 5000, "words", ""])
@pytest.mark.parametrize(("command", "option"), [(name, option) for name in NUMERIC for option in NUMERIC[name]])
def test_every_numeric_option(command: str, option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = line_of([command, *NEEDED[command], f"{option}={text}"], capsys)
    assert option in line
    assert text[:50] in line


@pytest.mark.parametrize("argv", [["pack", "", "out.zip"], ["pack", "in", ""], ["pack", "in\0", "out"]])
def test_no_place_of_pack_is_empty(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "wanted a value, got" in line_of(argv, capsys)


def test_no_file_of_roofline_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for argv in (["--csv", ""], ["--csv="], ["--csv", "a\0b"]):
        assert "--csv: wanted a value" in line_of(["roofline", "--preset", "celeba-64", *argv], capsys)
    assert "--csv: cannot write ." in line_of(["roofline", "--preset", "celeba-64", "--csv", "."], capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--bogus" in line_of([command, *NEEDED.get(command, []), "--bogus"], capsys)
    assert r"--b\ngus\x1b[31m" in line_of([command, *NEEDED.get(command, []), "--b\ngus\x1b[31m"], capsys)


def test_weights_that_do_not_fit_in_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 274877906944 bytes.")

    monkeypatch.setattr(memory, "predict", refuse)
    line = line_of(["memory", "--preset", "celeba-64", "--vae.width", "65536"], capsys)
    assert line.startswith("error: out of memory: 256.00 GiB were asked for")

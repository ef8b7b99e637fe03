"""Values from outside that cannot be: every numeric option, every path option, on the command line and in a file."""

import typing
from pathlib import Path

import pytest

from idgan_fast.config.arguments import LARGEST_WHOLE, check, parse
from idgan_fast.config.fields import settings_of
from idgan_fast.config.presets import PRESETS
from idgan_fast.config.settings import Config, field_type, flatten, override
from idgan_fast.errors import UserError
from tests.common import error_of

PICTURES = ["--preset", "celeba-64", "--data", "x"]
DIGITS = "9" * 400
ODD = ["-3", "0", "0.5", "-0.5", "1e400", DIGITS, f"-{DIGITS}", "9" * 5000, "nan", "-inf", "three", "+5", " 5 ", "1_0"]


def kind(key: str) -> type | None:
    """int or float for a numeric setting."""
    types = {*typing.get_args(field_type(Config, key)), field_type(Config, key)}
    return next((number for number in (int, float) if number in types), None)


NUMERIC = [key for key, _, _ in settings_of(Config()) if kind(key)]
PATHS = ["data", "out", "config", "resume"]


def flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def meant(key: str, text: str) -> float | None:
    """What the text says, as Python reads it; None where it is no number of the setting's kind."""
    try:
        return kind(key)(text)  # type: ignore[misc]
    except ValueError:
        return None


def require_honest(key: str, text: str) -> None:
    """The option has the value that was given, in every setting that it stands for, or it is refused by its name."""
    try:
        settings = flatten(parse([*PICTURES, f"{flag(key)}={text}"]))
    except UserError as error:
        line = str(error)
        assert line.startswith((flag(key), "--gan.stylegan2.code-from")), line
        assert "\n" not in line
        assert len(line) < 300
        return
    keys = ["vae.batch_size", "gan.batch_size"] if key == "batch_size" else [key]
    assert [settings[name] for name in keys] == [meant(key, text)] * len(keys)


def test_the_numeric_options() -> None:
    assert len(NUMERIC) > 45
    assert {"batch_size", "workers", "images.crop", "vae.beta_start", "gan.stylegan2.code_from"} <= set(NUMERIC)


@pytest.mark.parametrize("key", NUMERIC)
def test_too_many_digits_for_every_numeric_setting(key: str) -> None:
    value: object = int(DIGITS)
    for name in reversed(key.split(".")):
        value = {name: value}
    for base in (PRESETS["dsprites"], PRESETS["stylegan2-64"]):
        text = error_of(lambda base=base: check(override(base, value), needs_data=False))
        assert text.startswith((flag(key), f"config: {key} must be a number"))
        assert len(text) < 300


@pytest.mark.parametrize("text", ODD)
def test_odd_numbers(text: str) -> None:
    require_honest("batch_size", text)


@pytest.mark.parametrize("text", [DIGITS, "9" * 5000, "0.5", "nan"])
def test_odd_numbers_where_none_is_allowed(text: str) -> None:
    for key in ("seed", "vae.beta"):
        require_honest(key, text)


@pytest.mark.slow
@pytest.mark.parametrize("key", NUMERIC)
def test_every_odd_number_for_every_numeric_option(key: str) -> None:
    for text in ODD:
        require_honest(key, text)


def test_a_negative_batch_size_is_refused_by_the_name_that_was_given() -> None:
    assert error_of(lambda: parse(["--batch-size", "-3"])) == "--batch-size: must be from 1 to 1048576, got -3"


def test_a_batch_size_is_never_dropped() -> None:
    for argv in (["--batch_size", "5"], ["--batch_size=5"], ["--batch-size", "+5"], ["--batch-size", " 5"]):
        config = parse(argv)
        assert (config.vae.batch_size, config.gan.batch_size) == (5, 5), argv
    config = parse(["--gan.batch_size", "7", "--batch-size", "5"])
    assert (config.vae.batch_size, config.gan.batch_size) == (5, 7)


def test_a_stages_batch_size_goes_before_that_of_both_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("gan:\n  batch_size: 7\nbatch_size: 5\n")
    for argv, expected in (([], (5, 7)), (["--batch-size", "6"], (6, 6)), (["--vae.batch-size", "8"], (8, 7))):
        config = parse(["--config", str(path), *argv])
        assert (config.vae.batch_size, config.gan.batch_size) == expected


def test_whole_numbers_have_a_bound_even_without_one_of_their_own() -> None:
    assert parse(["--save-every", str(LARGEST_WHOLE)]).save_every == LARGEST_WHOLE
    text = error_of(lambda: parse(["--save-every", str(LARGEST_WHOLE + 1)]))
    assert text == f"--save-every: must be at most {LARGEST_WHOLE}, got {LARGEST_WHOLE + 1}"


@pytest.mark.parametrize("key", [*PATHS, "preset", "device", "seed", "gan.model"])
def test_no_option_is_empty(key: str) -> None:
    """A shell's unset variable must not mean the folder where the command was started, or the default."""
    for argv in ("{} ", "{}=", "{} \0", "{}=a\0b"):
        text = error_of(lambda argv=argv: parse(argv.format(flag(key)).split(" ")))
        assert text.startswith(f"{flag(key)}: wanted a value, got "), text


@pytest.mark.parametrize("key", ["data", "out", "resume", "device"])
def test_no_text_of_a_file_is_empty(key: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    for value in ('""', r'"a\0b"'):
        path.write_text(f"{key}: {value}\n")
        assert f"config: {key} must be some text" in error_of(lambda: parse(["--config", str(path)]))
    path.write_text('preset: ""\n')
    assert "no preset named ''" in error_of(lambda: parse(["--config", str(path)]))


def test_paths_that_are_there() -> None:
    assert parse(["--out", "."]).out == Path(".")
    assert parse(["--preset", "celeba-64", "--data", "."]).data == Path(".")


def test_a_width_above_the_largest() -> None:
    text = error_of(lambda: parse([*PICTURES, "--gan.width", "600"]))
    assert text == "--gan.width: must be at most --gan.max-width, 512, got 600"


@pytest.mark.parametrize("out", [".", "/", "..", "a/.."])
def test_a_folder_without_a_name_cannot_be_renamed(out: str) -> None:
    assert "--resume never" in error_of(lambda: parse(["--out", out, "--resume", "never"]))

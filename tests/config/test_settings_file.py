"""Files of settings that somebody broke: one short line each, at once."""

import time
from pathlib import Path

import pytest

from idgan_fast.config.arguments import parse
from idgan_fast.config.settings_file import MOST_BYTES, MOST_LEVELS
from tests.common import error_of

NEST = "a: &a [x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join(['*' + name] * 9)}]\n" for name, after in zip("abcdefghi", "bcdefghij", strict=True)
)
BROKEN = {
    "impossible date": ("seed: 2020-13-45\n", "month must be in 1..12"),
    "no number": ("seed: !!int x\n", "'x'"),
    "no fraction": ("vae: {beta: !!float x}\n", "'x'"),
    "no time": ("seed: !!timestamp x\n", "not of its type"),
    "brackets": ("[" * 20_000, f"more than {MOST_LEVELS} levels"),
    "mappings": ("".join(" " * i + "a:\n" for i in range(200)), f"more than {MOST_LEVELS} levels"),
    "digits": ("seed: " + "9" * 5000, "4300 digits"),
    "hexadecimal digits": ("seed: 0x" + "f" * 5000, "--seed: must be from 0 to 4294967296"),
    "digits of a fraction": ("vae: {beta: " + "9" * 400 + "}", "config: vae.beta must be a number"),
    "a number as a key": ("? 0x" + "f" * 5000 + "\n: 1", "no setting named a number of thousands of digits"),
    "a number as the preset": ("preset: 0x" + "f" * 5000, "no preset named a number"),
    "nested aliases": (NEST, "an alias"),
    "an alias of itself": ("a: &a [*a]\n", "an alias"),
    "a merge": ("<<: {seed: 3}\n", "a merge"),
    "a key that comes twice": ("seed: 1\nseed: 2\n", "seed is there twice"),
    "a key that comes twice below": ("vae: {beta: 1, 'beta': 2}\n", "beta is there twice"),
    "many keys": ("{" + ", ".join(f"k{i}: 0" for i in range(5000)) + "}", "no setting named k0"),
    "a long key": ("? " + "a" * 60_000 + "\n: 1\n", "no setting named aaa"),
    "a long value": ("seed: '" + "a" * 60_000 + "'\n", "config: seed must be a whole number, got 'aaa"),
    "too long": ("# " + "a" * MOST_BYTES, "64 KiB at most"),
    "false": ("false\n", "a mapping of settings, got bool"),
    "terminal codes": ('"\\x1b[31m": 1\n', r"\x1b[31m"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name: str, tmp_path: Path) -> None:
    text, reason = BROKEN[name]
    path = tmp_path / "s.yaml"
    path.write_text(text)
    began = time.process_time()
    line = error_of(lambda: parse(["--config", str(path)]))
    assert time.process_time() - began < 5
    assert reason in line
    assert len(line) < 2000
    assert line.isprintable()


def test_no_more_than_the_limit_is_read() -> None:
    assert "64 KiB at most" in error_of(lambda: parse(["--config", "/dev/zero"]))


def test_the_encodings_of_yaml(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes("device: cpu  # é\nseed: 3\n".encode(encoding))
        assert parse(["--config", str(path)]).seed == 3

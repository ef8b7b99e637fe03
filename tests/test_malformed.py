"""Files and command lines that are broken at random: a result or one line, at once, in little memory."""

import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from idgan_fast.config.arguments import parse
from idgan_fast.config.presets import PRESETS
from idgan_fast.errors import UserError
from tests.common import limited_memory
from tests.malformed import KINDS, odd_command_line

SECONDS, BYTES = 10, 2**31  # of processor time, and of address space beside what is taken already


class TooSlow(BaseException):
    """No handler of Exception takes it for a damaged file."""


@pytest.fixture(autouse=True)
def little_time_and_memory() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow

    handler = signal.signal(signal.SIGVTALRM, stop)
    try:
        with limited_memory(BYTES):
            yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)


def require_one_line(error: UserError) -> None:
    text = str(error)
    assert text.strip()
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) < 2000


def break_often(kind: str, folder: Path, seeds: range) -> tuple[int, int]:
    """Break a valid file by each seed and read it. Returns how many could be read and how many were refused."""
    name, make, harm, read = KINDS[kind]
    path, valid = folder / name, make()
    path.write_bytes(valid)
    read(path)
    results = 0
    for seed in seeds:
        path.write_bytes(harm(valid, Random(f"{kind} {seed}")))
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            read(path)
            results += 1
        except UserError as error:
            require_one_line(error)
        except BaseException as error:
            error.add_note(f"seed {seed} of {kind}")
            raise
    return results, len(seeds) - results


@pytest.mark.parametrize("kind", KINDS)
def test_broken_files(kind: str, tmp_path: Path) -> None:
    assert break_often(kind, tmp_path, range(12))[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_broken_files(kind: str, tmp_path: Path) -> None:
    results, refusals = break_often(kind, tmp_path, range(12, 512))
    assert results + refusals == 500
    assert refusals > 50


def odd_command_lines(seeds: range) -> None:
    for seed in seeds:
        argv = odd_command_line(Random(seed))
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            config = parse(argv)
            assert config.preset in PRESETS
        except UserError as error:
            require_one_line(error)
        except BaseException as error:
            error.add_note(f"seed {seed}: {argv}")
            raise


def test_odd_command_lines() -> None:
    odd_command_lines(range(20))


@pytest.mark.slow
def test_many_odd_command_lines() -> None:
    odd_command_lines(range(20, 1000))

"""Triton's kernels, interpreted on the CPU: TRITON_INTERPRET=1 pytest tests/triton."""

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
import torch

from tests.ops import fuzz

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """bfloat16 as a GPU has it; NaN in memory that torch has not filled, so that what a kernel leaves out is seen."""
    from tests.triton import interpreter

    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    with interpreter.repaired(monkeypatch):
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def small_images_between_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images small enough for the interpreter, between NaN, so that what is read beside them is seen."""
    monkeypatch.setattr(fuzz, "image", small_image)


@pytest.fixture(params=["long", pytest.param("short", marks=pytest.mark.slow)])
def strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight output rows of a program of a FIR, as large images have it, or one, as small ones."""
    if request.param == "long":
        from idgan_fast.kernels import _fir

        monkeypatch.setattr(_fir, "PROGRAMS", 0)


def kernels() -> Any:
    """The namespace of the Triton kernels as registered operators."""
    from idgan_fast.ops._dispatch import triton_kernels

    triton_kernels()
    return torch.ops.idgan_fast_triton


def quick(*wanted: tuple[Any, ...], slow: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Parameters of a matrix: `wanted` run always, the others with `make test-all` alone."""
    others = [pytest.param(*one, marks=pytest.mark.slow) for one in slow if one not in wanted]
    return [pytest.param(*one) for one in wanted] + others


def counts(full: int, **quick_counts: int) -> list[Any]:
    """(dtype, how many random cases): a few in some dtypes always, `full` in every one with `make test-all` alone."""
    few = [pytest.param(getattr(torch, name), count, id=name) for name, count in quick_counts.items()]
    slow = [pytest.param(dtype, full, id=f"{dtype} {full}", marks=pytest.mark.slow) for dtype in fuzz.DTYPES]
    return few + slow


def small_image(rng: random.Random, dtype: torch.dtype, channels: Sequence[int] = (1, 2, 3, 8, 20, 40)) -> torch.Tensor:
    n, c = rng.choice([0, 1, 2] if rng.random() < 0.1 else [1, 2]), rng.choice(channels)
    x = torch.randn(n, c, rng.randint(1, 14), rng.randint(1, 20)).to(dtype)
    layout = rng.random()
    if layout < 0.5:
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout < 0.6:
        x = x.transpose(2, 3)[:, :, :: rng.choice([1, 2])]
    return between_nan(x) if x.numel() else x


def between_nan(x: torch.Tensor) -> torch.Tensor:
    """x, of any strides, with NaN before and behind it and in its holes."""
    span = 1 + sum(step * (size - 1) for step, size in zip(x.stride(), x.shape, strict=True))
    around = torch.full((span + 1024,), torch.nan, dtype=x.dtype)
    return around.as_strided(x.shape, x.stride(), 512).copy_(x)

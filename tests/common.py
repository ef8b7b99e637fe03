"""What several tests share."""

import contextlib
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idgan_fast.errors import UserError

# A whole run of seconds, for dSprites and for pictures.
TINY = [
    *("--vae.iters", "8", "--gan.iters", "6", "--batch-size", "4", "--vae.width", "4", "--gan.width", "4"),
    *("--log-every", "1", "--picture-every", "5", "--save-every", "3", "--compile", "off"),
]
TINY_IMAGES = [*TINY, "--preset", "celeba-64", "--gan.max-width", "8", "--gan.s-dim", "3"]


def error_of(make: Callable[[], object]) -> str:
    """The text of the UserError that a call raises: one line."""
    with pytest.raises(UserError) as caught:
        make()
    text = str(caught.value)
    assert "\n" not in text
    return text


@contextlib.contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Within it, allocations that need more than so many further bytes of address space fail. On Linux."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def state_at(stage: str, iteration: int, **more: Any) -> dict[str, Any]:
    """What a checkpoint holds, in little."""
    rng = torch.Generator().manual_seed(iteration)
    return {
        "stage": stage,
        "iteration": iteration,
        stage: {"weight": torch.randn(40, 30, generator=rng), "rng": rng.get_state()},
        **more,
    }


def assert_equal(one: Any, other: Any) -> None:
    """Equal values of equal types, all the way down."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    else:
        assert one == other


def millions(module: nn.Module) -> str:
    """Its parameters, in millions."""
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f}"

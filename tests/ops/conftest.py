"""Fixtures that the operators' tests share."""

from collections.abc import Iterator

import pytest
import torch

from idgan_fast import ops
from idgan_fast.ops import _dispatch


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# auto: compiled kernels, where there are some
BACKENDS = ["reference"] if _dispatch._no_cpu_library else ["reference", "auto"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with ops.backend(request.param):
        yield request.param


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["projected", "whole"])
def whole(request: pytest.FixtureRequest) -> bool:
    """Whether `checks.gradients` takes the whole Jacobian of second order."""
    return request.param


@pytest.fixture
def nan_filled() -> Iterator[None]:
    """Torch fills new tensors with NaN, so that an element that a kernel leaves out is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        yield
    torch._dynamo.reset()


@pytest.fixture(params=["reference", "registered"])
def compiled_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fresh_dynamo: None) -> Iterator[str]:
    """Plain torch, and the registered operators, opaque to the compiler, as compiled kernels are."""
    plain = request.param == "reference"
    monkeypatch.setattr(_dispatch, "why_not", lambda backend, *_: "off" if plain and backend != "reference" else None)
    with ops.backend("reference" if plain else "native"):
        yield request.param

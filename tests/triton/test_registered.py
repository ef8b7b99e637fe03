"""The Triton kernels as registered operators: opcheck, one graph under torch.compile, gradients of every order."""

from itertools import product

import pytest
import torch
from torch import Tensor

from idgan_fast import ops
from idgan_fast.ops._dispatch import triton_kernels
from idgan_fast.ops._registry import CUSTOM_OPS
from idgan_fast.ops.validation import verification
from tests.triton.conftest import quick

NAMES = sorted(triton_kernels())
FAST = [name for name in NAMES if not name.startswith("styled_layer")]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize(("name", "layout"), quick(*product(FAST, [torch.channels_last]), slow=product(NAMES, LAYOUTS)))
def test_opcheck(name: str, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "SHAPES", ((2, 3, 5, 7),))
    operator = getattr(torch.ops.idgan_fast_triton, name).default
    for arguments in verification.samples_of(CUSTOM_OPS[name], torch.float32, layout):
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def loss(x: Tensor, w: Tensor, s: Tensor, noise: Tensor, b: Tensor) -> Tensor:
    """A layer, a discriminator's block, and R1 of both."""
    h = ops.styled_conv2d(x, w, s, noise, None, b, up=2, clamp=2)
    h = ops.bias_act(ops.downsample2d(h, ops.setup_filter((1, 3, 3, 1))), b, act="swish")
    (gradient,) = torch.autograd.grad(h.sum(), x, create_graph=True)
    return h.square().mean() + gradient.square().sum()


def operands() -> list[Tensor]:
    shapes = ((1, 3, 4, 4), (3, 3, 3, 3), (1, 3), (1, 1, 8, 8), (3,))
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_() for shape in shapes]


def gradients(function: object) -> list[Tensor]:
    tensors = operands()
    value = function(*tensors)  # type: ignore[operator]
    return [value.detach(), *torch.autograd.grad(value, tensors)]


def test_gradients_of_a_penalty_equal_the_reference() -> None:
    with ops.backend("reference"):
        wanted = gradients(loss)
    with ops.backend("triton"):
        got = gradients(loss)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", ["eager", "aot_eager"])
def test_one_graph_equals_eager(path: str) -> None:
    with ops.backend("triton"):
        wanted = gradients(loss)
        torch._dynamo.reset()
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            got = gradients(torch.compile(loss, fullgraph=True, backend=path))
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)

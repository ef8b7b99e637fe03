"""The functional optimizers against torch.optim, in eager mode and compiled."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from idgan_fast.training.optimizers import Adam, RMSprop, move_average

SHAPES = [(3, 2, 3, 3), (5,), (), (4, 1), (2, 3, 1, 1)]
PAIRS: dict[str, tuple[Callable, Callable]] = {
    "RMSprop": (lambda p: RMSprop(p, 0.9, 1e-3), lambda p, lr: torch.optim.RMSprop(p, lr, alpha=0.9, eps=1e-3)),
    "Adam": (lambda p: Adam(p, (0.7, 0.95), 1e-3), lambda p, lr: torch.optim.Adam(p, lr, (0.7, 0.95), eps=1e-3)),
    "Adam, no momentum": (lambda p: Adam(p, (0.0, 0.99)), lambda p, lr: torch.optim.Adam(p, lr, (0.0, 0.99))),
}


def tensors(seed: int) -> list[Tensor]:
    """Parameters (seed 0) are in channels_last, gradients are not."""
    rng = torch.Generator().manual_seed(seed)
    found = [torch.randn(shape, generator=rng) for shape in SHAPES]
    if seed == 0:
        found[0] = found[0].contiguous(memory_format=torch.channels_last)
    return found


@pytest.fixture(params=["eager", "compiled"])
def wrap(request: pytest.FixtureRequest) -> Iterator[Callable]:
    torch._dynamo.reset()
    yield (
        (lambda f: f) if request.param == "eager" else (lambda f: torch.compile(f, fullgraph=True, backend="aot_eager"))
    )
    torch._dynamo.reset()


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
@pytest.mark.parametrize("name", PAIRS)
def test_steps_are_those_of_torch(name: str, lr: float | Tensor, wrap: Callable) -> None:
    make, torchs = PAIRS[name]
    ours, theirs = ([t.requires_grad_() for t in tensors(0)] for _ in range(2))
    optimizer, other = make(ours), torchs(theirs, 0.1)
    step = wrap(lambda gradients: optimizer.step(gradients, lr))
    for i in range(4):
        step(tensors(i + 1))
        for p, g in zip(theirs, tensors(i + 1), strict=True):
            p.grad = g
        other.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert "exp_avg" not in optimizer.state or optimizer.betas[0] > 0


@pytest.mark.parametrize("name", PAIRS)
def test_an_overflow_changes_nothing(name: str, wrap: Callable) -> None:
    """Steps 0 and 2 overflow; the others are those of a run without them."""
    make, _ = PAIRS[name]
    ours, clean = ([t.requires_grad_() for t in tensors(0)] for _ in range(2))
    optimizer, other = make(ours), make(clean)
    step = wrap(lambda gradients, overflow: optimizer.step(gradients, 0.1, overflow))
    for i in range(4):
        gradients = tensors(i + 1)
        if i % 2 == 0:
            gradients[1][0] = float("nan" if i else "inf")
        step(gradients, torch.tensor(i % 2 == 0))
        if i % 2:
            other.step(gradients, 0.1)
        torch.testing.assert_close(ours, clean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(optimizer.state_dict(), other.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_state_goes_through_a_dictionary(name: str) -> None:
    make, _ = PAIRS[name]
    first, second = ([t.requires_grad_() for t in tensors(0)] for _ in range(2))
    one, two = make(first), make(second)
    one.step(tensors(1), 0.1)
    saved = {k: [t.clone() for t in v] if isinstance(v, list) else v.clone() for k, v in one.state_dict().items()}
    two.load_state_dict(saved)
    with torch.no_grad():
        torch._foreach_copy_(second, first)
    one.step(tensors(2), 0.1)
    two.step(tensors(2), 0.1)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert saved.get("steps", 1) == 1  # a load copies


@pytest.mark.parametrize("decay", [0.75, torch.tensor(0.75)], ids=["number", "tensor"])
def test_moving_average(decay: float | Tensor) -> None:
    average, values = tensors(0), tensors(1)
    expected = [0.75 * a + 0.25 * b for a, b in zip(tensors(0), values, strict=True)]
    move_average(average, values, decay)
    torch.testing.assert_close(average, expected)

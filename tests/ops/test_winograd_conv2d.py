"""3x3 convolutions by Winograd's tiles: when they are taken, every gradient, and the kernel itself."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from idgan_fast import ops
from idgan_fast.ops import _dispatch, conv2d_gradfix
from idgan_fast.ops.winograd_conv2d import is_faster, winograd_conv2d
from tests.ops import checks, fuzz

pytestmark = pytest.mark.skipif(_dispatch._no_cpu_library is not None, reason=str(_dispatch._no_cpu_library))
F64 = torch.float64


def image(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def kernel(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype) / (3 * shape[1] ** 0.5)


X, W = image(2, 64, 32, 33), kernel(72, 64, 3, 3)
NOT_TAKEN: dict[str, tuple[Tensor, Tensor, str]] = {
    "NCHW": (X.contiguous(), W, "auto"),
    "bfloat16": (X.bfloat16(), W.bfloat16(), "auto"),
    "1x1": (X, kernel(72, 64, 1, 1), "auto"),
    "few channels in": (image(2, 31, 64, 64), kernel(72, 31, 3, 3), "auto"),
    "few channels out": (image(4, 64, 32, 33), kernel(31, 64, 3, 3), "auto"),
    "few pixels": (image(1, 512, 16, 14), kernel(512, 512, 3, 3), "auto"),
    "few products": (X[:1], W, "auto"),
    "narrow": (image(8, 64, 7, 100), W, "auto"),
    "empty": (image(0, 64, 64, 64), W, "auto"),
    "reference": (X, W, "reference"),
}


@pytest.mark.parametrize("why", NOT_TAKEN)
def test_it_is_taken_where_it_is_faster(why: str) -> None:
    assert is_faster(X, W, "auto")
    assert not is_faster(*NOT_TAKEN[why])


def test_autocast_and_other_backends_leave_it_out() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_faster(X, W, "auto")
        assert ops.conv2d_resample(X, W, padding=1).dtype == torch.bfloat16
    with ops.backend("reference"):
        assert not is_faster(X, W, "auto")


@checks.numerics_of("winograd_conv2d")
def test_numerics(name: str, dtype: torch.dtype, layout: str) -> None:
    checks.within_the_contract(name, dtype, layout)


def test_gradients() -> None:
    x, w = image(1, 3, 3, 4, dtype=F64).requires_grad_(), kernel(2, 3, 3, 3, dtype=F64).requires_grad_()
    checks.gradients(winograd_conv2d, x, w, whole=True)


@checks.every_backend
@checks.cases_of("winograd_conv2d")
def test_activation_checkpointing(name: str) -> None:
    checks.checkpointing(name)


@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, pytest.param(torch.channels_last, marks=pytest.mark.slow)], ids=str
)
def test_opcheck(layout: torch.memory_format) -> None:
    x = checks.small_image(layout, torch.float32)
    for weight in (torch.randn(2, 3, 3, 3), torch.randn(3, 34, 3, 3).transpose(0, 1)):
        checks.opcheck("winograd_conv2d", x, weight)


@checks.compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_kernels(dtype: torch.dtype) -> None:
    fuzz.check_winograd_conv2d(checks.NATIVE, dtype, 150)


def to_the_third_order(function: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """The result and its gradients of three orders by all tensors."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    found, loss = [y], (y + leaves[2].mean()).pow(3).mean()
    for _ in range(3):
        gradients = torch.autograd.grad(loss, leaves, create_graph=True)
        found += gradients
        loss = sum(g.pow(2).mean() for g in gradients)
    return found


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "conv2d_resample": lambda x, w, s, **how: ops.conv2d_resample(x, w, padding=1, **how),
    "flipped": lambda x, w, s, **how: ops.conv2d_resample(x, w, padding=1, flip_weight=False, **how),
    "modulated_conv2d": lambda x, w, s, **how: ops.modulated_conv2d(x, w, s, padding=1, **how),
    "styled_conv2d": lambda x, w, s, **how: ops.styled_conv2d(x, w, s, **how),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_equal_the_reference_to_the_third_order(name: str) -> None:
    tensors = [X.double(), W.double(), torch.rand(2, 64, dtype=F64) + 0.5]
    operator = OPERATORS[name]
    with Calls() as calls:
        got = to_the_third_order(operator, tensors)
    assert calls.count >= 2, "the operator was not called"
    for a, b in zip(got, to_the_third_order(partial(operator, impl="reference"), tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the calls of the operator, and the gradients by a weight."""

    count = of_weight = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.count += func is torch.ops.idgan_fast.winograd_conv2d.default
        self.of_weight += func is torch.ops.aten.convolution_backward.default
        return func(*args, **(kwargs or {}))


def test_no_gradient_that_is_not_asked_for() -> None:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    with Calls() as calls:
        torch.autograd.grad(winograd_conv2d(x, w).sum(), x, create_graph=True)
    assert (calls.count, calls.of_weight) == (2, 0)
    with Calls() as calls:
        torch.autograd.grad(winograd_conv2d(x.detach(), w).sum(), w)
    assert (calls.count, calls.of_weight) == (1, 1)
    y = ops.conv2d_resample(x, w, padding=1).square().sum()
    with conv2d_gradfix.no_weight_gradients():
        y.backward()
    assert w.grad is None
    assert x.grad is not None


def test_the_memory_of_gradients_may_lie_as_it_likes() -> None:
    x = X.clone().requires_grad_()
    for dy in (torch.randn(2, 72, 32, 33), torch.ones(1, 1, 1, 1).expand(2, 72, 32, 33)):
        (got,) = torch.autograd.grad(winograd_conv2d(x, W), x, dy)
        (wanted,) = torch.autograd.grad(F.conv2d(x, W, padding=1), x, dy)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def penalty(x: Tensor, w: Tensor, convolution: Callable[..., Tensor] = winograd_conv2d) -> Tensor:
    (gradient,) = torch.autograd.grad(convolution(x, w).tanh().sum(), x, create_graph=True)
    return gradient.square().sum()


def penalty_by_func(x: Tensor, w: Tensor) -> Tensor:
    return torch.func.grad(lambda x, w: winograd_conv2d(x, w).tanh().sum(), (0, 1))(x, w)[0].square().sum()


@pytest.mark.parametrize("how", ["autograd", "torch.func", "checkpoint"])
def test_a_penalty_on_its_gradient(how: str) -> None:
    x, w = image(1, 3, 3, 4, dtype=F64).requires_grad_(), kernel(2, 3, 3, 3, dtype=F64).requires_grad_()
    if how == "checkpoint":
        y = checkpoint(lambda *args: winograd_conv2d(*args).tanh(), x, w, use_reentrant=False)
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        loss = gradient.square().sum()
    else:
        loss = penalty(x, w) if how == "autograd" else penalty_by_func(x, w)
    wanted = torch.autograd.grad(penalty(x, w, partial(F.conv2d, padding=1)), [x, w])
    for got, expected in zip(torch.autograd.grad(loss, [x, w]), wanted, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiled_with_a_penalty_on_its_gradient(compiler: str) -> None:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    of_resample = partial(penalty, convolution=partial(ops.conv2d_resample, padding=1))
    wanted = torch.autograd.grad(of_resample(x, w), [x, w])
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(of_resample, fullgraph=True, backend=compiler)
        got = torch.autograd.grad(compiled(x, w), [x, w])
    torch._dynamo.reset()
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_compiled_autograd() -> None:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    ops.conv2d_resample(x, w, padding=1).square().sum().backward()
    wanted, x.grad, w.grad = (x.grad, w.grad), None, None
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        ops.conv2d_resample(x, w, padding=1).square().sum().backward()
    torch._dynamo.reset()
    for got, expected in zip((x.grad, w.grad), wanted, strict=True):
        torch.testing.assert_close(got, expected)


def test_transforms_without_a_rule_go_to_torch() -> None:
    x, w = X, W
    of = partial(ops.conv2d_resample, w=w, padding=1)
    assert is_faster(x, w, "auto")
    got = torch.vmap(of)(torch.stack([x, 2 * x]))
    torch.testing.assert_close(got[1], of(2 * x), rtol=1e-4, atol=1e-4)
    primal, tangent = torch.func.jvp(of, (x,), (x,))
    torch.testing.assert_close(primal, tangent)
    with forward_ad.dual_level():
        dual = of(forward_ad.make_dual(x, x))
        torch.testing.assert_close(*forward_ad.unpack_dual(dual))
    traced = torch.jit.trace(lambda x: of(x), (x,), check_trace=False)
    torch.testing.assert_close(traced(x), of(x), rtol=1e-4, atol=1e-4)


def test_errors_beside_a_bright_pixel_and_where_kernels_cancel() -> None:
    """What the docstring admits."""
    x, w = X.clone(), W.clone()
    x[:, :, 16, 16] = 1e6
    w[:, :, 2] = w[:, :, 1, 1:] = 0  # a causal mask: no pixel sees one after it
    exact = F.conv2d(x.double(), w.double(), padding=1)
    assert (winograd_conv2d(x, w) - exact).abs().max() < 3e-6 * 1e6 * w.abs().amax() * 64**0.5
    x, w = X + 100, W - W.mean(1, keepdim=True)
    exact = F.conv2d(x.double(), w.double(), padding=1)
    errors = [(y - exact).square().mean().sqrt() for y in (winograd_conv2d(x, w), F.conv2d(x, w, padding=1))]
    assert errors[0] < 1.7 * errors[1]


@pytest.mark.parametrize(
    "weight", [torch.ones(2, 64, 3, 3, dtype=F64), torch.ones(2, 8, 3, 3), torch.ones(2, 64, 1, 1)]
)
def test_the_registered_operator_refuses_other_weights(weight: Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"winograd_conv2d: weight must be \[O, I, 3, 3\]"):
        torch.ops.idgan_fast.winograd_conv2d(X, weight)


def test_an_infinity_reaches_the_pixels_around_it_alone() -> None:
    for row in (6, 7):
        for column in (8, 9):
            x = X.clone()
            x[0, 3, row, column] = torch.inf
            assert torch.equal(winograd_conv2d(x, W).isfinite(), F.conv2d(x, W, padding=1).isfinite())


def test_products_are_counted_as_those_of_a_convolution() -> None:
    totals = []
    for convolution in (winograd_conv2d, lambda x, w: F.conv2d(x, w, padding=1)):
        x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
        with FlopCounterMode(display=False) as counter:
            convolution(x, w).sum().backward()
        totals.append(counter.get_total_flops())
    assert totals[0] == totals[1] > 0

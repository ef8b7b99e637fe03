"""vmap and forward-mode differentiation, alone and with backward passes: every case of every operator."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jvp, vjp, vmap

from idgan_fast import ops
from idgan_fast.ops import conv2d_gradfix
from idgan_fast.ops._registry import OPERATORS
from idgan_fast.ops.validation import numerics
from tests.ops import checks
from tests.ops.checks import F64

STEP = 1e-6
every_case = checks.cases_of(*OPERATORS)
pytestmark = checks.every_backend


def case(name: str, seed: int = 0) -> tuple[Callable[..., Tensor], list[Tensor]]:
    one = checks.case(name, size=4, channels=3)
    return one.ours, numerics.sample(one, F64, "NHWC", seed=seed)


def close(got: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float = 1e-9) -> None:
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, check_stride=False)


def differences(
    function: Callable[..., Sequence[Tensor]], at: Sequence[Tensor], along: Sequence[Tensor]
) -> list[Tensor]:
    """The derivative of a function along tangents, by finite differences."""
    ahead, behind = (function(*[t + step * u for t, u in zip(at, along, strict=True)]) for step in (STEP, -STEP))
    return [(a - b) / (2 * STEP) for a, b in zip(ahead, behind, strict=True)]


def gradient(function: Callable[..., Tensor], count: int) -> Callable[..., tuple[Tensor, ...]]:
    return grad(lambda *tensors: function(*tensors).tanh().sum(), tuple(range(count)))


@every_case
def test_vmap_equals_a_loop(name: str) -> None:
    """Over x alone and over all tensors, of results and of gradients."""
    function, tensors = case(name)
    x, *rest = tensors
    images = torch.stack([x, x.flip(0)])
    close([vmap(lambda x: function(x, *rest))(images)], [torch.stack([function(one, *rest) for one in images])])
    batches = [torch.stack(pair) for pair in zip(tensors, case(name, seed=1)[1], strict=True)]
    loop = [[batch[i] for batch in batches] for i in range(2)]
    close([vmap(function)(*batches)], [torch.stack([function(*one) for one in loop])])
    by = gradient(function, len(tensors))
    wanted = zip(*[by(*one) for one in loop], strict=True)
    close(vmap(by)(*batches), [torch.stack(pair) for pair in wanted])


@every_case
def test_forward_mode_equals_finite_differences(name: str) -> None:
    """By torch.func and by torch.autograd.forward_ad, of a result and, forward over reverse, of its gradient."""
    function, tensors = case(name)
    tangents = case(name, seed=1)[1]
    along = (tuple(tensors), tuple(tangents))
    y, derivative = jvp(function, *along)
    close([y], [function(*tensors)])
    wanted = differences(lambda *tensors: [function(*tensors)], *along)
    close([derivative], wanted, 1e-6)
    with forward_ad.dual_level():
        dual = function(*[forward_ad.make_dual(t, u) for t, u in zip(tensors, tangents, strict=True)])
        close([forward_ad.unpack_dual(dual).tangent], wanted, 1e-6)
    by = gradient(function, len(tensors))
    close(jvp(by, *along)[1], differences(by, *along), 1e-5)


@every_case
def test_a_backward_pass_for_many_cotangents_equals_one_for_each(name: str) -> None:
    function, tensors = case(name)
    y, pull = vjp(function, *tensors)
    cotangents = torch.stack([torch.randn_like(y) for _ in range(2)])
    wanted = [torch.stack(pair) for pair in zip(*[pull(one) for one in cotangents], strict=True)]
    close(vmap(pull)(cotangents), wanted)
    leaves = [t.requires_grad_() for t in tensors]
    close(torch.autograd.grad(function(*leaves), leaves, cotangents, is_grads_batched=True), wanted)


def test_a_clamp_stops_derivatives_at_its_bound() -> None:
    """Where torch.clamp would let them through: the rule of backward passes holds in forward mode and under vmap."""
    x = torch.tensor([[-1.0, 0.5, 1.0]], dtype=F64)
    for act in ("linear", "tanh"):
        gain = 1.0 if act == "linear" else 1 / torch.tensor(1.0, dtype=F64).tanh().item()

        def function(x: Tensor, act: str = act, gain: float = gain) -> Tensor:
            return ops.bias_act(x, act=act, gain=gain, clamp=1.0)

        expected = grad(lambda x, function=function: function(x).sum())(x)
        assert (expected != 0).tolist() == [[False, True, False]]
        close([jvp(function, (x,), (torch.ones_like(x),))[1]], [expected])
        close([vmap(grad(lambda x, function=function: function(x).sum()))(x)], [expected])


def test_no_weight_gradients_holds_under_vmap() -> None:
    x, w = torch.randn(2, 1, 3, 4, 4, dtype=F64), torch.randn(2, 3, 3, 3, dtype=F64)
    both = grad(lambda x, w: ops.conv2d_resample(x, w, padding=1).square().sum(), (0, 1))
    wanted, of_weight = vmap(both, (0, None))(x, w)
    assert of_weight.abs().sum() > 0
    with conv2d_gradfix.no_weight_gradients():
        got, dropped = vmap(both, (0, None))(x, w)
    close([got], [wanted])
    assert dropped.abs().sum() == 0


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", ["bias_act swish", pytest.param("styled_conv2d up=2", marks=pytest.mark.slow)])
def test_transforms_within_one_graph(name: str) -> None:
    function, tensors = case(name)
    by = gradient(function, len(tensors))
    batches, tangents = [torch.stack([t, t + 0.1]) for t in tensors], tuple(case(name, seed=1)[1])

    def transformed(batches: list[Tensor]) -> list[Tensor]:
        return [*vmap(by)(*batches), jvp(function, tuple(tensors), tangents)[1]]

    close(torch.compile(transformed, fullgraph=True, backend="aot_eager")(batches), transformed(batches))

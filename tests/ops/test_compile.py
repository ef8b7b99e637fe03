"""torch.compile takes whole losses, double backward included, in one graph and changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from idgan_fast import ops
from idgan_fast.ops import _dispatch
from tests.ops import networks

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


@pytest.mark.skipif(_dispatch._no_cpu_library is not None, reason=str(_dispatch._no_cpu_library))
def test_pointwise_operators_are_left_to_the_compiler_on_a_cpu() -> None:
    called: list[str] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        called.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    def both(x: Tensor, impl: str) -> Tensor:
        return ops.bias_act(ops.filter2d(x, torch.ones(3)), act="lrelu", impl=impl)

    x = torch.randn(1, 2, 5, 5)
    for impl, wanted in (("auto", {"upfirdn2d"}), ("native", {"upfirdn2d", "bias_lrelu_fwd"})):
        called.clear()
        y = torch.compile(both, fullgraph=True, backend=aot_autograd(fw_compiler=keep))(x, impl)
        assert {name.split(".")[1] for name in called if name.startswith("idgan_fast.")} == wanted
        torch.testing.assert_close(y, both(x, "reference"))


def losses() -> dict[str, tuple[Callable[..., Tensor], list[str]]]:
    return {
        "d_loss_autograd": (networks.d_loss_autograd, ["x"]),
        "d_loss_func": (networks.d_loss_func, ["x"]),
        "g_loss": (networks.g_loss, ["z", "noise"]),
        "path_length": (networks.path_length, ["z", "noise"]),
    }


@pytest.mark.parametrize("name", losses())
def test_whole_losses_in_one_graph_equal_eager(name: str, compiled_path: str) -> None:
    loss, names = losses()[name]
    p, f = networks.parameters(), networks.taps()
    arguments = [networks.inputs()[n].requires_grad_(n != "noise") for n in names]
    expected = loss(p, *arguments, f)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(p, *arguments, f)
    torch.testing.assert_close(compiled, expected)
    wanted, got = networks.gradients(expected, p), networks.gradients(compiled, p)
    assert wanted.keys() == got.keys()
    assert len(wanted) >= 6
    for key in wanted:
        torch.testing.assert_close(got[key], wanted[key], msg=lambda text, key=key: f"{key}: {text}")


def test_second_derivative_through_the_output_survives_compilation(compiled_path: str) -> None:
    """What dynamo's own treatment of an autograd.Function loses: tanh after it, the penalty on its input's gradient."""

    def penalty(x: Tensor, w: Tensor) -> Tensor:
        y = ops.bias_act(x @ w, act="lrelu").tanh()
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return y.sum() + gradient.square().sum()

    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(penalty(x, w), w)
    (got,) = torch.autograd.grad(torch.compile(penalty, fullgraph=True, backend="aot_eager")(x, w), w)
    torch.testing.assert_close(got, expected)


def test_inductor() -> None:
    p, f, x = networks.parameters(torch.float32), networks.taps(), networks.inputs(torch.float32)["x"].requires_grad_()
    expected = networks.gradients(networks.d_loss_autograd(p, x, f), p)
    got = networks.gradients(torch.compile(networks.d_loss_autograd, fullgraph=True)(p, x, f), p)
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-4, atol=1e-4)


def test_another_backend_compiles_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "why_not", lambda *_: None)
    seen: list[Any] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph

    compiled = torch.compile(lambda x: ops.bias_act(x, act="lrelu"), fullgraph=True, backend=keep)
    x = torch.randn(2, 3)
    for backend in ("native", "reference", "native"):
        with ops.backend(backend):
            torch.testing.assert_close(compiled(x), ops.bias_act(x, act="lrelu"))
    assert len(seen) == 2

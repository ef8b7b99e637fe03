"""The host library against the Python path: the same numbers to the last bit, gradients of three orders included."""

import gc
import resource
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from idgan_fast import ops
from idgan_fast.ops import _host, _libraries
from idgan_fast.ops.activations import activation_funcs

needs_library = pytest.mark.skipif(_host.library is None, reason=f"{_host.missing}")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
TAPS = torch.tensor([[0.1, 0.7, 0.3], [0.2, -0.4, 0.5]])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of the library was taken by it."""
    taken: list[bool] = []

    class Counting:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                result = getattr(_library, name)(*args)
                taken.append(result is not None)
                return result

            return call

    _library = _host.library
    monkeypatch.setattr(_host, "library", Counting())
    return taken


def operators() -> dict[str, tuple[Callable[..., Tensor], bool]]:
    """{name: (operator of an image and a bias, whether it has the bias)}"""
    acts = {
        f"{act}{suffix}": (partial(ops.bias_act, act=act, clamp=clamp, **more), True)
        for act in activation_funcs
        for suffix, clamp, more in (("", None, {}), (" clamp", 0.75, {"gain": -1.5, "alpha": 0.3}))
    }
    return {
        **acts,
        "lrelu, negative slope": (partial(ops.bias_act, act="lrelu", alpha=-0.3), True),
        "along dim -3": (partial(ops.bias_act, dim=-3, act="swish"), True),
        "without bias": (lambda x, b: ops.bias_act(x, act="tanh", clamp=0.5), False),
        "upfirdn2d": (
            lambda x, b: ops.upfirdn2d(x, TAPS, up=[2, 1], down=(1, 3), padding=[2, 1, -1, 4], gain=1.5),
            False,
        ),
        "upfirdn2d, flipped": (lambda x, b: ops.upfirdn2d(x, TAPS, 3, 2, [1, 2], True), False),
        "upfirdn2d, without taps": (lambda x, b: ops.upfirdn2d(x, None, 2, gain=2), False),
        "upsample2d": (lambda x, b: ops.upsample2d(x, TAPS[0], [2, 3], [0, 1]), False),
        "downsample2d": (lambda x, b: ops.downsample2d(x, TAPS.half(), 2, 1, gain=-1), False),
        "filter2d": (lambda x, b: ops.filter2d(x, TAPS, flip_filter=True), False),
    }


def three_orders(operator: Callable[..., Tensor], biased: bool, x: Tensor, b: Tensor) -> list[Tensor]:
    """The result, and gradients by x and b of it, of a penalty on them, and of a penalty on those."""
    x, b = x.detach().requires_grad_(), b.detach().requires_grad_()
    by = [x, b] if biased else [x]
    y = operator(x, b)
    results, total = [y], y.double().pow(3).sum()
    for order in range(3):
        gradients = torch.autograd.grad(total, by, create_graph=order < 2, materialize_grads=True)
        results += gradients
        total = sum((g.double().square() * (1 + g.double())).sum() for g in gradients)  # type: ignore[assignment]
        if not total.requires_grad:
            break
    return [result.detach() for result in results]


@needs_library
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", operators())
def test_it_equals_the_python_path(
    name: str, dtype: torch.dtype, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch, calls: list[bool]
) -> None:
    operator, biased = operators()[name]
    x = torch.randn(2, 3, 7, 6, dtype=dtype).contiguous(memory_format=layout)
    b = torch.randn(3, dtype=torch.float32 if dtype == torch.float16 else dtype)
    got = three_orders(operator, biased, x, b)
    without = operator(x, b)
    assert calls
    assert all(calls)
    monkeypatch.setattr(_host, "library", None)
    wanted = three_orders(operator, biased, x, b)
    assert len(got) == len(wanted)
    for mine, reference in zip(got, wanted, strict=True):
        assert mine.dtype == reference.dtype
        assert mine.stride() == reference.stride()
        torch.testing.assert_close(mine, reference, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(without, wanted[0], rtol=0, atol=0)


LAYERS: dict[str, tuple[Callable[..., Tensor], int]] = {
    # x, weight, styles, noise [H, W], noise [N, 1, H, W], strength, bias, next styles
    "modulated": (lambda x, w, s, m, n, t, b, q: ops.modulated_conv2d(x, w, s, n, padding=1), 1),
    "modulated, plain": (lambda x, w, s, *_: ops.modulated_conv2d(x, w, s, padding=[1, 1], demodulate=False), 1),
    "modulated up": (
        lambda x, w, s, m, n, t, b, q: ops.modulated_conv2d(x, w, s, m, 2, padding=1, resample_filter=TAPS[0]), 2,
    ),
    "styled": (lambda x, w, s, m, n, t, b, q: ops.styled_conv2d(x, w, s, m, t, b, clamp=0.8), 1),
    "styled, next": (lambda x, w, s, m, n, t, b, q: ops.styled_conv2d(x, w, s, n, t, b, q, act="relu", gain=2), 1),
    "styled, smooth": (lambda x, w, s, m, n, t, b, q: ops.styled_conv2d(x, w, s, m, t, b, q, act="tanh"), 1),
    "styled, to RGB": (
        lambda x, w, s, m, n, t, b, q: ops.styled_conv2d(
            x, w[..., :1, :1], s, bias=b, act="linear", demodulate=False, clamp=0.5
        ),
        1,
    ),
    "styled up": (lambda x, w, s, m, n, t, b, q: ops.styled_conv2d(x, w, s, n, t, b, up=2, clamp=0.8), 2),
    "styled up, next": (
        lambda x, w, s, m, n, t, b, q: ops.styled_conv2d(x, w, s, n, None, b, q, up=2, resample_filter=TAPS), 2,
    ),
    "chained": (lambda x, w, s, m, n, t, b, q: ops.chained_styled_conv2d(x, w, s, m, t, b, q, clamp=0.8), 1),
    "chained up": (lambda x, w, s, m, n, t, b, q: ops.chained_styled_conv2d(x, w, s, n, t, b, q, up=2), 2),
}  # fmt: skip


def layer_tensors(dtype: torch.dtype, layout: torch.memory_format, up: int, channels: int = 3) -> list[Tensor]:
    h, w, vector = 5 * up, 4 * up, torch.float64 if dtype == torch.float64 else torch.float32
    weight = torch.randn(4, channels, 3, 3, dtype=vector).contiguous(memory_format=layout)
    vectors = [(2, channels), (h, w), (2, 1, h, w), (), (4,), (2, 4)]
    x = torch.randn(2, channels, 5, 4, dtype=dtype).contiguous(memory_format=layout)
    return [x, weight, *(torch.randn(shape, dtype=vector) for shape in vectors)]


def layer_orders(layer: Callable[..., Tensor], tensors: list[Tensor], orders: int) -> list[list[Tensor]]:
    """By order: the result, gradients by all tensors of it, of a penalty on those by x and styles, and so on."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = layer(*leaves)
    results, total = [[y.detach()]], y.double().pow(3).sum()
    for order in range(orders):
        by = torch.autograd.grad(total, leaves, create_graph=order < orders - 1, allow_unused=True)
        results.append([torch.zeros(()) if g is None else g.detach() for g in by])
        total = sum((g.double().square() * (1 + g.double())).sum() for g in by if g is not None)  # type: ignore[assignment]
    return results


@needs_library
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_equals_the_python_path(
    name: str, dtype: torch.dtype, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch, calls: list[bool]
) -> None:
    """To the last bit in its result, by rounding in gradients; of the next two orders float64 shows it."""
    layer, up = LAYERS[name]
    tensors = layer_tensors(dtype, layout, up, 32 if "RGB" in name else 3)
    orders = 3 if dtype == torch.float64 else 1
    got = layer_orders(layer, tensors, orders)
    with torch.no_grad():
        without = layer(*tensors)
    assert len(calls) == 2
    assert all(calls)
    monkeypatch.setattr(_host, "library", None)
    wanted = layer_orders(layer, tensors, orders)
    with torch.no_grad():
        torch.testing.assert_close(without, layer(*tensors), rtol=0, atol=0, equal_nan=True)
    assert got[0][0].stride() == wanted[0][0].stride()
    for order, (mine, reference) in enumerate(zip(got, wanted, strict=True)):
        for a, b in zip(mine, reference, strict=True):
            rounding = 0 if order == 0 else 1e-9 if dtype == torch.float64 else 1e-5
            atol = rounding * b.abs().max().item() if b.isfinite().all() else 0
            torch.testing.assert_close(a, b, rtol=rounding, atol=atol, equal_nan=True)


@needs_library
@pytest.mark.parametrize("name", [name for name in LAYERS if "styled" in name or "chained" in name])
def test_a_gradient_of_zero_is_a_gradient(name: str) -> None:
    """Of a penalty on that by x: torch.autograd.grad refuses tensors that no gradient comes to."""
    layer, up = LAYERS[name]
    x, weight, styles, *others = (
        t.requires_grad_()
        for t in layer_tensors(torch.float64, torch.contiguous_format, up, 32 if "RGB" in name else 3)
    )
    y = layer(x, weight, styles, *others)
    (by_x,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.autograd.grad(by_x.square().sum(), [x, weight, others[-2]])


@needs_library
def test_a_gradient_of_zero_by_a_bias() -> None:
    x, b = torch.randn(2, 3, 5, 4, requires_grad=True), torch.randn(3, requires_grad=True)
    (by_x,) = torch.autograd.grad(ops.bias_act(x, b, act="lrelu").sum(), x, create_graph=True)
    for gradient in torch.autograd.grad(by_x.square().sum(), [x, b]):
        assert not gradient.any()


@needs_library
def test_no_weight_gradients_reaches_it() -> None:
    x, weight, styles = layer_tensors(torch.float32, torch.contiguous_format, 1)[:3]
    weight.requires_grad_()
    y = ops.modulated_conv2d(x, weight, styles, padding=1, demodulate=False).sum()
    with ops.conv2d_gradfix.no_weight_gradients():
        y.backward(retain_graph=True)
    assert weight.grad is None
    y.backward()
    assert weight.grad is not None


class Subclass(torch.Tensor):
    pass


class Torch(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


class Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


def jvp(x: Tensor) -> Any:
    return torch.func.jvp(lambda x: ops.bias_act(x, act="swish"), (x,), (x,))


def under(mode: Any, x: Tensor) -> Any:
    with mode:
        return ops.bias_act(x, act="swish")


@needs_library
@pytest.mark.parametrize(
    "call",
    [
        lambda x: ops.bias_act(x.as_subclass(Subclass), act="swish"),
        lambda x: torch.vmap(lambda x: ops.bias_act(x, act="swish"))(x),
        lambda x: torch.func.grad(lambda x: ops.bias_act(x, act="swish").sum())(x),
        jvp,
        lambda x: under(Torch(), x),
        lambda x: under(Dispatch(), x),
        lambda x: under(ops.backend("reference"), x),
        lambda x: ops.bias_act(x.to("meta"), act="swish"),
        lambda x: ops.bias_act(torch.complex(x, x).imag.clone(), act="swish", impl="ref"),
        lambda x: ops.upfirdn2d(x, TAPS, impl="reference"),
    ],
)
def test_what_is_not_plain_goes_to_python(call: Callable[[Tensor], Any], calls: list[bool]) -> None:
    call(torch.randn(2, 3, 5, 4))
    assert not any(calls)


@needs_library
def test_a_parameter_is_plain(calls: list[bool]) -> None:
    ops.bias_act(nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(3)), act="lrelu")
    assert calls == [True]


@needs_library
def test_autocast_and_inference_mode_change_nothing(calls: list[bool]) -> None:
    x, b = torch.randn(2, 3, 5, 4), torch.randn(3, dtype=torch.bfloat16)
    wanted = ops.bias_act(x, b, act="swish")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.bias_act(x, b, act="swish"), wanted)
    with torch.inference_mode():
        y = ops.bias_act(x, b, act="swish")
    assert y.is_inference()
    assert torch.equal(y, wanted)
    assert all(calls)


def test_nothing_to_do_gives_the_tensor_itself() -> None:
    x = torch.randn(2, 3)
    assert ops.bias_act(x) is x


@needs_library
def test_a_second_backward_pass_needs_the_graph() -> None:
    x = torch.randn(2, 3, 5, 4, requires_grad=True)
    for y in (ops.bias_act(x, act="lrelu").sum(), ops.bias_act(x, act="swish").sum()):
        y.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            y.backward()


@needs_library
def test_saved_tensors_are_seen_by_hooks() -> None:
    """Such as those of activation checkpointing and of offloading."""
    x, packed = torch.randn(2, 3, 5, 4, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        ops.bias_act(x, act="swish")
    assert len(packed) == 1


@needs_library
@pytest.mark.parametrize("name", ["lrelu clamp", "swish", "upsample2d"])
def test_memory_stays_over_many_calls(name: str) -> None:
    operator, biased = operators()[name]
    x, b = torch.randn(1, 3, 4, 4), torch.randn(3)

    def some(count: int) -> int:
        for _ in range(count):
            three_orders(operator, biased, x, b)
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = some(200)
    assert some(1000) - before < 2048  # KiB; a leak of one such tensor a call would be ten times that


@needs_library
def test_checkpointing_holds_nothing_back() -> None:
    """It ends the recomputation by an error within a hook on saved tensors."""
    x = torch.randn(2, 64, 64, 64, requires_grad=True)

    def some(count: int) -> int:
        for _ in range(count):
            # Its result is the last tensor that is saved, at which the recomputation ends.
            checkpoint(lambda x: ops.bias_act(x, act="lrelu"), x, use_reentrant=False).square().sum().backward()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = some(5)
    assert some(50) - before < 2**15  # KiB: 32 MiB; 50 such images are 100


def test_a_library_of_another_torch_is_not_loaded(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IDGAN_FAST_HOST", raising=False)
    path = tmp_path / "_host.so"
    assert "was not built" in str(_libraries.load_host(path)[1])
    path.write_bytes(b"\0idgan_fast._host for torch 1.0.0\0")
    library, why = _libraries.load_host(path)
    assert library is None
    assert why is not None
    assert "of torch 1.0.0, torch is " in why
    assert "pip install --no-build-isolation ." in why
    assert "another Python" in str(_libraries.load_host(tmp_path / "_host.cpython-0.so")[1])


def test_it_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDGAN_FAST_HOST", "0")
    assert _libraries.load_host() == (None, "IDGAN_FAST_HOST=0 leaves it out")

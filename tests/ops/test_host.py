"""The host library against the Python path: the same numbers to the last bit, gradients of three orders included."""

import gc
import inspect
import math
import random
import resource
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
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


NUMBERS = (None, 1, 1.5, 2, 0.7, math.inf)
ODD_NUMBERS = (-0.5, 0, -0.0, 1e-3, math.nan, 10**400, True, np.float64(0.5), "1", [1])
ODD_INTS = (0, -1, [], (1, 2, 3), True, 1.0, "2", None, 2**70, np.int64(2), [2, 1], (3, 2, 1, 0))


class Chooser:
    """Arguments, one in twenty of them odd: wrong, or right in a way that is seldom met."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def __call__(self, usual: Sequence[Any], odd: Sequence[Any] = ()) -> Any:
        return self.rng.choice(odd if odd and self.rng.random() < 0.05 else usual)

    def tensor(self, usual: Sequence[tuple], odd: Sequence[tuple] = ()) -> Any:
        shape = self(usual, odd)
        t = torch.randn(shape).to(self([torch.float32], DTYPES))
        if self([False], [True]) and t.ndim > 1:
            t = t.transpose(-1, -2).contiguous().transpose(-1, -2)
        t = self([t], [t.long(), t.to(torch.complex64), t.to("meta"), 1.0, "x", [1.0], np.zeros(3), t.to_sparse()])
        return t.requires_grad_() if isinstance(t, Tensor) and t.is_floating_point() and self([True, False]) else t

    def call(self) -> tuple[Callable[..., Any], tuple, dict[str, Any]]:
        """An operator, its tensors and other arguments."""
        act, impl = (
            self([*activation_funcs], ["nonsense", 3]),
            self(["auto"], ["native", "cuda", "ref", "triton", "x", 1]),
        )
        numbers = {name: self(NUMBERS, ODD_NUMBERS) for name in ("gain", "clamp")}
        taps = self([TAPS, TAPS[0]], [None, TAPS.half(), TAPS.double(), torch.ones(2, 2, 2), torch.ones(0), [1, 2]])
        x = self.tensor([(2, 3, 5, 4)], [(2, 3, 1, 1), (0, 3, 5, 4), (2, 3, 0, 2), (2, 3), (3,), ()])
        which = self(range(5))
        if which == 0:
            others = {"dim": self([1], [-1, -3, 0, 7, True, 1.0]), "act": act, "alpha": self(NUMBERS, ODD_NUMBERS)}
            b = self([None, self.tensor([(3,)], [(4,), (1,), (2, 3), ()])])
            return ops.bias_act, (x, b), {**others, **numbers, "impl": impl}
        if which == 1:
            how = self([ops.upfirdn2d, ops.upsample2d, ops.downsample2d, ops.filter2d])
            others = {"padding": self([0, 1, [2, 1], (1, 2, 0, 3)], ODD_INTS), "gain": self([1, 2.5], [None, "1"])}
            factors = set(inspect.signature(how).parameters) & {"up", "down"}
            others |= {name: self([1, 2, 3, [2, 1]], ODD_INTS) for name in sorted(factors)}
            return how, (x, taps), {**others, "flip_filter": self([True, False]), "impl": impl}
        up = self([1, 2], ODD_INTS)
        size = (10, 8) if up == 2 else (5, 4)
        weight = self.tensor([(4, 3, 3, 3), (4, 3, 1, 1)], [(3, 3, 2, 2), (4, 2, 3, 3), (0, 3, 3, 3), (3, 3)])
        styles = self.tensor([(2, 3)], [(1, 3), (3,), (2, 4)])
        noise = self([None, self.tensor([size, (2, 1, *size), (1, 1, *size)], [(4, 4), (3,)])])
        others = {"up": up, "noise": noise, "demodulate": self([True, False]), "impl": impl}
        if which == 2:
            padding = self([weight.shape[-1] // 2 if isinstance(weight, Tensor) else 1], [0, 2, *ODD_INTS])
            others |= {"padding": padding, "down": self([1], [2, 0, None]), "flip_weight": self([True], [False])}
            return ops.modulated_conv2d, (x, weight, styles), {**others, "resample_filter": taps}
        others |= {"bias": self([None, self.tensor([(4,)], [(3,), ()])]), "act": act, **numbers}
        others |= {"next_styles": self([None, self.tensor([(2, 4)], [(4,), (1, 4)])])}
        if noise is not None:
            others["noise_strength"] = self([None, torch.tensor(0.3), torch.ones(1)], [torch.ones(2)])
        if self([True, False]):
            others["resample_filter"] = taps
        return self([ops.styled_conv2d, ops.chained_styled_conv2d]), (x, weight, styles), others


def outcome(function: Callable[..., Any], tensors: tuple, others: dict[str, Any]) -> Any:
    """The result and first gradients of a call, or its error in words."""
    leaves = [t for t in (*tensors, *others.values()) if isinstance(t, Tensor) and t.requires_grad]
    try:
        y = function(*tensors, **others)
        if y.device.type == "meta":
            return f"meta {y.shape}"
        if not y.requires_grad:
            return y, []
        return y.detach(), torch.autograd.grad(y.sum(), leaves, materialize_grads=True)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@needs_library
@pytest.mark.parametrize("count", [400, pytest.param(20000, marks=pytest.mark.slow)])
def test_any_call_ends_as_without_it(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same numbers, or the same error to the letter."""
    choose, library, compared = Chooser(count), _host.library, 0
    torch.manual_seed(count)
    for number in range(count):
        function, tensors, others = choose.call()
        monkeypatch.setattr(_host, "library", library)
        mine = outcome(function, tensors, others)
        monkeypatch.setattr(_host, "library", None)
        wanted = outcome(function, tensors, others)
        where = f"call {number}: {function.__name__} {tensors} {others}"
        if isinstance(wanted, str) or isinstance(mine, str):
            assert mine == wanted, where
            continue
        compared += 1
        assert mine[0].stride() == wanted[0].stride(), where
        assert torch.equal(mine[0].nan_to_num(), wanted[0].nan_to_num()), where
        for a, b in zip(mine[1], wanted[1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3, equal_nan=True)
    assert compared > count / 4


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

"""Backends: chosen in Python, refused with the reason, the registered operators equal to their plain twins."""

import importlib
import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from idgan_fast import ops
from idgan_fast.ops import _dispatch
from idgan_fast.ops._registry import CUSTOM_OPS
from idgan_fast.ops.layer import conv_plan, styled_epilogue
from idgan_fast.ops.validation import verification

X = torch.randn(2, 3, 5, 4)


def test_a_forced_backend_that_cannot_run_raises_with_the_reason() -> None:
    with pytest.raises(ops.BackendError, match=r"^bias_act: the triton backend .* cannot run: .+") as caught:
        ops.bias_act(X, act="lrelu", impl="triton")
    assert "\n" not in str(caught.value)
    with ops.backend("triton"), pytest.raises(ops.BackendError):
        ops.upfirdn2d(X, None)


def test_plain_torch_on_a_gpu_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "why_not", lambda backend, *_: None if backend == "reference" else "not built")
    _dispatch._warn_of_plain_torch.cache_clear()
    arguments = ("bias_act", ("bias_act_fwd",), "cuda")
    with pytest.warns(RuntimeWarning, match=r"^bias_act: .*idgan-fast doctor") as caught:
        assert [_dispatch._choose(*arguments, "auto", "auto") for _ in range(3)] == ["reference"] * 3
    assert len(caught) == 1
    _dispatch._warn_of_plain_torch.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _dispatch._choose(*arguments, "auto", "reference") == "reference"


@pytest.mark.parametrize(
    ("chosen", "impl", "wanted"),
    [("native", "auto", "same"), ("native", "native", None), ("triton", "triton", "same"), ("reference", "auto", None)],
)
def test_a_whole_layer_in_triton_beside_cuda_kernels(
    chosen: str, impl: str, wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the caller named another backend."""
    layer = importlib.import_module("idgan_fast.ops.layer.composition")
    monkeypatch.setattr(_dispatch, "choose", lambda *_, **__: chosen)
    monkeypatch.setattr(_dispatch, "usable", lambda *_: True)
    monkeypatch.setattr(conv_plan, "choose_form", lambda *_, **__: "same")
    with FakeTensorMode():
        x = torch.empty(2, 8, 16, 16, device="cuda").contiguous(memory_format=torch.channels_last)
        weight = torch.empty(8, 8, 3, 3, device="cuda")
    plan = layer._plan(x, weight, layer.Resampling(None, 1, 1, (1, 1, 1, 1)), impl)
    assert plan == (None if wanted is None else (wanted, layer.Epilogue()))


def test_impl_accepts_the_names_of_the_peers() -> None:
    wanted = ops.bias_act(X, act="lrelu", impl="reference")
    for impl in ("auto", "cuda", "ref"):
        assert torch.equal(ops.bias_act(X, act="lrelu", impl=impl), wanted)
    with pytest.raises(ValueError, match="impl must be one of"):
        ops.bias_act(X, impl="fast")
    with pytest.raises(ValueError, match="name must be one of"), ops.backend("fast"):
        pass


def test_the_block_ends_and_other_threads_are_left_alone() -> None:
    seen: list[str] = []
    with ops.backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(_dispatch._requested.get()))
        thread.start()
        thread.join()
    assert seen == [_dispatch._requested.get()] == [_dispatch._from_environment]


@pytest.mark.parametrize(
    ("value", "expected"), [("reference", "reference"), ("triton", "BackendError"), ("x", "ValueError")]
)
def test_environment(value: str, expected: str) -> None:
    code = (
        "import torch\nfrom idgan_fast import ops\n"
        "try: ops.bias_act(torch.ones(1, 1), act='lrelu'); print('reference')\n"
        "except Exception as error: print(type(error).__name__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "IDGAN_FAST_BACKEND": value}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == expected


# Each layout and each dtype once; `make test-all` has all pairs.
LAYOUTS_AND_DTYPES = pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        (torch.contiguous_format, torch.float32),
        (torch.channels_last, torch.bfloat16),
        pytest.param(torch.contiguous_format, torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(torch.channels_last, torch.float32, marks=pytest.mark.slow),
    ],
)
PARAMETERS = [(1, "lrelu", -0.2, 1.4, 0.5), (1, "tanh", 0.0, 1.0, None)]


@LAYOUTS_AND_DTYPES
def test_opcheck(layout: torch.memory_format, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 5, 4).to(dtype).contiguous(memory_format=layout)
    b, f = torch.randn(3), torch.rand(4)
    namespace = torch.ops.idgan_fast
    for slope, clamp in ((0.2, 0.5), (0.0, None), (1.0, 0.5)):
        torch.library.opcheck(namespace.bias_lrelu_fwd.default, (x, b, 1, slope, 1.4, clamp))
        torch.library.opcheck(namespace.bias_lrelu_fwd.default, (x, None, 1, slope, -1.4, clamp))
        for want_db in (True, False):
            torch.library.opcheck(namespace.bias_lrelu_bwd.default, (x, x, 1, slope, 1.4, clamp, want_db))
    for parameters in PARAMETERS:
        torch.library.opcheck(namespace.bias_act_fwd.default, (x, b, *parameters))
        torch.library.opcheck(namespace.bias_act_bwd.default, (x, x, b, *parameters, True))
        torch.library.opcheck(namespace.bias_act_bwd.default, (x, x, None, *parameters, False))
        torch.library.opcheck(namespace.bias_act_bwd2.default, (x, b, x, x, b, *parameters, True))
        torch.library.opcheck(namespace.bias_act_bwd2.default, (x, None, x, x, None, *parameters, False))
    for weight in (x, x.transpose(0, 1)):
        torch.library.opcheck(namespace.weight_square_sum.default, (weight,))
    if dtype == torch.float32:
        for weight in (torch.randn(2, 3, 3, 3), torch.randn(3, 34, 3, 3).transpose(0, 1)):
            torch.library.opcheck(namespace.winograd_conv2d.default, (x, weight))
    for taps in (None, f, torch.outer(f, f)):
        torch.library.opcheck(namespace.upfirdn2d.default, (x, taps, [2, 1], [1, 2], [1, 2, 3, -1], True, 2.0))


@LAYOUTS_AND_DTYPES
def test_opcheck_of_the_layer(layout: torch.memory_format, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 5, 4).to(dtype).contiguous(memory_format=layout)
    styles, b, noise, strength = torch.randn(2, 3), torch.randn(3), torch.randn(1, 1, 5, 4), torch.randn(())
    namespace = torch.ops.idgan_fast
    for f, padding in ((None, [0, 0, 0, 0]), (torch.rand(4, 4), [2, 1, 2, 1])):
        for tensors in ((styles, noise, strength, b, styles), (None, noise, None, None, None), (None,) * 5):
            want = [int(t is not None) for t in tensors]
            numbers = (padding, 1.5, 0.2, 1.4, 0.5)
            for y in ((x,), styled_epilogue.phases(x, 4)) if tensors[0] is not None else ((x,),):
                torch.library.opcheck(namespace.styled_epilogue_fwd.default, (y, f, *tensors, *numbers))
                torch.library.opcheck(namespace.styled_epilogue_bwd.default, (x, y, x, f, *tensors, *numbers, want))


@LAYOUTS_AND_DTYPES
def test_opcheck_of_filtered_lrelu(layout: torch.memory_format, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 5, 4).to(dtype).contiguous(memory_format=layout)
    fu, fd, namespace = torch.rand(4), torch.rand(3, 3), torch.ops.idgan_fast
    up, down, padding = [2, 2], [1, 2], [3, 2, 1, 3]
    for b, clamp, want in ((torch.randn(3), 0.5, True), (None, None, True), (None, 0.5, False)):
        numbers = (up, down, padding, 1.4, 0.2, clamp, False)
        torch.library.opcheck(namespace.filtered_lrelu_fwd.default, (x, b, fu, fd, *numbers, want))
    _, codes = namespace.filtered_lrelu_fwd(x, None, fu, fd, *numbers, True)
    numbers = (up, down, padding, [1, 0, 2, 1], 1.4, 0.2, True)
    torch.library.opcheck(namespace.filtered_lrelu_linear.default, (x, codes, [11, 10], fu, fd, *numbers))


def test_opcheck_of_styled_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "SHAPES", ((2, 3, 5, 4),))
    namespace = torch.ops.idgan_fast
    for arguments in verification.samples_of(CUSTOM_OPS["styled_layer_fwd"], torch.float32, torch.channels_last):
        torch.library.opcheck(namespace.styled_layer_fwd.default, arguments)
    for arguments in verification.samples_of(CUSTOM_OPS["styled_layer_bwd"], torch.float32, torch.channels_last):
        torch.library.opcheck(namespace.styled_layer_bwd.default, arguments)


def test_every_low_level_operator_is_opchecked() -> None:
    checked = set(re.findall(r"namespace\.(\w+)\.default", Path(__file__).read_text()))
    registered = {
        name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("idgan_fast::")
    }
    assert registered == checked == set(CUSTOM_OPS)


class Called(TorchDispatchMode):
    """The names of our operators that run in the block."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "idgan_fast":
            self.names.append(function._opname)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize(("act", "wanted"), [("swish", ["bias_act_bwd2"]), ("lrelu", ["bias_act_bwd"])])
def test_a_second_derivative_is_one_operator(act: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an activation without a curve (its negative slope keeps it from bias_lrelu) there is only that by dy."""
    monkeypatch.setattr(_dispatch, "why_not", lambda *_: None)
    x, b, v = (torch.randn(shape, requires_grad=True) for shape in ((2, 3, 4, 4), (3,), (2, 3, 4, 4)))
    with ops.backend("native"):
        y = ops.bias_act(x, b, act=act, alpha=-0.2)
        first = torch.autograd.grad(y, [x, b], v, create_graph=True)
        with Called() as called:
            second = torch.autograd.grad(first, [v, x, b], first, allow_unused=True)
    assert called.names == wanted
    assert [g is not None for g in second] == [True, act == "swish", act == "swish"]


def test_registered_operators_carry_all_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome() -> list[torch.Tensor]:
        torch.manual_seed(0)
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
        y = ops.bias_act(ops.upsample2d(x, torch.rand(4)), torch.ones(3), act="swish", clamp=1)
        (gradient,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        return [y, gradient, *torch.autograd.grad(gradient.square().sum(), x)]

    wanted = outcome()
    monkeypatch.setattr(_dispatch, "why_not", lambda *_: None)
    for got, expected in zip(outcome(), wanted, strict=True):
        assert torch.equal(got, expected)

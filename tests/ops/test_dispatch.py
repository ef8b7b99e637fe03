"""Backends: chosen in Python, refused with the reason, the registered operators equal to their plain twins."""

import os
import subprocess
import sys
import threading
import warnings

import pytest
import torch

from idgan_fast import ops
from idgan_fast.ops import _dispatch

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

"""The styled layer as one custom op, and when a layer takes it; its kernels: tests/triton/test_styled_layer.py."""

import importlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from idgan_fast.ops import _dispatch
from idgan_fast.ops._registry import CUSTOM_OPS
from idgan_fast.ops.layer import conv_plan
from idgan_fast.ops.validation import verification
from tests.ops import checks

composition = importlib.import_module("idgan_fast.ops.layer.composition")


@pytest.mark.parametrize(
    ("chosen", "impl", "wanted"),
    [("native", "auto", "same"), ("native", "native", None), ("triton", "triton", "same"), ("reference", "auto", None)],
)
def test_a_whole_layer_in_triton_beside_cuda_kernels(
    chosen: str, impl: str, wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the caller named another backend."""
    monkeypatch.setattr(_dispatch, "choose", lambda *_, **__: chosen)
    monkeypatch.setattr(_dispatch, "usable", lambda *_: True)
    monkeypatch.setattr(conv_plan, "choose_form", lambda *_, **__: "same")
    with FakeTensorMode():
        x = torch.empty(2, 8, 16, 16, device="cuda").contiguous(memory_format=torch.channels_last)
        weight = torch.empty(8, 8, 3, 3, device="cuda")
    plan = composition._plan(x, weight, composition.Resampling(None, 1, 1, (1, 1, 1, 1)), impl)
    assert plan == (None if wanted is None else (wanted, composition.Epilogue()))


@pytest.mark.slow
def test_opcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "SHAPES", ((2, 3, 5, 4),))
    for arguments in verification.samples_of(CUSTOM_OPS["styled_layer_fwd"], torch.float32, torch.channels_last):
        checks.opcheck("styled_layer_fwd", *arguments)
    for arguments in verification.samples_of(CUSTOM_OPS["styled_layer_bwd"], torch.float32, torch.channels_last):
        checks.opcheck("styled_layer_bwd", *arguments)

"""Calls at random, some of them wrong, end with the host library as without it."""

import inspect
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from idgan_fast import ops
from idgan_fast.ops import _host
from idgan_fast.ops.activations import activation_funcs
from tests.ops.test_host import DTYPES, TAPS, needs_library

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

"""An operator whose first call is a compiled one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from idgan_fast.ops import _dispatch, upfirdn2d
from idgan_fast.ops._registry import OPERATORS


@pytest.mark.usefixtures("fresh_dynamo")
def test_nothing_has_to_be_found_out_before_a_graph_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A property that is computed once has a lock in Python 3.10 and 3.11, which stops torch.compile."""
    monkeypatch.setitem(OPERATORS, "upfirdn2d", OPERATORS["upfirdn2d"])  # put back after the copy registers itself
    first = replace(OPERATORS["upfirdn2d"])

    def resampled(x: Tensor) -> Tensor:
        return upfirdn2d(x, None, 2, impl=_dispatch.choose(first, x.device, "auto"))

    x = torch.randn(1, 2, 3, 3)
    compiled = torch.compile(resampled, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), resampled(x))

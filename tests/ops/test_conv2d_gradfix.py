"""conv2d_gradfix: torch's convolutions, whose weight gradients no_weight_gradients switches off."""

import torch

from idgan_fast.ops import conv2d_gradfix
from tests.ops.checks import leaf


def test_no_weight_gradients_drops_them_in_the_backward_pass_alone() -> None:
    x, w = leaf(1, 2, 4, 4), leaf(3, 2, 3, 3)
    y = conv2d_gradfix.conv2d(x, w).square().sum()
    with conv2d_gradfix.no_weight_gradients():
        gx, gw = torch.autograd.grad(y, [x, w], create_graph=True, allow_unused=True)
    assert gw is None
    (through,) = torch.autograd.grad(gx.square().sum(), w)
    assert through.abs().sum() > 0
    assert not conv2d_gradfix.weight_gradients_disabled

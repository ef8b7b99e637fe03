"""The modules against formulas written out here, and what their state dicts hold."""

import pytest
import torch
from torch.nn import functional as F

from idgan_fast.ops import modules
from idgan_fast.ops.modulated_conv2d import plain_modulated_conv2d
from idgan_fast.ops.upfirdn2d import blur_filter, plain_upfirdn2d


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_fused_leaky_relu() -> None:
    module = modules.FusedLeakyReLU(3, negative_slope=0.1, scale=2)
    torch.nn.init.normal_(module.bias)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(module(x), 2 * F.leaky_relu(x + module.bias[None, :, None, None], 0.1))
    assert modules.FusedLeakyReLU(3, bias=False)(torch.randn(5, 3)).shape == (5, 3)


def test_resampling() -> None:
    assert list(modules.Upsample().state_dict()) == ["kernel"]
    constant = modules.Upsample()(torch.ones(1, 2, 8, 8))[..., 3:-3, 3:-3]
    torch.testing.assert_close(constant, torch.ones(1, 2, 10, 10))
    f = blur_filter()
    x = torch.randn(1, 2, 6, 6)
    torch.testing.assert_close(modules.Upsample()(x), plain_upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4))
    torch.testing.assert_close(modules.Downsample()(x), plain_upfirdn2d(x, f, down=2, padding=(1, 1, 1, 1)))
    torch.testing.assert_close(
        modules.Blur((1, 3, 3, 1), (2, 1), 2)(x), 4 * plain_upfirdn2d(x, f, padding=(2, 1, 2, 1))
    )


@pytest.mark.parametrize("upsample", [False, True])
def test_modulated_conv2d(upsample: bool) -> None:
    module = modules.ModulatedConv2d(3, 4, 3, 5, upsample=upsample)
    x, style = torch.randn(2, 3, 4, 4), torch.randn(2, 5)
    styles = style @ module.modulation.weight.t() / 5**0.5 + 1
    up = 2 if upsample else 1
    wanted = plain_modulated_conv2d(x, module.weight[0] / 27**0.5, styles, blur_filter(), up)
    torch.testing.assert_close(module(x, style), wanted)
    assert set(module.state_dict()) == {"weight", "modulation.weight", "modulation.bias"}
    assert modules.ModulatedConv2d(3, 4, 3, 5, downsample=True)(x, style).shape == (2, 4, 2, 2)


def test_up_and_down_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        modules.ModulatedConv2d(3, 4, 3, 5, upsample=True, downsample=True)

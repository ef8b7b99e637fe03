"""Images without samples, channels, rows or columns: an empty result with gradients of 0, or one line."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from idgan_fast import ops
from tests.ops import checks
from tests.ops.checks import leaf

pytestmark = checks.every_backend
F = ops.setup_filter((1, 3, 3, 1))


def convolved(x: Tensor, weight: Tensor, styles: Tensor, **options: Any) -> Tensor:
    return ops.conv2d_resample(x, weight, F, **options)


def modulated(x: Tensor, weight: Tensor, styles: Tensor, **options: Any) -> Tensor:
    return ops.modulated_conv2d(x, weight, styles, resample_filter=F, **options)


def second_order(y: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves, allow_unused=True)
    return [*first, *(s for s in second if s is not None)]


@pytest.mark.parametrize("operator", [convolved, modulated])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_no_samples(operator: Callable[..., Tensor], up: int, down: int) -> None:
    leaves = [leaf(0, 3, 6, 8), leaf(4, 3, 3, 3), leaf(0, 3)]
    y = operator(*leaves, up=up, down=down, padding=1)
    assert y.shape == (0, 4, 6 * up // down, 8 * up // down)
    used = leaves[:2] if operator is convolved else leaves
    for gradient in second_order(y, used):
        assert not gradient.count_nonzero()


@pytest.mark.parametrize("size", [(0, 5), (6, 0), (0, 0)], ids=str)
def test_padding_of_no_pixels_gives_zeros(size: tuple[int, int]) -> None:
    """As torch's padding has it; the gradient, of no pixels, is one more image of none."""
    x = leaf(2, 3, *size)
    for y in (ops.upfirdn2d(x, F, 2, 1, 2), ops.filtered_lrelu(x, F, F, up=2, down=2, padding=6)):
        assert y.numel() > 0
        assert not y.count_nonzero()
        assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


CONVOLUTIONS = [
    pytest.param(operator, {"up": up, "down": down}, id=f"{operator.__name__} up={up} down={down}")
    for operator in (convolved, modulated)
    for up, down in ((1, 1), (2, 1), (1, 2))
] + [pytest.param(ops.styled_conv2d, {"up": up}, id=f"styled_conv2d up={up}") for up in (1, 2)]


@pytest.mark.parametrize(("operator", "options"), CONVOLUTIONS)
def test_a_convolution_of_nothing_is_refused(operator: Callable[..., Tensor], options: dict[str, int]) -> None:
    """Which torch refuses in its own words, or, without channels, gives another shape."""
    padded = options if operator is ops.styled_conv2d else options | {"padding": 4}
    for x, weight, word in (
        ((2, 0, 6, 5), (4, 0, 3, 3), "weight|w must"),
        ((2, 3, 6, 5), (0, 3, 3, 3), "weight|w must"),
        ((2, 3, 0, 5), (4, 3, 3, 3), "at least one pixel"),
        ((2, 3, 6, 0), (4, 3, 3, 3), "at least one pixel"),
    ):
        with pytest.raises(ValueError, match=rf"^\w+: .*({word})") as caught:
            operator(torch.ones(x), torch.ones(weight), torch.ones(x[:2]), **padded)
        assert "\n" not in str(caught.value)

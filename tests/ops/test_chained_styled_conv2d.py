"""chained_styled_conv2d: a styled layer of x that carries its styles, which multiplies by those of the next layer."""

from typing import Any

import pytest
import torch
from torch import Tensor

from idgan_fast import ops
from tests.ops import checks, errors, networks
from tests.ops.checks import F64, leaf


@checks.every_backend
def test_a_chain_equals_its_layers() -> None:
    x, w, s, t = leaf(2, 3, 4, 4), leaf(4, 3, 3, 3), leaf(2, 3), leaf(2, 4)
    v, noise, b, f = leaf(5, 4, 1, 1), leaf(2, 1, 8, 8), leaf(4), networks.taps()
    layers = ops.styled_conv2d(ops.styled_conv2d(x, w, s, noise, bias=b, up=2, clamp=1), v, t, act="tanh")
    h = ops.chained_styled_conv2d(x * s[:, :, None, None], w, s, noise, None, b, t, up=2, resample_filter=f, clamp=1)
    torch.testing.assert_close(ops.chained_styled_conv2d(h, v, t, act="tanh"), layers)


@checks.numerics_of("chained_styled_conv2d")
def test_numerics(name: str, dtype: torch.dtype, layout: str) -> None:
    checks.within_the_contract(name, dtype, layout)


@checks.every_backend
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("act", ["lrelu", "linear", "relu", "tanh"])
def test_gradients(act: str, up: int, whole: bool) -> None:
    """Strided, shared noise; a gain below 0; and once as for a layer without demodulation."""

    def layer(x: Tensor, w: Tensor, s: Tensor, noise: Tensor, strength: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return ops.chained_styled_conv2d(x, w, s, noise, strength, b, t, up=up, act=act, gain=-1.3, clamp=1.2)

    def undemodulated(x: Tensor, w: Tensor, s: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return ops.chained_styled_conv2d(x, w, s, noise, next_styles=t, up=up, demodulate=False, act=act)

    x, w, s, t = leaf(2, 2, 3, 3), leaf(3, 2, 3, 3), leaf(2, 2), leaf(2, 3)
    noise = torch.randn(3 * up, 6 * up, dtype=F64)[:, ::2].requires_grad_()
    checks.gradients(layer, x, w, s, noise, leaf(), leaf(3), t, whole=whole)
    checks.gradients(undemodulated, x, w, s, noise, t, whole=whole)


@checks.every_backend
@pytest.mark.parametrize("f", checks.LOPSIDED, ids=["3 taps", "2x5 taps"])
def test_gradients_of_a_lopsided_filter(f: Tensor, whole: bool) -> None:
    def layer(x: Tensor, w: Tensor, s: Tensor, noise: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return ops.chained_styled_conv2d(x, w, s, noise, None, b, t, up=2, resample_filter=f, clamp=1.2)

    tensors = (leaf(1, 2, 3, 2), leaf(2, 2, 3, 3), leaf(1, 2), leaf(1, 1, 6, 4), leaf(2), leaf(1, 2))
    checks.gradients(layer, *tensors, whole=whole)


@checks.every_backend
@pytest.mark.parametrize("wanted", range(7))
def test_each_gradient_alone_equals_all_of_them_at_once(wanted: int) -> None:
    tensors = (leaf(2, 2, 3, 3), leaf(3, 2, 3, 3), leaf(2, 2), leaf(2, 1, 6, 6), leaf(), leaf(3), leaf(2, 3))

    def outcome(leaves: tuple[Tensor, ...], by: list[Tensor]) -> tuple[Tensor, Tensor]:
        x, w, s, noise, strength, b, t = leaves
        y = ops.chained_styled_conv2d(x, w, s, noise, strength, b, t, up=2, clamp=1.2)
        first = torch.autograd.grad(y.square().sum(), by, create_graph=True)[-1]
        return first, torch.autograd.grad(first.square().sum(), by)[-1]

    alone = tuple(t if i == wanted else t.detach() for i, t in enumerate(tensors))
    everything = [t for i, t in enumerate(tensors) if i != wanted] + [tensors[wanted]]
    for got, expected in zip(outcome(alone, [tensors[wanted]]), outcome(tensors, everything), strict=True):
        torch.testing.assert_close(got, expected)


@checks.every_backend
@checks.unrepresentable_clamps
def test_a_clamp_that_the_dtype_rounds_stops_gradients(dtype: torch.dtype, clamp: float) -> None:
    one = torch.ones(1, 1, dtype=dtype)

    def layer(x: Tensor, clamp: float) -> Tensor:
        return ops.chained_styled_conv2d(x, one[:, :, None, None], one, next_styles=one, clamp=clamp)

    checks.clamp_stops_gradients(layer, dtype, clamp)


@checks.every_backend
@checks.layouts
def test_layouts(layout: str) -> None:
    def layer(x: Tensor) -> Tensor:
        w, s = torch.ones(3, 3, 3, 3, dtype=F64), x.mean((2, 3))
        return ops.chained_styled_conv2d(x, w, s, x[:, :1], None, x[0, :, 0, 0], s, clamp=1)

    checks.layouts_agree(layer, layout)


@checks.every_backend
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 3, 1, 1)], ids=str)  # torch has no convolution of no channels
def test_empty_and_single_pixel(shape: tuple[int, ...]) -> None:
    w, s, noise = leaf(2, shape[1], 3, 3), leaf(*shape[:2]), leaf(shape[0], 1, *shape[2:])

    def layer(x: Tensor) -> Tensor:
        return ops.chained_styled_conv2d(x, w, s, noise, leaf(), leaf(2), leaf(shape[0], 2), clamp=1)

    checks.empty_or_single_pixel(layer, shape)


@checks.every_backend
@checks.cases_of("chained_styled_conv2d")
def test_activation_checkpointing(name: str) -> None:
    checks.checkpointing(name)


@pytest.mark.usefixtures("compiled_path")
def test_a_penalty_on_its_gradient_compiles() -> None:
    checks.compiles_with_a_penalty("chained_styled_conv2d up=2")


@pytest.mark.parametrize(
    ("wrong", "word"), [*errors.WRONG_IMAGES, *errors.WRONG_STYLES, *errors.wrong_noises(), *errors.WRONG_LAYERS]
)
def test_wrong_arguments(wrong: dict[str, Any], word: str) -> None:
    right = {"x": errors.image(), "weight": errors.image(4, 3, 3, 3), "styles": errors.image(2, 3)}
    errors.refused(ops.chained_styled_conv2d, right, wrong, word)

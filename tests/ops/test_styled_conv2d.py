"""styled_conv2d: a modulated convolution by 1 or up, noise, bias, activation, gain and clamp.

Its values are held to the operators that it is made of, which have formulas of their own.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from idgan_fast import ops
from idgan_fast.ops.activations import activation_funcs
from tests.ops import checks, errors, networks
from tests.ops.checks import F64, leaf


@checks.every_backend
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("act", activation_funcs)
def test_values(act: str, up: int) -> None:
    x, w, s, t, b = leaf(2, 3, 4, 5), leaf(4, 3, 3, 3), leaf(2, 3), leaf(2, 4), leaf(4)
    noise, strength, f = leaf(2, 1, 4 * up, 5 * up), leaf(), networks.taps()
    y = ops.modulated_conv2d(x, w, s, up=up, padding=1, resample_filter=f) + noise * strength
    for gain, clamp in ((None, None), (-0.7, 0.3)):
        wanted = ops.bias_act(y, b, act=act, gain=gain, clamp=clamp) * t[:, :, None, None]
        got = ops.styled_conv2d(x, w, s, noise, strength, b, t, up=up, act=act, gain=gain, clamp=clamp)
        torch.testing.assert_close(got, wanted)


@checks.numerics_of("styled_conv2d")
def test_numerics(name: str, dtype: torch.dtype, layout: str) -> None:
    checks.within_the_contract(name, dtype, layout)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [1, 3])
def test_values_of_a_layer_to_rgb_without_gradients(n: int, dtype: torch.dtype) -> None:
    """Products for each sample, in place of a convolution, where nothing is differentiated; and not elsewhere."""
    rng = torch.Generator().manual_seed(0)
    x, w, s, b = (
        torch.randn(shape, generator=rng).to(dtype) for shape in ((n, 32, 5, 7), (3, 32, 1, 1), (n, 32), (3,))
    )
    x = x.contiguous(memory_format=torch.channels_last)
    exact = torch.einsum("nihw,oi,ni->nohw", x.double(), w[:, :, 0, 0].double(), s.double()) + b.double()[:, None, None]
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    scale = exact.abs().max().item()
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            y = ops.styled_conv2d(x, w, s, bias=b, demodulate=False, act="linear", clamp=scale / 2)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
        error = (y.double() - exact.clamp(-scale / 2, scale / 2)).abs().max().item()
        assert error <= tolerance * scale, grad


@checks.every_backend
@checks.float16_ranges
def test_float16_demodulation_keeps_in_range(weight: float, styles: float) -> None:
    checks.demodulates_in_float16(ops.styled_conv2d, weight, styles)


@checks.every_backend
def test_float16_with_weights_or_styles_of_zero_gives_zero() -> None:
    y = ops.styled_conv2d(torch.randn(1, 2, 3, 3).half(), torch.zeros(2, 2, 3, 3), torch.zeros(1, 2))
    assert torch.equal(y, torch.zeros_like(y))


@checks.every_backend
def test_relu_of_minus_infinity_is_zero() -> None:
    x, w, s = torch.full((1, 1, 1, 2), -6e4).half(), torch.full((1, 1, 1, 1), 2.0), torch.ones(1, 1)
    y = ops.styled_conv2d(x, w, s, act="relu", clamp=256, demodulate=False)
    assert torch.equal(y, torch.zeros_like(y))


@checks.every_backend
def test_autocast_reaches_the_convolution() -> None:
    x, w, s = torch.randn(1, 3, 4, 4), torch.randn(4, 3, 3, 3), torch.randn(1, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.styled_conv2d(x, w, s, up=2).dtype == torch.bfloat16


@checks.every_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_dtypes_are_kept_in_outputs_and_gradients(dtype: torch.dtype) -> None:
    x, w, s = (t.detach().to(dtype).requires_grad_() for t in (leaf(2, 3, 4, 4), leaf(4, 3, 3, 3), leaf(2, 3)))
    y = ops.styled_conv2d(x, w, s, up=2, bias=leaf(4).float(), noise=leaf(8, 8).float(), clamp=256)
    assert y.dtype == dtype
    assert [g.dtype for g in torch.autograd.grad(y.sum(), [x, w, s])] == [dtype] * 3


@checks.every_backend
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("act", ["lrelu", "linear", "swish"])
def test_gradients(act: str, up: int, whole: bool) -> None:
    def layer(x: Tensor, w: Tensor, s: Tensor, noise: Tensor, strength: Tensor, b: Tensor) -> Tensor:
        return ops.styled_conv2d(x, w, s, noise, strength, b, up=up, act=act, clamp=1.2)

    tensors = (leaf(2, 2, 3, 3), leaf(3, 2, 3, 3), leaf(2, 2), leaf(3 * up, 3 * up), leaf(), leaf(3))
    checks.gradients(layer, *tensors, whole=whole)


@checks.every_backend
@checks.unrepresentable_clamps
def test_a_clamp_that_the_dtype_rounds_stops_gradients(dtype: torch.dtype, clamp: float) -> None:
    one = torch.ones(1, 1, dtype=dtype)
    checks.clamp_stops_gradients(
        lambda x, clamp: ops.styled_conv2d(x, one[:, :, None, None], one, clamp=clamp), dtype, clamp
    )


@checks.every_backend
@checks.layouts
def test_layouts(layout: str) -> None:
    w = torch.ones(4, 3, 3, 3, dtype=F64)
    checks.layouts_agree(lambda x: ops.styled_conv2d(x, w, x.mean((2, 3)), up=2), layout)


@checks.every_backend
@checks.cases_of("styled_conv2d")
def test_activation_checkpointing(name: str) -> None:
    checks.checkpointing(name)


def test_more_elements_than_32_bits_count() -> None:
    w, s = torch.empty(16, 1024, 3, 3, device="meta"), torch.empty(3, 1024, device="meta")
    assert ops.styled_conv2d(checks.meta_image(3, 1024), w, s, up=2).shape == (3, 16, 2048, 2048)


@pytest.mark.parametrize(
    ("wrong", "word"), [*errors.WRONG_IMAGES, *errors.WRONG_STYLES, *errors.wrong_noises(), *errors.WRONG_LAYERS]
)
def test_wrong_arguments(wrong: dict[str, Any], word: str) -> None:
    right = {"x": errors.image(), "weight": errors.image(4, 3, 3, 3), "styles": errors.image(2, 3)}
    errors.refused(ops.styled_conv2d, right, wrong, word)

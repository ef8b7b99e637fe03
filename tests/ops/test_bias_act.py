"""bias_act: clamp(gain * act(x + b), -clamp, clamp); bias_lrelu computes piecewise linear activations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from torch import Tensor

from idgan_fast import ops
from idgan_fast.ops import _dispatch
from idgan_fast.ops.activations import activation_funcs
from tests.ops import checks, errors, fuzz
from tests.ops.checks import F64, array, leaf, normal
from tests.ops.formulas import Array
from tests.ops.strategies import batches, layouts, often, seeds

SELU_SCALE, SELU_SLOPE = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
ACTIVATIONS: dict[str, Callable[[Array, float], Array]] = {
    "linear": lambda v, alpha: v,
    "relu": lambda v, alpha: np.where(v > 0, v, 0.0),
    "lrelu": lambda v, alpha: np.where(v > 0, v, alpha * v),
    "tanh": lambda v, alpha: np.tanh(v),
    "sigmoid": lambda v, alpha: special.expit(v),
    "elu": lambda v, alpha: np.where(v > 0, v, np.expm1(np.minimum(v, 0))),
    "selu": lambda v, alpha: SELU_SCALE * np.where(v > 0, v, SELU_SLOPE * np.expm1(np.minimum(v, 0))),
    "softplus": lambda v, alpha: np.logaddexp(0, v),
    "swish": lambda v, alpha: v * special.expit(v),
}
assert ACTIVATIONS.keys() == activation_funcs.keys()


def formula(
    x: Array,
    b: Array | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Array:
    if b is not None:
        shape = [1] * x.ndim
        shape[dim] = len(b)
        x = x + b.reshape(shape)
    if gain is None:
        gain = 2**0.5 if act in ("relu", "lrelu", "swish") else 1.0
    y = gain * ACTIVATIONS[act](x, 0.2 if alpha is None else alpha)
    return y if clamp is None else np.clip(y, -clamp, clamp)


@often
@given(st.data())
def test_values(data: st.DataObject) -> None:
    draw = data.draw
    shape = [draw(batches), *draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))]
    x = 3 * normal(draw(seeds), *shape)
    if x.ndim == 4 or draw(st.booleans()):
        x = checks.arranged(x, draw(layouts if x.ndim == 4 else st.sampled_from(["strided", "transposed"])))
    dim, act = draw(st.integers(0, x.ndim - 1)), draw(st.sampled_from(list(ACTIVATIONS)))
    b = draw(st.sampled_from([None, normal(7, x.shape[dim]), checks.arranged(normal(8, x.shape[dim]), "strided")]))
    options = {
        "alpha": draw(st.sampled_from([None, 0.0, 0.1, 1.0])) if act == "lrelu" else None,
        "gain": draw(st.sampled_from([None, 0.0, 0.5, 3.0, -1.0])),
        "clamp": draw(st.sampled_from([None, 0.0, 0.75, 2.0])),
    }
    checks.matches_formula(ops.bias_act(x, b, dim, act, **options), formula(array(x), array(b), dim, act, **options), x)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_values_far_from_zero(act: str) -> None:
    x = torch.tensor([[-1000.0, -40, -30, -1, -1e-3, 0, 1e-3, 1, 30, 40, 1000]], dtype=F64)
    np.testing.assert_allclose(array(ops.bias_act(x, act=act)), formula(array(x), act=act), rtol=1e-10)


@checks.low_precision
def test_values_in_low_precision(dtype: torch.dtype, layout: str) -> None:
    x, b = checks.arranged(normal(0, 2, 6, 9, 8, dtype=dtype), layout), normal(2, 6, dtype=dtype)
    for act in ACTIVATIONS:
        y = ops.bias_act(x, b, act=act, clamp=3.0)
        checks.matches_formula(y, formula(array(x), array(b), act=act, clamp=3.0), x)


@checks.numerics_of("bias_act")
def test_numerics(name: str, dtype: torch.dtype, layout: str) -> None:
    checks.within_the_contract(name, dtype, layout)


@checks.every_backend
@pytest.mark.parametrize("gain", [None, -0.7])
@pytest.mark.parametrize("clamp", [None, 0.6])
@pytest.mark.parametrize("act", activation_funcs)
def test_gradients(act: str, clamp: float | None, gain: float | None, whole: bool) -> None:
    def operator(x: Tensor, b: Tensor) -> Tensor:
        return ops.bias_act(x, b, act=act, clamp=clamp, gain=gain)

    checks.gradients(operator, leaf(2, 3, 3, 2), leaf(3), whole=whole)


@checks.every_backend
@pytest.mark.parametrize("clamp", [None, 0.6])
@pytest.mark.parametrize("act", [act for act, spec in activation_funcs.items() if spec.second is not None])
def test_gradients_to_the_fourth_order(act: str, clamp: float | None, whole: bool) -> None:
    def penalty(x: Tensor, b: Tensor) -> Tensor:
        y = ops.bias_act(x, b, act=act, clamp=clamp, gain=-0.7)
        return sum(g.square().sum() for g in torch.autograd.grad(y.pow(2).sum(), [x, b], create_graph=True))

    checks.gradients(penalty, leaf(2, 3), leaf(3), whole=whole)

    def by_func(x: Tensor, b: Tensor) -> Tensor:
        def inner(x: Tensor, b: Tensor) -> Tensor:
            return ops.bias_act(x, b, act=act, clamp=clamp, gain=-0.7).pow(2).sum()

        return sum(g.square().sum() for g in torch.func.grad(inner, argnums=(0, 1))(x, b))

    x, b = leaf(2, 3), leaf(3)
    wanted = torch.autograd.grad(penalty(x, b), [x, b], create_graph=True)
    got = torch.func.grad(by_func, argnums=(0, 1))(x, b)
    torch.testing.assert_close(got, wanted)
    for ours, theirs in zip(got, wanted, strict=True):
        third = (torch.autograd.grad(g.square().sum(), [x, b], retain_graph=True) for g in (ours, theirs))
        torch.testing.assert_close(*third)


@checks.every_backend
@pytest.mark.parametrize("alpha", [0.0, -0.5, 3.0])
def test_gradients_of_slopes_that_hide_the_sign(alpha: float, whole: bool) -> None:
    checks.gradients(lambda x, b: ops.bias_act(x, b, -1, "lrelu", alpha, clamp=1), leaf(4, 3), leaf(3), whole=whole)


@checks.every_backend
@pytest.mark.parametrize("act", ["lrelu", "tanh"])
def test_gradients_of_one_axis(act: str, whole: bool) -> None:
    checks.gradients(lambda x, b: ops.bias_act(x, b, 0, act), leaf(5), leaf(5), whole=whole)


@checks.every_backend
@pytest.mark.parametrize("act", ["linear", "lrelu", "tanh"])
def test_the_gradient_is_zero_where_the_clamp_binds(act: str) -> None:
    x = torch.tensor([[-9.0, -0.5, 0.25, 0.5, 9.0]], dtype=F64, requires_grad=True)
    y = ops.bias_act(x, act=act, gain=1, clamp=0.1 if act == "tanh" else 0.5, alpha=1.0)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient[0].tolist() == ([0.0, 0.0, 1.0, 0.0, 0.0] if act != "tanh" else [0.0] * 5)


@checks.every_backend
@checks.unrepresentable_clamps
def test_a_clamp_that_the_dtype_rounds_stops_gradients(dtype: torch.dtype, clamp: float) -> None:
    checks.clamp_stops_gradients(lambda x, clamp: ops.bias_act(x, act="lrelu", clamp=clamp), dtype, clamp)


@checks.every_backend
def test_slopes_are_exact_in_float64() -> None:
    x = torch.full((1, 1, 1, 1), -1.0, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(ops.bias_act(x, act="lrelu", alpha=-0.3, gain=1).sum(), x)
    assert gradient.item() == -0.3


@checks.every_backend
@checks.layouts
def test_layouts(layout: str) -> None:
    for act in ("lrelu", "swish"):
        checks.layouts_agree(lambda x, act=act: ops.bias_act(x, torch.ones(3, dtype=F64), act=act, clamp=1), layout)


@checks.every_backend
@checks.few_pixels
def test_empty_and_single_pixel(shape: tuple[int, ...]) -> None:
    checks.empty_or_single_pixel(lambda x: ops.bias_act(x, leaf(shape[1]), act="lrelu"), shape)


@checks.every_backend
@checks.cases_of("bias_act")
def test_activation_checkpointing(name: str) -> None:
    checks.checkpointing(name)


@pytest.mark.parametrize(("act", "wanted"), [("swish", ["bias_act_bwd2"]), ("lrelu", ["bias_act_bwd"])])
def test_a_second_derivative_is_one_operator(act: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an activation without a curve (its negative slope keeps it from bias_lrelu) there is only that by dy."""
    monkeypatch.setattr(_dispatch, "why_not", lambda *_: None)
    x, b, v = (torch.randn(shape, requires_grad=True) for shape in ((2, 3, 4, 4), (3,), (2, 3, 4, 4)))
    with ops.backend("native"):
        y = ops.bias_act(x, b, act=act, alpha=-0.2)
        first = torch.autograd.grad(y, [x, b], v, create_graph=True)
        with checks.Called() as called:
            second = torch.autograd.grad(first, [v, x, b], first, allow_unused=True)
    assert called.names == wanted
    assert [g is not None for g in second] == [True, act == "swish", act == "swish"]


@pytest.mark.usefixtures("compiled_path")
def test_third_derivatives_compile() -> None:
    def penalty(x: Tensor, b: Tensor) -> Tensor:
        total = ops.bias_act(x, b, act="swish", clamp=0.9).pow(2).sum()
        for _ in range(2):
            gradients = torch.autograd.grad(total, [x, b], create_graph=True)
            total = sum(g.square().sum() for g in gradients)
        return total

    x, b = leaf(4, 3), leaf(3)
    expected = torch.autograd.grad(penalty(x, b), [x, b])
    got = torch.autograd.grad(torch.compile(penalty, fullgraph=True, backend="aot_eager")(x, b), [x, b])
    torch.testing.assert_close(got, expected)


@checks.memory_formats_and_dtypes
def test_opcheck(layout: torch.memory_format, dtype: torch.dtype) -> None:
    x, b = checks.small_image(layout, dtype), torch.randn(3)
    for parameters in ((1, "lrelu", -0.2, 1.4, 0.5), (1, "tanh", 0.0, 1.0, None)):
        checks.opcheck("bias_act_fwd", x, b, *parameters)
        checks.opcheck("bias_act_bwd", x, x, b, *parameters, True)
        checks.opcheck("bias_act_bwd", x, x, None, *parameters, False)
        checks.opcheck("bias_act_bwd2", x, b, x, x, b, *parameters, True)
        checks.opcheck("bias_act_bwd2", x, None, x, x, None, *parameters, False)


@checks.compiled
@checks.every_dtype
@pytest.mark.parametrize("act", activation_funcs)
def test_kernels(act: str, dtype: torch.dtype) -> None:
    fuzz.check_bias_act(checks.NATIVE, act, dtype, 60)


def test_more_elements_than_32_bits_count() -> None:
    x = checks.meta_image(3, 1024)
    assert ops.bias_act(x, torch.empty(1024, device="meta"), act="lrelu").shape == x.shape


def available_gib() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable")), 0.0)


@pytest.mark.slow
@pytest.mark.skipif(available_gib() < 19, reason="needs 19 GiB of free memory")
def test_values_of_more_elements_than_32_bits_count() -> None:
    row, b = torch.randn(2**15).bfloat16(), torch.randn(2**16 + 1).bfloat16()
    x = row.expand(1, len(b), -1)
    assert x.numel() > 2**31
    y = ops.bias_act(x, b, act="lrelu", clamp=2)
    for channel in (0, 1, 2**15, 2**16 - 1, 2**16):
        wanted = ops.bias_act(row[None, None], b[channel : channel + 1], act="lrelu", clamp=2)
        assert torch.equal(y[0, channel], wanted[0, 0])
    assert y.isfinite().all()


WRONG_ACTS = [
    pytest.param({"act": "lreluu"}, "no activation named 'lreluu'; did you mean lrelu?", id="lreluu"),
    pytest.param({"act": "LRELU"}, "no activation named 'LRELU'; known: linear, relu, lrelu", id="LRELU"),
    pytest.param({"act": ""}, "no activation named ''", id="no name"),
    pytest.param({"act": None}, "no activation named None", id="None"),
]
WRONG_DIMS = [
    pytest.param({"b": torch.ones(3), "dim": dim}, f"dim must be a dimension of x with shape (2, 3, 6, 5), got {dim}")
    for dim in (4, 100, -5)
]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        *errors.WRONG_TENSORS,
        *WRONG_ACTS,
        *errors.wrong_shapes("b", (4,), (1,), (3, 1), (1, 3), (), (0,)),
        pytest.param({"b": torch.ones(3), "dim": 2}, "b must have shape (6,)", id="b along another dim"),
        *WRONG_DIMS,
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], word: str) -> None:
    errors.refused(ops.bias_act, {"x": errors.image()}, wrong, word)

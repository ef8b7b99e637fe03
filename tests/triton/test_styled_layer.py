"""A whole layer in Triton kernels against torch in float64: random shapes and options, x between NaN."""

import importlib
import random
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

from idgan_fast import ops
from idgan_fast.kernels import _common, _fir, styled_layer_conv, styled_layer_tiles, styled_layer_weight_grad
from idgan_fast.kernels.styled_layer import styled_layer_bwd, styled_layer_fwd
from idgan_fast.ops import _dispatch, conv2d_gradfix
from idgan_fast.ops.layer import conv_plan
from idgan_fast.ops.validation import numerics
from idgan_fast.ops.validation.numerics import cases
from tests.ops.fuzz import ROUNDING, assert_same, option
from tests.triton.conftest import quick

layer = importlib.import_module("idgan_fast.ops.layer.styled_layer")
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
FORMS = ["same", "composite", "transposed"]


@pytest.fixture(autouse=True)
def longer_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer programs of the filters to interpret."""
    monkeypatch.setattr(_fir, "PROGRAMS", 0)


def between_nan(x: Tensor) -> Tensor:
    around = torch.full((x.numel() + 1024,), torch.nan, dtype=x.dtype)
    _, c, h, w = x.shape
    return around.as_strided(x.shape, (c * h * w, 1, w * c, c), 512).copy_(x)


def arguments(rng: random.Random, dtype: torch.dtype, form: str) -> tuple[list[Any], tuple[Any, ...]]:
    n, c_in, c_out = rng.choice([1, 1, 2, 3]), rng.choice([1, 3, 16, 40, 72]), rng.choice([1, 3, 16, 24, 40])
    h, w, k = rng.randint(1, 13), rng.randint(1, 17), rng.choice([1, 3]) if form == "same" else 3
    f, padding = None, [0, 0, 0, 0]
    if form == "composite":
        f, padding = torch.rand(4, 4) if rng.random() < 0.7 else torch.rand(4), [1, 1, 1, 1]
    elif form == "transposed":
        f = torch.rand(rng.randint(1, 6), rng.randint(1, 6))
        padding = [f.shape[-1] // 2, f.shape[-1] // 2 + rng.randint(-1, 1), f.shape[0] // 2, f.shape[0] // 2]
    x = between_nan(torch.randn(n, c_in, h, w).to(dtype))
    weight = (torch.randn(c_out, c_in, k, k) / (c_in * k * k) ** 0.5).to(dtype)
    if rng.random() < 0.5:
        weight = between_nan(weight)
    size = layer.out_size(x, f, padding)
    noise = option(rng, torch.randn(rng.choice([1, n]), 1, *size))
    tensors = [
        x,
        weight,
        option(rng, torch.randn(n, c_in)),
        f,
        option(rng, torch.rand(n, c_out) + 0.5),
        noise,
        None if noise is None else option(rng, torch.randn(())),
        option(rng, torch.randn(c_out)),
        option(rng, torch.randn(n, c_out).relu()),  # zeros too, which hide the sign of z
    ]
    slope, gain, clamp = rng.choice([1.0, 0.0, 0.2]), rng.choice([1.4, -0.7]), rng.choice([None, 0.75])
    return tensors, (padding, 1.5 if f is None else 4 / f.sum().item() ** (3 - f.ndim), slope, gain, clamp, form)


def exact(tensors: list[Any]) -> list[Any]:
    return [None if t is None else t.double() for t in tensors]


def rounded_style(tensors: list[Any]) -> list[Any]:
    """The arguments in float64 with x times its style rounded as the kernels round it, and no style."""
    x, weight, styles, *rest = tensors
    x = layer._modulated(x, styles)
    return exact([x, weight, None, *rest])


@pytest.fixture
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One tile for all of a small layer, or many along every axis, and the sum over pixels in several parts."""
    if request.param == "split":
        monkeypatch.setattr(styled_layer_weight_grad, "SHORTEST", 1)
        monkeypatch.setitem(styled_layer_tiles.LARGEST, "sm_90", styled_layer_tiles.Limits(16, 16, 32, 4, 2))
    return request.param


WHOLE = [(dtype, "whole", 8) for dtype in DTYPES]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "tiles", "count"),
    quick(
        (torch.float16, "split", 2), (torch.float32, "whole", 2), (torch.bfloat16, "whole", 1),
        slow=WHOLE,
    ),
    indirect=["tiles"],
)  # fmt: skip
def test_forward(dtype: torch.dtype, form: str, tiles: str, count: int) -> None:
    rng = random.Random(7)
    for _ in range(count):
        tensors, numbers = arguments(rng, dtype, form)
        keep = rng.random() < 0.5
        what = ([None if t is None else t.shape for t in tensors], numbers)
        out, z = styled_layer_fwd(*tensors, *numbers, keep)
        wanted, wanted_z = layer.OPERATOR.custom_ops[0].reference(*rounded_style(tensors), *numbers, keep)
        # With the filter composed into the weight, or y between two kernels, one more number is rounded.
        tolerance = ROUNDING[dtype] * (1 if form == "same" else 2)
        assert_same(out, wanted.to(dtype), tolerance, what)
        assert_same(z, wanted_z.to(dtype), tolerance, what)


@pytest.mark.parametrize("form", ["same", "transposed"])  # the composite form's is the transposed one's
@pytest.mark.parametrize(
    ("dtype", "tiles", "count"),
    quick(
        (torch.float16, "split", 2), (torch.float32, "whole", 2), (torch.bfloat16, "whole", 1),
        slow=[*WHOLE, (torch.float16, "split", 6), (torch.float32, "split", 4)],
    ),
    indirect=["tiles"],
)  # fmt: skip
def test_backward(dtype: torch.dtype, form: str, tiles: str, count: int) -> None:
    rng = random.Random(8)
    for _ in range(count):
        tensors, numbers = arguments(rng, dtype, form)
        what = ([None if t is None else t.shape for t in tensors], numbers)
        out, z = layer.OPERATOR.custom_ops[0].reference(*tensors, *numbers, True)
        z = z if z.numel() else out
        differentiable = [*tensors[:3], *tensors[4:]]  # all but f
        want = [int(t is not None and rng.random() < 0.8) for t in differentiable]
        dout = between_nan(torch.randn_like(z))
        got = styled_layer_bwd(dout, z, *tensors, *numbers, want)
        wanted = layer.OPERATOR.custom_ops[1].reference(dout.double(), z.double(), *exact(tensors), *numbers, want)
        for i, (ours, truth, given) in enumerate(zip(got, wanted, differentiable, strict=True)):
            if not want[i]:
                continue
            # dy is rounded before the gradients of the convolution, x times its style too.
            tolerance = 3 * ROUNDING[dtype] if i < 3 else 2e-5
            assert_same(ours, truth.to(given.dtype), tolerance, (i, what))


def test_a_channel_of_the_last_tile_and_a_weight_of_another_layout() -> None:
    x = between_nan(torch.randn(2, 40, 9, 9))
    weight = torch.randn(24, 40, 3, 3)
    others = (None,) * 7
    numbers = ([0] * 4, 1.0, 1.0, 1.0, None, "same", False)
    wanted, _ = styled_layer_fwd(x, weight, *others, *numbers)
    for other in (weight.contiguous(memory_format=torch.channels_last), weight.transpose(2, 3).clone().transpose(2, 3)):
        assert torch.equal(styled_layer_fwd(x, other, *others, *numbers)[0], wanted)


def forms_taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The forms of the layers that ran as one operator, as they run."""
    taken: list[str] = []
    forward = layer._forward

    def counted(backend: str, *args: Any) -> Any:
        taken.append(args[-2])
        return forward(backend, *args)

    monkeypatch.setattr(layer, "_forward", counted)
    return taken


@pytest.mark.slow
def test_the_composite_form_keeps_the_numerics_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all orders of gradient; tests/triton/test_numerics.py has the forms that small layers take by themselves."""
    monkeypatch.setattr(conv_plan, "choose_form", lambda *_, **__: "composite")
    monkeypatch.setattr(numerics, "SEEDS", 3)
    taken = forms_taken(monkeypatch)
    for case in cases(size=4, channels=8):
        if case.name == "chained_styled_conv2d up=2":
            for row in numerics.measure(case, torch.float32, "NHWC", ["triton"]):
                assert row.passed, row
    assert taken == ["composite"] * 3


def penalised(x: Tensor, w: Tensor, s: Tensor, noise: Tensor, b: Tensor) -> Tensor:
    """Two layers, and the square of the gradient by their input."""
    h = ops.styled_conv2d(x, w, s, noise, None, b, up=2, clamp=2)
    h = ops.modulated_conv2d(h, w, s, padding=1)
    (gradient,) = torch.autograd.grad(h.sum(), x, create_graph=True)
    return h.square().mean() + gradient.square().sum()


def gradients(function: Any) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    tensors = [torch.randn(s, generator=rng) for s in ((1, 3, 8, 8), (3, 3, 3, 3), (1, 3), (1, 1, 16, 16), (3,))]
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    tensors = [t.requires_grad_() for t in tensors]
    value = function(*tensors)
    return [value.detach(), *torch.autograd.grad(value, tensors)]


def test_a_penalty_on_gradients_in_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    with ops.backend("reference"):
        wanted = gradients(penalised)
    taken = forms_taken(monkeypatch)
    with ops.backend("triton"), torch._dynamo.config.patch(trace_autograd_ops=True):
        torch._dynamo.reset()
        for function in (penalised, torch.compile(penalised, fullgraph=True, backend="aot_eager")):
            for ours, theirs in zip(gradients(function), wanted, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert set(taken) == {"composite", "same"}


def test_gradients_of_gradients_under_torch_func() -> None:
    x, w, s = torch.randn(1, 3, 8, 8), torch.randn(3, 3, 3, 3), torch.randn(1, 3)
    x = x.contiguous(memory_format=torch.channels_last)

    def penalty(*tensors: Tensor) -> Tensor:
        def of_x(x: Tensor) -> Tensor:
            return ops.modulated_conv2d(x, *tensors[1:], padding=1).square().sum()

        return torch.func.grad(of_x)(tensors[0]).square().sum()

    with ops.backend("triton"):
        got = torch.func.grad(penalty, argnums=(0, 1, 2))(x, w, s)
    with ops.backend("reference"):
        wanted = torch.func.grad(penalty, argnums=(0, 1, 2))(x, w, s)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_the_kernels_do_not_take_is_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = forms_taken(monkeypatch)
    x, w, s = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3), torch.randn(1, 4)
    f, last = ops.setup_filter((1, 3, 3, 1)), torch.channels_last
    with ops.backend("triton"):
        calls = [
            lambda x: ops.modulated_conv2d(x, w, s, padding=1),  # NCHW
            lambda x: ops.modulated_conv2d(x.double().contiguous(memory_format=last), w.double(), s, padding=1),
            lambda x: ops.modulated_conv2d(x.contiguous(memory_format=last), w, s, padding=2),
            lambda x: ops.modulated_conv2d(x[..., :7, :7].contiguous(memory_format=last), w, s, padding=1),  # small
            lambda x: ops.modulated_conv2d(
                x.contiguous(memory_format=last), w, s, down=2, padding=1, resample_filter=f
            ),
        ]
        for call in calls:
            got = call(x)
            with ops.backend("reference"):
                torch.testing.assert_close(got, call(x), rtol=1e-5, atol=1e-5)
    assert not taken


def test_vectors_with_holes_and_a_weight_to_flip() -> None:
    """Styles that are a slice of a whole network's, or one for all samples."""
    x = torch.randn(3, 4, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    w, b = (torch.randn(s, requires_grad=True) for s in ((6, 4, 3, 3), (6,)))
    every = torch.randn(3, 20, requires_grad=True)
    f = ops.setup_filter((1, 3, 3, 1))

    def layers(impl: str) -> list[Tensor]:
        found = []
        for next_styles in (every[:, 14:], every[:1, 14:].expand(3, -1)):
            y = ops.chained_styled_conv2d(x, w, every[:, :4], None, None, b, next_styles, up=2, clamp=1.0, impl=impl)
            found += [y, *torch.autograd.grad(y.square().sum(), (x, w, every, b))]
        for up in (1, 2):
            y = ops.modulated_conv2d(
                x, w, every[:, 3:7], up=up, padding=1, resample_filter=f, flip_weight=False, impl=impl
            )
            found += [y, *torch.autograd.grad(y.square().sum(), (x, w, every))]
        return found

    for ours, theirs in zip(layers("triton"), layers("reference"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_one_graph_serves_every_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = forms_taken(monkeypatch)
    w = torch.randn(4, 3, 3, 3)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, s: ops.styled_conv2d(x, w, s, impl="triton"), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for n in (2, 3, 5):
        x, s = torch.randn(n, 3, 8, 8).contiguous(memory_format=torch.channels_last), torch.randn(n, 3)
        wanted = ops.styled_conv2d(x, w, s, impl="reference")
        with torch._dynamo.config.patch(error_on_recompile=n > 2):
            torch.testing.assert_close(compiled(x, s), wanted, rtol=1e-5, atol=1e-5)
    assert "same" in taken


@pytest.mark.parametrize(("wish", "wanted"), [("ieee", "tf32x3"), ("tf32", "tf32")])
def test_float32_multiplies_as_torch_s_convolutions_do(wish: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set by torch's present switch, beside which it refuses to read the former one."""
    x, conv = torch.randn(1, 3, 8, 8), torch.backends.cudnn.conv
    before = conv.fp32_precision
    try:
        conv.fp32_precision = wish
        assert styled_layer_conv.precision(x) == wanted
        assert styled_layer_conv.precision(x.half()) == "ieee"
        monkeypatch.setattr(_common, "architecture", lambda _: "gfx942")
        assert styled_layer_conv.precision(x) == "ieee"
    finally:
        conv.fp32_precision = before


def test_a_measured_tile_that_asks_for_too_much_gives_way_to_the_table_s(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = styled_layer_tiles.Shape("fwd", "same", 3, 1, 8, 64, 64, torch.float16)
    known = {shape.key: {"BLOCK_M": 4096}}
    monkeypatch.setattr(styled_layer_tiles, "measurements", lambda _: known)

    def launch(tile: dict[str, Any]) -> int:
        if tile["BLOCK_M"] > 64:
            raise triton.OutOfResources(300000, 232448, "shared memory")
        return tile["BLOCK_M"]

    assert styled_layer_tiles.with_tile(shape, torch.device("cpu"), launch) == 64
    assert known[shape.key]["BLOCK_M"] == 64, "the next call asks for no more"
    with pytest.raises(triton.OutOfResources):
        styled_layer_tiles.with_tile(shape._replace(pixels=4096), torch.device("cpu"), launch)


def test_no_weight_gradients_of_second_order_or_of_a_graph() -> None:
    x = torch.randn(1, 3, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    w, s = torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(1, 3, requires_grad=True)

    def layer(x: Tensor) -> Tensor:
        return ops.styled_conv2d(x, w, s, demodulate=False, impl="triton").sum()

    (gradient,) = torch.autograd.grad(layer(x), x, create_graph=True)
    with conv2d_gradfix.no_weight_gradients():
        gradient.square().sum().backward()
    assert w.grad is None
    assert s.grad is not None
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with conv2d_gradfix.no_weight_gradients():
        compiled(x).backward()
    compiled(x).backward()
    assert w.grad is not None, "the flag does not reach into a graph, nor stay there"


def test_no_weight_gradients() -> None:
    x = torch.randn(1, 3, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    w, s = torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(1, 3, requires_grad=True)
    y = ops.styled_conv2d(x, w, s, demodulate=False, impl="triton")
    with conv2d_gradfix.no_weight_gradients():
        y.sum().backward()
    assert w.grad is None
    assert x.grad is not None
    assert s.grad is not None


def test_a_kernel_set_aside_leaves_the_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto on a GPU takes the other Triton kernels where the convolution's disagree; asked for by name it takes all."""
    names = tuple(low.name for low in layer.OPERATOR.custom_ops)
    monkeypatch.setattr(_dispatch, "refused", lambda _, wanted, __: "off" if set(wanted) & set(names) else None)
    device = torch.device("cuda")
    assert not _dispatch.usable("triton", layer.OPERATOR, device, "auto")
    assert _dispatch.usable("triton", layer.OPERATOR, device, "triton")
    with ops.backend("triton"):
        assert _dispatch.usable("triton", layer.OPERATOR, device, "auto")

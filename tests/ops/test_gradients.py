"""Every gradient that training takes: finite differences in float64, R1, path length, torch.func, layouts, dtypes."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from idgan_fast import ops
from idgan_fast.ops import _dispatch
from idgan_fast.ops.activations import activation_funcs
from idgan_fast.ops.validation import numerics
from tests.ops import networks

F64 = torch.float64


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64, requires_grad=True)


# auto: compiled kernels, where there are some
BACKENDS = ["reference"] if _dispatch._no_cpu_library else ["reference", "auto"]


@pytest.fixture(autouse=True, params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.manual_seed(0)
    with ops.backend(request.param):
        yield


@pytest.fixture(params=["projected", pytest.param("whole", marks=pytest.mark.slow)])
def check(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Of first order the whole Jacobian; of second order that, or its product with random vectors, which is faster."""

    def check(function: Callable[..., Tensor], *tensors: Tensor) -> None:
        assert gradcheck(function, tensors)
        assert gradgradcheck(function, tensors, fast_mode=request.param == "projected")

    return check


@pytest.mark.parametrize("gain", [None, -0.7])
@pytest.mark.parametrize("clamp", [None, 0.6])
@pytest.mark.parametrize("act", activation_funcs)
def test_bias_act(check: Callable[..., None], act: str, clamp: float | None, gain: float | None) -> None:
    check(lambda x, b: ops.bias_act(x, b, act=act, clamp=clamp, gain=gain), leaf(2, 3, 3, 2), leaf(3))


@pytest.mark.parametrize("clamp", [None, 0.6])
@pytest.mark.parametrize("act", [act for act, spec in activation_funcs.items() if spec.second is not None])
def test_bias_act_to_the_fourth_order(check: Callable[..., None], act: str, clamp: float | None) -> None:
    def penalty(x: Tensor, b: Tensor) -> Tensor:
        y = ops.bias_act(x, b, act=act, clamp=clamp, gain=-0.7)
        return sum(g.square().sum() for g in torch.autograd.grad(y.pow(2).sum(), [x, b], create_graph=True))

    check(penalty, leaf(2, 3), leaf(3))

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


@pytest.mark.parametrize("alpha", [0.0, -0.5, 3.0])
def test_bias_act_slopes_that_hide_the_sign(check: Callable[..., None], alpha: float) -> None:
    check(lambda x, b: ops.bias_act(x, b, -1, "lrelu", alpha, clamp=1), leaf(4, 3), leaf(3))


@pytest.mark.parametrize("act", ["lrelu", "tanh"])
def test_bias_act_of_one_axis(check: Callable[..., None], act: str) -> None:
    check(lambda x, b: ops.bias_act(x, b, 0, act), leaf(5), leaf(5))


@pytest.mark.parametrize("act", ["linear", "lrelu", "tanh"])
def test_the_gradient_is_zero_where_the_clamp_binds(act: str) -> None:
    x = torch.tensor([[-9.0, -0.5, 0.25, 0.5, 9.0]], dtype=F64, requires_grad=True)
    y = ops.bias_act(x, act=act, gain=1, clamp=0.1 if act == "tanh" else 0.5, alpha=1.0)
    y.sum().backward()
    inside = [0.0, 0.0, 1.0, 0.0, 0.0] if act != "tanh" else [0.0] * 5
    assert x.grad is not None
    assert x.grad[0].tolist() == inside


@pytest.mark.parametrize("f", [None, (1.0, 2.0, 4.0), ((1.0, -2.0), (3.0, 0.5), (0.2, 1.0))])
@pytest.mark.parametrize(
    ("up", "down", "padding"), [(1, 1, [2, 1, 1, 2]), (2, 1, [3, -1, 2, 0]), (1, 2, 1), ([3, 2], [2, 3], [1, 4, -2, 5])]
)
def test_upfirdn2d_to_the_third_order(
    check: Callable[..., None], f: tuple | None, up: int, down: int, padding: list[int]
) -> None:
    taps = None if f is None else torch.tensor(f)
    check(lambda x: ops.upfirdn2d(x, taps, up, down, padding, gain=1.5), leaf(2, 2, 4, 5))
    check(lambda x: ops.upfirdn2d(x, taps, up, down, padding, flip_filter=True).square(), leaf(1, 1, 4, 5))

    def cubed(x: Tensor) -> Tensor:
        y = ops.upfirdn2d(x, taps, up, down, padding)
        return torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)[0]

    assert gradgradcheck(cubed, leaf(1, 1, 3, 3))


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_modulated_conv2d(check: Callable[..., None], up: int, down: int, demodulate: bool) -> None:
    def layer(x: Tensor, w: Tensor, s: Tensor, noise: Tensor) -> Tensor:
        return ops.modulated_conv2d(x, w, s, noise, up, down, 1, networks.taps(), demodulate)

    size = 4 * up // down
    check(layer, leaf(2, 2, 4, 4), leaf(3, 2, 3, 3), leaf(2, 2), leaf(2, 1, size, size))


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("act", ["lrelu", "linear", "swish"])
def test_styled_conv2d(check: Callable[..., None], act: str, up: int) -> None:
    def layer(x: Tensor, w: Tensor, s: Tensor, noise: Tensor, strength: Tensor, b: Tensor) -> Tensor:
        return ops.styled_conv2d(x, w, s, noise, strength, b, up=up, act=act, clamp=1.2)

    check(layer, leaf(2, 2, 3, 3), leaf(3, 2, 3, 3), leaf(2, 2), leaf(3 * up, 3 * up), leaf(), leaf(3))


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("act", ["lrelu", "linear", "relu", "tanh"])
def test_chained_styled_conv2d(check: Callable[..., None], act: str, up: int) -> None:
    """Strided, shared noise; a gain below 0; and once as for a layer without demodulation."""

    def layer(x: Tensor, w: Tensor, s: Tensor, noise: Tensor, strength: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return ops.chained_styled_conv2d(x, w, s, noise, strength, b, t, up=up, act=act, gain=-1.3, clamp=1.2)

    def undemodulated(x: Tensor, w: Tensor, s: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return ops.chained_styled_conv2d(x, w, s, noise, next_styles=t, up=up, demodulate=False, act=act)

    x, w, s, t = leaf(2, 2, 3, 3), leaf(3, 2, 3, 3), leaf(2, 2), leaf(2, 3)
    noise = torch.randn(3 * up, 6 * up, dtype=F64)[:, ::2].requires_grad_()
    check(layer, x, w, s, noise, leaf(), leaf(3), t)
    check(undemodulated, x, w, s, noise, t)


def test_a_chain_equals_its_layers() -> None:
    x, w, s, t = leaf(2, 3, 4, 4), leaf(4, 3, 3, 3), leaf(2, 3), leaf(2, 4)
    v, noise, b, f = leaf(5, 4, 1, 1), leaf(2, 1, 8, 8), leaf(4), networks.taps()
    layers = ops.styled_conv2d(ops.styled_conv2d(x, w, s, noise, bias=b, up=2, clamp=1), v, t, act="tanh")
    h = ops.chained_styled_conv2d(x * s[:, :, None, None], w, s, noise, None, b, t, up=2, resample_filter=f, clamp=1)
    torch.testing.assert_close(ops.chained_styled_conv2d(h, v, t, act="tanh"), layers)


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


# Filters that no flip, transposition or exchange of axes leaves as they are.
LOPSIDED = (torch.tensor([0.2, 1.0, -0.5]), torch.tensor([[1.0, 0.3, -0.2, 0.7, 0.1], [0.4, -0.6, 0.9, 0.2, 0.5]]))


@pytest.mark.parametrize("fu", [None, *LOPSIDED], ids=["no fu", "3 taps", "2x5 taps"])
@pytest.mark.parametrize("fd", [None, *LOPSIDED], ids=["no fd", "3 taps", "2x5 taps"])
@pytest.mark.parametrize(("gain", "slope", "clamp"), [(2**0.5, 0.2, 0.9), (-0.8, -0.3, 0.4), (1.5, 0.0, None)])
def test_filtered_lrelu(
    check: Callable[..., None], fu: Tensor, fd: Tensor, gain: float, slope: float, clamp: float | None
) -> None:
    def operator(x: Tensor, b: Tensor) -> Tensor:
        return ops.filtered_lrelu(x, fu, fd, b, [2, 1], [1, 3], [3, -1, 2, 4], gain, slope, clamp, flip_filter=True)

    check(operator, leaf(1, 2, 4, 5), leaf(2))
    check(lambda x: ops.filtered_lrelu(x, fu, fd, None, 2, 2, 3, gain, slope, clamp).square(), leaf(1, 1, 3, 4))


@pytest.mark.parametrize("f", LOPSIDED, ids=["3 taps", "2x5 taps"])
def test_chained_styled_conv2d_with_a_lopsided_filter(check: Callable[..., None], f: Tensor) -> None:
    def layer(x: Tensor, w: Tensor, s: Tensor, noise: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return ops.chained_styled_conv2d(x, w, s, noise, None, b, t, up=2, resample_filter=f, clamp=1.2)

    check(layer, leaf(1, 2, 3, 2), leaf(2, 2, 3, 3), leaf(1, 2), leaf(1, 1, 6, 4), leaf(2), leaf(1, 2))


def test_filtered_lrelu_under_nested_transforms() -> None:
    x, w, f = leaf(1, 1, 3, 3), leaf(1, 1, 3, 3), networks.taps()

    def inner(w: Tensor, x: Tensor) -> Tensor:
        return (ops.filtered_lrelu(x * 2, f, f, None, 2, 2, 3, clamp=0.9) * w).sum()

    def by_w(x: Tensor) -> Tensor:
        return torch.func.grad(inner)(w, x).square().sum()

    y = ops.filtered_lrelu(x * 2, f, f, None, 2, 2, 3, clamp=0.9)
    (expected,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(torch.func.grad(by_w)(x.detach()), expected)
    torch.testing.assert_close(torch.autograd.grad(by_w(x), x)[0], expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("flips", [(True, False), (False, True)])
@pytest.mark.parametrize("kernel", [(2, 2), (2, 3), (4, 5), (3, 3)])
def test_phases_equal_the_transposed_convolution(
    kernel: tuple[int, int], flips: tuple[bool, bool], layout: torch.memory_format
) -> None:
    x, w = leaf(2, 4, 3, 5), leaf(6, 2, *kernel)
    f = torch.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 3.0]])
    outcomes = []
    for impl in ("auto", "reference"):
        image = x.contiguous(memory_format=layout)
        y = ops.conv2d_resample(image, w, f, 2, 1, [1, 2, 0, 1], 2, *flips, impl=impl)
        first = torch.autograd.grad(y.square().sum(), (x, w), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, w))
        outcomes.append([y, *first, *second])
    for a, b in zip(*outcomes, strict=True):
        torch.testing.assert_close(a, b)
        assert a.stride() == b.stride()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_conv2d_resample(check: Callable[..., None], up: int, down: int, groups: int) -> None:
    f = networks.taps()
    check(
        lambda x, w: ops.conv2d_resample(x, w, f, up, down, 1, groups, flip_weight=False),
        leaf(1, 4, 4, 4),
        leaf(2, 4 // groups, 3, 3),
    )


def test_fma_broadcasts(check: Callable[..., None]) -> None:
    check(ops.fma, leaf(2, 3, 1), leaf(3, 4), leaf(1))


def test_r1_and_path_length_by_finite_differences() -> None:
    p, f = networks.parameters(), networks.taps()
    given = networks.inputs()
    x, z = given["x"].requires_grad_(), given["z"].requires_grad_()
    names = ["d1", "db1", "d2", "db2", "skip", "out"]

    def r1(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *values: loss(dict(zip(names, values, strict=True)), x, f)

    leaves = [p[name] for name in names]
    assert gradcheck(r1(networks.d_loss_autograd), leaves, fast_mode=True)
    assert gradcheck(r1(networks.d_loss_func), leaves, fast_mode=True)
    by_grad = networks.gradients(networks.d_loss_autograd(p, x, f), p)
    by_func = networks.gradients(networks.d_loss_func(p, x, f), p)
    for name in names:
        torch.testing.assert_close(by_func[name], by_grad[name])

    of_g = ["const", "affine1", "w1", "b1", "strength", "affine2", "w2", "b2"]
    assert gradcheck(
        lambda *values: networks.path_length(dict(zip(of_g, values, strict=True)), z, given["noise"], f),
        [p[name] for name in of_g],
        fast_mode=True,
    )


def test_no_weight_gradients_drops_them_in_the_backward_pass_alone() -> None:
    x, w = leaf(1, 2, 4, 4), leaf(3, 2, 3, 3)
    y = ops.conv2d_gradfix.conv2d(x, w).square().sum()
    with ops.conv2d_gradfix.no_weight_gradients():
        gx, gw = torch.autograd.grad(y, [x, w], create_graph=True, allow_unused=True)
    assert gw is None
    (through,) = torch.autograd.grad(gx.square().sum(), w)
    assert through.abs().sum() > 0
    assert not ops.conv2d_gradfix.weight_gradients_disabled


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every other column": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_outputs_and_gradients(layout: str) -> None:
    f = networks.taps()
    operators: list[Callable[[Tensor], Tensor]] = [
        lambda x: ops.bias_act(x, torch.ones(3, dtype=F64), act="lrelu", clamp=1),
        lambda x: ops.bias_act(x, torch.ones(3, dtype=F64), act="swish", clamp=1),
        lambda x: ops.upfirdn2d(x, f, up=2, padding=2),
        lambda x: ops.filtered_lrelu(x, f, f, up=2, down=2, padding=3),
        lambda x: ops.styled_conv2d(x, torch.ones(4, 3, 3, 3, dtype=F64), x.mean((2, 3)), up=2),
        lambda x: ops.chained_styled_conv2d(
            x, torch.ones(3, 3, 3, 3, dtype=F64), x.mean((2, 3)), x[:, :1], None, x[0, :, 0, 0], x.mean((2, 3)), clamp=1
        ),
    ]
    x = LAYOUTS[layout](torch.randn(2, 3, 4, 5, dtype=F64))
    for operator in operators:
        outcomes = []
        for value in (x, x.contiguous()):
            value = value.detach().requires_grad_()
            y = operator(value)
            (gradient,) = torch.autograd.grad(y.square().sum(), value, create_graph=True)
            outcomes.append((y, gradient, torch.autograd.grad(gradient.square().sum(), value)[0]))
        for got, wanted in zip(*outcomes, strict=True):
            torch.testing.assert_close(got, wanted, check_stride=False)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 3, 1, 1), (2, 0, 3, 3)])
def test_empty_and_single_pixel(shape: tuple[int, ...]) -> None:
    x = leaf(*shape)
    outputs = [ops.bias_act(x, leaf(shape[1]), act="lrelu"), ops.upsample2d(x, networks.taps())]
    if shape[1]:  # torch has no convolution of no channels
        w, s, noise = leaf(2, shape[1], 3, 3), leaf(*shape[:2]), leaf(shape[0], 1, *shape[2:])
        outputs.append(ops.chained_styled_conv2d(x, w, s, noise, leaf(), leaf(2), leaf(shape[0], 2), clamp=1))
    for y in outputs:
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        assert gradient.shape == x.shape
        assert y.shape[0] == x.shape[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_are_kept_in_outputs_and_gradients(dtype: torch.dtype) -> None:
    x, w, s = (t.detach().to(dtype).requires_grad_() for t in (leaf(2, 3, 4, 4), leaf(4, 3, 3, 3), leaf(2, 3)))
    y = ops.styled_conv2d(x, w, s, up=2, bias=leaf(4), noise=leaf(8, 8), clamp=256)
    assert y.dtype == dtype
    assert [g.dtype for g in torch.autograd.grad(y.sum(), [x, w, s])] == [dtype] * 3


@pytest.mark.parametrize(
    ("weight", "styles"),
    [(30.0, 200.0), (1.0, 1e5), (1e4, 1.0), (1e-3, 1e-3)],
    ids=["both", "style", "weight", "small"],
)
def test_float16_demodulation_keeps_in_range(weight: float, styles: float) -> None:
    """All positive, so that sums do not average out, over a fan-in of 4608."""
    x, w, s = torch.rand(1, 512, 4, 4), torch.rand(8, 512, 3, 3) * weight, torch.rand(1, 512) * styles
    for operator in (lambda x: ops.modulated_conv2d(x, w, s, padding=1), lambda x: ops.styled_conv2d(x, w, s)):
        wanted, got = operator(x), operator(x.half())
        assert got.dtype == torch.float16
        assert (got.float() - wanted).abs().max() < 5e-3 * wanted.abs().max()


def test_float16_with_weights_or_styles_of_zero_gives_zero() -> None:
    y = ops.styled_conv2d(torch.randn(1, 2, 3, 3).half(), torch.zeros(2, 2, 3, 3), torch.zeros(1, 2))
    assert torch.equal(y, torch.zeros_like(y))


@pytest.mark.parametrize(("dtype", "clamp"), [(torch.bfloat16, 0.7), (torch.float16, 0.1), (torch.float32, 0.1)])
def test_a_clamp_that_the_dtype_cannot_hold_still_stops_gradients(dtype: torch.dtype, clamp: float) -> None:
    x = torch.tensor([-1000.0, 0.01, 1000.0]).to(dtype).reshape(1, 1, 1, 3).requires_grad_()
    one = torch.ones(1, 1, dtype=dtype)
    for y in (
        ops.bias_act(x, act="lrelu", clamp=clamp),
        ops.styled_conv2d(x, one[:, :, None, None], one, clamp=clamp),
        ops.chained_styled_conv2d(x, one[:, :, None, None], one, next_styles=one, clamp=clamp),
        ops.filtered_lrelu(x, clamp=clamp),
    ):
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert [g != 0 for g in gradient.flatten().tolist()] == [False, True, False]


@pytest.mark.parametrize("name", [case.name for case in numerics.cases()])
def test_activation_checkpointing(name: str) -> None:
    """Saved tensors computed again in the backward pass, which may ask for them once."""
    case = next(case for case in numerics.cases(size=4, channels=3) if case.name == name)
    tensors = [t.requires_grad_() for t in numerics.sample(case, F64, "NCHW")]
    expected = torch.autograd.grad(case.ours(*tensors).square().sum(), tensors)
    y = checkpoint(case.ours, *tensors, use_reentrant=False)
    for got, wanted in zip(torch.autograd.grad(y.square().sum(), tensors), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_relu_of_minus_infinity_is_zero() -> None:
    x, w, s = torch.full((1, 1, 1, 2), -6e4).half(), torch.full((1, 1, 1, 1), 2.0), torch.ones(1, 1)
    y = ops.styled_conv2d(x, w, s, act="relu", clamp=256, demodulate=False)
    assert torch.equal(y, torch.zeros_like(y))


def test_slopes_are_exact_in_float64() -> None:
    x = torch.full((1, 1, 1, 1), -1.0, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(ops.filtered_lrelu(x, gain=1.5, slope=0.4).sum(), x)
    assert gradient.item() == 1.5 * 0.4
    (gradient,) = torch.autograd.grad(ops.bias_act(x, act="lrelu", alpha=-0.3, gain=1).sum(), x)
    assert gradient.item() == -0.3


def test_autocast_reaches_the_convolution_and_leaves_the_rest() -> None:
    x, w, s, f = torch.randn(1, 3, 4, 4), torch.randn(4, 3, 3, 3), torch.randn(1, 3), networks.taps()
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.styled_conv2d(x, w, s, up=2).dtype == torch.bfloat16
        assert ops.conv2d_resample(x, w, f, down=2, padding=1).dtype == torch.bfloat16
        assert torch.equal(ops.upfirdn2d(x, f), ops.upfirdn2d(x, f).float())
        leafy = x.clone().requires_grad_()
        (inside,) = torch.autograd.grad(ops.upfirdn2d(leafy, f, padding=2).square().sum(), leafy)
    (outside,) = torch.autograd.grad(ops.upfirdn2d(leafy, f, padding=2).square().sum(), leafy)
    torch.testing.assert_close(inside, outside)

"""Augmentation against exact moves of pixels and against formulas written out apart from the package."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import ndtr, ndtri
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from idgan_fast.training.augmentation import (
    CENTROID,
    COLUMNS,
    NUMBERS,
    SYM6,
    AdaptiveProbability,
    augment,
    random_numbers,
)

HALF = torch.tensor(0.5)
OFF = 1 - 2**-24
GATES = [column for column in COLUMNS if column.startswith("use_")]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=2, c=3, side=32, seed=0, dtype=torch.float32):
    return torch.rand(n, c, side, side, generator=rng(seed), dtype=dtype) * 2 - 1


def numbers_for(n=1, **columns):
    """No transformation but those whose values are given; for p = 1/2."""
    numbers = torch.full((n, NUMBERS), 0.5, dtype=torch.float64)
    numbers[:, [COLUMNS.index(gate) for gate in GATES]] = OFF
    for name, value in columns.items():
        numbers[:, COLUMNS.index(name)] = value
        numbers[:, COLUMNS.index("use_" + name.removesuffix("_x").removesuffix("_y"))] = 0
    return numbers


def shift_of(pixels, side):
    return (pixels / (0.125 * side) + 1) / 2


def through_the_filters(numbers):
    """Resamples pictures even where they could be copied, by a scale of almost 1."""
    numbers = numbers.clone()
    numbers[:, COLUMNS.index("use_scale")], numbers[:, COLUMNS.index("scale")] = 0, 0.5 + 2**-22
    return numbers


EXACT = {
    "flip": ({"flip": 0.7}, lambda x: x.flip(3)),
    "no flip": ({"flip": 0.3}, lambda x: x),
    "turn 0": ({"turn": 0.1}, lambda x: x),
    "turn 1": ({"turn": 0.3}, lambda x: x.rot90(1, (2, 3))),
    "turn 2": ({"turn": 0.6}, lambda x: x.rot90(2, (2, 3))),
    "turn 3": ({"turn": 0.9}, lambda x: x.rot90(3, (2, 3))),
    "shift": ({"shift_x": shift_of(3, 32), "shift_y": shift_of(-2, 32)}, lambda x: x.roll((3, -2), (3, 2))),
    "shift by less than half a pixel": ({"shift_x": shift_of(0.4, 32), "shift_y": shift_of(-0.4, 32)}, lambda x: x),
    "flip, turn, shift": (
        {"flip": 0.7, "turn": 0.3, "shift_x": shift_of(4, 32), "shift_y": shift_of(1, 32)},
        lambda x: x.flip(3).rot90(1, (2, 3)).roll((4, 1), (3, 2)),
    ),
}


def test_sym6_has_its_defining_properties():
    h, n = np.array(SYM6), np.arange(12.0)
    assert h.sum() == pytest.approx(math.sqrt(2), abs=1e-12)
    for shift in range(6):
        assert h[2 * shift :] @ h[: 12 - 2 * shift] == pytest.approx(float(shift == 0), abs=1e-11)
    for moment in range(6):
        assert ((-1) ** n * (n - 5) ** moment) @ h == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_nothing_changes_at_p_0(dtype, c):
    x = pictures(5, c, 13).to(dtype)
    actual = augment(x, random_numbers(5, rng(), "cpu"), torch.tensor(0.0))
    assert actual.dtype == dtype
    assert actual.equal(x)


@pytest.mark.parametrize("name", EXACT)
def test_blits_move_pixels_exactly(name):
    columns, move = EXACT[name]
    x = pictures()
    actual, expected = augment(x, numbers_for(2, **columns), HALF), move(x)
    assert actual[:, :, 4:-4, 4:-4].equal(expected[:, :, 4:-4, 4:-4])
    if "shift" not in name:
        assert actual.equal(expected)


def test_what_a_blit_brings_in_is_a_mirror_image():
    x = pictures(1, 1)
    actual = augment(x, numbers_for(shift_x=shift_of(3, 32)), HALF)
    assert actual.equal(torch.cat((x[..., :3].flip(3), x[..., :-3]), 3))


@pytest.mark.parametrize("side", [32, 33])
def test_the_filters_reconstruct_noise(side):
    """Up and back by whole pixels is orthogonal."""
    x, inner = pictures(side=side), (..., slice(7, -7), slice(7, -7))
    for numbers, move in (
        (numbers_for(2), (0, 0)),
        (numbers_for(2, shift_x=shift_of(3, side), shift_y=shift_of(-2, side)), (3, -2)),
    ):
        actual = augment(x, through_the_filters(numbers), HALF)
        assert not actual.equal(augment(x, numbers, HALF))
        torch.testing.assert_close(actual[inner], x.roll(move, (3, 2))[inner], rtol=0, atol=2e-4)


def linear(angle=0.0, x=1.0, y=1.0):
    """Scale by x and y, then turn counterclockwise, with y down."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin], [-sin, cos]]) @ np.diag([x, y])


MAPS = {
    "flip": ({"flip": 0.7}, linear(x=-1), (0, 0)),
    "turn": ({"turn": 0.3}, linear(math.pi / 2), (0, 0)),
    "shrink": ({"scale": 0.2}, linear(0, *[2 ** (0.2 * ndtri(0.2))] * 2), (0, 0)),
    "grow": ({"scale": 0.9}, linear(0, *[2 ** (0.2 * ndtri(0.9))] * 2), (0, 0)),
    "rotate": ({"rotate": 0.6}, linear(0.2 * math.pi), (0, 0)),
    "rotate far": ({"rotate": 0.05}, linear(-0.9 * math.pi), (0, 0)),
    "stretch": ({"stretch": 0.8}, linear(0, 2 ** (0.2 * ndtri(0.8)), 2 ** (-0.2 * ndtri(0.8))), (0, 0)),
    "move": ({"move_x": 0.55, "move_y": 0.47}, np.eye(2), (0.125 * ndtri(0.55), 0.125 * ndtri(0.47))),
    "in order": (
        {"flip": 0.9, "turn": 0.8, "shift_x": 0.7, "shift_y": 0.4, "scale": 0.7, "rotate": 0.3, "stretch": 0.75}
        | {"rotate_again": 0.9, "move_x": 0.45, "move_y": 0.56},
        None,
        (0.125 * ndtri(0.45), 0.125 * ndtri(0.56)),
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_smooth_picture_moves_as_its_formula_does(name):
    """f(q) becomes f(A^-1 (q - t)), places q being counted from the middle of the picture."""
    side, (columns, a, t) = 64, MAPS[name]
    t = np.array(t) * side
    if a is None:
        a = linear(0.8 * math.pi) @ linear(0, 2 ** (0.2 * ndtri(0.75)), 2 ** (-0.2 * ndtri(0.75)))
        a = a @ linear(-0.4 * math.pi) * 2 ** (0.2 * ndtri(0.7))
        t = t + a @ np.round(np.array([0.4, -0.2]) * 0.125 * side)
        a = a @ linear(3 * math.pi / 2) @ linear(x=-1)

    def picture(x, y):
        return 0.5 * np.sin(2 * math.pi * (x / 40 + y / 70) + 0.3) + 0.3 * np.cos(2 * math.pi * (x / 90 - y / 36))

    places = np.arange(side) - (side - 1) / 2
    down, across = np.meshgrid(places, places, indexing="ij")
    source = np.einsum("ij,jyx->iyx", np.linalg.inv(a), np.stack([across - t[0], down - t[1]]))
    inside = (np.abs(source) < side / 2 - 4).all(0) & (np.abs([across, down]) < side / 2 - 4).all(0)
    assert inside.mean() > 0.3
    x = torch.tensor(picture(across, down))[None, None]
    numbers = numbers_for(**columns)
    if "scale" not in columns:
        numbers = through_the_filters(numbers)
    actual = augment(x, numbers, HALF)[0, 0].numpy()
    assert np.abs(actual - picture(*source))[inside].max() < 2e-3


def test_beyond_the_edges_are_mirror_images():
    x, move = F.interpolate(pictures(1, 1, 6), (24, 24), mode="bicubic").double(), 0.125 * 24 * ndtri(0.9)
    tiled = torch.cat((x.flip(3), x, x.flip(3)), 3)
    tiled = torch.cat((tiled.flip(2), tiled, tiled.flip(2)), 2)
    shrink = {"scale": 2e-7}  # to a half, so that the picture shows twice
    actual = augment(x, numbers_for(**shrink, move_x=0.9), HALF)
    expected = augment(tiled, numbers_for(**shrink, move_x=ndtr(move / 0.125 / 72)), HALF)[:, :, 24:-24, 24:-24]
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.02)


def color_matrix(b, c, flip, hue, s):
    """[4, 4], composed one by one in the paper's order."""
    v = np.array([1, 1, 1, 0]) / math.sqrt(3)
    along = np.outer(v, v)
    brightness, contrast, turn = np.eye(4), np.diag([c, c, c, 1]), np.eye(4)
    brightness[:3, 3] = b
    turn[:3, :3] = Rotation.from_rotvec(hue * v[:3]).as_matrix()
    saturation = along + (np.eye(4) - along) * s
    return saturation @ turn @ (np.eye(4) - 2 * along * flip) @ contrast @ brightness


COLORS = {
    "brightness": {"brightness": 0.8},
    "contrast": {"contrast": 0.2},
    "luma flip": {"luma_flip": 0.6},
    "no luma flip": {"luma_flip": 0.4},
    "hue": {"hue": 0.7},
    "saturation": {"saturation": 0.7},
    "all": {"brightness": 0.3, "contrast": 0.9, "luma_flip": 0.8, "hue": 0.1, "saturation": 0.2},
}


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("name", COLORS)
def test_color_is_the_product_of_its_matrices(name, c):
    get = COLORS[name].get
    matrix = color_matrix(
        0.2 * ndtri(get("brightness", 0.5)),
        2 ** (0.5 * ndtri(get("contrast", 0.5))),
        get("luma_flip", 0) >= 0.5,
        math.pi * (2 * get("hue", 0.5) - 1),
        2 ** ndtri(get("saturation", 0.5)),
    )
    x = pictures(2, c, 8, dtype=torch.float64)
    colors = np.concatenate([np.broadcast_to(x.numpy(), (2, 3, 8, 8)), np.ones((2, 1, 8, 8))], 1)
    expected = np.einsum("ij,njyx->niyx", matrix, colors)[:, :c]  # gray stays gray
    np.testing.assert_allclose(augment(x, numbers_for(2, **COLORS[name]), HALF), expected, atol=1e-6)


@pytest.mark.parametrize("c", [1, 3])
def test_gradient(c):
    x, numbers = pictures(4, c, 8, dtype=torch.float64), random_numbers(4, rng(2), "cpu")
    numbers[0, [COLUMNS.index(gate) for gate in GATES[3:8]]] = 1.0  # a copied one
    function = partial(augment, numbers=numbers, p=torch.tensor(0.8))
    assert torch.autograd.gradcheck(function, x.requires_grad_(), fast_mode=True)


# at p: the part of the pictures that the transformation alone changes (pictures of 8 pixels a side, so that a shift
# is at most one pixel, and none at all for a quarter of them)
CHANGED = {
    "use_flip": lambda p: p / 2,
    "use_turn": lambda p: p * 3 / 4,
    "use_shift": lambda p: p * 3 / 4,
    "use_luma_flip": lambda p: p / 2,
    "use_rotate": lambda p: 1 - math.sqrt(1 - p),
    "use_rotate_again": lambda p: 1 - math.sqrt(1 - p),
}


@pytest.mark.parametrize("gate", GATES)
def test_how_often_each_transformation_acts(gate):
    n, p = 2000, 0.3
    x = pictures(1, 3, 8).expand(n, -1, -1, -1)
    numbers = random_numbers(n, rng(3), "cpu")
    numbers[:, [COLUMNS.index(other) for other in GATES if other != gate]] = OFF
    changed = ((augment(x, numbers, torch.tensor(p)) - x).abs().amax((1, 2, 3)) > 1e-5).double().mean().item()
    expected = CHANGED.get(gate, lambda p: p)(p)
    assert abs(changed - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_uniforms_of_0_and_almost_1_give_finite_pictures():
    for value in (0.0, OFF):
        assert augment(pictures(2), torch.full((2, NUMBERS), value), torch.tensor(1.0)).isfinite().all()


def test_half_types_are_computed_in_float32():
    x, numbers, p = pictures(4, side=16).bfloat16(), random_numbers(4, rng(4), "cpu"), torch.tensor(0.9)
    expected = augment(x.float(), numbers, p)
    assert augment(x, numbers, p).equal(expected.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert augment(x.float(), numbers, p).equal(expected)


def test_one_graph_serves_every_p():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(augment, fullgraph=True, backend=counter)
    x = pictures(4, side=16)
    for seed, p in enumerate((0.0, 0.4, 1.0)):
        numbers, p = random_numbers(4, rng(seed), "cpu"), torch.tensor(p)
        actual, expected = [x.clone().requires_grad_() for _ in range(2)]
        for function, x_in in ((compiled, actual), (augment, expected)):
            y = function(x_in, numbers, p)
            y.square().sum().backward()
            x_in.y = y
        torch.testing.assert_close(actual.y, expected.y, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


def test_it_runs_on_fake_tensors():
    with FakeTensorMode():
        y = augment(torch.empty(2, 3, 16, 16, requires_grad=True), torch.empty(2, NUMBERS), torch.empty(()))
        y.sum().backward()
    assert y.shape == (2, 3, 16, 16)


def test_draw_is_uniform_and_repeats():
    numbers = random_numbers(500, rng(5), "cpu")
    assert numbers.shape == (500, NUMBERS)
    assert numbers.dtype == torch.float32
    assert 0 <= numbers.min() < numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.01)
    assert numbers.equal(random_numbers(500, rng(5), "cpu"))


@pytest.mark.parametrize(
    ("x", "n"), [((2, 2, 8, 8), 2), ((2, 3, 8, 9), 2), ((3, 8, 8), 3), ((2, 3, 2, 2), 2), ((2, 3, 8, 8), 3)]
)
def test_wrong_shapes_are_refused(x, n):
    with pytest.raises(ValueError, match=r"^augment: "):
        augment(torch.zeros(x), torch.zeros(n, NUMBERS), HALF)


def test_p_goes_up_and_down_by_the_images_seen():
    ada = AdaptiveProbability(0.5)
    p = ada.p
    ada.observe(torch.tensor([3.0, 0.1, 2.0, 1.0, -9.0]))  # 3/5
    ada.observe(torch.tensor([[4.0], [1e-9], [2.0]]))  # 6/8 in all, which is above 0.6
    ada.adjust(1000)
    assert p.item() == pytest.approx(0.502)
    ada.observe(torch.tensor([1.0, 1.0, 1.0, -1.0]))  # 1/2; what came before is gone
    ada.adjust(4000, speed_images=100_000)
    assert p.item() == pytest.approx(0.462)
    ada.observe(torch.tensor([1.0, 1.0, 1.0, -1.0]))
    ada.adjust(1000, target=0.4)
    assert p.item() == pytest.approx(0.464)
    ada.observe(torch.tensor([1.0, 0.0]))  # 1/2 is the target; a logit of 0 counts
    ada.adjust(1000, target=0.5)
    ada.adjust(1000)  # nothing observed
    assert p.item() == pytest.approx(0.464)
    assert ada.p is p


@pytest.mark.parametrize(("logit", "bound"), [(1.0, 1.0), (-1.0, 0.0)])
def test_p_stays_in_0_to_1(logit, bound):
    ada = AdaptiveProbability(0.5)
    for _ in range(3):
        ada.observe(torch.full((4,), logit, requires_grad=True))
        ada.adjust(200_000)
    assert ada.p.item() == bound


def test_adaptation_compiles_to_one_graph():
    ada = AdaptiveProbability(0.5)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(logits):
        ada.observe(logits)
        ada.adjust(1000)

    pointer = ada.p.data_ptr()
    for logit in (1.0, 1.0, -1.0):
        step(torch.full((4,), logit))
    assert ada.p.item() == pytest.approx(0.502)
    assert ada.p.data_ptr() == pointer


def test_state_goes_through_a_dictionary():
    ada, other = AdaptiveProbability(0.3), AdaptiveProbability()
    ada.observe(torch.tensor([1.0, -1.0, -1.0]))
    state, p = ada.state_dict(), other.p
    ada.adjust(1000)  # the dictionary keeps copies
    other.load_state_dict(state)
    assert p.item() == pytest.approx(0.3)
    other.adjust(1000)
    assert p.item() == pytest.approx(0.298)
    assert other.p is p
    with pytest.raises(KeyError):
        other.load_state_dict({"p": p})


def test_the_centroid_is_that_of_sym6():
    assert pytest.approx(np.arange(12) @ np.array(SYM6) / math.sqrt(2)) == CENTROID

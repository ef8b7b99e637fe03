"""A wrong argument is a TypeError or a ValueError of one line that begins with the function's name."""

from typing import Any

import pytest
import torch
from torch import Tensor

from idgan_fast import ops

LAYERS = ["modulated_conv2d", "styled_conv2d", "chained_styled_conv2d"]
RESAMPLERS = ["upfirdn2d", "filter2d", "upsample2d", "downsample2d"]


def image(*shape: int) -> Tensor:
    return torch.ones(shape or (2, 3, 6, 5))


def message(name: str, *args: Any, **kwargs: Any) -> str:
    """The text of the error that a call of this operator raises."""
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: \S") as caught:
        getattr(ops, name)(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def arguments(name: str, x: Tensor) -> tuple[Any, ...]:
    """A right call, but for x."""
    if name == "conv2d_resample":
        return x, image(4, 3, 3, 3)
    if name in LAYERS:
        return x, image(4, 3, 3, 3), image(2, 3)
    return (x, None) if name in RESAMPLERS else (x,)


FOUR_DIMENSIONS = [*RESAMPLERS, "conv2d_resample", *LAYERS, "filtered_lrelu"]
PADDED = [*RESAMPLERS, "conv2d_resample", "modulated_conv2d", "filtered_lrelu"]


@pytest.mark.parametrize("name", [*FOUR_DIMENSIONS, "bias_act"])
def test_the_right_call(name: str) -> None:
    getattr(ops, name)(*arguments(name, image()))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
@pytest.mark.parametrize("name", [*FOUR_DIMENSIONS, "bias_act"])
def test_x_is_not_floating(name: str, dtype: torch.dtype) -> None:
    assert str(dtype).removeprefix("torch.") in message(name, *arguments(name, image().to(dtype)))


@pytest.mark.parametrize("name", [*FOUR_DIMENSIONS, "bias_act"])
def test_x_is_not_a_tensor(name: str) -> None:
    message(name, *arguments(name, [[1.0]]))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 6, 5), (2, 3, 6, 5, 1)])
@pytest.mark.parametrize("name", FOUR_DIMENSIONS)
def test_x_of_wrong_dimensions(name: str, shape: tuple[int, ...]) -> None:
    assert str(shape) in message(name, *arguments(name, image(*shape)))


@pytest.mark.parametrize("name", [*FOUR_DIMENSIONS, "bias_act"])
def test_unknown_impl(name: str) -> None:
    assert "fastest" in message(name, *arguments(name, image()), impl="fastest")


@pytest.mark.parametrize("act", ["lreluu", "LRELU", "", None])
def test_unknown_act(act: Any) -> None:
    text = message("bias_act", image(), act=act)
    assert repr(act) in text
    assert act in ("", None) or "lrelu" in text.replace(repr(act), "")


@pytest.mark.parametrize("b", [image(4), image(1), image(3, 1), image(1, 3), torch.tensor(1.0), image(0)])
def test_bias_of_wrong_shape(b: Tensor) -> None:
    assert str(tuple(b.shape)) in message("bias_act", image(), b)
    message("filtered_lrelu", image(), b=b)


def test_bias_along_another_dimension() -> None:
    message("bias_act", image(), image(3), dim=2)


@pytest.mark.parametrize("dim", [4, 100, -5])
def test_dim_out_of_range(dim: int) -> None:
    assert str(dim) in message("bias_act", image(), image(3), dim=dim)


@pytest.mark.parametrize("padding", [[], [1], [1, 1, 1], [1, 1, 1, 1, 1], [0.5, 1], 0.5, "1", None])
@pytest.mark.parametrize("name", PADDED)
def test_bad_padding(name: str, padding: Any) -> None:
    assert "padding" in message(name, *arguments(name, image()), padding=padding)


@pytest.mark.parametrize("factor", [0, -1, 1.5, None, [0, 1], [1, 0], [], [2], [1, 1, 1], [1.5, 1]])
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *[("upfirdn2d", "up"), ("upfirdn2d", "down"), ("upsample2d", "up"), ("downsample2d", "down")],
        *[("filtered_lrelu", "up"), ("filtered_lrelu", "down")],
        *[("conv2d_resample", "up"), ("conv2d_resample", "down")],
        *[("modulated_conv2d", "up"), ("modulated_conv2d", "down")],
    ],
)
def test_bad_factor(name: str, argument: str, factor: Any) -> None:
    assert argument in message(name, *arguments(name, image()), **{argument: factor})


@pytest.mark.parametrize("name", ["conv2d_resample", "modulated_conv2d"])
@pytest.mark.parametrize("argument", ["up", "down"])
def test_a_factor_of_two_numbers(name: str, argument: str) -> None:
    message(name, *arguments(name, image()), **{argument: [2, 2]})


@pytest.mark.parametrize("padding", [-3, [0, -5], [-5, 0, 0, 0], [0, 0, -3, -3]])
def test_no_pixel_is_left(padding: Any) -> None:
    for name in ["upfirdn2d", "filtered_lrelu"]:
        message(name, *arguments(name, image()), padding=padding)


@pytest.mark.parametrize("name", PADDED)
def test_nothing_is_left(name: str) -> None:
    message(name, *arguments(name, image()), padding=-50)


@pytest.mark.parametrize("name", ["upfirdn2d", "filtered_lrelu"])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (7, 1)])
def test_a_filter_larger_than_the_image(name: str, shape: tuple[int, ...]) -> None:
    message(name, image(), image(*shape))


def test_a_kernel_larger_than_the_image() -> None:
    message("conv2d_resample", image(), image(4, 3, 7, 3))
    message("modulated_conv2d", image(), image(4, 3, 7, 3), image(2, 3))


BAD_FILTERS = {
    "three dimensions": image(3, 3, 3),
    "no dimensions": torch.tensor(1.0),
    "no taps": image(0),
    "float64": image(4).double(),
    "float16": image(4).half(),
    "integers": image(4).long(),
    "gradient": image(4).requires_grad_(),
    "list": [1.0, 2.0],
}


@pytest.mark.parametrize("case", BAD_FILTERS)
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *[(name, "f") for name in RESAMPLERS],
        *[("conv2d_resample", "f"), ("modulated_conv2d", "resample_filter")],
        *[("filtered_lrelu", "fu"), ("filtered_lrelu", "fd")],
    ],
)
def test_bad_filter(name: str, argument: str, case: str) -> None:
    args = (image(),) if name in RESAMPLERS else arguments(name, image())
    more = {} if name in RESAMPLERS or name == "filtered_lrelu" else {"up": 2}
    assert f"{argument} " in message(name, *args, **more, **{argument: BAD_FILTERS[case]})


def test_the_message_says_what_it_got() -> None:
    text = message("upfirdn2d", image(), image(3, 3, 3))
    assert "f must be" in text
    assert "(3, 3, 3)" in text


@pytest.mark.parametrize("shape", [(4, 2, 3, 3), (4, 6, 3, 3), (4, 1, 3, 3), (4, 3, 3), (3,), (4, 3, 3, 3, 1)])
def test_weight_that_does_not_match(shape: tuple[int, ...]) -> None:
    assert str(shape) in message("conv2d_resample", image(), image(*shape))
    assert str(shape) in message("modulated_conv2d", image(), image(*shape), image(2, 3))


@pytest.mark.parametrize(
    ("channels", "shape", "groups"),
    [(4, (4, 4, 3, 3), 2), (4, (3, 2, 3, 3), 2), (3, (4, 1, 3, 3), 2), (3, (4, 3, 3, 3), 0), (3, (4, 3, 3, 3), -1)],
)
def test_groups_that_do_not_match(channels: int, shape: tuple[int, ...], groups: int) -> None:
    message("conv2d_resample", image(2, channels, 6, 5), image(*shape), groups=groups)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(2, 4), (1, 3), (3, 3), (3,), (2, 3, 1), (2, 3, 1, 1), (6,), ()])
def test_styles_of_wrong_shape(shape: tuple[int, ...], name: str) -> None:
    text = message(name, image(), image(4, 3, 3, 3), torch.ones(shape))
    assert "styles" in text
    assert str(shape) in text


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(3, 3), (2, 1, 6, 6), (2, 4, 6, 5), (3, 1, 6, 5), (2, 6, 5), (5,)])
def test_noise_of_wrong_shape(shape: tuple[int, ...], name: str) -> None:
    padding = {"padding": 1} if name == "modulated_conv2d" else {}
    assert "noise" in message(name, image(), image(4, 3, 3, 3), image(2, 3), torch.ones(shape), **padding)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"next_styles": torch.ones(2, 3)}, "next_styles"),
        ({"next_styles": torch.ones(4)}, "next_styles"),
        ({"next_styles": torch.ones(2, 4, dtype=torch.int32)}, "next_styles"),
        ({"noise_strength": torch.ones(())}, "noise_strength"),
        ({"noise": torch.ones(6, 5), "noise_strength": torch.ones(2)}, "noise_strength"),
        ({"bias": torch.ones(3)}, "bias must have shape (4,)"),
        ({"up": 2, "resample_filter": torch.ones(4).double()}, "resample_filter"),
        ({"act": "mish"}, "mish"),
        ({"clamp": -1}, "clamp"),
        ({"up": 0}, "up"),
    ],
)
def test_wrong_arguments_of_a_chained_layer(given: dict[str, Any], word: str) -> None:
    assert word in message("chained_styled_conv2d", image(), image(4, 3, 3, 3), image(2, 3), **given)

"""Wrong arguments that operators share. Each is an error of one line that begins with the function's name.

A case is a pytest parameter (wrong, word): arguments in place of the right ones, and a word that the line must hold.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor


def image(*shape: int) -> Tensor:
    return torch.ones(shape or (2, 3, 6, 5))


def refused(operator: Callable[..., Any], right: dict[str, Any], wrong: dict[str, Any], word: str) -> None:
    """One line that begins with the function's name and holds the word; with the right arguments there is no error."""
    operator(**right)
    with pytest.raises((TypeError, ValueError), match=rf"^{operator.__name__}: \S") as caught:
        operator(**right | wrong)
    text = str(caught.value)
    assert "\n" not in text
    assert word in text


def wrong(argument: str, values: Any, **more: Any) -> list[Any]:
    """Wrong values of an argument, which the line must name; more: further arguments."""
    return [pytest.param({argument: value, **more}, argument, id=f"{argument} {value}") for value in values]


def wrong_shapes(argument: str, *shapes: tuple[int, ...]) -> list[Any]:
    """Tensors of wrong shapes, which the line must name."""
    return [pytest.param({argument: torch.ones(shape)}, str(shape), id=f"{argument} {shape}") for shape in shapes]


def too_large(argument: str, *shapes: tuple[int, ...]) -> list[Any]:
    """Filters and weights that are larger than the image, which the line need not name."""
    return [pytest.param({argument: torch.ones(shape)}, "", id=f"large {argument} {shape}") for shape in shapes]


NOT_FLOATING = [torch.int64, torch.uint8, torch.bool, torch.complex64]
WRONG_TENSORS = [
    *[pytest.param({"x": image().to(t)}, str(t).removeprefix("torch."), id=f"x {t}") for t in NOT_FLOATING],
    pytest.param({"x": [[1.0]]}, "x must be a tensor", id="x list"),
    pytest.param({"impl": "fastest"}, "fastest", id="impl"),
]
WRONG_IMAGES = [*WRONG_TENSORS, *wrong_shapes("x", (3,), (2, 3), (3, 6, 5), (2, 3, 6, 5, 1))]
WRONG_PADDINGS = wrong("padding", [[], [1], [1, 1, 1], [1, 1, 1, 1, 1], [0.5, 1], 0.5, "1", None])
NOTHING_LEFT = pytest.param({"padding": -50}, "", id="nothing is left")
TOO_SMALL = [
    NOTHING_LEFT,
    *[pytest.param({"padding": pad}, "", id=f"padding {pad}") for pad in (-3, [0, -5], [-5, 0, 0, 0], [0, 0, -3, -3])],
]
OTHER_WEIGHTS = [(4, 2, 3, 3), (4, 6, 3, 3), (4, 1, 3, 3), (4, 3, 3), (3,), (4, 3, 3, 3, 1)]
WRONG_STYLES = wrong_shapes("styles", (2, 4), (1, 3), (3, 3), (3,), (2, 3, 1), (2, 3, 1, 1), (6,), ())
WRONG_LAYERS = [
    pytest.param(wrong, word, id=what)
    for what, wrong, word in [
        ("next_styles of two sizes", {"next_styles": torch.ones(2, 3)}, "next_styles"),
        ("next_styles of one axis", {"next_styles": torch.ones(4)}, "next_styles"),
        ("next_styles of integers", {"next_styles": torch.ones(2, 4, dtype=torch.int32)}, "next_styles"),
        ("strength of no noise", {"noise_strength": torch.ones(())}, "noise_strength"),
        ("two strengths", {"noise": torch.ones(6, 5), "noise_strength": torch.ones(2)}, "noise_strength"),
        ("bias", {"bias": torch.ones(3)}, "bias must have shape (4,)"),
        ("filter", {"up": 2, "resample_filter": torch.ones(4).double()}, "resample_filter"),
        ("act", {"act": "mish"}, "mish"),
        ("clamp", {"clamp": -1}, "clamp"),
        ("up", {"up": 0}, "up"),
    ]
]


def wrong_noises(**more: Any) -> list[Any]:
    shapes = [(3, 3), (2, 1, 6, 6), (2, 4, 6, 5), (3, 1, 6, 5), (2, 6, 5), (5,)]
    return [pytest.param({"noise": torch.ones(shape), **more}, "noise", id=f"noise {shape}") for shape in shapes]


def wrong_factors(*arguments: str, pairs: bool = True) -> list[Any]:
    """pairs: whether [x, y] is right."""
    values = [0, -1, 1.5, None, [0, 1], [1, 0], [], [2], [1, 1, 1], [1.5, 1], *([] if pairs else [[2, 2]])]
    return [one for argument in arguments for one in wrong(argument, values)]


def wrong_filters(*arguments: str, **more: Any) -> list[Any]:
    """more: what makes the operator use the filter."""
    filters = {
        "of three dimensions": image(3, 3, 3),
        "without dimensions": torch.tensor(1.0),
        "without taps": image(0),
        "float64": image(4).double(),
        "of integers": image(4).long(),
        "with a gradient": image(4).requires_grad_(),
        "list": [1.0, 2.0],
    }
    return [
        pytest.param({argument: f, **more}, f"{argument} ", id=f"{argument} {what}")
        for argument in arguments
        for what, f in filters.items()
    ]

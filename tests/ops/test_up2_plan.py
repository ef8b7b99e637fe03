"""The rule that chooses the form of a layer with up=2: its times by hand, its limits, and that it needs no torch."""

import ast
import sys
from pathlib import Path

import pytest

from idgan_fast.ops.layer import up2_plan
from idgan_fast.ops.layer.up2_plan import composite, composite_is_faster, seconds, two_kernels

LAST = (4, 64, 32, 512, 512, 2)  # 512 -> 1024 at batch 4, half type
A100 = {"peak": 312e12, "bandwidth": 2039e9}
H100 = {"peak": 989e12, "bandwidth": 3350e9}


def test_times_by_hand() -> None:
    n, c_in, c_out, h, w, element = 2, 3, 5, 7, 11, 4
    x, weight, y = n * c_in * h * w, 9 * c_in * c_out, n * c_out * 14 * 22
    between = n * c_out * 15 * 23
    ending = n * 14 * 22 + c_out + n * c_out + y  # noise, bias, coefficients, output
    first, second = two_kernels(n, c_in, c_out, h, w, element)
    assert first.flops == 2 * 9 * n * h * w * c_in * c_out
    assert first.bytes == 4 * (x + weight + n * c_in + between)
    assert second.bytes == 4 * (between + ending)
    compose, one = composite(n, c_in, c_out, h, w, element)
    assert compose.bytes == 4 * 5 * weight
    assert one.flops == 4 * first.flops
    assert one.bytes == 4 * (x + 4 * weight + n * c_in + ending)


def test_kernels_follow_each_other() -> None:
    kernels = [up2_plan.Kernel("a", 100, 10), up2_plan.Kernel("b", 10, 100)]
    assert seconds(kernels, peak=10, bandwidth=5) == 10 + 20


def test_arithmetic_decides() -> None:
    """The last layer of 1024x1024: an H100 saves the image between the kernels by arithmetic, an A100 does not."""
    assert composite_is_faster(*LAST, **H100)
    assert not composite_is_faster(*LAST, **A100)
    assert not composite_is_faster(4, 256, 128, 128, 128, 2, **H100)  # more channels


def test_limits() -> None:
    assert composite_is_faster(*LAST, peak=1e30, bandwidth=1e12)
    assert not composite_is_faster(*LAST, peak=1e12, bandwidth=1e30)
    small = (1, 512, 512, 4, 4, 2)  # nearly all weight
    assert not composite_is_faster(*small, peak=1e30, bandwidth=1e12)


@pytest.mark.parametrize("name", ["n", "element", "peak", "bandwidth"])
def test_what_is_not_positive_is_named(name: str) -> None:
    sizes = dict(zip(("n", "c_in", "c_out", "height", "width", "element"), LAST, strict=True))
    with pytest.raises(ValueError, match=rf"^composite_is_faster: {name} must be positive, got 0$"):
        composite_is_faster(**{**sizes, **H100, name: 0})


def test_the_rule_imports_the_standard_library_alone() -> None:
    tree = ast.parse(Path(up2_plan.__file__).read_text())
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {str(name).split(".")[0] for name in froms | plain} <= sys.stdlib_module_names

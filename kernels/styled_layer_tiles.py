"""The tiles of the implicit GEMMs: a table by architecture that works at once, or what was measured on this GPU.

A tile has BLOCK_M pixels (of the gradient by the weight: input channels of its first operand), BLOCK_O (BLOCK_N)
numbers of each, and goes through the sum in steps of BLOCK_K.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import triton

from idgan_fast.kernels import _common
from idgan_fast.kernels.styled_layer_measurements import measurements
from idgan_fast.ops.layer.conv_plan import COMPOSITE, TRANSPOSED

MIN_PROGRAMS = 128  # about one for each multiprocessor of an A100 or H100; below, tiles get narrower
WEIGHT_GRAD_PROGRAMS = 264  # that its sum over pixels is split into

Result = TypeVar("Result")


class Limits(NamedTuple):
    """The largest tile of an architecture: m x n numbers of the result, steps of `k_bytes` along the sum."""

    m: int
    n: int
    k_bytes: int
    warps: int
    stages: int


# Compiled for all of them without a spill (docs/triton-report.md), measured on none.
LARGEST = {
    "sm_80": Limits(128, 128, 64, 8, 3),
    "sm_90": Limits(128, 128, 128, 8, 3),
    "sm_100": Limits(128, 128, 128, 8, 3),
    "sm_120": Limits(128, 128, 64, 8, 3),  # and the others of 100 KiB of shared memory: sm_86, sm_89
    "gfx942": Limits(128, 128, 64, 4, 2),  # warps of 64 threads, 64 KiB
}


class Shape(NamedTuple):
    """What a tile is chosen for. kernel: fwd, fwd styled, dgrad or wgrad; pixels: of the grid of one sample."""

    kernel: str
    form: str
    k: int
    n: int
    c_in: int
    c_out: int
    pixels: int
    dtype: torch.dtype
    precision: str = "ieee"

    @property
    def key(self) -> str:
        return " ".join(str(part).removeprefix("torch.") for part in self)


def tile_of(shape: Shape, device: torch.device) -> dict[str, Any]:
    """What the launcher passes to the kernel of this shape."""
    tile = measurements(device).get(shape.key)
    return tile if isinstance(tile, dict) else default_tile(shape, device)


def with_tile(shape: Shape, device: torch.device, launch: Callable[[dict[str, Any]], Result]) -> Result:
    """What `launch` gives with the shape's tile; where that asks for more than the GPU has, with the table's.

    A measured tile may: the optional parts of an epilogue, which no shape tells, take registers and memory too.
    """
    tile = tile_of(shape, device)
    try:
        return launch(tile)
    except triton.OutOfResources:
        table = default_tile(shape, device)
        if tile == table:
            raise
        measurements(device)[shape.key] = table
        return launch(table)


def default_tile(shape: Shape, device: torch.device) -> dict[str, Any]:
    """The table's."""
    largest = LARGEST[_common.architecture(device)]
    return _wgrad(shape, largest) if shape.kernel == "wgrad" else _fwd(shape, largest)


def _fwd(shape: Shape, largest: Limits) -> dict[str, Any]:
    composite, transposed = shape.form == COMPOSITE, shape.form == TRANSPOSED
    o = within(shape.c_out, largest.n)
    # Three products hold more operands, in registers where the units of Hopper and later read shared memory.
    thrice = shape.precision == "tf32x3" and largest.k_bytes == 64
    m = within(shape.pixels, largest.m // 2 if thrice or o == 16 else largest.m)
    phases = min(4, largest.n // o) if composite else 1
    groups = 4 if composite or transposed else 1
    while o > 32 and programs(shape.n, shape.pixels, m, shape.c_out, o) * groups // phases < MIN_PROGRAMS:
        o //= 2
    return {
        "BLOCK_M": m,
        "BLOCK_O": o,
        "PHASES": phases,
        "BLOCK_K": within(shape.c_in, largest.k_bytes // shape.dtype.itemsize),
        "GROUP": 8,
        **threads(m * o * phases * (2 if thrice else 1), largest),
    }


def _wgrad(shape: Shape, largest: Limits) -> dict[str, Any]:
    """c_in: channels of the first operand; c_out: taps times channels of the second."""
    m = within(shape.c_in, largest.m)
    n = within(shape.c_out, largest.n if m > 16 else largest.n // 2)
    k = within(shape.pixels, largest.k_bytes // shape.dtype.itemsize)
    return {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, **threads(m * n, largest)}


def threads(numbers: int, largest: Limits) -> dict[str, int]:
    """Eight warps for 128 x 128 numbers, four for less; of AMD's wide ones four, two for 2048 and less."""
    whole = numbers > (8192 if largest.warps == 8 else 2048)
    return {"num_warps": largest.warps if whole else largest.warps // 2, "num_stages": largest.stages}


def within(size: int, largest: int) -> int:
    """The power of two from 16 on that holds `size`, at most `largest`."""
    return min(max(triton.next_power_of_2(size), 16), largest)


def programs(n: int, pixels: int, m: int, c_out: int, o: int) -> int:
    return n * triton.cdiv(pixels, m) * triton.cdiv(c_out, o)

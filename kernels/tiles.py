"""What the kernels share: memory formats, and how a pointwise kernel divides a tensor among its programs.

A tensor is taken in the order of its memory as [batch, rows, columns], and a vector that belongs to one of its
dimensions lies along the rows or along the columns: of NCHW images with a bias, rows are channels and columns pixels;
of channels_last images rows are pixels and columns channels. A program does a tile of BLOCK_ROWS x BLOCK_COLUMNS, and
STEPS of them across the vector, so that a sum over all but the vector's dimension stays within it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # elements of a tile: 16 bytes of float16 for each of 256 threads, twice
STEPS = 8


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last for a 4-D tensor whose channels lie side by side, else contiguous."""
    dense = x.ndim == 4 and x.shape[1] > 1 and x.shape[2] * x.shape[3] > 1
    return torch.channels_last if dense and x.stride(1) == 1 else torch.contiguous_format


def dense(x: Tensor, like: Tensor | None = None) -> Tensor:
    """x without holes, in the memory format of `like`, by default in its own."""
    return x.contiguous(memory_format=memory_format(x if like is None else like))


def is_channels_last(x: Tensor) -> bool:
    return memory_format(x) == torch.channels_last


def accumulation(dtype: torch.dtype) -> torch.dtype:
    """The type in which a kernel computes: float32 for the half types, otherwise the tensor's own."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def triton_type(dtype: torch.dtype) -> tl.dtype:
    return {torch.float32: tl.float32, torch.float64: tl.float64}[dtype]


def on_device_of(x: Tensor) -> AbstractContextManager:
    """Triton launches on the current device and its current stream."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


class Tiles(NamedTuple):
    """How a tensor is divided; `sums` is the shape [programs across the vector, vector] of partial sums."""

    grid: tuple[int]
    sizes: tuple[int, int, int]
    constants: dict[str, Any]
    sums: tuple[int, int]


def tiles_of(x: Tensor, dim: int | None, steps: int = 1, tile: int | None = None) -> Tiles:
    """Of a dense x with a vector along `dim`, or with none. steps: tiles of a program across the vector.

    tile: elements of one, by default as many as a kernel of three streams has registers for.
    """
    order: Sequence[int] = (0, 2, 3, 1) if is_channels_last(x) else range(x.ndim)
    sizes = [x.shape[i] for i in order]
    at = 0 if dim is None else list(order).index(dim)
    before, along, after = (1, 1, prod(sizes)) if dim is None else (prod(sizes[:at]), sizes[at], prod(sizes[at + 1 :]))
    by_column = after == 1 and dim is not None
    batch, rows, columns = (1, before, along) if by_column else (before, along, after)
    if tile is None:
        tile = TILE if steps == 1 else TILE // 2  # a loop holds more in registers
    block_columns = min(triton.next_power_of_2(max(columns, 1)), min(1024, tile) if steps > 1 or by_column else tile)
    block_rows = min(triton.next_power_of_2(max(rows, 1)), tile // block_columns)
    row_steps, column_steps = (steps, 1) if by_column else (1, steps)
    row_blocks = triton.cdiv(rows, block_rows * row_steps)
    column_blocks = triton.cdiv(columns, block_columns * column_steps)
    across = row_blocks if by_column else batch * column_blocks
    return Tiles(
        (batch * row_blocks * column_blocks,),
        (rows, columns, column_blocks),
        {
            "BY_COLUMN": by_column,
            "BLOCK_ROWS": block_rows,
            "BLOCK_COLUMNS": block_columns,
            "WIDE": columns >= 2**31,
            "num_warps": 8,
        },
        (across, along),
    )


@triton.jit
def tile_origin(
    rows, columns, column_blocks, ROW_STEPS: tl.constexpr, COLUMN_STEPS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """This program's batch index (64 bits: it addresses), first row, first column, and its column block.

    WIDE: columns are more than 32 bits count.
    """
    program = tl.program_id(0)
    row_blocks = tl.cdiv(rows, BLOCK_ROWS * ROW_STEPS)
    column_block = program % column_blocks
    of_rows = program // column_blocks
    row = (of_rows % row_blocks) * (BLOCK_ROWS * ROW_STEPS)
    batch = (of_rows // row_blocks).to(tl.int64)
    if WIDE:
        column_block = column_block.to(tl.int64)
    return batch, row, column_block * (BLOCK_COLUMNS * COLUMN_STEPS), column_block


@triton.jit
def scalar(value, like):
    """A number that the launcher passed, in the type of `like`."""
    return tl.full((), value, like.dtype)


@triton.jit
def clamped(v, clamp):
    """Keeps NaN, as torch does."""
    bound = scalar(clamp, v)
    return tl.where(v > bound, bound, tl.where(v < -bound, -bound, v))

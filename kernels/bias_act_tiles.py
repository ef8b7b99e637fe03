"""How bias_act.py divides a tensor among its programs.

A tensor is taken in the order of its memory as [batch, rows, columns], and a vector that belongs to one of its
dimensions lies along the rows or along the columns: of NCHW images with a bias, rows are channels and columns pixels;
of channels_last images rows are pixels and columns channels. A program does a tile of BLOCK_ROWS x BLOCK_COLUMNS, and
STEPS of them across the vector, so that a sum over all but the vector's dimension stays within it.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels._common import is_channels_last

TILE = 4096  # elements of a tile: 16 bytes of float16 for each of 256 threads, twice
STEPS = 8


class Tiles(NamedTuple):
    """How a tensor is divided; `sums` is the shape [programs across the vector, vector] of partial sums."""

    grid: tuple[int]
    sizes: tuple[int, int, int]
    constants: dict[str, Any]
    sums: tuple[int, int]


def tiles_of(x: Tensor, dim: int | None, *, steps: int = 1, tile: int | None = None) -> Tiles:
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
            "LONG_ROWS": columns >= 2**31,
            "num_warps": 8,
        },
        (across, along),
    )


@triton.jit
def tile_origin(
    rows, columns, column_blocks, ROW_STEPS: tl.constexpr, COLUMN_STEPS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, LONG_ROWS: tl.constexpr,
):  # fmt: skip
    """This program's batch index (64 bits: it addresses), first row, first column, and its column block.

    LONG_ROWS: the columns are more than 32 bits count.
    """
    program = tl.program_id(0)
    row_blocks = tl.cdiv(rows, BLOCK_ROWS * ROW_STEPS)
    column_block = program % column_blocks
    row_block = program // column_blocks
    row = (row_block % row_blocks) * (BLOCK_ROWS * ROW_STEPS)
    batch = (row_block // row_blocks).to(tl.int64)
    if LONG_ROWS:
        column_block = column_block.to(tl.int64)
    return batch, row, column_block * (BLOCK_COLUMNS * COLUMN_STEPS), column_block

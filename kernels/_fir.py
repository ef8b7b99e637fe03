"""How the outputs of a FIR filter are divided among programs, and where those of a program lie.

Tiles are [rows, columns]. Of NCHW images a row is a row of pixels of one channel, a column is x; of channels_last
images a row is a pixel, a column is a channel. One code serves both: the coordinates of a tile are [ROWS, 1] or
[1, COLUMNS] vectors, and broadcast. A program goes down a strip of STRIP rows of the image, so that an input row is
loaded once for all outputs that it meets.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels._common import is_channels_last

TILE = 1024  # elements of the half types
STRIP = 8
PROGRAMS = 512  # below, strips get shorter: about four programs for each multiprocessor of an H100


@triton.jit
def strip_coordinates(
    planes, channels, height, width, out_height, out_width, strips, row_blocks, column_blocks,
    CHANNELS_LAST: tl.constexpr, STRIP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of this program, each [ROWS, 1], [1, COLUMNS] or [1, 1]: the index into [N, C] vectors, the channel, and whether
    both exist; the sample; the offsets of its planes in input and output (64 bits); the first output row of its strip,
    the output column, the step from pixel to pixel; which elements exist; its row block and column block."""
    program = tl.program_id(0)
    column_block = program % column_blocks
    row_block = (program // column_blocks) % row_blocks
    batch = program // column_blocks // row_blocks
    rows = row_block * ROWS + tl.arange(0, ROWS)[:, None]
    columns = column_block * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    if CHANNELS_LAST:
        sample, channel, strip, x = batch, columns, rows // out_width, rows % out_width
        plane, step = batch.to(tl.int64), channels
        vector_mask = columns < channels
        mask = (strip < strips) & vector_mask
        in_plane = plane * height * width * channels + channel
        out_plane = plane * out_height * out_width * channels + channel
    else:
        plane, strip, x = rows // strips, rows % strips, columns
        sample, channel, step = plane // channels, plane % channels, 1
        vector_mask = plane < planes
        mask = vector_mask & (columns < out_width)
        in_plane, out_plane = plane.to(tl.int64) * height * width, plane.to(tl.int64) * out_height * out_width
    vector = sample.to(tl.int64) * channels + channel
    first = strip * STRIP
    return vector, channel, vector_mask, sample, in_plane, out_plane, first, x, step, mask, row_block, column_block


class Strips(NamedTuple):
    grid: tuple[int]
    sizes: tuple[int, ...]  # what `strip_coordinates` takes
    constants: dict[str, Any]
    strips: int
    row_blocks: int
    column_blocks: int


def strips_of(
    x: Tensor, out_height: int, out_width: int, *, last: bool | None = None, longest: int = STRIP, tile: int = TILE
) -> Strips:
    """How the outputs of a FIR of x [N, C, H, W] are divided, into strips of at most `longest` rows.

    last: whether input and output are channels_last, by default as x. tile: elements of a program, a power of two.
    """
    n, c, h, w = x.shape
    last = is_channels_last(x) if last is None else last
    columns_needed = c if last else out_width
    columns = min(triton.next_power_of_2(columns_needed), 128)
    strip = min(triton.next_power_of_2(out_height), longest)
    while strip > 1 and n * c * out_height * out_width < PROGRAMS * tile * strip:
        strip //= 2
    strips = triton.cdiv(out_height, strip)
    rows_needed = strips * out_width if last else n * c * strips
    rows = min(triton.next_power_of_2(rows_needed), tile // columns)
    # 16 bytes for each of a warp's 32 lanes; strips of NCHW, which load single elements, take twice the warps.
    warps = min(8, max(1, tile * x.element_size() // 512 * (1 if last or longest == 1 else 2)))
    row_blocks, column_blocks = triton.cdiv(rows_needed, rows), triton.cdiv(columns_needed, columns)
    return Strips(
        ((n if last else 1) * row_blocks * column_blocks,),
        (n * c, c, h, w, out_height, out_width, strips, row_blocks, column_blocks),
        {"CHANNELS_LAST": last, "STRIP": strip, "ROWS": rows, "COLUMNS": columns, "num_warps": warps},
        strips,
        row_blocks,
        column_blocks,
    )

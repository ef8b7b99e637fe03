"""Sizes of resampled images: x [N, C, H, W], upsampled by zero insertion, padded, filtered by f, downsampled."""

from collections.abc import Sequence

from torch import Tensor


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """(fh, fw)."""
    return (1, 1) if f is None else (f.shape[0], f.shape[-1])


def output_size(
    shape: Sequence[int], f: Tensor | None, up: Sequence[int], down: Sequence[int], padding: Sequence[int]
) -> tuple[int, int]:
    """(height, width) of the result; up, down: (x, y), padding: (x0, x1, y0, y1)."""
    fh, fw = filter_size(f)
    height = (shape[2] * up[1] + padding[2] + padding[3] - fh) // down[1] + 1
    width = (shape[3] * up[0] + padding[0] + padding[1] - fw) // down[0] + 1
    return height, width


def adjoint_padding(
    size: Sequence[int],
    out_size: Sequence[int],
    f: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
) -> tuple[int, int, int, int]:
    """The padding of the adjoint, which has up and down exchanged and the filter flipped; sizes: (height, width)."""
    fh, fw = filter_size(f)
    (h, w), (out_h, out_w), (x0, _, y0, _) = size, out_size, padding
    return (
        fw - x0 - 1,
        w * up[0] - out_w * down[0] + x0 - up[0] + 1,
        fh - y0 - 1,
        h * up[1] - out_h * down[1] + y0 - up[1] + 1,
    )

"""The geometry of resampling: factors, paddings, filters and sizes, and the checks of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from idgan_fast.ops._errors import ArgumentTypeError, ArgumentValueError

Pair = int | Sequence[int]
ONE, NO_PADDING = (1, 1), (0, 0, 0, 0)  # a factor, and a padding, that change nothing


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def _ints(value: Any) -> tuple:
    """The ints of a list or of one int; empty where anything else came."""
    values = (value,) if _is_int(value) else tuple(value) if isinstance(value, (list, tuple)) else ()
    return values if all(_is_int(v) for v in values) else ()


def scaling(name: str, value: Pair) -> tuple[int, int]:
    """int or [x, y] -> (x, y)."""
    values = _ints(value)
    if (len(values) != 2 and not _is_int(value)) or min(values) < 1:
        raise ArgumentValueError(f"{name} must be a positive int or [x, y] of them, got {value!r}")
    return values[0], values[-1]


def paddings(padding: Pair) -> tuple[int, int, int, int]:
    """int, [x, y] or [x0, x1, y0, y1] -> (x0, x1, y0, y1)."""
    values = _ints(padding)
    if _is_int(padding):
        return values[0], values[0], values[0], values[0]
    if len(values) == 2:
        return values[0], values[0], values[1], values[1]
    if len(values) == 4:
        return values
    raise ArgumentValueError(f"padding must be an int, [x, y] or [x0, x1, y0, y1], got {padding!r}")


def padded_for(f: Tensor | None, up: Pair, down: Pair, padding: Pair) -> tuple[int, int, int, int]:
    """`padding` plus what keeps the image centered, so that its size changes by up / down alone."""
    check_filter("f", f)
    (up_x, up_y), (down_x, down_y) = scaling("up", up), scaling("down", down)
    fh, fw = filter_size(f)
    x0, x1, y0, y1 = paddings(padding)
    if up_x > 1 or up_y > 1 or (down_x == 1 and down_y == 1):
        x0, x1 = x0 + (fw + up_x - 1) // 2, x1 + (fw - up_x) // 2
        y0, y1 = y0 + (fh + up_y - 1) // 2, y1 + (fh - up_y) // 2
    if down_x > 1 or down_y > 1:
        x0, x1 = x0 + (fw - down_x + 1) // 2, x1 + (fw - down_x) // 2
        y0, y1 = y0 + (fh - down_y + 1) // 2, y1 + (fh - down_y) // 2
    return x0, x1, y0, y1


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


def check_size(
    shape: Sequence[int],
    f: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
) -> tuple[int, int]:
    """`output_size`, refused below one pixel."""
    height, width = output_size(shape, f, up, down, padding)
    if height < 1 or width < 1:
        raise ArgumentValueError(
            f"the result must have at least one pixel, got {height} x {width} from x {tuple(shape)}, "
            f"f {filter_size(f)}, up {up}, down {down}, padding {padding}: pad more"
        )
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


def taps_of(f: Tensor, device: torch.device) -> Tensor:
    """A filter as the kernels read it: float32, to which a module that is cast to a half type may have to return it."""
    return f.to(device, torch.float32)


def check_filter(name: str, f: Tensor | None) -> None:
    if f is None:
        return
    if not isinstance(f, Tensor):
        raise ArgumentTypeError(f"{name} must be a tensor or None, got {type(f).__name__}; setup_filter makes one")
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ArgumentValueError(f"{name} must be 1-D or 2-D float32, got shape {tuple(f.shape)}")
    if f.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ArgumentTypeError(f"{name} must be 1-D or 2-D float32, got {f.dtype}: pass {name}.float()")
    if f.requires_grad:
        raise ArgumentValueError(f"{name} has no gradient, got one that requires it: pass f.detach()")

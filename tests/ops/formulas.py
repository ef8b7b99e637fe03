"""What resampling and convolution mean, in float64 numpy and scipy: slow, plain, and independent of torch.

The formulas of the other operators are in their tests.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import signal

Array = NDArray[np.float64]
Ints = int | Sequence[int]


def two(value: Ints) -> tuple[int, int]:
    """An int, or [x, y], as (x, y)."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def four(padding: Ints) -> tuple[int, int, int, int]:
    """An int, [x, y] or [x0, x1, y0, y1], as (x0, x1, y0, y1)."""
    if not isinstance(padding, int) and len(padding) == 4:
        return padding[0], padding[1], padding[2], padding[3]
    x, y = two(padding)
    return x, x, y, y


def square(f: Array | None) -> Array:
    """The filter as two dimensions: None is one tap, and 1-D is applied along both axes."""
    if f is None:
        return np.ones((1, 1))
    f = np.asarray(f, dtype=np.float64)
    return np.outer(f, f) if f.ndim == 1 else f


def pad_or_crop(x: Array, padding: Sequence[int]) -> Array:
    """Zeros where the padding is positive, then fewer pixels where it is negative."""
    x0, x1, y0, y1 = padding
    more = [(max(y0, 0), max(y1, 0)), (max(x0, 0), max(x1, 0))]
    x = np.pad(x, [(0, 0), (0, 0), *more])
    height, width = x.shape[2:]
    return x[:, :, max(-y0, 0) : height - max(-y1, 0), max(-x0, 0) : width - max(-x1, 0)]


def upfirdn2d(
    x: Array,
    f: Array | None,
    up: Ints = 1,
    down: Ints = 1,
    padding: Ints = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Array:
    up_x, up_y = two(up)
    down_x, down_y = two(down)
    n, c, h, w = x.shape
    wide = np.zeros((n, c, h * up_y, w * up_x))
    wide[:, :, ::up_y, ::up_x] = x
    wide = pad_or_crop(wide, four(padding))
    taps = square(f)
    rows, columns = wide.shape[2] - taps.shape[0] + 1, wide.shape[3] - taps.shape[1] + 1
    assert rows > 0
    assert columns > 0
    slide = signal.correlate2d if flip_filter else signal.convolve2d
    y = np.zeros((n, c, rows, columns))
    for i in range(n):
        for j in range(c):
            y[i, j] = slide(wide[i, j], taps, mode="valid")
    return gain * y[:, :, ::down_y, ::down_x]


def same_padding(f: Array | None, up: Ints = 1, down: Ints = 1) -> tuple[int, int, int, int]:
    """What `filter2d`, `upsample2d` and `downsample2d` add to the caller's padding."""
    pads = []
    for taps, u, d in zip(reversed(square(f).shape), two(up), two(down), strict=True):
        if d > 1:
            pads += [(taps - d + 1) // 2, (taps - d) // 2]
        else:  # With up 1: [taps // 2, (taps - 1) // 2].
            pads += [(taps + u - 1) // 2, (taps - u) // 2]
    return pads[0], pads[1], pads[2], pads[3]


def add(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


def conv2d(x: Array, w: Array, groups: int = 1, flip_weight: bool = True) -> Array:
    """No padding and no stride. flip_weight=True is correlation, as in torch."""
    outputs, inputs, kh, kw = w.shape
    assert x.shape[1] == inputs * groups
    y = np.zeros((len(x), outputs, x.shape[2] - kh + 1, x.shape[3] - kw + 1))
    slide = signal.correlate2d if flip_weight else signal.convolve2d
    for n in range(len(x)):
        for o in range(outputs):
            group = o // (outputs // groups)
            for i in range(inputs):
                y[n, o] += slide(x[n, group * inputs + i], w[o, i], mode="valid")
    return y


def conv2d_resample(
    x: Array,
    w: Array,
    f: Array | None = None,
    up: int = 1,
    down: int = 1,
    padding: Ints = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Array:
    pads = list(four(padding))
    if up > 1:
        pads = add(pads, same_padding(f, up=up))
    if down > 1:
        pads = add(pads, same_padding(f, down=down))
    y = upfirdn2d(x, f if up > 1 else None, up=up, padding=pads, flip_filter=flip_filter, gain=up**2)
    y = conv2d(y, w, groups, flip_weight)
    return upfirdn2d(y, f, down=down, flip_filter=flip_filter) if down > 1 else y

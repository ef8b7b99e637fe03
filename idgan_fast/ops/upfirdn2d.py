"""Upsample by zero insertion, pad or crop, filter by a FIR, keep every down-th pixel; and its usual special cases."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.ops import _dispatch
from idgan_fast.ops._dispatch import CustomOp, without_autocast
from idgan_fast.ops._resampling import adjoint_padding, filter_size, output_size
from idgan_fast.ops._tensors import accumulation, check_images, laid_out_like, padded

Pair = int | Sequence[int]


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """Insert up - 1 zeros after each pixel, pad, convolve with f, keep every down-th pixel, multiply by gain.

    x: [N, C, H, W], float16, bfloat16, float32 or float64; the half types accumulate in float32.
    f: None (a single tap), [k] (applied along both axes) or [fh, fw]; float32, without gradient.
    up, down: int or [x, y]. padding: int, [x, y] or [x0, x1, y0, y1], by the upsampled image; negative values crop.
    flip_filter: False convolves, True correlates. impl: auto (or cuda), native, triton, reference (or ref).
    Returns [N, C, (H upy + y0 + y1 - fh) // downy + 1, likewise W], of x's dtype and memory format. The gradient by
    x is the same operator with up and down exchanged and the filter flipped, so every order of it exists.
    Raises TypeError, ValueError: one line on the argument. BackendError: impl cannot run here.
    """
    return resample("upfirdn2d", x, f, up, down, padding, flip_filter, gain, impl)


def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """Filter x with f; padding 0 keeps the size. Arguments, result and errors as for `upfirdn2d`."""
    padding = padded_for("filter2d", f, 1, 1, padding)
    return resample("filter2d", x, f, 1, 1, padding, flip_filter, gain, impl)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """Upsample x by `up`, its mean kept; padding 0 gives exactly `up` times the size. Otherwise as `upfirdn2d`."""
    up_x, up_y = scaling("upsample2d", "up", up)
    padding = padded_for("upsample2d", f, up, 1, padding)
    return resample("upsample2d", x, f, up, 1, padding, flip_filter, gain * up_x * up_y, impl)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """Downsample x by `down`; padding 0 divides the size by it. Otherwise as `upfirdn2d`."""
    padding = padded_for("downsample2d", f, 1, down, padding)
    return resample("downsample2d", x, f, 1, down, padding, flip_filter, gain, impl)


def setup_filter(
    f: Any,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """A filter for `upfirdn2d` from taps: a number, a list, an array or a tensor; [k] or [fh, fw].

    normalize: taps sum to 1. gain: factor of the whole filter. separable: keep a 1-D filter 1-D; by default from
    8 taps on, a shorter one becomes its outer product. Returns a new float32 tensor; None gives a single tap.
    """
    on = f.device if isinstance(f, Tensor) else "cpu"  # not the default device, which a caller may have set
    f = torch.as_tensor(1.0 if f is None else f, dtype=torch.float32, device=on).detach().clone()
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(f"setup_filter: f must be 1-D or 2-D with at least one tap, got shape {tuple(f.shape)}")
    f = f.reshape(1) if f.ndim == 0 else f
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    if separable and f.ndim == 2:
        raise ValueError(f"setup_filter: a separable f must be 1-D, got shape {tuple(f.shape)}")
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(tuple(range(f.ndim)))
    return (f * gain ** (f.ndim / 2)).to(device)


def resample(
    function: str,
    x: Tensor,
    f: Tensor | None,
    up: Pair,
    down: Pair,
    padding: Pair,
    flip_filter: bool,
    gain: float,
    impl: str,
) -> Tensor:
    """`upfirdn2d`, with errors in the name of the function that the user called."""
    check_images(function, x)
    check_filter(function, "f", f)
    up_xy, down_xy = scaling(function, "up", up), scaling(function, "down", down)
    pad = paddings(function, padding)
    check_size(function, x.shape, f, up_xy, down_xy, pad)
    backend = _dispatch.choose(function, LOW_LEVEL, x.device, impl)
    f = None if f is None else f.to(x.device)
    return apply(x, f, up_xy, down_xy, pad, bool(flip_filter), float(gain), backend)


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def _ints(value: Any) -> tuple:
    """The ints of a list or of one int; empty where anything else came."""
    values = (value,) if _is_int(value) else tuple(value) if isinstance(value, (list, tuple)) else ()
    return values if all(_is_int(v) for v in values) else ()


def scaling(function: str, name: str, value: Pair) -> tuple[int, int]:
    """int or [x, y] -> (x, y)."""
    values = _ints(value)
    if (len(values) != 2 and not _is_int(value)) or min(values) < 1:
        raise ValueError(f"{function}: {name} must be a positive int or [x, y] of them, got {value!r}")
    return values[0], values[-1]


def paddings(function: str, padding: Pair) -> tuple[int, int, int, int]:
    """int, [x, y] or [x0, x1, y0, y1] -> (x0, x1, y0, y1)."""
    values = _ints(padding)
    if _is_int(padding):
        return values[0], values[0], values[0], values[0]
    if len(values) == 2:
        return values[0], values[0], values[1], values[1]
    if len(values) == 4:
        return values
    raise ValueError(f"{function}: padding must be an int, [x, y] or [x0, x1, y0, y1], got {padding!r}")


def padded_for(function: str, f: Tensor | None, up: Pair, down: Pair, padding: Pair) -> tuple[int, int, int, int]:
    """`padding` plus what keeps the image centred, so that its size changes by up / down alone."""
    check_filter(function, "f", f)
    (up_x, up_y), (down_x, down_y) = scaling(function, "up", up), scaling(function, "down", down)
    fh, fw = filter_size(f)
    x0, x1, y0, y1 = paddings(function, padding)
    if up_x > 1 or up_y > 1 or (down_x == 1 and down_y == 1):
        x0, x1 = x0 + (fw + up_x - 1) // 2, x1 + (fw - up_x) // 2
        y0, y1 = y0 + (fh + up_y - 1) // 2, y1 + (fh - up_y) // 2
    if down_x > 1 or down_y > 1:
        x0, x1 = x0 + (fw - down_x + 1) // 2, x1 + (fw - down_x) // 2
        y0, y1 = y0 + (fh - down_y + 1) // 2, y1 + (fh - down_y) // 2
    return x0, x1, y0, y1


def check_size(
    function: str,
    shape: Sequence[int],
    f: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
) -> tuple[int, int]:
    """`output_size`, refused below one pixel."""
    height, width = output_size(shape, f, up, down, padding)
    if height < 1 or width < 1:
        raise ValueError(
            f"{function}: the result must have at least one pixel, got {height} x {width} from x {tuple(shape)}, "
            f"f {filter_size(f)}, up {up}, down {down}, padding {padding}: pad more"
        )
    return height, width


def check_filter(function: str, name: str, f: Tensor | None) -> None:
    if f is None:
        return
    if not isinstance(f, Tensor):
        raise TypeError(f"{function}: {name} must be a tensor or None, got {type(f).__name__}; setup_filter makes one")
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"{function}: {name} must be 1-D or 2-D float32, got shape {tuple(f.shape)}")
    if f.dtype != torch.float32:
        raise TypeError(f"{function}: {name} must be 1-D or 2-D float32, got {f.dtype}")
    if f.requires_grad:
        raise ValueError(f"{function}: {name} has no gradient, got one that requires it: pass f.detach()")


def reference(
    x: Tensor,
    f: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    n, c, h, w = x.shape
    (up_x, up_y), (down_x, down_y) = up, down
    if n * c == 0:
        return x.new_zeros(n, c, *output_size(x.shape, f, up, down, padding))
    y = x.to(accumulation(x.dtype))
    if up_x > 1 or up_y > 1:  # a pixel becomes up_y x up_x, zeros but for the first
        y = F.pad(y.reshape(n, c, h, 1, w, 1), (0, up_x - 1, 0, 0, 0, up_y - 1))
        y = y.reshape(n, c, h * up_y, w * up_x)
    y = padded(y, padding)
    if f is None:
        y = y[:, :, ::down_y, ::down_x] * gain
    else:
        taps = f.to(y.dtype) if flip_filter else f.to(y.dtype).flip(tuple(range(f.ndim)))
        if f.ndim == 2:
            y = F.conv2d(y, (taps * gain).expand(c, 1, -1, -1), stride=(down_y, down_x), groups=c)
        else:
            y = F.conv2d(y, (taps * gain).expand(c, 1, 1, -1), stride=(1, down_x), groups=c)
            y = F.conv2d(y, taps[:, None].expand(c, 1, -1, 1), stride=(down_y, 1), groups=c)
    return laid_out_like(y.to(x.dtype), x)


_resample = CustomOp(
    "upfirdn2d",
    "(Tensor x, Tensor? f, SymInt[] up, SymInt[] down, SymInt[] padding, bool flip_filter, float gain) -> Tensor",
    reference,
)
LOW_LEVEL = (_resample,)


class _Upfirdn2d(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(x: Tensor, f: Tensor | None, *args: Any) -> Tensor:
        *parameters, backend = args
        return _resample(backend, x, f, *parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, f, *ctx.args = inputs
        ctx.save_for_backward(f)
        ctx.size, ctx.out_size = x.shape[2:], output.shape[2:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        (f,) = ctx.saved_tensors
        up, down, padding, flip_filter, gain, backend = ctx.args
        padding = adjoint_padding(ctx.size, ctx.out_size, f, up, down, padding)
        return apply(dy, f, down, up, padding, not flip_filter, gain, backend), *[None] * 7


apply = _dispatch.function(_Upfirdn2d)

"""A StyleGAN2 layer, whole where a kernel has it, else composed: style, resampling convolution, filter and epilogue.

On a GPU the Triton backend has the layer as one custom op; by the prediction of docs/roofline.md `auto` takes it also
where there are CUDA kernels for what surrounds a convolution. All other backends, layouts and shapes are composed.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from idgan_fast.ops import _dispatch
from idgan_fast.ops._resampling import NO_PADDING, Pair, filter_size, taps_of
from idgan_fast.ops._tensors import accumulation, constant, memory_format
from idgan_fast.ops.conv2d_gradfix import gated
from idgan_fast.ops.conv2d_resample import check_convolution, convolve_before_fir
from idgan_fast.ops.layer import conv_plan, styled_epilogue, styled_layer
from idgan_fast.ops.layer.epilogue import Epilogue, Phases
from idgan_fast.ops.layer.styled_epilogue import apply_epilogue, cast_epilogue, modulate
from idgan_fast.ops.layer.styled_layer import out_size
from idgan_fast.ops.upfirdn2d import upfirdn2d

LONGEST = 6  # taps of a filter along one axis that the kernels take in one pass


class Resampling(NamedTuple):
    """As in `conv2d_resample`."""

    f: Tensor | None
    up: int
    down: int
    padding: Pair
    flip_weight: bool = True


def apply_layer(
    x: Tensor,
    weight: Tensor,
    styles: Tensor | None,
    resampling: Resampling,
    epilogue: Epilogue,
    *,
    impl: str,
) -> Tensor:
    """x [N, I, H, W], weight [O, I, k, k] in x's dtype; styles [N, I] or None where x carries them.

    epilogue: without a filter, which the resampling has. The result: as that of `apply_epilogue`.
    """
    plan = _plan(x, weight, resampling, impl)
    if plan is None:
        return _compose(x, weight, styles, resampling, epilogue, impl)
    form, fir = plan
    epilogue = epilogue._replace(f=fir.f, padding=fir.padding, fir_gain=fir.fir_gain)
    epilogue = cast_epilogue(epilogue, x, (x.shape[0], 1, *out_size(x, fir.f, fir.padding)))
    weight = weight if resampling.flip_weight else weight.flip((2, 3))
    weight = weight.contiguous(memory_format=torch.channels_last)  # once for the forward and the backward pass
    styles = None if styles is None else styles.to(accumulation(x.dtype))
    options = styled_layer.Options(epilogue.numbers, form, torch.is_grad_enabled(), "triton")
    out, _ = styled_layer.styled_layer(options, epilogue.f, x, gated(weight), styles, *epilogue.vectors)
    return out


def _plan(x: Tensor, weight: Tensor, resampling: Resampling, impl: str) -> tuple[str, Epilogue] | None:
    """The form that the kernels take the layer in, and the filter after its convolution; None: the composition."""
    f, up, down, padded_by, _ = resampling
    (kh, kw), device, dtype = weight.shape[2:], x.device, x.dtype
    chosen = _dispatch.choose(styled_epilogue.OPERATOR, device, impl)
    if chosen != "triton" and not (chosen == "native" and device.type == "cuda" and _dispatch.automatic(impl)):
        return None
    pad = check_convolution(x, weight, f, up, down, padded_by, 1)
    if not _dispatch.usable("triton", styled_layer.OPERATOR, device, impl):
        return None
    if memory_format(x) != torch.channels_last or dtype == torch.float64 or weight.dtype != dtype:
        return None
    if kh != kw or down != 1:
        return None
    fir = Epilogue()
    if up == 1:
        if kh not in (1, 3) or pad != (kh // 2,) * 4:
            return None
    elif up == 2 and kh == 3 and f is not None and max(filter_size(f)) <= LONGEST:
        padding = (pad[0] - 2, pad[1] - 1, pad[2] - 2, pad[3] - 1)
        fir = Epilogue(taps_of(f, device), padding=padding, fir_gain=4.0)
        if min(out_size(x, f, fir.padding)) < 1:
            return None
    else:
        return None
    composable = up == 2 and filter_size(f) == (4, 4) and fir.padding == (1, 1, 1, 1)
    c_in, height, width, c_out, k = (constant(size) for size in (*x.shape[1:], weight.shape[0], kh))
    largest = max(c_in, c_out) * (up * height + 1) * (up * width + 1)  # of one sample: counted in 32 bits
    if x.shape[0] == 0 or c_out == 0 or largest >= 2**31:
        return None
    form = conv_plan.choose_form(
        c_in, c_out, height, width, k=k, up=up, composable=composable, dtype=dtype, device=device
    )
    return None if form == conv_plan.TORCH else (form, fir)


def _compose(
    x: Tensor, weight: Tensor, styles: Tensor | None, resampling: Resampling, epilogue: Epilogue, impl: str
) -> Tensor:
    if styles is not None and _few_products(x, weight, resampling):
        y: Phases = (_products(x, weight, styles),)
    else:
        x = x if styles is None else modulate(x, styles, impl)
        y, epilogue = _convolve(x, weight, resampling, epilogue, impl)
    changes_nothing = all(t is None for t in (epilogue.f, *epilogue.vectors)) and epilogue.numbers == Epilogue().numbers
    return y[0] if changes_nothing else apply_epilogue(y, epilogue, impl=impl)


def _few_products(x: Tensor, weight: Tensor, resampling: Resampling) -> bool:
    """Whether weights for each sample are less than the images: to-RGB layers, whose x is then read once.

    On a CPU and without gradients, whose product over all pixels is slower than a convolution's.
    """
    n, c_in, height, width = x.shape
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return False
    alone = resampling.up == resampling.down == 1 and resampling.padding in (0, [0, 0], NO_PADDING)
    c_out, pixels = weight.shape[0], height * width
    last = memory_format(x) == torch.channels_last
    return weight.shape[2:] == (1, 1) and alone and last and n > 0 and 8 * c_out <= min(c_in, pixels)


def _products(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """The 1x1 convolution with weight times styles as a product for each sample: [N, H W, I] [N, I, O]."""
    acc_dtype = accumulation(x.dtype)
    weights = (weight.flatten(1).t().to(acc_dtype) * styles.to(acc_dtype)[:, :, None]).to(x.dtype)  # [N, I, O]
    n, _, height, width = x.shape
    y = torch.bmm(x.permute(0, 2, 3, 1).reshape(n, height * width, -1), weights)
    return y.reshape(n, height, width, -1).permute(0, 3, 1, 2)


def _convolve(
    x: Tensor, weight: Tensor, resampling: Resampling, epilogue: Epilogue, impl: str
) -> tuple[Phases, Epilogue]:
    """The resampling convolution, and the epilogue with the filter that is left for it, if any."""
    f, up, down, padding, flip_weight = resampling
    y, fir_padding = convolve_before_fir(x, weight, f, up, down, padding, flip_weight=flip_weight, impl=impl)
    if fir_padding is None:
        return y, epilogue
    if f is None:  # nothing to filter by: cropping and the gain are left
        return (upfirdn2d(y[0], f, padding=fir_padding, gain=up * up, impl=impl),), epilogue
    return y, epilogue._replace(f=taps_of(f, x.device), padding=fir_padding, fir_gain=up * up)

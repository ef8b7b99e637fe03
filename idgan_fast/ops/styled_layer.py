"""A whole StyleGAN2 layer: the convolution with the style before it and what `styled_epilogue` does after it.

On a GPU the Triton backend has it as one low-level operator for channels_last images in float16, bfloat16 and float32,
kernels of 1x1 and 3x3, up 1 and 2; by the prediction of docs/roofline.md `auto` takes it also where there are CUDA
kernels for what surrounds a convolution. Its backward pass needs nothing but x, weight and the result: leaky ReLU shows
its input. Gradients of second and higher order are those of the composition, which all other backends, layouts and
shapes take: style, torch's convolution, filter and epilogue.
Source: Karras et al., Analyzing and Improving the Image Quality of StyleGAN (arXiv 1912.04958), section 2.2.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from idgan_fast.ops import _dispatch, conv2d_gradfix, conv_plan
from idgan_fast.ops import styled_epilogue as epilogue
from idgan_fast.ops._dispatch import CustomOp, without_autocast
from idgan_fast.ops._resampling import filter_size, output_size
from idgan_fast.ops._tensors import accumulation, constant, memory_format, over_pixels, per_channel
from idgan_fast.ops.bias_lrelu import leaky_relu_backward
from idgan_fast.ops.conv2d_resample import check, convolved
from idgan_fast.ops.conv_plan import TORCH
from idgan_fast.ops.styled_epilogue import Fir, Phases, Vectors, modulate, styled_epilogue
from idgan_fast.ops.upfirdn2d import Pair, resample

ONE, NO_PADDING = (1, 1), (0, 0, 0, 0)
LONGEST = 6  # taps of a filter along one axis that the kernels take in one pass


class Resampling(NamedTuple):
    """As in `conv2d_resample`."""

    f: Tensor | None
    up: int
    down: int
    padding: Pair
    flip_weight: bool = True


def styled_layer(
    function: str,
    x: Tensor,
    weight: Tensor,
    styles: Tensor | None,
    resampling: Resampling,
    tensors: Vectors,
    slope: float,
    gain: float,
    clamp: float | None,
    impl: str,
) -> Tensor:
    """x [N, I, H, W], weight [O, I, k, k] in x's dtype; styles [N, I] or None where x carries them.

    tensors: scale, noise, strength, b, next_styles; these, slope, gain, clamp and the result as in `styled_epilogue`.
    """
    plan = _plan(function, x, weight, resampling, impl)
    if plan is None:
        return _composed(function, x, weight, styles, resampling, tensors, slope, gain, clamp, impl)
    form, fir = plan
    f, padding, fir_gain = (None, NO_PADDING, 1.0) if fir is None else fir
    height, width = _out_size(x, f, padding)
    tensors = epilogue.cast(function, x.dtype, (x.shape[0], 1, height, width), tensors)
    weight = weight if resampling.flip_weight else weight.flip((2, 3))
    weight = weight.contiguous(memory_format=torch.channels_last)  # once for the forward and the backward pass
    weight = conv2d_gradfix.gated(weight)
    styles = None if styles is None else styles.to(accumulation(x.dtype))
    numbers = (padding, float(fir_gain), float(slope), float(gain), clamp, form)
    return _styled_layer(f, x, weight, styles, *tensors, *numbers, torch.is_grad_enabled(), "triton")[0]


def _plan(function: str, x: Tensor, weight: Tensor, resampling: Resampling, impl: str) -> tuple[str, Fir | None] | None:
    """The form that the kernels take the layer in, and the filter after its convolution; None: the composition."""
    f, up, down, padding, _ = resampling
    (kh, kw), device, dtype = weight.shape[2:], x.device, x.dtype
    chosen = _dispatch.choose(function, epilogue.LOW_LEVEL, device, impl)
    if chosen != "triton" and not (chosen == "native" and device.type == "cuda" and _dispatch.automatic(impl)):
        return None
    pad = check(function, x, weight, f, up, down, padding, 1)
    if not _dispatch.usable("triton", LOW_LEVEL, device, impl):
        return None
    if memory_format(x) != torch.channels_last or dtype == torch.float64 or weight.dtype != dtype:
        return None
    around: tuple[int, ...] = pad
    if kh != kw or down != 1:
        return None
    if up == 1:
        if kh not in (1, 3) or pad != (kh // 2,) * 4:
            return None
    elif up == 2 and kh == 3 and f is not None and max(filter_size(f)) <= LONGEST:
        around = (pad[0] - 2, pad[1] - 1, pad[2] - 2, pad[3] - 1)
        if min(_out_size(x, f, around)) < 1:
            return None
    else:
        return None
    composable = up == 2 and filter_size(f) == (4, 4) and around == (1, 1, 1, 1)
    c_in, height, width, c_out, k = (constant(size) for size in (*x.shape[1:], weight.shape[0], kh))
    largest = max(c_in, c_out) * (up * height + 1) * (up * width + 1)  # of one sample: counted in 32 bits
    if x.shape[0] == 0 or c_out == 0 or largest >= 2**31:
        return None
    form = conv_plan.planned(c_in, c_out, height, width, k, up, composable, dtype, device)
    if form == TORCH:
        return None
    return form, None if f is None or up == 1 else Fir(f.to(device), around, 4.0)  # type: ignore[arg-type]


def _composed(
    function: str,
    x: Tensor,
    weight: Tensor,
    styles: Tensor | None,
    resampling: Resampling,
    tensors: Vectors,
    slope: float,
    gain: float,
    clamp: float | None,
    impl: str,
) -> Tensor:
    fir: Fir | None = None
    if styles is not None and _few_products(x, weight, resampling):
        y: Phases = (_products(x, weight, styles),)
    else:
        x = x if styles is None else modulate(function, x, styles, impl)
        y, fir = _filterless(function, x, weight, resampling, impl)
    if fir is None and clamp is None and slope == gain == 1 and all(t is None for t in tensors):
        return y[0]
    return styled_epilogue(function, y, fir, *tensors, slope, gain, clamp, impl)


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
    wide = accumulation(x.dtype)
    weights = (weight.flatten(1).t().to(wide) * styles.to(wide)[:, :, None]).to(x.dtype)  # [N, I, O]
    n, _, height, width = x.shape
    y = torch.bmm(x.permute(0, 2, 3, 1).reshape(n, height * width, -1), weights)
    return y.reshape(n, height, width, -1).permute(0, 3, 1, 2)


def _filterless(
    function: str, x: Tensor, weight: Tensor, resampling: Resampling, impl: str
) -> tuple[Phases, Fir | None]:
    """The resampling convolution, and the filter that is left for the epilogue, if any."""
    f, up, down, padding, flip_weight = resampling
    y, around = convolved(function, x, weight, f, up, down, padding, 1, flip_weight, False, impl)
    if around is None:
        return y, None
    if f is None:  # nothing to filter by: cropping and the gain are left
        return (resample(function, y[0], f, 1, 1, around, False, up * up, impl),), None
    return y, Fir(f.to(x.device), around, up * up)


def _out_size(x: Tensor, f: Tensor | None, padding: Sequence[int]) -> tuple[int, int]:
    """Of a layer without resampling, or with up=2 and the filter f."""
    n, c, h, w = x.shape
    return (h, w) if f is None else output_size((n, c, 2 * h + 1, 2 * w + 1), f, ONE, ONE, padding)


def _convolution(x: Tensor, weight: Tensor, f: Tensor | None) -> Tensor:
    """Before the filter: y[2 q + t] gets x[q] weight[2 - t] with a filter, which is for up=2."""
    if f is None:
        return F.conv2d(x, weight, padding=weight.shape[2] // 2)
    return F.conv_transpose2d(x, weight.transpose(0, 1).flip((2, 3)), stride=2)


def _modulated(x: Tensor, styles: Tensor | None) -> Tensor:
    return x if styles is None else (x.to(accumulation(x.dtype)) * over_pixels(styles)).to(x.dtype)


def _last(x: Tensor) -> Tensor:
    """x in channels_last, with the strides that torch.empty gives, also where sizes of 1 leave a choice."""
    return torch.empty_like(x, memory_format=torch.channels_last).copy_(x)


def _forward_reference(
    x: Tensor,
    weight: Tensor,
    styles: Tensor | None,
    scale: Tensor | None,
    noise: Tensor | None,
    strength: Tensor | None,
    b: Tensor | None,
    next_styles: Tensor | None,
    f: Tensor | None,
    padding: Sequence[int],
    fir_gain: float,
    slope: float,
    gain: float,
    clamp: float | None,
    form: str,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """form changes nothing but the order of the sums."""
    y = _convolution(_modulated(x, styles), weight, f)
    numbers = (padding, fir_gain, slope, gain, clamp)
    z = epilogue.forward_reference([y], f, scale, noise, strength, b, None, *numbers)
    if next_styles is None:
        return _last(z), z.new_empty(0)
    out = epilogue.forward_reference([y], f, scale, noise, strength, b, next_styles, *numbers)
    return _last(out), _last(z) if keep else z.new_empty(0)


def _backward_reference(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    styles: Tensor | None,
    scale: Tensor | None,
    noise: Tensor | None,
    strength: Tensor | None,
    b: Tensor | None,
    next_styles: Tensor | None,
    f: Tensor | None,
    z: Tensor,
    padding: Sequence[int],
    fir_gain: float,
    slope: float,
    gain: float,
    clamp: float | None,
    form: str,
    want: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """want: which of the gradients by x, weight, styles, scale, noise, strength, b, next_styles; the others are empty.

    z, clamp(gain lrelu(v)), shows v wherever h, the gradient by it, is not 0.
    """
    of_x, of_weight, of_styles, of_scale = want[:4]
    wide = accumulation(x.dtype)
    g, kept = dout.to(wide), z.to(wide)
    dnext = (g * kept).sum((2, 3)) if want[7] else g.new_empty(0)
    g = g if next_styles is None else g * over_pixels(next_styles)
    n, _, height, width = x.shape
    size = (height, width) if f is None else (2 * height + 1, 2 * width + 1)
    y = z.new_empty((n, weight.shape[0], *size))  # for its shape
    numbers = (padding, fir_gain, slope, gain, clamp)
    parts, _, dnoise, dstrength, db, _ = epilogue.backward_reference(
        g, [y], z, f, scale, noise, strength, b, None, *numbers, (0, *want[4:7], 0)
    )
    dscale = g.new_empty(0)
    if of_scale:
        assert scale is not None
        h = leaky_relu_backward(g, kept, slope, gain, clamp)
        v = kept / torch.where(kept * gain > 0, gain, gain * slope)
        v = v if noise is None else v - (noise if strength is None else noise * strength)
        v = v if b is None else v - per_channel(b, 4, 1)
        dscale = torch.where(h == 0, 0, h * v).sum((2, 3)) / scale
    dx, dweight, dstyles = x.new_empty(0), x.new_empty(0), x.new_empty(0, dtype=wide)
    dy, k, xs = parts[0], weight.shape[2], _modulated(x, styles)
    if of_x or of_styles:
        stride, pad = (1, k // 2) if f is None else (2, 0)
        by_xs = F.conv2d(dy, weight.transpose(0, 1).flip((2, 3)), stride=stride, padding=pad)
        dx = _last(_modulated(by_xs, styles))
        dstyles = (by_xs.to(dstyles.dtype) * x).sum((2, 3)) if of_styles else dstyles
    if of_weight:
        if f is None:
            dweight = conv2d_weight(xs, weight.shape, dy, padding=k // 2)
        else:
            flipped = conv2d_weight(dy, (xs.shape[1], *weight.shape[:1], k, k), xs, stride=2)
            dweight = flipped.transpose(0, 1).flip((2, 3))
        dweight = _last(dweight)
    return dx, dweight, dstyles, dscale, dnoise, dstrength, db, dnext


_TENSORS = "Tensor x, Tensor weight, Tensor? styles, Tensor? scale, Tensor? noise, Tensor? strength, Tensor? b, "
_TENSORS += "Tensor? next_styles, Tensor? f"
_NUMBERS = "SymInt[] padding, float fir_gain, float slope, float gain, float? clamp, str form"
ROUNDINGS = 3  # x times its style, y or the weight with the filter, the result; backward dy
_forward = CustomOp(
    "styled_layer_fwd", f"({_TENSORS}, {_NUMBERS}, bool keep) -> (Tensor, Tensor)", _forward_reference, ROUNDINGS
)
_backward = CustomOp(
    "styled_layer_bwd",
    f"(Tensor dout, {_TENSORS}, Tensor z, {_NUMBERS}, int[] want)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward_reference,
    ROUNDINGS,
)
LOW_LEVEL = (_forward, _backward)


class _StyledLayer(torch.autograd.Function):
    """(f, x, weight, styles, scale, noise, strength, b, next_styles, numbers, keep, backend) -> (out, z)."""

    @staticmethod
    @without_autocast
    def forward(f: Tensor | None, *args: Any) -> tuple[Tensor, Tensor]:
        tensors, numbers, keep, backend = args[:8], args[8:14], args[14], args[15]
        return _forward(backend, *tensors, f, *numbers, keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        out, z = output
        ctx.mark_non_differentiable(z)
        ctx.numbers, ctx.backend = inputs[9:15], inputs[16]
        ctx.save_for_backward(*inputs[:9], out if inputs[8] is None else z)

    @staticmethod
    def backward(ctx: Any, dout: Tensor, _: Tensor) -> tuple:
        want = [int(needed) for needed in ctx.needs_input_grad[1:9]]
        if conv2d_gradfix.weight_gradients_disabled and not torch.compiler.is_compiling():
            want[1] = 0  # which would be dropped
        found = _styled_layer_grad(dout, *ctx.saved_tensors, want, *ctx.numbers, ctx.backend)
        return None, *[g if w else None for g, w in zip(found, want, strict=True)], *[None] * 8


class _StyledLayerGrad(torch.autograd.Function):
    """(dout, f, the eight tensors, z, want, numbers, backend) -> the eight gradients. z depends on the tensors, which
    the derivative by them counts in, since it is that of the composition."""

    @staticmethod
    @without_autocast
    def forward(dout: Tensor, f: Tensor | None, *args: Any) -> tuple:
        tensors, z, want, numbers, backend = args[:8], args[8], args[9], args[10:16], args[16]
        return _backward(backend, dout, *tensors, f, z, *numbers, want)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.want, ctx.numbers, ctx.backend = inputs[11], inputs[12:18], inputs[18]
        ctx.save_for_backward(*inputs[:10])
        ctx.set_materialize_grads(False)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple:
        """Of the gradients that have a cotangent, by the tensors whose derivative is asked for."""
        dout, f, *tensors = ctx.saved_tensors
        asked = ctx.needs_input_grad[2:10]
        given = [i for i, t in enumerate(tensors) if t is not None]
        wanted = [i for i in given if ctx.want[i] and cotangents[i] is not None]
        if not wanted:
            return (None,) * 19
        moved = [i for i in given if asked[i]]

        def gradients(dout: Tensor, *some: Tensor) -> tuple[Tensor, ...]:
            whole = list(tensors)
            for i, t in zip(moved, some, strict=True):
                whole[i] = t

            def of_wanted(*some: Tensor) -> Tensor:
                for i, t in zip(wanted, some, strict=True):
                    whole[i] = t
                return _again(f, whole, ctx.numbers, ctx.backend)

            return torch.func.vjp(of_wanted, *[whole[i] for i in wanted])[1](dout)

        pull = torch.func.vjp(gradients, dout, *[tensors[i] for i in moved])[1]
        by_dout, *found = pull(tuple([cotangents[i] for i in wanted]))
        by: list[Tensor | None] = [None] * 8
        for i, t in zip(moved, found, strict=True):
            by[i] = t
        return by_dout, None, *by, *[None] * 9


def _again(f: Tensor | None, tensors: Sequence[Any], numbers: Sequence[Any], backend: str) -> Tensor:
    """The layer as a composition, from the arguments of its operator."""
    x, weight, styles, scale, noise, strength, b, next_styles = tensors
    padding, fir_gain, slope, gain, clamp, _ = numbers
    x = x if styles is None else modulate("styled_layer", x, styles, backend)
    y = _convolution(x, weight, f)
    fir = None if f is None else Fir(f, padding, fir_gain)
    others = (scale, noise, strength, b, next_styles)
    return styled_epilogue("styled_layer", (y,), fir, *others, slope, gain, clamp, backend)


_styled_layer = _dispatch.function(_StyledLayer)
_styled_layer_grad = _dispatch.function(_StyledLayerGrad)

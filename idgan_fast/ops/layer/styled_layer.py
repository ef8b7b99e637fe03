"""A whole StyleGAN2 layer as one custom op: the convolution with the style before it and the epilogue after it.

The Triton backend has it on GPUs for channels_last images in float16, bfloat16 and float32, kernels of 1x1 and 3x3, up
1 and 2. The backward pass needs nothing but x, weight and the result: leaky ReLU shows its input. Gradients of second
and higher order are those of the composition of convolution and epilogue.
Source: Karras et al., Analyzing and Improving the Image Quality of StyleGAN (arXiv 1912.04958), section 2.2.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from idgan_fast.ops import conv2d_gradfix
from idgan_fast.ops._autograd import as_function, vector_jacobian, without_autocast
from idgan_fast.ops._registry import CustomOp, Operator
from idgan_fast.ops._resampling import output_size
from idgan_fast.ops._tensors import accumulation, over_pixels, per_channel
from idgan_fast.ops.bias_lrelu import SLOPE_GAIN_CLAMP, leaky_relu_backward
from idgan_fast.ops.layer import styled_epilogue as epilogue
from idgan_fast.ops.layer.styled_epilogue import ONE, Activation, Fir, Vectors, apply_epilogue, modulate


def out_size(x: Tensor, f: Tensor | None, padding: Sequence[int]) -> tuple[int, int]:
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


_ROUNDINGS = 3  # x times its style, y or the weight with the filter, the result; backward dy


def _forward_samples(x: Tensor) -> Iterator[tuple]:
    """All forms, with a weight of each size, styles that come with x and that do not, and a next style."""
    (n, c), acc_dtype = x.shape[:2], accumulation(x.dtype)
    for form, k in (("same", 3), ("same", 1), ("composite", 3), ("transposed", 3)):
        f = None if form == "same" else torch.rand(4, 4)
        size = x.shape[2:] if f is None else [2 * s for s in x.shape[2:]]
        weight = (torch.randn(2 * c, c, k, k) / (k * k * c) ** 0.5).to(x.dtype)
        styles, scale, next_styles = (torch.rand(n, size, dtype=acc_dtype) + 0.5 for size in (c, 2 * c, 2 * c))
        noise, b = torch.randn(n, 1, *size, dtype=acc_dtype), torch.randn(2 * c, dtype=acc_dtype)
        numbers = ([int(f is not None)] * 4, 1.0 if f is None else 0.5, *SLOPE_GAIN_CLAMP, form, True)
        strength = torch.tensor(0.5, dtype=acc_dtype)
        yield x, weight, styles, scale, noise, strength, b, None, f, *numbers
        yield x, weight, None, scale, noise, None, None, next_styles, f, *numbers


def _backward_samples(x: Tensor) -> Iterator[tuple]:
    for *tensors, padding, fir_gain, slope, gain, clamp, form, keep in _forward_samples(x):
        numbers = (padding, fir_gain, slope, gain, clamp, form)
        out, z = _forward_reference(*tensors, *numbers, keep)  # type: ignore[call-arg]
        want = [int(t is not None) for t in tensors[:-1]]
        yield torch.randn_like(out), *tensors, z if z.numel() else out, *numbers, want


_TENSORS = "Tensor x, Tensor weight, Tensor? styles, Tensor? scale, Tensor? noise, Tensor? strength, Tensor? b, "
_TENSORS += "Tensor? next_styles, Tensor? f"
_NUMBERS = "SymInt[] padding, float fir_gain, float slope, float gain, float? clamp, str form"
_LARGEST_TILES = (4, 160, 64, 64)  # several of them along every axis
_forward = CustomOp(
    "styled_layer_fwd",
    f"({_TENSORS}, {_NUMBERS}, bool keep) -> (Tensor, Tensor)",
    _forward_reference,
    _forward_samples,
    sample_shape=_LARGEST_TILES,
    roundings=_ROUNDINGS,
)
_backward = CustomOp(
    "styled_layer_bwd",
    f"(Tensor dout, {_TENSORS}, Tensor z, {_NUMBERS}, int[] want)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward_reference,
    _backward_samples,
    sample_shape=_LARGEST_TILES,
    roundings=_ROUNDINGS,
)
OPERATOR = Operator("styled_layer", (_forward, _backward))


class Numbers(NamedTuple):
    """The registered operator's numbers, in its order; form: see conv_plan."""

    padding: Sequence[int]
    fir_gain: float
    slope: float
    gain: float
    clamp: float | None
    form: str


class _StyledLayer(torch.autograd.Function):
    """(x, weight, styles, the epilogue's vectors, f, numbers, keep, backend) -> (out, z)."""

    @staticmethod
    @without_autocast
    def forward(
        x: Tensor, weight: Tensor, styles: Tensor | None, scale: Tensor | None, noise: Tensor | None,
        strength: Tensor | None, b: Tensor | None, next_styles: Tensor | None,
        f: Tensor | None, numbers: Numbers, keep: bool, backend: str,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        vectors = (scale, noise, strength, b, next_styles)
        return _forward(backend, x, weight, styles, *vectors, f, *numbers, keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        *tensors, f, ctx.numbers, _, ctx.backend = inputs
        out, z = output
        ctx.mark_non_differentiable(z)
        *_, next_styles = tensors
        ctx.save_for_backward(*tensors, f, out if next_styles is None else z)

    @staticmethod
    def backward(ctx: Any, dout: Tensor, _: Tensor) -> tuple:
        *by_tensors, _, _, _, _ = ctx.needs_input_grad
        want = [int(needed) for needed in by_tensors]
        if conv2d_gradfix.weight_gradients_disabled and not torch.compiler.is_compiling():
            want[1] = 0  # which would be dropped
        gradients = _styled_layer_grad(dout, *ctx.saved_tensors, want, ctx.numbers, ctx.backend)
        wanted = [gradient if w else None for gradient, w in zip(gradients, want, strict=True)]
        return *wanted, None, None, None, None


class _StyledLayerGrad(torch.autograd.Function):
    """(dout, the eight tensors, f, z, want, numbers, backend) -> the eight gradients. z depends on the tensors, which
    the derivative by them counts in, since it is that of the composition."""

    @staticmethod
    @without_autocast
    def forward(
        dout: Tensor, x: Tensor, weight: Tensor, styles: Tensor | None, scale: Tensor | None, noise: Tensor | None,
        strength: Tensor | None, b: Tensor | None, next_styles: Tensor | None,
        f: Tensor | None, z: Tensor, want: list[int], numbers: Numbers, backend: str,
    ) -> tuple:  # fmt: skip
        vectors = (scale, noise, strength, b, next_styles)
        return _backward(backend, dout, x, weight, styles, *vectors, f, z, *numbers, want)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        *tensors, f, _, ctx.want, ctx.numbers, ctx.backend = inputs
        ctx.save_for_backward(f, *tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple:
        """Of the gradients that have a cotangent, by the tensors whose derivative is asked for."""
        f, dout, *tensors = ctx.saved_tensors
        counted = [cotangent if w else None for cotangent, w in zip(cotangents, ctx.want, strict=True)]
        wanted = [cotangent is not None for cotangent in counted]

        def layer(*tensors: Tensor | None) -> tuple[Tensor]:
            return (_composition(tensors, f, ctx.numbers, ctx.backend),)

        def gradients(dout: Tensor, *tensors: Tensor | None) -> list[Tensor | None]:
            return vector_jacobian(layer, tensors, wanted, (dout,))

        by = vector_jacobian(gradients, (dout, *tensors), ctx.needs_input_grad[:9], counted)
        return *by, None, None, None, None, None


def _composition(tensors: Sequence[Any], f: Tensor | None, numbers: Numbers, backend: str) -> Tensor:
    """The layer as a composition, from the arguments of its custom op."""
    x, weight, styles, *vectors = tensors
    padding, fir_gain, slope, gain, clamp, _ = numbers
    x = x if styles is None else modulate(x, styles, backend)
    y = _convolution(x, weight, f)
    fir = None if f is None else Fir(f, tuple(padding), fir_gain)  # type: ignore[arg-type]
    return apply_epilogue((y,), fir, Vectors(*vectors), Activation(slope, gain, clamp), impl=backend)


styled_layer = as_function(_StyledLayer)
_styled_layer_grad = as_function(_StyledLayerGrad)

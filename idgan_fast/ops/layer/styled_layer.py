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

from idgan_fast.ops import conv2d_gradfix
from idgan_fast.ops._autograd import as_function, vector_jacobian, without_autocast
from idgan_fast.ops._registry import CustomOp, Operator
from idgan_fast.ops._resampling import NO_PADDING, ONE, output_size
from idgan_fast.ops._tensors import accumulation, in_channels_last, over_pixels, per_channel
from idgan_fast.ops.bias_lrelu import SLOPE_GAIN_CLAMP, leaky_relu_backward
from idgan_fast.ops.layer import styled_epilogue
from idgan_fast.ops.layer.epilogue import SCHEMA, Epilogue
from idgan_fast.ops.layer.styled_epilogue import apply_epilogue, modulate


def out_size(x: Tensor, f: Tensor | None, padding: Sequence[int]) -> tuple[int, int]:
    """Of a layer without resampling, or with up=2 and the filter f."""
    n, c, h, w = x.shape
    return (h, w) if f is None else output_size((n, c, 2 * h + 1, 2 * w + 1), f, ONE, ONE, padding)


def _convolution_arguments(weight: Tensor, f: Tensor | None) -> tuple[Any, ...]:
    """Those of aten's convolution from the weight on. With a filter, for up=2, y[2 q + t] gets x[q] weight[2 - t]."""
    if f is None:
        return weight, None, [1, 1], [weight.shape[2] // 2] * 2, [1, 1], False, [0, 0], 1
    return weight.transpose(0, 1).flip((2, 3)), None, [2, 2], [0, 0], [1, 1], True, [0, 0], 1


def _modulated(x: Tensor, styles: Tensor | None) -> Tensor:
    return x if styles is None else (x.to(accumulation(x.dtype)) * over_pixels(styles)).to(x.dtype)


def _forward_reference(x: Tensor, weight: Tensor, styles: Tensor | None, *operands: Any) -> tuple[Tensor, Tensor]:
    """operands: the fields of `Epilogue`, the form, which changes nothing but the order of the sums, and keep."""
    *fields, _, keep = operands
    epilogue = Epilogue(*fields)
    y = torch.convolution(_modulated(x, styles), *_convolution_arguments(weight, epilogue.f))
    z = styled_epilogue.forward_reference([y], *epilogue._replace(next_styles=None))
    if epilogue.next_styles is None:
        return in_channels_last(z), z.new_empty(0)
    out = in_channels_last(styled_epilogue.forward_reference([y], *epilogue))
    return out, in_channels_last(z) if keep else z.new_empty(0)


def _backward_reference(
    dout: Tensor, z: Tensor, x: Tensor, weight: Tensor, styles: Tensor | None, *operands: Any
) -> tuple[Tensor, ...]:
    """operands: the fields of `Epilogue`, the form, and want: which of the gradients by x, weight, styles, scale,
    noise, strength, b, next_styles to compute; the others are empty.

    z, clamp(gain lrelu(v)), shows v wherever h, the gradient by it, is not 0.
    """
    *fields, _, want = operands
    epilogue = Epilogue(*fields)
    want_x, want_weight, want_styles, want_scale = want[:4]
    acc_dtype = accumulation(x.dtype)
    g, z_acc = dout.to(acc_dtype), z.to(acc_dtype)
    dnext = (g * z_acc).sum((2, 3)) if want[7] else g.new_empty(0)
    g = g if epilogue.next_styles is None else g * over_pixels(epilogue.next_styles)
    n, _, height, width = x.shape
    size = (height, width) if epilogue.f is None else (2 * height + 1, 2 * width + 1)
    y = z.new_empty((n, weight.shape[0], *size))  # for its shape
    (dy,), _, dnoise, dstrength, db, _ = styled_epilogue.backward_reference(
        g, [y], z, *epilogue._replace(next_styles=None), (0, *want[4:7], 0)
    )
    dscale = g.new_empty(0)
    if want_scale:
        _, scale, noise, strength, b, _, _, _, slope, gain, clamp = epilogue
        assert scale is not None
        h = leaky_relu_backward(g, z_acc, slope, gain, clamp)
        v = z_acc / torch.where(z_acc * gain > 0, gain, gain * slope)
        v = v if noise is None else v - (noise if strength is None else noise * strength)
        v = v if b is None else v - per_channel(b, 4, 1)
        dscale = torch.where(h == 0, 0, h * v).sum((2, 3)) / scale
    dx, dweight, dstyles = x.new_empty(0), x.new_empty(0), x.new_empty(0, dtype=acc_dtype)
    kernel, bias_sizes, *options = _convolution_arguments(weight, epilogue.f)
    dxs, dkernel, _ = torch.ops.aten.convolution_backward(
        dy, _modulated(x, styles), kernel, bias_sizes, *options, [bool(want_x or want_styles), bool(want_weight), False]
    )
    if want_x or want_styles:
        dx = in_channels_last(_modulated(dxs, styles))
        dstyles = (dxs.to(acc_dtype) * x).sum((2, 3)) if want_styles else dstyles
    if want_weight:
        dweight = in_channels_last(dkernel if epilogue.f is None else dkernel.flip((2, 3)).transpose(0, 1))
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
        padding, fir_gain = (NO_PADDING, 1.0) if f is None else ((1, 1, 1, 1), 0.5)
        numbers = (padding, fir_gain, *SLOPE_GAIN_CLAMP, form, True)
        strength = torch.tensor(0.5, dtype=acc_dtype)
        yield x, weight, styles, f, scale, noise, strength, b, None, *numbers
        yield x, weight, None, f, scale, noise, None, None, next_styles, *numbers


def _backward_samples(x: Tensor) -> Iterator[tuple]:
    for image, weight, styles, *fields, form, keep in _forward_samples(x):
        out, z = _forward_reference(image, weight, styles, *fields, form, keep)
        want = [int(t is not None) for t in (image, weight, styles, *Epilogue(*fields).vectors)]
        yield torch.randn_like(out), z if z.numel() else out, image, weight, styles, *fields, form, want


_OPERANDS = f"Tensor x, Tensor weight, Tensor? styles, {SCHEMA}, str form"
_LARGEST_TILES = (4, 160, 64, 64)  # several of them along every axis
_forward = CustomOp(
    "styled_layer_fwd",
    f"({_OPERANDS}, bool keep) -> (Tensor, Tensor)",
    _forward_reference,
    _forward_samples,
    sample_shape=_LARGEST_TILES,
    roundings=_ROUNDINGS,
)
_backward = CustomOp(
    "styled_layer_bwd",
    f"(Tensor dout, Tensor z, {_OPERANDS}, int[] want)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward_reference,
    _backward_samples,
    sample_shape=_LARGEST_TILES,
    roundings=_ROUNDINGS,
)
OPERATOR = Operator("styled_layer", (_forward, _backward))


class Options(NamedTuple):
    """numbers: the epilogue's; form: see conv_plan; keep: whether a backward pass may follow."""

    numbers: tuple[Any, ...]
    form: str
    keep: bool
    backend: str


class _StyledLayer(torch.autograd.Function):
    """(options, f, x, weight, styles, the epilogue's vectors) -> (out, z)."""

    @staticmethod
    @without_autocast
    def forward(options: Options, f: Tensor | None, *tensors: Any) -> tuple[Tensor, Tensor]:
        numbers, form, keep, backend = options
        x, weight, styles, *vectors = tensors
        return _forward(backend, x, weight, styles, f, *vectors, *numbers, form, keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        ctx.options, f, *tensors = inputs
        out, z = output
        ctx.mark_non_differentiable(z)
        *_, next_styles = tensors
        ctx.save_for_backward(f, out if next_styles is None else z, *tensors)

    @staticmethod
    def backward(ctx: Any, dout: Tensor, _: Tensor) -> tuple:
        f, z, *tensors = ctx.saved_tensors
        _, _, *by_tensors = ctx.needs_input_grad
        want = [int(needed) for needed in by_tensors]
        if conv2d_gradfix.weight_gradients_disabled and not torch.compiler.is_compiling():
            want[1] = 0  # which would be dropped
        gradients = _styled_layer_grad(want, ctx.options, f, z, dout, *tensors)
        return None, None, *[gradient if w else None for gradient, w in zip(gradients, want, strict=True)]


class _StyledLayerGrad(torch.autograd.Function):
    """(want, options, f, z, dout, the eight tensors) -> the eight gradients. z depends on the tensors, which the
    derivative by them counts in, since it is that of the composition."""

    @staticmethod
    @without_autocast
    def forward(want: list[int], options: Options, f: Tensor | None, z: Tensor, dout: Tensor, *tensors: Any) -> tuple:
        numbers, form, _, backend = options
        x, weight, styles, *vectors = tensors
        return _backward(backend, dout, z, x, weight, styles, f, *vectors, *numbers, form, want)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.want, ctx.options, f, _, *tensors = inputs
        ctx.save_for_backward(f, *tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple:
        """Of the gradients that have a cotangent, by the tensors whose derivative is asked for."""
        f, dout, *tensors = ctx.saved_tensors
        numbers, _, _, backend = ctx.options
        counted = [cotangent if w else None for cotangent, w in zip(cotangents, ctx.want, strict=True)]
        wanted = [cotangent is not None for cotangent in counted]

        def layer(x: Tensor, weight: Tensor, styles: Tensor | None, *vectors: Any) -> tuple[Tensor]:
            x = x if styles is None else modulate(x, styles, backend)
            y = torch.convolution(x, *_convolution_arguments(weight, f))
            return (apply_epilogue((y,), Epilogue(f, *vectors, *numbers), impl=backend),)

        def gradients(dout: Tensor, *tensors: Tensor | None) -> list[Tensor | None]:
            return vector_jacobian(layer, tensors, wanted, (dout,))[1]

        _, by = vector_jacobian(gradients, (dout, *tensors), ctx.needs_input_grad[4:], counted)
        return None, None, None, None, *by


styled_layer = as_function(_StyledLayer)
_styled_layer_grad = as_function(_StyledLayerGrad)

"""A whole StyleGAN2 layer: xs = x styles, y = conv(xs, weight), u = FIR(y), and the epilogue of styled_epilogue.py.

x: [N, I, H, W] channels_last in float16, bfloat16 or float32; weight [O, I, k, k] in the same; f up to [6, 6] or [6];
the rest in float32. Forward, by form: "same", one kernel; "composite", up=2 in one kernel with the filter composed into
the weight; "transposed", up=2 in two kernels with y between them. Backward nothing but x, weight and z is needed: sums
of the epilogue from z (styled_epilogue_sums.py), dy through the filter (styled_epilogue.py), the gradients by x and
styles (styled_layer_conv.py) and by the weight (styled_layer_weight_grad.py). Bytes (A: output, I: input activations):
forward I + A, I + 3A (transposed); backward 5A + 3I, with a filter 7A + 3I; in float32, where torch takes the gradient
by the weight, 2I more. Kernels' tables and weights are left out. Source: Karras et al., arXiv 1912.04958, section 2.2.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from idgan_fast.kernels._common import dense, new_image
from idgan_fast.kernels.styled_epilogue import fir_backward, fir_epilogue, noise_gradients
from idgan_fast.kernels.styled_epilogue_sums import epilogue_sums
from idgan_fast.kernels.styled_layer_conv import conv_forward, conv_input_grad
from idgan_fast.kernels.styled_layer_weight_grad import conv_weight_grad
from idgan_fast.ops._resampling import ONE, output_size
from idgan_fast.ops._tensors import laid_out_like
from idgan_fast.ops.layer.conv_plan import COMPOSITE, SAME, TRANSPOSED
from idgan_fast.ops.layer.epilogue import Epilogue


def styled_layer_fwd(x: Tensor, weight: Tensor, styles: Tensor | None, *operands: Any) -> tuple[Tensor, Tensor]:
    """(out, z); z is empty unless it is to be kept and differs from out. operands: see the reference."""
    *fields, form, keep = operands
    epilogue = Epilogue(*fields)
    f = epilogue.f
    if form == TRANSPOSED:
        y, _ = conv_forward(x, weight, styles, Epilogue(), form=form)
        z = None
        if keep and epilogue.next_styles is not None:
            z = new_image(y, *output_size(y.shape, f, ONE, ONE, epilogue.padding))
        out = fir_epilogue(y, epilogue, z=z)
    else:
        if form == COMPOSITE:
            assert f is not None
            weight = composite_weight(weight, f, padding=epilogue.padding, fir_gain=epilogue.fir_gain)
        out, z = conv_forward(x, weight, styles, epilogue, form=form, keep_z=keep)
    return out, x.new_empty(0) if z is None else z


def composite_weight(weight: Tensor, f: Tensor, *, padding: Sequence[int], fir_gain: float) -> Tensor:
    """The 3x3 weight of the transposed convolution and the filter after it as one [4 O, I, 3, 3], phase by phase.

    Row d of phase a meets pixel r + d - 1 for output 2 r + a; it is the sum over the filter's rows k, turned round, of
    row 2 - t of the weight with t = a + k - padding - 2 (d - 1). Columns likewise.
    """
    f = torch.outer(f, f) if f.ndim == 1 else f
    g = (f * fir_gain).flip((0, 1))
    a, d, t = (torch.arange(size, device=f.device) for size in (2, 3, 3))
    k = t - a[:, None, None] + 2 * (d[:, None] - 1)  # [a, d, t]; the padding is added by axis
    rows, columns = (k + padding[2])[:, None, :, None, :, None], (k + padding[0])[None, :, None, :, None, :]
    exists = (rows >= 0) & (rows < g.shape[0]) & (columns >= 0) & (columns < g.shape[1])
    taps = torch.where(exists, g[rows.clamp(0, g.shape[0] - 1), columns.clamp(0, g.shape[1] - 1)], 0)
    taps = taps.flip((4, 5)).reshape(36, 9)  # of weight rows 2 - t
    o, i = weight.shape[:2]
    by_tap = weight.to(f.dtype).permute(0, 2, 3, 1).reshape(o, 9, i)
    phases = (taps.view(4, 1, 9, 9) @ by_tap).to(weight.dtype)  # [phase, O, taps, I]
    return phases.view(4 * o, 3, 3, i).permute(0, 3, 1, 2)


def styled_layer_bwd(
    dout: Tensor, z: Tensor, x: Tensor, weight: Tensor, styles: Tensor | None, *operands: Any
) -> tuple[Tensor, ...]:
    """The gradients by x, weight, styles, scale, noise, strength, b, next_styles; empty where not wanted."""
    *fields, form, want = operands
    epilogue = Epilogue(*fields)
    f = epilogue.f
    want_x, want_weight, want_styles, want_scale, want_noise, want_strength, want_b, want_next = (bool(w) for w in want)
    dout = laid_out_like(dout, z)
    form = SAME if f is None else TRANSPOSED  # the composite form's gradients are the transposed one's
    dy = new_image(z, *(x.shape[2:] if f is None else (2 * x.shape[2] + 1, 2 * x.shape[3] + 1)))
    pixel_sums, dscale, db, dnext = epilogue_sums(
        dout, z, epilogue, dy=dy if f is None else None, want_scale=want_scale, want_noise=want_noise or want_strength,
        want_b=want_b, want_next=want_next,
    )  # fmt: skip
    dnoise, dstrength = noise_gradients(pixel_sums, epilogue, want_noise=want_noise, want_strength=want_strength)
    dx, dweight, dstyles = x.new_empty(0), x.new_empty(0), x.new_empty(0, dtype=torch.float32)
    if f is not None and (want_x or want_weight or want_styles):
        fir_backward(dout, z, epilogue, dy)
    if want_x or want_styles:
        dx, dstyles = conv_input_grad(dy, weight, styles, x, form=form, want_styles=want_styles)
    if want_weight:
        weight_grad = torch_weight_grad if x.dtype == torch.float32 else conv_weight_grad
        dweight = weight_grad(dy, x, styles, k=weight.shape[2], form=form)
    return dx, dweight, dstyles, dscale, dnoise, dstrength, db, dnext


def torch_weight_grad(dy: Tensor, x: Tensor, styles: Tensor | None, *, k: int, form: str) -> Tensor:
    """As conv_weight_grad, by torch's convolution of x times its style."""
    if styles is not None:
        x = fir_epilogue(dense(x), Epilogue(scale=styles))
    same = form == SAME
    a, b = (dy, x) if same else (x, dy)  # as if a were the result of a convolution of b
    weight = x.new_empty(1).expand(a.shape[1], b.shape[1], k, k)
    _, dweight, _ = torch.ops.aten.convolution_backward(
        a, b, weight, bias_sizes=[0], stride=[1, 1] if same else [2, 2], padding=[k // 2] * 2 if same else [0, 0],
        dilation=[1, 1], transposed=False, output_padding=[0, 0], groups=1, output_mask=[False, True, False],
    )  # fmt: skip
    dweight = dweight if same else dweight.transpose(0, 1).flip((2, 3))
    return dweight.contiguous(memory_format=torch.channels_last)

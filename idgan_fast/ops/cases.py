"""Every operator on small inputs beside its plain torch compositions: what numerics, doctor and benchmarks run."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from idgan_fast import ops
from idgan_fast.ops import plain
from idgan_fast.ops.winograd_conv2d import DTYPES as WINOGRAD
from idgan_fast.ops.winograd_conv2d import winograd_conv2d

CLAMP = 1.5
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """An operator on given shapes: ours and the plain compositions, all functions of the same tensors.

    plain: the forms in which StyleGAN code computes it; for modulated convolutions a weight for each sample, and one
    weight for all. The first in float64 gives the exact values.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    ours: Function
    plain: tuple[Function, ...]


def cases(device: str = "cpu", size: int = 16, channels: int = 32) -> list[Case]:
    """size: height and width of the input [2, channels, size, size]."""
    f = plain.setup_filter(device)
    x, b = (2, channels, size, size), (channels,)

    def bias_act(name: str, act: str, clamp: float | None) -> Case:
        return Case(
            name,
            (x, b),
            lambda x, b: ops.bias_act(x, b, act=act, clamp=clamp),
            (lambda x, b: plain.bias_act(x, b, act, clamp),),
        )

    return [
        bias_act("bias_act lrelu", "lrelu", None),
        bias_act("bias_act lrelu clamp", "lrelu", CLAMP),
        bias_act("bias_act swish", "swish", None),
        Case("upsample2d", (x,), lambda x: ops.upsample2d(x, f), (lambda x: plain.upsample2d(x, f),)),
        Case("downsample2d", (x,), lambda x: ops.downsample2d(x, f), (lambda x: plain.downsample2d(x, f),)),
        Case("filter2d", (x,), lambda x: ops.filter2d(x, f), (lambda x: plain.upfirdn2d(x, f, padding=(2, 1, 2, 1)),)),
        Case(
            "conv2d_resample down=2",
            (x, (channels, channels, 3, 3)),
            lambda x, w: ops.conv2d_resample(x, w, f, down=2, padding=1),
            (lambda x, w: plain.conv2d_resample(x, w, f),),
        ),
        Case(
            "winograd_conv2d",
            (x, (channels, channels, 3, 3)),
            lambda x, w: winograd_conv2d(x, w) if x.dtype in WINOGRAD else plain.conv2d(x, w),
            (plain.conv2d,),
        ),
        *[layer(x, f, up) for layer in (_modulated, _styled, _chained) for up in (1, 2)],
        Case(
            "filtered_lrelu",
            (x, b),
            lambda x, b: ops.filtered_lrelu(x, f, f, b, 2, 2, 3, clamp=CLAMP),
            (lambda x, b: plain.filtered_lrelu(x, f, b, CLAMP),),
        ),
        Case("fma", (x, (2, channels, 1, 1), x), ops.fma, (plain.fma,)),
    ]


PLAIN_MODULATED = (plain.modulated_conv2d, plain.shared_modulated_conv2d)


def _modulated(x: tuple[int, ...], f: Tensor, up: int) -> Case:
    def of(modulated: Function) -> Function:
        return lambda x, w, s: modulated(x, w, s, f, up)

    return Case(
        f"modulated_conv2d up={up}",
        _layer_shapes(x, up)[:3],
        lambda x, w, s: ops.modulated_conv2d(x, w, s, up=up, padding=1, resample_filter=f),
        tuple(of(m) for m in PLAIN_MODULATED),
    )


def _styled(x: tuple[int, ...], f: Tensor, up: int) -> Case:
    def of(modulated: Function) -> Function:
        return lambda x, w, s, noise, strength, b: plain.styled_conv2d(
            x, w, s, noise, strength, b, f, up, CLAMP, modulated
        )

    return Case(
        f"styled_conv2d up={up}",
        _layer_shapes(x, up),
        lambda x, w, s, noise, strength, b: ops.styled_conv2d(x, w, s, noise, strength, b, up, f, clamp=CLAMP),
        tuple(of(m) for m in PLAIN_MODULATED),
    )


def _chained(x: tuple[int, ...], f: Tensor, up: int) -> Case:
    """From x without to a result with its style, as the first of two layers."""

    def ours(x: Tensor, w: Tensor, s: Tensor, noise: Tensor, strength: Tensor, b: Tensor, t: Tensor) -> Tensor:
        x = x * s[:, :, None, None]
        return ops.chained_styled_conv2d(x, w, s, noise, strength, b, t, up, f, clamp=CLAMP)

    def of(modulated: Function) -> Function:
        def layer(x: Tensor, w: Tensor, s: Tensor, noise: Tensor, strength: Tensor, b: Tensor, t: Tensor) -> Tensor:
            y = plain.styled_conv2d(x, w, s, noise, strength, b, f, up, CLAMP, modulated)
            return y * t[:, :, None, None]

        return layer

    return Case(
        f"chained_styled_conv2d up={up}",
        (*_layer_shapes(x, up), x[:2]),
        ours,
        tuple(of(m) for m in PLAIN_MODULATED),
    )


def _layer_shapes(x: tuple[int, ...], up: int) -> tuple[tuple[int, ...], ...]:
    """x, weight, styles, noise, its strength, bias; as many channels out as in."""
    n, c, h, w = x
    return x, (c, c, 3, 3), (n, c), (n, 1, h * up, w * up), (), (c,)


def draw(case: Case, dtype: torch.dtype, layout: str, device: str = "cpu", seed: int = 0) -> list[Tensor]:
    """Random tensors of a case, exact in `dtype`."""
    rng = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=rng).to(device, dtype) for shape in case.shapes]
    return [t.contiguous(memory_format=LAYOUTS[layout]) if t.ndim == 4 else t for t in tensors]

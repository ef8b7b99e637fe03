"""The CPU kernels at the sizes of real layers, beside the reference, its compiled form, plain torch, the floor.

Rows are checked against plain torch and timed in turns. The floor is a copy of the input, writing the result or reading
the input, into memory that is there already (the kernels allocate their results); of a layer it is torch's convolution
alone, at the input's size.
"""

from collections.abc import Callable
from functools import cache
from itertools import cycle
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import measuring
from benchmarks.bench_ops import run
from benchmarks.measuring import CLOCK, DEVICE
from idgan_fast import ops
from idgan_fast.ops import _dispatch
from idgan_fast.ops.bias_act import plain_bias_act
from idgan_fast.ops.filtered_lrelu import plain_filtered_lrelu
from idgan_fast.ops.modulated_conv2d import plain_modulated_conv2d
from idgan_fast.ops.styled_conv2d import plain_styled_conv2d
from idgan_fast.ops.upfirdn2d import blur_filter, plain_upfirdn2d
from idgan_fast.ops.validation.numerics import LAYOUTS

pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" or _dispatch._no_cpu_library is not None, reason=str(_dispatch._no_cpu_library or "a GPU is there")
)
ROUNDS = 15
F = blur_filter()
Function = Callable[..., Tensor]
MAPS = ((8, 128, 64, 64), (128,))


def layer(n: int, c: int, size: int, up: int) -> tuple[tuple[int, ...], ...]:
    return (n, c, size, size), (c, c, 3, 3), (n, c), (n, 1, size * up, size * up), (), (c,)


def styled(up: int) -> tuple[Function, Function]:
    return (
        lambda x, w, s, noise, t, b: ops.styled_conv2d(x, w, s, noise, t, b, up=up, resample_filter=F, clamp=256),
        lambda x, w, s, noise, t, b: plain_styled_conv2d(x, w, s, noise, t, b, f=F, up=up, clamp=256),
    )


def modulated(up: int) -> tuple[Function, Function]:
    return (
        lambda x, w, s: ops.modulated_conv2d(x, w, s, up=up, padding=1, resample_filter=F),
        lambda x, w, s: plain_modulated_conv2d(x, w, s, F, up),
    )


# name -> shapes, ours, plain, the floor as a function of input and result (of layers: the convolution alone)
CASES: dict[str, tuple[tuple[tuple[int, ...], ...], Function, Function, Callable[[Tensor, Tensor], Any] | None]] = {
    "bias_act lrelu clamp": (
        MAPS,
        lambda x, b: ops.bias_act(x, b, act="lrelu", clamp=1.5),
        lambda x, b: plain_bias_act(x, b, "lrelu", 1.5),
        lambda x, y: y.copy_(x),
    ),
    "bias_act swish": (
        MAPS,
        lambda x, b: ops.bias_act(x, b, act="swish"),
        lambda x, b: plain_bias_act(x, b, "swish"),
        lambda x, y: y.copy_(x),
    ),
    "blur": (
        MAPS[:1],
        lambda x: ops.filter2d(x, F),
        lambda x: plain_upfirdn2d(x, F, padding=(2, 1, 2, 1)),
        lambda x, y: y.copy_(x),
    ),
    "upsample2d": (
        MAPS[:1],
        lambda x: ops.upsample2d(x, F),
        lambda x: plain_upfirdn2d(x, F, up=2, padding=(2, 1, 2, 1), gain=4),
        lambda x, y: y.fill_(1),
    ),
    "downsample2d": (
        MAPS[:1],
        lambda x: ops.downsample2d(x, F),
        lambda x: plain_upfirdn2d(x, F, down=2, padding=(1, 1, 1, 1)),
        lambda x, y: x.sum(),
    ),
    "modulated_conv2d 256, 32x32": (layer(4, 256, 32, 1)[:3], *modulated(1), None),
    "modulated_conv2d 256, 32x32, up=2": (layer(4, 256, 32, 2)[:3], *modulated(2), None),
    "styled_conv2d 128, 64x64, up=2": (layer(4, 128, 64, 2), *styled(2), None),
    "filtered_lrelu": (
        MAPS,
        lambda x, b: ops.filtered_lrelu(x, F, F, b, 2, 2, 3, clamp=256),
        lambda x, b: plain_filtered_lrelu(x, F, b, 256),
        lambda x, y: y.copy_(x),
    ),
    "styled_conv2d 512, 4x4": (layer(1, 512, 4, 1), *styled(1), None),
    "styled_conv2d 512, 8x8": (layer(1, 512, 8, 1), *styled(1), None),
}
MODES = ("forward", "forward + backward")
VARIANTS = ("native", "reference", "reference, compiled", "plain", "floor")


@cache
def timed(name: str, mode: str, layout: str) -> dict[str, list[float]]:
    shapes, ours, theirs, floor = CASES[name]
    sets = []
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        tensors = [torch.randn(shape, generator=rng) for shape in shapes]
        tensors = [t.contiguous(memory_format=LAYOUTS[layout]) if t.ndim == 4 else t for t in tensors]
        sets.append([t.requires_grad_(mode != "forward") for t in tensors])
    y = theirs(*sets[0]).detach()
    dy = torch.ones_like(y)
    turns = cycle(sets)
    compiled = torch.compile(lambda *t: run(ours, mode, t, [dy]), fullgraph=True)

    def on(backend: str, call: Callable[..., list[Tensor]]) -> Callable[[], list[Tensor]]:
        def timed_call() -> list[Tensor]:
            with ops.backend(backend):
                return call(*next(turns))

        return timed_call

    def lowest(t: list[Tensor]) -> Any:
        if floor is not None:
            return floor(t[0].detach(), y)
        return run(lambda x, w: torch.conv2d(x, w, padding=1), mode, t[:2], [dy[..., : t[0].shape[2], : t[0].shape[3]]])

    eager = lambda *t: run(ours, mode, t, [dy])  # noqa: E731
    calls: dict[str, Callable[[], Any]] = {
        "native": on("native", eager),
        "reference": on("reference", eager),
        "reference, compiled": on("reference", compiled),
        "plain": on("reference", lambda *t: run(theirs, mode, t, [dy])),
        "floor": lambda: lowest(next(turns)),
    }
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        for variant in VARIANTS[:-1]:
            turns = cycle(sets)
            torch.testing.assert_close(calls[variant]()[0], theirs(*sets[0]), rtol=1e-3, atol=1e-3)
    return measuring.alternating(calls, ROUNDS)


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_cpu(name: str, mode: str, layout: str, variant: str, benchmark: Any) -> None:
    benchmark.group = f"CPU kernels | {name} | {mode} | {layout}"
    benchmark.name = variant
    times = timed(name, mode, layout)
    measuring.show(benchmark, times[variant])
    benchmark.extra_info["native_faster_by"] = round(median(times[variant]) / median(times["native"]), 2)

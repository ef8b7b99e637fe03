"""The operators' own cases: ours beside plain torch as StyleGAN code has it, and the floor.

Three modes: forward; forward + backward; double backward, the gradient of a sum over all first gradients, as R1 and
path length take it, by the inputs and by dy, forward pass included. Before it is timed each variant must agree with
plain torch in float64. Inputs rotate through sets that together exceed the cache.

The floor is a copy of the input, writing the result or reading the input, into memory that is there already (the
kernels allocate their results); where the operator convolves, it is torch's convolution alone, at the input's size.

--full adds every backend, torch.compile of the reference, the half type, and real layers' sizes in both layouts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import measuring
from benchmarks.comparison import CLOCK, Comparison, record
from benchmarks.measuring import DEVICE, Call
from idgan_fast import ops
from idgan_fast.ops._registry import Case
from idgan_fast.ops.validation import numerics

MODES = ("forward", "forward + backward", "double backward")
HALF = torch.float16 if DEVICE == "cuda" else torch.bfloat16
SHAPE = (2, 64, 256, 256) if DEVICE == "cuda" else (2, 64, 64, 64)
LAYERS = (  # cases on images of real layers
    ("bias_act lrelu clamp", (8, 128, 64, 64)),
    ("bias_act swish", (8, 128, 64, 64)),
    ("filter2d", (8, 128, 64, 64)),
    ("upsample2d", (8, 128, 64, 64)),
    ("downsample2d", (8, 128, 64, 64)),
    ("filtered_lrelu", (8, 128, 64, 64)),
    ("modulated_conv2d up=1", (4, 256, 32, 32)),
    ("modulated_conv2d up=2", (4, 256, 32, 32)),
    ("styled_conv2d up=2", (4, 128, 64, 64)),
    ("styled_conv2d up=1", (1, 512, 4, 4)),
    ("styled_conv2d up=1", (1, 512, 8, 8)),
)
# RMS errors: of outputs, and of gradients, where a value that rounding moves across a kink counts fully. Where plain
# torch's own error is large, as of sums that cancel, three times that is allowed.
TOLERANCE = {torch.float32: (1e-5, 5e-3), torch.float16: (5e-3, 0.1), torch.bfloat16: (4e-2, 0.2)}


def comparisons(full: bool) -> Iterator[Comparison]:
    every_case = [(name, SHAPE) for name in cases_of(SHAPE)]
    yield from lines(every_case, MODES, torch.float32, "NCHW", full)
    if full:
        yield from lines(every_case, MODES, HALF, "NCHW", full)
        for layout in numerics.LAYOUTS:
            yield from lines(LAYERS, MODES[:2], torch.float32, layout, full, "Layers' operators")


@pytest.mark.benchmark(timer=CLOCK)
def test_operator(comparison: Comparison, variant: str, benchmark: Any, max_seconds: float) -> None:
    record(comparison, variant, benchmark, max_seconds)


def cases_of(shape: tuple[int, ...]) -> dict[str, Case]:
    """By name, on images of a shape; the operators' own are of two images."""
    n, channels, size, _ = shape
    cases = numerics.cases(DEVICE, size, channels)
    return {case.name: replace(case, shapes=tuple(with_images(n, of) for of in case.shapes)) for case in cases}


def with_images(n: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (n, *shape[1:]) if shape[:1] == (2,) else shape


def lines(
    rows: Iterable[tuple[str, tuple[int, ...]]],
    modes: Sequence[str],
    dtype: torch.dtype,
    layout: str,
    full: bool,
    title: str = "Operators",
) -> Iterator[Comparison]:
    """A line for each case, on images of a shape, and mode; all that are of one dtype and layout are a table."""
    for name, shape in rows:
        case = cases_of(shape)[name]
        backends = [b for b in numerics.backends(DEVICE) if numerics.runs(case, b, DEVICE)]
        ours = [*backends, "reference, compiled"] if full else backends[:1]
        plain = ["plain"] if len(case.plain) == 1 else ["plain, weight a sample", "plain, shared weight"]
        variants = (*ours, *plain, "floor")
        for mode in modes:
            yield Comparison(
                f"{title}, {str(dtype).removeprefix('torch.')} {layout}",
                f"{name}, {list(shape)}, {mode}",
                variants,
                partial(prepare, case, mode, dtype, layout, variants),
            )


def run(call: Callable[..., Tensor], mode: str, leaves: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """All results of a mode from the operator's tensors and the cotangents: of y, then of every first gradient."""
    y = call(*leaves)
    if mode == "forward":
        return [y]
    first = torch.autograd.grad(y, leaves, others[0], create_graph=mode == "double backward")
    if mode == "forward + backward":
        return [y.detach(), *first]
    total = torch.stack([(g * u).sum() for g, u in zip(first, others[1:], strict=True)]).sum()
    by = [*leaves, others[0]]
    second = torch.autograd.grad(total, by, materialize_grads=True, allow_unused=True)
    return [t.detach() for t in (y, *first, *second)]


def whole(case: Case, variant: str, mode: str) -> Callable[..., list[Tensor]]:
    """The function of leaves and cotangents that a variant is."""
    if variant.startswith("plain"):
        form = case.plain[1 if "shared" in variant else 0]
        return lambda leaves, others: run(form, mode, leaves, others)
    call: Callable[..., list[Tensor]] = lambda *t: run(case.ours, mode, t[: len(t) // 2], t[len(t) // 2 :])  # noqa: E731
    if variant.endswith("compiled"):
        torch._dynamo.reset()
        call = torch.compile(call, fullgraph=True)

    def on_backend(leaves: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
        with ops.backend(variant.removesuffix(", compiled")):
            return call(*leaves, *others)

    return on_backend


def tensors(case: Case, dtype: torch.dtype, layout: str, mode: str) -> tuple[list[Tensor], list[Tensor]]:
    """What the operator takes, and as many cotangents: of the first as y has, of the others as the rest has."""
    leaves = numerics.sample(case, dtype, layout, DEVICE)
    torch.manual_seed(0)
    others = [torch.randn_like(t) for t in (case.ours(*leaves), *leaves)]
    others[0].requires_grad_(mode == "double backward")
    return [t.requires_grad_(mode != "forward") for t in leaves], others


def floor(mode: str, leaves: Sequence[Tensor], others: Sequence[Tensor]) -> Callable[..., Any]:
    """The least that must be done, as a function of leaves and cotangents."""
    y = torch.empty_like(others[0])
    if len(leaves) > 1 and leaves[1].shape[2:] == (3, 3):
        stride = max(leaves[0].shape[2] // y.shape[2], 1)
        convolution = partial(torch.conv2d, stride=stride, padding=1)
        dy = torch.randn_like(convolution(*leaves[:2])).requires_grad_(others[0].requires_grad)
        return lambda leaves, others: run(convolution, mode, leaves[:2], [dy, *others[1:3]])
    if y.numel() > leaves[0].numel():
        return lambda *_: y.fill_(1)
    if y.numel() < leaves[0].numel():
        return lambda leaves, _: leaves[0].detach().sum()
    return lambda leaves, _: y.copy_(leaves[0].detach())


def copies(ts: Sequence[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    return [t.detach().to(dtype or t.dtype, copy=True).requires_grad_(t.requires_grad) for t in ts]


def prepare(case: Case, mode: str, dtype: torch.dtype, layout: str, variants: Sequence[str]) -> dict[str, Call]:
    leaves, others = tensors(case, dtype, layout, mode)
    exact = run(case.plain[0], mode, copies(leaves, torch.float64), copies(others, torch.float64))
    of_plain = [numerics.error(run(form, mode, leaves, others), exact)[1] for form in case.plain]
    bound = max(TOLERANCE[dtype][mode != "forward"], 3 * max(of_plain))
    count = min(64, 1 + 2 * measuring.cache_bytes() // sum(t.nbytes for t in leaves))
    sets = [(leaves, others), *[(copies(leaves), copies(others)) for _ in range(count - 1)]]
    turns = cycle(sets)  # one for all rows, so that none meets inputs that another has just brought into the cache
    calls: dict[str, Call] = {}
    for variant in variants:
        if variant == "floor":
            call = floor(mode, leaves, others)
        else:
            with torch._dynamo.config.patch(trace_autograd_ops=True):
                call = whole(case, variant, mode)
                error = numerics.error(call(leaves, others), exact)[1]
            assert error <= bound, f"{case.name}, {mode}, {dtype}, {variant}: RMS error {error:.1e}, above {bound:.1e}"
        calls[variant] = partial(_in_turn, call, turns)
    return calls


def _in_turn(call: Callable[..., Any], sets: Iterator[tuple]) -> Any:
    return call(*next(sets))

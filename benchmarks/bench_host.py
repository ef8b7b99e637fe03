"""Host time of the operators: what one thread's processor needs around maps so small that nothing else is measured.

Plain torch with a weight that all samples share, ours with the host library and ours without it, in turns in one
process: without gradients, forward with them, forward and backward, and a penalty on the gradient by x (R1). Tables
without --full have 4x4 maps; with it 1x1 to 8x8, and 32x32, where the convolution and memory take most of the time.
Correctness first: all give the same result and gradients. The bound of a row is plain torch's time.
`python -m benchmarks.bench_host` counts calls of Python and launches: operators of torch and ours that compute.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.comparison import CLOCK, Comparison, record
from benchmarks.measuring import Call
from idgan_fast.ops import _host
from idgan_fast.ops._registry import OPERATORS, Case

CHANNELS, SIZE, CALLS = 8, 4, 40
MODES = ("no gradients", "forward", "forward + backward", "R1")
VARIANTS = ("plain", "library", "Python")
SKIPPED = ("filtered_lrelu", "conv2d_resample down=2", "winograd_conv2d")  # which the library does not have
VIEWS = (
    *("view", "reshape", "_reshape_alias", "_unsafe_view", "expand", "permute", "slice", "select", "squeeze", "narrow"),
    *("unsqueeze", "transpose", "t", "detach", "alias", "as_strided", "flatten", "view_as", "detach_", "expand_as"),
    *("to", "_to_copy", "contiguous", "empty", "empty_like", "empty_strided", "resize_", "resolve_conj", "result_type"),
)


def cases(size: int, mode: str) -> Iterator[Case]:
    for operator in OPERATORS.values():
        for case in operator.cases("cpu", CHANNELS, size) if operator.cases else ():
            linear = len(case.shapes) == 1  # in x alone, and so without a penalty on its gradient
            if not case.name.startswith(SKIPPED) and not (linear and mode == "R1"):
                yield case


def comparisons(full: bool) -> Iterator[Comparison]:
    for size in (1, 2, 4, 8, 32) if full else (SIZE,):
        for dtype in (torch.float32, torch.bfloat16):
            for mode in MODES:
                for case in cases(size, mode):
                    yield Comparison(
                        f"Host time, {mode}, {str(dtype).removeprefix('torch.')}, 1x{CHANNELS}x{size}x{size}",
                        case.name,
                        VARIANTS,
                        partial(prepare, case, dtype, mode),
                        seconds=thread_seconds,
                        mib=None,
                    )


@pytest.mark.benchmark(timer=CLOCK)
def test_host(comparison: Comparison, variant: str, benchmark: Any, max_seconds: float) -> None:
    record(comparison, variant, benchmark, max_seconds)


def thread_seconds(call: Call) -> float:
    """Of one call, from many: this thread's alone."""
    began = time.thread_time()
    for _ in range(CALLS):
        call()
    return (time.thread_time() - began) / CALLS


@contextmanager
def without_library() -> Iterator[None]:
    library, _host.library = _host.library, None
    try:
        yield
    finally:
        _host.library = library


def prepare(case: Case, dtype: torch.dtype, mode: str) -> dict[str, Call]:
    """Checked in float64; docs/numerics.md has the errors of the others."""
    wanted, *others = (call() for call in calls(case, sample(case, torch.float64), mode).values())
    for other in others:
        torch.testing.assert_close(other, wanted, rtol=1e-8, atol=1e-8, msg=lambda text: f"{case.name}, {mode}: {text}")
    return calls(case, sample(case, dtype), mode)


def calls(case: Case, tensors: list[Tensor], mode: str) -> dict[str, Call]:
    return {
        "plain": partial(run, case.plain[-1], tensors, mode),
        "library": partial(run, case.ours, tensors, mode),
        "Python": partial(run_without_library, case.ours, tensors, mode),
    }


def run_without_library(function: Callable[..., Tensor], tensors: list[Tensor], mode: str) -> tuple[Tensor, ...]:
    with without_library():
        return run(function, tensors, mode)


def sample(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """Batch 1, images and weights in channels_last."""
    rng = torch.Generator().manual_seed(0)
    tensors = []
    for shape in case.shapes:
        shape = (1, *shape[1:]) if shape and shape[0] == 2 else shape
        t = torch.randn(shape, generator=rng).to(dtype)
        tensors.append(t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t)
    return [t.requires_grad_() for t in tensors]


def run(function: Callable[..., Tensor], tensors: list[Tensor], mode: str) -> tuple[Tensor, ...]:
    if mode == "no gradients":
        with torch.no_grad():
            return (function(*tensors),)
    y = function(*tensors)
    if mode == "forward":
        return (y.detach(),)
    if mode == "R1":
        (by_x,) = torch.autograd.grad(y, tensors[0], _like(y), create_graph=True)
        return torch.autograd.grad(by_x, tensors, _like(by_x), materialize_grads=True)
    return torch.autograd.grad(y, tensors, _like(y))


def _like(t: Tensor) -> Tensor:
    return torch.ones_like(t)


def launches(call: Call) -> int:
    """Calls of operators that compute and call no other such operator."""
    call()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()

    def computes(event: Any) -> bool:
        return event.name.startswith(("aten::", "idgan_fast")) and event.name.split("::")[1] not in VIEWS

    def inside(event: Any) -> Iterator[Any]:
        for child in event.cpu_children:
            yield child
            yield from inside(child)

    return sum(computes(event) and not any(map(computes, inside(event))) for event in seen.events())


def python_calls(call: Call) -> int:
    """Of functions of Python; those of C are not counted."""
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    call()
    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def main() -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells of its start and stop
    print("| operator | mode | Python calls: plain | library | Python | launches: plain | library | Python |")
    print("|---|---|---|---|---|---|---|---|")
    for mode in MODES:
        for case in cases(SIZE, mode):
            prepared = prepare(case, torch.float32, mode)
            counts = [count(prepared[name]) for count in (python_calls, launches) for name in VARIANTS]
            print(f"| {case.name} | {mode} | " + " | ".join(map(str, counts)) + " |", flush=True)


if __name__ == "__main__":
    main()

"""The operators: every backend that runs here, plain torch as StyleGAN code writes it, and torch.compile of the latter.

Forward, and forward + backward. Before anything is timed each row must agree with plain torch in float64 to the
tolerance of float32. The bound is the copy bandwidth of the same run: GB/s counts compulsory bytes, inputs read and
output written once, in the forward pass.
"""

import time
from collections.abc import Callable
from functools import cache
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from idgan_fast import ops
from idgan_fast.ops import cases, numerics

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = {case.name: case for case in cases.cases(DEVICE, size=64, channels=64)}
MODES = ("forward", "forward + backward")
VARIANTS = [*numerics.backends(DEVICE), "plain", "plain compiled"]
ROUNDS = 15


def function(name: str, variant: str) -> Callable[..., Tensor]:
    case = CASES[name]
    if variant == "plain":
        return case.plain[0]
    if variant == "plain compiled":
        torch._dynamo.reset()
        return torch.compile(case.plain[0], fullgraph=True)

    def on_backend(*tensors: Tensor) -> Tensor:
        with ops.backend(variant):
            return case.ours(*tensors)

    return on_backend


def runner(call: Callable[..., Tensor], tensors: list[Tensor], mode: str) -> Callable[[], Any]:
    if mode == "forward":
        return lambda: call(*tensors)
    leaves = [t.detach().requires_grad_() for t in tensors]
    dy = torch.ones_like(call(*tensors))
    return lambda: torch.autograd.grad(call(*leaves), leaves, dy)


def seconds(call: Callable[[], Any]) -> float:
    """One call; on a GPU between two CUDA events."""
    if DEVICE == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@cache
def copy_gb_per_s() -> float:
    """Of a copy larger than the caches, read and write counted."""
    a = torch.randn(2**25, device=DEVICE)
    b = torch.empty_like(a)
    return 2 * a.nbytes / median(seconds(lambda: b.copy_(a)) for _ in range(9)) / 1e9


@cache
def timed(name: str, mode: str) -> dict[str, tuple[Callable[[], Any], float]]:
    """Every variant of a group: checked, then timed in turns."""
    tensors = cases.draw(CASES[name], torch.float32, "NCHW", DEVICE)
    exact = CASES[name].plain[0](*[t.double() for t in tensors])
    calls = {}
    for variant in VARIANTS:
        call = function(name, variant)
        torch.testing.assert_close(call(*tensors).double(), exact, rtol=1e-4, atol=1e-4)
        calls[variant] = runner(call, tensors, mode)
        calls[variant]()
    times: dict[str, list[float]] = {variant: [] for variant in calls}
    for _ in range(ROUNDS):
        for variant, run in calls.items():
            times[variant].append(seconds(run))
    return {variant: (calls[variant], median(times[variant])) for variant in calls}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, mode: str, variant: str, benchmark: Any, say: Callable[[str], None]) -> None:
    benchmark.group = f"{name}, {mode}, [2, 64, 64, 64] float32"
    group = timed(name, mode)
    run, taken = group[variant]
    info: dict[str, Any] = {"median_us": round(taken * 1e6), "ratio_to_plain": round(group["plain"][1] / taken, 2)}
    if mode == "forward":
        tensors = cases.draw(CASES[name], torch.float32, "NCHW", DEVICE)
        moved = sum(t.nbytes for t in tensors) + CASES[name].plain[0](*tensors).nbytes
        rate = moved / taken / 1e9
        info |= {"bytes": moved, "gb_per_s": round(rate, 2), "of_copy_bandwidth": round(rate / copy_gb_per_s(), 3)}
    benchmark.extra_info.update(info)
    benchmark.pedantic(run, rounds=3, iterations=1)
    say(f"{name:24} {mode:18} {variant:15} " + "  ".join(f"{key} {value}" for key, value in info.items()))

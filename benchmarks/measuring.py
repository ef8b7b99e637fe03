"""Times, bytes, flops and memory of calls: on the host's clock, on a GPU between CUDA events."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Call = Callable[[], Any]
MIN_ROUNDS, MAX_ROUNDS = 3, 21


class Flops(TorchDispatchMode):
    """Counts convolutions and products by torch's own table; its FlopCounterMode refuses autograd.grad."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def exact() -> AbstractContextManager:
    """Convolutions in float32 without TF32, which a GPU takes otherwise: for checks, not for timing."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def seconds(call: Call) -> float:
    """One call. On a GPU the first event waits behind a fill of the cache, so that the call is queued by then."""
    if DEVICE == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        _flush().zero_()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@cache
def _flush() -> torch.Tensor:
    return torch.empty(2 * cache_bytes(), dtype=torch.uint8, device=DEVICE)


def alternating(
    calls: Mapping[str, Call], timed: Callable[[Call], float] = seconds, max_seconds: float = 1.0
) -> dict[str, list[float]]:
    """Times of every call, in seconds, taken in turns, so that a disturbance meets all of them.

    The order of a turn is drawn anew: what ran before leaves the caches, and the memory that is free, in some state.
    There are MIN_ROUNDS to MAX_ROUNDS turns, and no new one once they have taken `max_seconds` a call.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, rng = list(calls), random.Random(0)
    began = time.perf_counter()
    for turn in range(MAX_ROUNDS):
        if turn >= MIN_ROUNDS and time.perf_counter() - began > max_seconds * len(calls):
            break
        rng.shuffle(order)
        for name in order:
            times[name].append(timed(calls[name]))
    return times


def cache_bytes() -> int:
    """Of the last-level cache on a GPU; on a CPU, where the share of a shared cache is not known, 32 MiB."""
    return torch.cuda.get_device_properties(0).L2_cache_size if DEVICE == "cuda" else 2**25


def peak_bytes(call: Call) -> int:
    """The largest sum of tensors alive that one call adds to what was there."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    assert recorded.profiler is not None
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def product_of(flops: float) -> Call:
    """One matrix product in float32 with so many flops, large enough to run at the machine's rate: a floor."""
    size = 8192 if DEVICE == "cuda" else 2048
    a = torch.randn(size, size, device=DEVICE)
    b = torch.randn(size, max(round(flops / (2 * size**2)), 1), device=DEVICE)
    return lambda: torch.mm(a, b)

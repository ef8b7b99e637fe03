"""A line of a benchmark's table: one computation by several variants, checked first, then timed in turns.

A module bench_<what>.py has `comparisons(full)`, and a test that `pytest_generate_tests` (conftest.py) calls for each
variant of each of them, so that every variant is a row of pytest-benchmark's JSON and tables.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cache
from statistics import median
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import Call


def allocated_mib(_: str, call: Call) -> float:
    return measuring.peak_bytes(call) / 2**20


@dataclass(frozen=True)
class Comparison:
    """The line `row` of the table `title`, with a column for each variant.

    prepare: checks that the variants agree and returns a call for each of them, or seconds, where time is predicted.
    baseline: the others are compared with the fastest variant whose name begins so.
    images: how many images a call makes or sees; 0 for an operator.
    seconds, mib: how the time and the memory of a call are measured.
    """

    title: str
    row: str
    variants: tuple[str, ...]
    prepare: Callable[[], Mapping[str, Call | float]]
    _: KW_ONLY
    baseline: str = "plain"
    images: int = 0
    seconds: Callable[[Call], float] = measuring.seconds
    mib: Callable[[str, Call], float] | None = allocated_mib


@cache
def measure(comparison: Comparison, max_seconds: float) -> dict[str, tuple[list[float], dict[str, float]]]:
    """Of every variant the times of its calls in seconds, and what the tables show. max_seconds: of all its calls."""
    variants = comparison.prepare()
    calls: dict[str, Call] = {name: call for name, call in variants.items() if callable(call)}
    mib = {name: comparison.mib(name, call) for name, call in calls.items() if comparison.mib and name != "floor"}
    times = {name: [call] for name, call in variants.items() if not callable(call)}
    times |= measuring.alternating(calls, comparison.seconds, max_seconds)
    baseline = min(median(values) for name, values in times.items() if name.startswith(comparison.baseline))
    results = {}
    for name, values in times.items():
        taken = median(values)
        info = {"ms": 1e3 * taken, "ratio": baseline / taken}
        if name in mib:
            info["peak_mib"] = mib[name]
        if comparison.images:
            info["images_per_second"] = comparison.images / taken
        results[name] = values, info
    return results


class Clock:
    """The timer that pytest-benchmark is given: it replays times that were taken in turns with those of other rows."""

    def __init__(self) -> None:
        self.now, self.running = 0.0, False
        self.durations: Iterator[float] = iter(())

    def load(self, durations: Sequence[float]) -> None:
        self.durations, self.running = iter(durations), False

    def __call__(self) -> float:
        if self.running:
            self.now += next(self.durations, 0.0)
        self.running = not self.running
        return self.now


CLOCK = Clock()


def record(comparison: Comparison, variant: str, benchmark: Any, max_seconds: float) -> None:
    """Makes a variant a row of pytest-benchmark's; the test is marked `benchmark(timer=CLOCK)`."""
    times, info = measure(comparison, max_seconds)[variant]
    benchmark.group, benchmark.name = f"{comparison.title} | {comparison.row}", variant
    benchmark.extra_info.update({key: float(f"{value:.4g}") for key, value in info.items()})
    CLOCK.load(times)
    benchmark.pedantic(lambda: None, rounds=len(times), iterations=1)

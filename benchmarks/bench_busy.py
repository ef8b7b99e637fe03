"""A step of stage 1 of dsprites-quick on the CPU beside other processes that never rest.

Threads as commands set them (`idgan_fast.startup`) against OpenMP's default: two processes that live throughout and
take their steps in turns, for what a machine gives changes within seconds. Correctness first: both give the same loss.
The floor of a machine of C cores beside N others is the default's time alone times (C + N) / C. The commands' time must
stay within twice that. With --full also beside 1 and 4.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache, partial
from statistics import median
from typing import Any

import pytest
import torch

from benchmarks.comparison import CLOCK, Comparison, record
from idgan_fast import startup
from idgan_fast.config import arguments
from idgan_fast.data import batches, open_data
from idgan_fast.models.vae import IMAGE_SIZE
from idgan_fast.training.precision import choose
from idgan_fast.training.step_compiler import StepCompiler
from idgan_fast.training.vae import VAEStage

CORES, SECONDS, ROUNDS = 2, 0.7, 12
VARIANTS: dict[str, dict[str, str]] = {"commands": startup.WAITING, "default": {}}


def comparisons(full: bool) -> Iterator[Comparison]:
    if startup.usable_cores() < CORES:
        return
    for others in (0, 1, 2, 4) if full else (0, 2):
        yield Comparison(
            f"Stage 1 of dsprites-quick beside busy processes, {CORES} threads",
            f"{others} busy",
            ("commands", "default", "floor"),
            partial(prepare, others),
            baseline="default",
            images=64,
            mib=None,
        )


@pytest.mark.benchmark(timer=CLOCK)
def test_busy(comparison: Comparison, variant: str, benchmark: Any, max_seconds: float) -> None:
    record(comparison, variant, benchmark, max_seconds)


def prepare(others: int) -> dict[str, float]:
    times = beside(others)
    alone = beside(0)
    floor = alone["default"] * (CORES + others) / CORES
    assert times["commands"] < 2 * floor, (times, floor)
    return {**times, "floor": floor}


@cache
def beside(others: int) -> dict[str, float]:
    """Seconds of a step by variant, beside so many processes: medians over rounds of medians over steps."""
    busy: list[subprocess.Popen[bytes]] = []
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    try:
        processes = {name: start(environ) for name, environ in VARIANTS.items()}
        losses = {ask(process)[0] for process in processes.values()}
        assert len(losses) == 1, losses
        busy += [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        for _ in range(ROUNDS):
            for name, process in processes.items():
                times[name].append(ask(process)[1])
        for process in processes.values():
            process.communicate()
    finally:
        for neighbour in busy:
            neighbour.kill()
            neighbour.wait()
    return {name: median(rounds) for name, rounds in times.items()}


def start(environ: dict[str, str]) -> "subprocess.Popen[str]":
    """A new process with these variables that takes steps when asked."""
    unset = {name: value for name, value in os.environ.items() if name not in startup.CHOSEN_BY_USER}
    command = [sys.executable, "-m", "benchmarks.bench_busy"]
    environ = {**unset, **environ, "OMP_NUM_THREADS": str(CORES)}
    return subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: "subprocess.Popen[str]") -> tuple[float, float]:
    """Let a process take steps for SECONDS. Returns the loss of the first and the median of their seconds."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return tuple(json.loads(process.stdout.readline()))


def main() -> None:
    """Take steps for SECONDS at each line of standard input, and print the first one's loss and the median's time."""
    config, device = arguments.parse(["--preset", "dsprites-quick"], "bench_busy"), torch.device("cpu")
    dataset = open_data(config, IMAGE_SIZE)
    torch.manual_seed(0)
    stage = VAEStage(config, dataset.channels, device, choose("off", device), StepCompiler(False, device, print))
    steps = enumerate(batches(dataset, config.vae.batch_size, 0, 0, workers=0))
    for _ in sys.stdin:
        times: list[float] = []
        losses: list[float] = []
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end or len(times) < 3:
            done, batch = next(steps)
            begin = time.perf_counter()
            losses.append(stage.step(batch, done)["loss"].item())
            times.append(time.perf_counter() - begin)
        print(json.dumps([losses[0], median(times)]), flush=True)


if __name__ == "__main__":
    main()

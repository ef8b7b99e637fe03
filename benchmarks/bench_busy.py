"""A step of stage 1 of dsprites-quick on the CPU beside other processes that never rest.

Threads as commands set them (`idgan_fast.startup`) against OpenMP's default, each in a process of its own, in turns.
Correctness first: both give the same loss. The floor of a machine of C cores beside N others is the default's time
alone times (C + N) / C. The commands' time must stay within twice that. With --full also beside 1 and 4.
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

CORES, WARM, SECONDS, ROUNDS = 2, 3, 4.0, 3
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
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
    try:
        results = [{name: measure(environ) for name, environ in VARIANTS.items()} for _ in range(ROUNDS)]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    losses = {loss for result in results for loss, _ in result.values()}
    assert len(losses) == 1, losses
    return {name: median(result[name][1] for result in results) for name in VARIANTS}


def measure(environ: dict[str, str]) -> tuple[float, float]:
    """The loss after the steps that warm up, and the seconds of a step, in a new process with these variables."""
    unset = {name: value for name, value in os.environ.items() if name not in startup.CHOSEN_BY_USER}
    command = [sys.executable, "-m", "benchmarks.bench_busy"]
    environ = {**unset, **environ, "OMP_NUM_THREADS": str(CORES)}
    return tuple(json.loads(subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE).stdout))


def main() -> None:
    """Print the loss and the seconds of a step in this process."""
    config, device = arguments.parse(["--preset", "dsprites-quick"], "bench_busy"), torch.device("cpu")
    dataset = open_data(config, IMAGE_SIZE)
    torch.manual_seed(0)
    compiler = StepCompiler(False, device, print)
    stage = VAEStage(config, dataset.channels, device, choose("off", device), compiler)
    times: list[float] = []
    for done, batch in enumerate(batches(dataset, config.vae.batch_size, 0, 0, workers=0)):
        start = time.perf_counter()
        loss = stage.step(batch, done)["loss"].item()
        if done < WARM:
            first_loss = loss
            continue
        times.append(time.perf_counter() - start)
        if sum(times) > SECONDS and len(times) >= 3:
            break
    print(json.dumps([first_loss, median(times)]))


if __name__ == "__main__":
    main()

"""Images/s of the whole stage-2 step of celeba-64 at batch 8, beside the public code's step on the same networks.

Correctness first: from the same weights and noise, both steps give the same losses twice in a row. The bound is the
machine's fp32 matrix product, measured in the same run: convolutions are nearly all of the arithmetic.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import measuring
from benchmarks.measuring import CLOCK
from benchmarks.public_step import PublicStep
from idgan_fast.config.presets import PRESETS
from idgan_fast.models.vae import VAE
from idgan_fast.training.gan import GANStage
from idgan_fast.training.precision import choose

BATCH = 8
ROUNDS = 7


def build(amp: str = "off") -> tuple[GANStage, PublicStep, Tensor]:
    """Our stage, the public step with the same weights, and uint8 images; flip and noise are off."""
    torch.manual_seed(0)
    config = PRESETS["celeba-64"]
    config = replace(config, images=replace(config.images, flip=False, dequantise=False))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = VAE(config.vae.c_dim, init="kaiming").to(device)
    stage = GANStage(config, 3, device, choose(amp, device), vae)  # type: ignore[arg-type]
    public = PublicStep(stage.generator, stage.discriminator, stage.teacher)
    return stage, public, torch.randint(256, (BATCH, 3, 64, 64), dtype=torch.uint8)


def run_ours(stage: GANStage, images: Tensor) -> dict[str, Tensor]:
    return synchronised(stage.step(images, 0))


def run_public(public: PublicStep, stage: GANStage, images: Tensor) -> dict[str, Tensor]:
    """The public step on the noise that our stage would draw next."""
    x = stage.sampler.real_images(images).contiguous()
    eps, s_d, s_g = (stage.sampler.normal(BATCH, dim) for dim in (stage.c_dim, stage.config.s_dim, stage.config.s_dim))
    return synchronised(public.step(x, eps, s_d, s_g, stage.config.r1_weight, stage.config.distill_weight))


def synchronised(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return losses


def assert_equal_losses() -> None:
    stage, public, images = build()
    for _ in range(2):
        before = stage.rng.get_state()
        theirs = run_public(public, stage, images)
        stage.rng.set_state(before)
        ours = run_ours(stage, images)
        for name, value in theirs.items():
            assert torch.allclose(ours[name], value, rtol=2e-3, atol=1e-5), (name, ours[name], value)


def peak_gflops() -> float:
    """Of a large fp32 matrix product, the best of a few."""
    size = 8192 if measuring.DEVICE == "cuda" else 2048
    a = torch.randn(size, size, device=measuring.DEVICE)
    return 2 * size**3 / min(measuring.seconds(partial(torch.mm, a, a)) for _ in range(7)) / 1e9


def resident_peak_mib() -> float:
    """Of this process since it began (getrusage would count its parent's)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def peak_mib(variant: str) -> float:
    """What two steps add to the peak memory of a process that has the networks already."""
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_step", variant], check=True, capture_output=True, text=True
    )
    return json.loads(output.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def alternating() -> dict[str, Any]:
    """Everything that the rows share: checked, then timed in turns in one process."""
    with measuring.exact():
        assert_equal_losses()
    stage, public, images = build()
    half, _, _ = build("bf16")
    calls: dict[str, Callable[[], Any]] = {
        "public": lambda: run_public(public, stage, images),
        "ours": lambda: run_ours(stage, images),
        "ours-bf16": lambda: run_ours(half, images),
    }
    for call in calls.values():
        call()
    return {"calls": calls, "times": measuring.alternating(calls, ROUNDS), "peak": peak_gflops()}


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("variant", ["public", "ours", "ours-bf16"])
def test_step(variant: str, benchmark: Any, alternating: dict[str, Any]) -> None:
    benchmark.group = f"stage-2 step, celeba-64, batch {BATCH}"
    benchmark.name = variant
    medians = {name: median(values) for name, values in alternating["times"].items()}
    taken = medians[variant]
    with measuring.Flops() as flops:
        alternating["calls"][variant]()
    gflop = flops.total / 1e9
    info = {
        "images_per_second": round(BATCH / taken, 2),
        "ratio_to_public": round(medians["public"] / taken, 2),
        "gflop": round(gflop, 1),
        "gflops": round(gflop / taken, 1),
        "of_fp32_matmul_peak": round(gflop / taken / alternating["peak"], 2),
        "peak_mib": round(peak_mib(variant)),
    }
    benchmark.extra_info.update(info)
    measuring.show(benchmark, alternating["times"][variant])


def main(variant: str) -> None:
    """Print the memory that a variant's steps add, in MiB."""
    stage, public, images = build("bf16" if variant == "ours-bf16" else "off")
    there = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    before = resident_peak_mib()
    for _ in range(2):
        run_public(public, stage, images) if variant == "public" else run_ours(stage, images)
    on_gpu = (torch.cuda.max_memory_allocated() - there) / 2**20 if torch.cuda.is_available() else 0.0
    print(on_gpu or resident_peak_mib() - before)


if __name__ == "__main__":
    main(sys.argv[1])

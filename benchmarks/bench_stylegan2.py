"""StyleGAN2 as a whole: the generator beside a plain composition, a step of stylegan2-256, a forward pass at 1024.

Correctness first: both generators give the same images in float32, and the step's losses are finite. The bound is the
machine's fp32 matrix product, as in bench_step.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import measuring, plain_stylegan2
from benchmarks.bench_step import peak_gflops, resident_peak_mib
from benchmarks.measuring import CLOCK
from idgan_fast.config.presets import PRESETS
from idgan_fast.models.stylegan2 import StyleGAN2Generator
from idgan_fast.models.vae import VAE
from idgan_fast.training.gan import GANStage
from idgan_fast.training.networks import build_networks
from idgan_fast.training.precision import choose

DEVICE = torch.device(measuring.DEVICE)
ROUNDS = 9


def generator(preset: str) -> StyleGAN2Generator:
    """With noise and biases that are not 0, as a trained one has."""
    torch.manual_seed(0)
    g, _ = build_networks(PRESETS[preset], 3)
    with torch.no_grad():
        for name, p in g.named_parameters():
            if name.endswith(("noise_strength", "bias")):
                p.add_(0.1)
    return g.to(device=DEVICE, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]


def inputs(g: StyleGAN2Generator, n: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    sizes = (g.s_dim, g.c_dim, g.synthesis.noise_numel)
    return [torch.randn(n, size, generator=rng).to(DEVICE) for size in sizes]


def run(g: StyleGAN2Generator, given: list[Tensor], amp: str) -> Tensor:
    with choose(amp, DEVICE).autocast():  # type: ignore[arg-type]
        return g(*given)


@pytest.fixture(scope="module")
def forward() -> dict[Any, Any]:
    """The rows of both batch sizes: checked, then timed in turns."""
    g = generator("stylegan2-256")
    found: dict[Any, Any] = {"peak": peak_gflops()}
    for n in (1, 4):
        given = inputs(g, n)
        calls: dict[str, Callable[[], Any]] = {
            "plain": lambda given=given: plain_stylegan2.generator(g, *given),  # type: ignore[misc]
            "ours": lambda given=given: run(g, given, "off"),  # type: ignore[misc]
            "ours-bf16": lambda given=given: run(g, given, "bf16"),  # type: ignore[misc]
        }
        with measuring.exact():
            expected = calls["plain"]()
            torch.testing.assert_close(calls["ours"](), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
        error = (calls["ours-bf16"]() - expected).norm() / expected.norm()
        assert error < 0.05, error
        with measuring.Flops() as flops:
            calls["ours"]()
        found[n] = {"calls": calls, "times": measuring.alternating(calls, ROUNDS), "gflop": flops.total / 1e9}
    return found


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("variant", ["plain", "ours", "ours-bf16"])
@pytest.mark.parametrize("n", [1, 4])
def test_generator(n: int, variant: str, benchmark: Any, forward: dict[Any, Any]) -> None:
    benchmark.group = f"StyleGAN2 generator, 256x256, forward, N = {n}"
    benchmark.name = variant
    times, gflop = forward[n]["times"], forward[n]["gflop"]
    taken = median(times[variant])
    benchmark.extra_info.update(
        ratio_to_plain=round(median(times["plain"]) / taken, 2),
        gflop=round(gflop, 1),
        of_fp32_matmul_peak=round(gflop / taken / forward["peak"], 2),
        peak_mib=round(measuring.peak_bytes(forward[n]["calls"][variant]) / 2**20),
    )
    measuring.show(benchmark, times[variant])


def stage(amp: str, recompute: bool) -> GANStage:
    torch.manual_seed(0)
    config = PRESETS["stylegan2-256"]
    styled = replace(config.gan.stylegan2, recompute=recompute)
    config = replace(config, gan=replace(config.gan, stylegan2=styled))
    vae = VAE(config.vae.c_dim, init="kaiming").to(DEVICE)
    return GANStage(config, 3, DEVICE, choose(amp, DEVICE), vae)  # type: ignore[arg-type]


VARIANTS = {"fp32": ("off", False), "bf16": ("bf16", False), "bf16, recompute": ("bf16", True)}


def measured(variant: str) -> dict[str, float]:
    """Seconds of a step with every update and of one with D's and G's alone, and the memory that the former adds."""
    ours, images = stage(*VARIANTS[variant]), torch.zeros(1, 3, 256, 256, dtype=torch.uint8)
    before = resident_peak_mib()
    metrics = ours.step(images, 0)
    assert all(value.isfinite() for value in metrics.values())
    grown = resident_peak_mib() - before
    on_gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    whole = [measuring.seconds(lambda: ours.step(images, 0)) for _ in range(3)]
    short = [measuring.seconds(lambda: ours.step(images, 1)) for _ in range(3)]
    return {"whole": median(whole), "short": median(short), "peak_mib": on_gpu or grown}


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("variant", VARIANTS)
def test_step(variant: str, benchmark: Any) -> None:
    """Each in a process of its own, for its memory."""
    command = [sys.executable, "-m", "benchmarks.bench_stylegan2", variant]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    benchmark.group = "stylegan2-256, step at batch 1 with R1 and path length"
    benchmark.name = variant
    benchmark.extra_info.update(ms_without=round(1e3 * found["short"]), peak_mib=round(found["peak_mib"]))
    measuring.show(benchmark, [found["whole"]])


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_generator_at_1024(amp: str, benchmark: Any) -> None:
    g = generator("stylegan2-1024")
    given = inputs(g, 1)
    assert run(g, given, amp).isfinite().all()
    benchmark.group = "StyleGAN2 generator, 1024x1024, forward, N = 1"
    benchmark.name = "fp32" if amp == "off" else amp
    benchmark.extra_info.update(peak_mib=round(measuring.peak_bytes(lambda: run(g, given, amp)) / 2**20))
    measuring.show(benchmark, [measuring.seconds(lambda: run(g, given, amp)) for _ in range(3)])


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1])))

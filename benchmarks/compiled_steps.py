"""Iterations of each stage compiled beside eager: python -m benchmarks.compiled_steps NAME ...   (vae, celeba-64, ...)

Prints a Markdown table: medians of alternating iterations, and what compiling took. That takes minutes, so this is no
part of `make bench`. Correctness first: the first iteration's losses are equal.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import torch
from torch import Tensor

from benchmarks import measuring
from idgan_fast.config.presets import PRESETS
from idgan_fast.config.settings import Config
from idgan_fast.models.vae import VAE
from idgan_fast.training.gan import GANStage
from idgan_fast.training.precision import choose
from idgan_fast.training.step_compiler import StepCompiler
from idgan_fast.training.vae import VAEStage

BATCH, ROUNDS = 8, 9
DEVICE = torch.device(measuring.DEVICE)


def configured(name: str) -> Config:
    """Small widths, and R1 and path length in every second iteration, so that two iterations hold every update."""
    config = PRESETS[name]
    styled = replace(config.gan.stylegan2, channel_base=4096, channel_max=128, path_every=2)
    every = 2 if config.gan.r1_every > 1 else 1
    gan = replace(config.gan, width=32, max_width=256, r1_every=every, stylegan2=styled, distill_warmup=0, ema_rampup=0)
    return replace(config, gan=gan)


def build(name: str, graphs: StepCompiler) -> VAEStage | GANStage:
    torch.manual_seed(0)
    precision = choose("off", DEVICE)
    if name == "vae":
        return VAEStage(PRESETS["celeba-64"], 3, DEVICE, precision, graphs)
    config = configured(name)
    return GANStage(config, 3, DEVICE, precision, VAE(config.vae.c_dim, init="kaiming").to(DEVICE), graphs)


def compare(name: str) -> None:
    graphs = StepCompiler(True, DEVICE)
    compiled, eager = build(name, graphs), build(name, StepCompiler(False, DEVICE))
    size = 64 if isinstance(eager, VAEStage) else eager.images.size
    images = torch.randint(256, (BATCH, 3, size, size), dtype=torch.uint8)
    for i in (0, 1):
        got, wanted = compiled.step(images, i), eager.step(images, i)
        if i == 0:
            for key in ("loss",) if name == "vae" else ("d_real", "d_fake"):  # of the untouched networks
                torch.testing.assert_close(got[key], wanted[key], rtol=1e-3, atol=1e-3)
    seconds = ", ".join(f"{step} {s:.0f}" for step, s in graphs.seconds.items())
    for i, what in enumerate(
        ("every update",) if name == "vae" else ("every update", "without those that are not always due")
    ):
        calls: dict[str, Callable[[], dict[str, Tensor]]] = {
            "eager": partial(eager.step, images, i),
            "compiled": partial(compiled.step, images, i),
        }
        times = {key: 1e3 * median(values) for key, values in measuring.alternating(calls, ROUNDS).items()}
        ratio = times["eager"] / times["compiled"]
        print(
            f"| {name}, {what} | {times['eager']:.1f} | {times['compiled']:.1f} | {ratio:.2f} | {seconds} |", flush=True
        )


if __name__ == "__main__":
    print("| iteration | eager (ms) | compiled (ms) | ratio | first calls (s) |\n|---|---|---|---|---|")
    for name in sys.argv[1:] or ["vae", "celeba-64", "stylegan2-64"]:
        compare(name)

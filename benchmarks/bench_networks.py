"""Whole networks: training steps and generators, beside plain torch.

The stage-2 step of celeba-64 stands beside the public code's on the same networks, StyleGAN2's generator beside a plain
composition of torch's operators on the same weights. Correctness first: both steps give the same losses twice in a row,
both generators the same images. The floor is one matrix product in float32 of as many flops as our convolutions and
products have: they are nearly all of the arithmetic.

bf16 is in the tables where the device multiplies it. --full adds a batch of 4, recomputation and compiled steps, whose
compilation takes minutes.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import measuring, plain_stylegan2
from benchmarks.comparison import CLOCK, Comparison, record
from benchmarks.measuring import Call
from benchmarks.public_step import PublicStep
from idgan_fast.config.presets import PRESETS
from idgan_fast.config.settings import Config
from idgan_fast.models.stylegan2 import StyleGAN2Generator
from idgan_fast.models.vae import VAE
from idgan_fast.training.gan import GANStage
from idgan_fast.training.networks import build_networks
from idgan_fast.training.precision import choose
from idgan_fast.training.step_compiler import StepCompiler
from idgan_fast.training.vae import VAEStage

DEVICE = torch.device(measuring.DEVICE)
BATCH = 8
TYPES = {"ours": "off", **({"ours, bf16": "bf16"} if choose("auto", DEVICE).name == "bf16" else {})}
COMPILED = ("vae", "celeba-64", "stylegan2-64")


def comparisons(full: bool) -> Iterator[Comparison]:
    table, all_ours = "Step of stage 2", (*TYPES, *[f"{name}, recompute" for name in TYPES if full])
    yield Comparison(table, f"celeba-64, batch {BATCH}", (*TYPES, "plain", "floor"), step, images=BATCH)
    for update, iteration in (("with R1 and path length", 0), ("without", 1))[: 1 + full]:
        row, prepare = f"stylegan2-256, batch 1, {update}", partial(styled_step, all_ours, iteration)
        yield Comparison(table, row, all_ours, prepare, baseline="ours", images=1)
    table = "StyleGAN2's generator, forward"
    for n in (1, 4)[: 1 + full]:
        variants = (*TYPES, "plain", "floor")
        yield Comparison(table, f"256x256, batch {n}", variants, partial(generators, n), images=n)
    variants = (*TYPES, "floor")
    yield Comparison(table, "1024x1024, batch 1", variants, generator_at_1024, baseline="ours", images=1)
    for name, (update, iteration) in product(COMPILED if full else (), (("every update", 0), ("those always due", 1))):
        row, prepare, variants = f"{name}, {update}", partial(compiled_step, name, iteration), ("compiled", "eager")
        yield Comparison("Compiled steps", row, variants, prepare, baseline="eager", images=BATCH, mib=None)


@pytest.mark.benchmark(timer=CLOCK)
def test_network(comparison: Comparison, variant: str, benchmark: Any, max_seconds: float) -> None:
    record(comparison, variant, benchmark, max_seconds)


def stage(config: Config, amp: str = "off", compiler: StepCompiler | None = None) -> GANStage:
    torch.manual_seed(0)
    vae = VAE(config.vae.c_dim, init="kaiming").to(DEVICE)
    return GANStage(config, 3, DEVICE, choose(amp, DEVICE), vae, compiler)  # type: ignore[arg-type]


def images(size: int, n: int) -> Tensor:
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8)


def flops_of(call: Call) -> int:
    with measuring.Flops() as flops:
        call()
    return flops.total


# ---- the step of celeba-64 beside the public code's


def step() -> dict[str, Call]:
    config = PRESETS["celeba-64"]
    config = replace(config, images=replace(config.images, flip=False, dequantise=False))
    x = images(64, BATCH)
    ours = {name: stage(config, amp) for name, amp in TYPES.items()}
    public = public_step(ours["ours"], x)
    with measuring.exact():
        assert_equal_losses(stage(config), x)
    calls: dict[str, Call] = {name: partial(one.step, x, 0) for name, one in ours.items()}
    calls["plain"] = public
    for call in calls.values():
        call()
    return calls | {"floor": measuring.product_of(flops_of(calls["ours"]))}


def public_step(ours: GANStage, batch: Tensor) -> Call:
    """The public step from the same weights on the noise that our stage would draw next."""
    public, config = PublicStep(ours.generator, ours.discriminator, ours.teacher), ours.config

    def call() -> dict[str, Tensor]:
        x = ours.sampler.real_images(batch).contiguous()
        eps, s_d, s_g = (ours.sampler.normal(len(x), dim) for dim in (ours.c_dim, config.s_dim, config.s_dim))
        return public.step(x, eps, s_d, s_g, config.r1_weight, config.distill_weight)

    return call


def assert_equal_losses(ours: GANStage, x: Tensor) -> None:
    public = public_step(ours, x)
    for _ in range(2):
        before = ours.rng.get_state()
        theirs = public()
        ours.rng.set_state(before)
        got = ours.step(x, 0)
        for name, value in theirs.items():
            assert torch.allclose(got[name], value, rtol=2e-3, atol=1e-5), (name, got[name], value)


# ---- StyleGAN2


def styled_step(names: tuple[str, ...], iteration: int) -> dict[str, Call]:
    config = PRESETS["stylegan2-256"]
    calls: dict[str, Call] = {}
    for name in names:
        styled = replace(config.gan.stylegan2, recompute=name.endswith("recompute"))
        one = stage(replace(config, gan=replace(config.gan, stylegan2=styled)), TYPES[name.removesuffix(", recompute")])
        calls[name] = partial(one.step, images(256, 1), iteration)
        assert all(value.isfinite() for value in calls[name]().values())
    return calls


def generator_calls(preset: str, n: int) -> tuple[StyleGAN2Generator, list[Tensor], dict[str, Call]]:
    """A generator with noise and biases that are not 0, as a trained one has, its inputs, and calls in each type."""
    torch.manual_seed(0)
    g, _ = build_networks(PRESETS[preset], 3)
    with torch.no_grad():
        for name, p in g.named_parameters():
            if name.endswith(("noise_strength", "bias")):
                p.add_(0.1)
    g = g.to(device=DEVICE, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
    inputs = [torch.randn(n, size).to(DEVICE) for size in (g.s_dim, g.c_dim, g.synthesis.noise_numel)]

    def call(amp: str) -> Tensor:
        with choose(amp, DEVICE).autocast():  # type: ignore[arg-type]
            return g(*inputs)

    return g, inputs, {name: partial(call, amp) for name, amp in TYPES.items()}


def generators(n: int) -> dict[str, Call]:
    g, inputs, calls = generator_calls("stylegan2-256", n)
    plain = partial(plain_stylegan2.generator, g, *inputs)
    with measuring.exact():
        expected = plain()
        torch.testing.assert_close(calls["ours"](), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    for name, call in calls.items():
        error = (call() - expected).norm() / expected.norm()
        assert error < 0.05, (name, error)
    return {**calls, "plain": plain, "floor": measuring.product_of(flops_of(plain))}


def generator_at_1024() -> dict[str, Call]:
    _, _, calls = generator_calls("stylegan2-1024", 1)
    for name, call in calls.items():
        assert call().isfinite().all(), name
    return {**calls, "floor": measuring.product_of(flops_of(calls["ours"]))}


# ---- compiled steps


def compiled_step(name: str, iteration: int) -> dict[str, Call]:
    """Small widths, and R1 and path length in every second iteration, so that two iterations hold every update."""
    config = PRESETS["celeba-64" if name == "vae" else name]
    styled = replace(config.gan.stylegan2, channel_base=4096, channel_max=128, path_every=2)
    every = min(config.gan.r1_every, 2)
    gan = replace(config.gan, width=32, max_width=256, r1_every=every, stylegan2=styled, distill_warmup=0, ema_rampup=0)
    config = replace(config, gan=gan)
    x = images(64, BATCH)
    calls: dict[str, Call] = {}
    for variant in ("compiled", "eager"):
        compiler = StepCompiler(variant == "compiled", DEVICE, print)
        one: VAEStage | GANStage
        if name == "vae":
            torch.manual_seed(0)
            one = VAEStage(config, 3, DEVICE, choose("off", DEVICE), compiler)
        else:
            one = stage(config, compiler=compiler)
        calls[variant] = partial(one.step, x, iteration)
    got, wanted = calls["compiled"](), calls["eager"]()
    for key in ("loss",) if name == "vae" else ("d_real", "d_fake"):  # of the untouched networks
        torch.testing.assert_close(got[key], wanted[key], rtol=1e-3, atol=1e-3)
    return calls

"""Loss curves in bf16 and fp16, on the CPU, beside float32: five seeds of a small StyleGAN2 run."""

from dataclasses import replace
from statistics import mean

import pytest
import torch
from torch.nn import functional as F

from idgan_fast.config.presets import preset
from idgan_fast.config.settings import StyleGAN2Config
from idgan_fast.data.dsprites import DSprites
from idgan_fast.models.vae import VAE
from idgan_fast.training.gan import GANStage
from idgan_fast.training.precision import Precision

CPU = torch.device("cpu")
SEEDS, ITERS, BATCH, SIZE = 5, 120, 8, 16
LOSSES = ("d_real", "d_fake", "g", "distillation")


def curve(amp: str, seed: int) -> dict[str, list[float]]:
    """Each loss over the iterations, as means of 20."""
    config = preset("stylegan2-64")
    styled = StyleGAN2Config(channel_base=256, channel_max=16, w_dim=16, mapping_layers=2)
    gan = {"s_dim": 8, "lr_g": 1e-2, "lr_d": 4e-3, "r1_every": 4, "distill_weight": 0.05, "distill_warmup": 20}
    images = replace(config.images, size=SIZE, channels=1, flip=False)
    config = replace(config, seed=seed, images=images, vae=replace(config.vae, width=4, c_dim=4))
    config = replace(config, gan=replace(config.gan, stylegan2=styled, **gan))
    torch.manual_seed(seed)
    stage = GANStage(config, 1, CPU, Precision(amp, "cpu", ""), VAE(4, 1, 4, "kaiming"))
    data, rng = DSprites(), torch.Generator().manual_seed(seed)
    losses: dict[str, list[float]] = {name: [] for name in LOSSES}
    for i in range(ITERS):
        small = F.avg_pool2d(data[torch.randint(len(data), (BATCH,), generator=rng)].float(), 64 // SIZE)
        metrics = stage.step(small.byte(), i)
        for name in LOSSES:
            losses[name].append(metrics[name].item())
    return {name: [mean(values[i : i + 20]) for i in range(0, ITERS, 20)] for name, values in losses.items()}


@pytest.mark.slow
def test_low_precision_stays_with_float32() -> None:
    """At every point the mean over the seeds is within the spread (largest less smallest) of float32's five runs."""
    curves = {amp: [curve(amp, seed) for seed in range(SEEDS)] for amp in ("off", "bf16", "fp16")}
    for name in LOSSES:
        for at in range(ITERS // 20):
            exact = [c[name][at] for c in curves["off"]]
            spread = max(exact) - min(exact)
            for amp in ("bf16", "fp16"):
                difference = mean(c[name][at] for c in curves[amp]) - mean(exact)
                print(f"{name} {20 * at}: float32 {mean(exact):.4f}, spread {spread:.4f}, {amp} {difference:+.4f}")
                assert abs(difference) <= spread, (name, at, amp)

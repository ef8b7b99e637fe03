"""What changes from iteration to iteration of stage 2."""

import math

from idgan_fast.config.settings import GANConfig


def distill_weight_at(config: GANConfig, iteration: int) -> float:
    """Lambda, rising linearly over `distill_warmup` iterations."""
    return config.distill_weight * min((iteration + 1) / max(config.distill_warmup, 1), 1.0)


def ema_at(config: GANConfig, iteration: int) -> float:
    """The average's decay: `ema`, or less while its half-life is more than `ema_rampup` of the iterations done."""
    if config.ema_rampup == 0 or not 0 < config.ema < 1:
        return config.ema
    half_life = min(math.log(0.5) / math.log(config.ema), config.ema_rampup * (iteration + 1))
    return 0.5 ** (1 / half_life)

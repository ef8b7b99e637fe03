"""The generator and the discriminator that a run's settings name."""

from typing import Any

from torch import nn

from idgan_fast.config.settings import Config
from idgan_fast.models.generator import Generator
from idgan_fast.models.resnet import ResnetDiscriminator, ResnetGenerator, VGANDiscriminator
from idgan_fast.models.stylegan2 import StyleGAN2Generator
from idgan_fast.models.stylegan2_discriminator import StyleGAN2Discriminator
from idgan_fast.models.vae import DSpritesDiscriminator, DSpritesGenerator


def build_networks(config: Config, channels: int) -> tuple[Generator, nn.Module]:
    """G and D for images of `channels` channels, as they are before training."""
    gan, size, c_dim = config.gan, config.images.size, config.vae.c_dim
    if gan.model == "dsprites":
        generator = DSpritesGenerator(gan.s_dim, c_dim, channels, gan.width)
        return generator, DSpritesDiscriminator(channels, gan.width)
    if gan.model == "stylegan2":
        ours = gan.stylegan2
        shared: dict[str, Any] = {
            "channel_base": ours.channel_base,
            "channel_max": ours.channel_max,
            "channels": channels,
            "low_precision_levels": ours.low_precision_levels,
            "recompute": ours.recompute,
        }
        styled = StyleGAN2Generator(
            size,
            gan.s_dim,
            c_dim,
            w_dim=ours.w_dim,
            mapping_layers=ours.mapping_layers,
            architecture=ours.architecture,
            code=ours.code,
            code_from=ours.code_from,
            code_to=ours.code_to,
            **shared,
        )
        return styled, StyleGAN2Discriminator(size, **shared)
    kind = VGANDiscriminator if gan.bottleneck else ResnetDiscriminator
    return (
        ResnetGenerator(size, gan.s_dim, c_dim, width=gan.width, max_width=gan.max_width, channels=channels),
        kind(size, gan.width, gan.max_width, channels),
    )

"""The generator and the discriminator that a run's settings name."""

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
        styled = StyleGAN2Generator(size, gan.s_dim, c_dim, channels, gan.stylegan2)
        return styled, StyleGAN2Discriminator(size, channels, gan.stylegan2)
    kind = VGANDiscriminator if gan.bottleneck else ResnetDiscriminator
    return (
        ResnetGenerator(size, gan.s_dim, c_dim, width=gan.width, max_width=gan.max_width, channels=channels),
        kind(size, gan.width, gan.max_width, channels),
    )

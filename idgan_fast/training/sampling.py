"""Everything random in an iteration of stage 2, from one generator of random numbers on the device."""

import torch
from torch import Tensor, nn

from idgan_fast.config.settings import GANConfig, ImagesConfig
from idgan_fast.data import to_signed
from idgan_fast.models.generator import Generator, Latents
from idgan_fast.training.augmentation import random_numbers

DiscriminatorNoise = dict[str, Tensor]


class Sampler:
    """Random numbers for the networks G and D of these settings. `rng` is all of its state."""

    def __init__(
        self, config: GANConfig, images: ImagesConfig, generator: Generator, discriminator: nn.Module, seed: int
    ) -> None:
        self.config, self.images, self.generator, self.discriminator = config, images, generator, discriminator
        self.device = next(generator.parameters()).device
        self.rng = torch.Generator(self.device).manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.rng, device=self.device)

    def real_images(self, batch: Tensor) -> Tensor:
        """uint8 [N, C, S, S] -> what D sees of them, in channels_last: [-1, 1], flipped and dequantized at random."""
        flip = self.uniform(len(batch)) < 0.5 if self.images.flip else None
        noise = self.uniform(*batch.shape) if self.images.dequantise else None
        return to_signed(batch, self.device, flip, noise).contiguous(memory_format=torch.channels_last)

    def latents(self, n: int) -> Latents:
        """What G takes beside c to make n images."""
        s, count = self.normal(n, self.config.s_dim), self.generator.num_ws
        noise = self.normal(n, self.generator.noise_numel) if self.generator.noise_numel else None
        if count == 1 or self.config.stylegan2.style_mixing == 0:
            return Latents(s, noise)
        first = torch.randint(1, count, (n,), generator=self.rng, device=self.device)
        mixed = self.uniform(n) < self.config.stylegan2.style_mixing
        return Latents(s, noise, self.normal(n, self.config.s_dim), torch.where(mixed, first, count))

    def discriminator_noise(self, n: int) -> DiscriminatorNoise:
        """What D takes to see n images: "eps" for VGAN's bottleneck, "augment" for the augmentation."""
        noise = {}
        if self.config.bottleneck:
            noise["eps"] = self.normal(n, *self.discriminator.bottleneck_shape)  # type: ignore[misc]
        if self.config.ada:
            noise["augment"] = random_numbers(n, self.rng, self.device)
        return noise

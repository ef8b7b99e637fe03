"""What stage 2 asks of a generator G(s, c): styles from random numbers and the code, and images from styles."""

from typing import NamedTuple

from torch import Tensor, nn


class Latents(NamedTuple):
    """The random numbers of G for n images; all but s for StyleGAN2 alone."""

    s: Tensor  # [n, s_dim]
    noise: Tensor | None = None  # [n, noise_numel]
    other: Tensor | None = None  # [n, s_dim]: the s that style mixing continues with
    first: Tensor | None = None  # [n]: the entry of w that style mixing continues from


class Generator(nn.Module):
    """A generator whose style is s itself; StyleGAN2's puts a mapping network before its synthesis network."""

    num_ws: int = 1
    """Entries of a style, which style mixing may take from two s; with one entry there is no mixing."""
    noise_numel: int = 0
    """Random numbers of noise that one image takes."""

    def styles(self, latents: Latents, c: Tensor) -> Tensor:
        """What `synthesize` makes images of, from the latents and c [N, c_dim]."""
        return latents.s

    def synthesize(self, styles: Tensor, c: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images [N, channels, size, size] of styles, c [N, c_dim] and noise [N, noise_numel]."""
        return self(styles, c)

    def update_w_average(self, styles: Tensor) -> None:
        """Move the average of w towards these styles, in a generator that keeps one."""

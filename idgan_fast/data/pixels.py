"""From bytes to what the networks see."""

import torch
from torch import Tensor


def to_unit(batch: Tensor, device: torch.device) -> Tensor:
    """uint8 -> float32 in [0, 1] on the device: what the VAE sees."""
    return batch.to(device, non_blocking=True).float().div_(255)


def to_signed(batch: Tensor, device: torch.device, flip: Tensor | None, noise: Tensor | None) -> Tensor:
    """uint8 -> float32 in [-1, 1] on the device: what the discriminator sees.

    flip: bool [N], which images to mirror. noise: U[0, 1) of the batch's shape, scaled here to U[0, 1/128)
    (dequantization, in the units of [-1, 1]).
    """
    x = batch.to(device, non_blocking=True).float().div_(127.5).sub_(1)
    if flip is not None:
        x = torch.where(flip[:, None, None, None], x.flip(3), x)
    if noise is not None:
        x = x.add_(noise, alpha=1 / 128)
    return x

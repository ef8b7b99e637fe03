"""A small modulated generator and a discriminator, of our operators alone, and their whole losses."""

import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast import ops


def parameters(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    shapes = {
        "const": (1, 4, 4, 4), "affine1": (3, 4), "w1": (5, 4, 3, 3), "b1": (5,), "strength": (),
        "affine2": (3, 5), "w2": (3, 5, 1, 1), "b2": (3,),
        "d1": (4, 3, 3, 3), "db1": (4,), "d2": (6, 4, 3, 3), "db2": (6,), "skip": (6, 4, 1, 1), "out": (6 * 16,),
    }  # fmt: skip
    values = {name: torch.randn(shape, generator=rng, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: (value * 0.5).to(dtype).requires_grad_() for name, value in values.items()}


def taps(*values: float) -> Tensor:
    return ops.setup_filter(values or (1, 3, 3, 1))


def generator(p: dict[str, Tensor], z: Tensor, noise: Tensor, f: Tensor) -> Tensor:
    """z [N, 3] -> images [N, 3, 8, 8]."""
    x = p["const"].expand(len(z), -1, -1, -1)
    x = ops.styled_conv2d(
        x, p["w1"], z @ p["affine1"] + 1, noise, p["strength"], p["b1"], up=2, resample_filter=f, clamp=1.5
    )
    y = ops.modulated_conv2d(x, p["w2"], z @ p["affine2"] + 1, demodulate=False)
    return ops.bias_act(y, p["b2"], clamp=1.5)


def discriminator(p: dict[str, Tensor], x: Tensor, f: Tensor) -> Tensor:
    """Images [N, 3, 8, 8] -> logits [N]; swish beside leaky ReLU, so that second derivatives are not all 0."""
    x = ops.bias_act(ops.conv2d_resample(x, p["d1"], padding=1), p["db1"], act="swish")
    skip = ops.conv2d_resample(x, p["skip"], f, down=2)
    x = ops.bias_act(ops.conv2d_resample(x, p["d2"], f, down=2, padding=1), p["db2"], act="lrelu", clamp=2)
    return ((x + skip).flatten(1) * p["out"]).sum(1)


def d_loss_autograd(p: dict[str, Tensor], x: Tensor, f: Tensor) -> Tensor:
    """Logistic loss on reals and R1 by torch.autograd.grad."""
    logits = discriminator(p, x, f)
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return F.softplus(-logits).mean() + gradient.square().sum((1, 2, 3)).mean()


def d_loss_func(p: dict[str, Tensor], x: Tensor, f: Tensor) -> Tensor:
    """The same by torch.func.vjp."""
    logits, vjp = torch.func.vjp(lambda images: discriminator(p, images, f), x)
    (gradient,) = vjp(torch.ones_like(logits))
    return F.softplus(-logits).mean() + gradient.square().sum((1, 2, 3)).mean()


def g_loss(p: dict[str, Tensor], z: Tensor, noise: Tensor, f: Tensor) -> Tensor:
    return F.softplus(-discriminator(p, generator(p, z, noise, f), f)).mean()


def path_length(p: dict[str, Tensor], z: Tensor, noise: Tensor, f: Tensor) -> Tensor:
    """(|J^T y| - a)^2 with a fixed y and a = 1; arXiv 1912.04958, equation 4."""
    images = generator(p, z, noise, f)
    y = torch.linspace(-1, 1, images[0].numel(), dtype=images.dtype).reshape(images[0].shape)
    (gradient,) = torch.autograd.grad((images * y).sum(), z, create_graph=True)
    return (gradient.square().sum(1).add(1e-8).sqrt() - 1).square().mean()


def gradients(loss: Tensor, p: dict[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(p.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(p, found, strict=True) if gradient is not None}


def inputs(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)

    return {"x": normal(2, 3, 8, 8), "z": normal(2, 3), "noise": normal(2, 1, 8, 8)}

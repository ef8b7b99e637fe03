"""The gradient of a discriminator's loss on real images, R1 included, without a double backward.

A network of convolutions, linear layers, pooling and (leaky) ReLU is linear in x once the signs of its activations
are fixed. So f = D(x) and its input gradient g have
    d/dW [ mean l(f) + r mean |g|^2 ] = d/dW 1/N sum_n F_n(s_n x_n + 2 r g_n),   s_n = l'(f_n),
where F_n is the network with the signs of x_n, its biases times s_n, and s, g held constant. Each layer's gradient
by its output, delta_n, is that of sum f, which finding g gave already: one weight gradient a layer serves the loss
and the penalty. Work, in convolution passes: forward, data gradient, replay, weight gradient = 4; autograd takes 6.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode, resolve_name

from idgan_fast.training import losses

_WEIGHTED = {F.conv2d, F.linear}
_ACTIVATIONS = {F.relu, F.leaky_relu}  # F.relu comes without a slope: 0
_LINEAR = {F.avg_pool2d, torch.flatten, Tensor.flatten, Tensor.squeeze, Tensor.unflatten}
_SIZES = {Tensor.dim, Tensor.size}
_SIZE_NAMES = {"__get__", "_set_grad_enabled"}  # attributes' getters; torch's own switch


class _Layers(TorchFunctionMode):
    """Sees every torch function that the network calls, and refuses those that are not piecewise linear.

    Results go into lists that the caller holds, since torch.compile follows lists through a mode, but not attributes.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _WEIGHTED:
            return self.weighted(func, *args, **kwargs)
        if func in _ACTIVATIONS:
            return self.activation(*args, **kwargs)
        sum_of_signals = func is torch.add and all(map(self.is_signal, args))
        is_size = func in _SIZES or getattr(func, "__name__", "") in _SIZE_NAMES
        if sum_of_signals or func in _LINEAR or is_size:
            return func(*args, **kwargs)
        raise TypeError(
            "piecewise_linear: the network may call convolutions, linear layers, average pooling, (leaky) ReLU and "
            f"sums of their outputs, got {resolve_name(func) or func}; use the penalty by autograd instead"
        )

    def is_signal(self, term: Any) -> bool:
        """Whether an operand of a sum comes from x, rather than being an offset."""
        return isinstance(term, Tensor) and not isinstance(term, nn.Parameter)

    @abstractmethod
    def weighted(
        self, func: Callable, x: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kw: Any
    ) -> Tensor:
        """A convolution or a linear layer."""

    @abstractmethod
    def activation(self, x: Tensor, negative_slope: float = 0.0, inplace: bool = False) -> Tensor:
        """ReLU, or leaky ReLU."""


class _Record(_Layers):
    """The ordinary forward pass; keeps each layer's output and each activation's input."""

    def __init__(self, outputs: list[Tensor], signs: list[Tensor]) -> None:
        super().__init__()
        self.outputs, self.signs = outputs, signs

    def is_signal(self, term: Any) -> bool:
        return super().is_signal(term) and term.requires_grad

    def weighted(
        self, func: Callable, x: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kw: Any
    ) -> Tensor:
        out = func(x, weight, bias, *args, **kw)
        self.outputs.append(out)
        return out

    def activation(self, x: Tensor, negative_slope: float = 0.0, inplace: bool = False) -> Tensor:
        self.signs.append(x.detach())
        return F.leaky_relu(x, negative_slope)


class _Replay(_Layers):
    """The pass with recorded signs and scaled biases; adds (parameter, its gradient) to `gradients` on the way."""

    def __init__(
        self, signs: list[Tensor], deltas: list[Tensor], scale: Tensor, gradients: list[tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__()
        self.signs, self.deltas, self.scale, self.gradients = signs, deltas, scale, gradients

    def weighted(
        self, func: Callable, x: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kw: Any
    ) -> Tensor:
        delta = self.deltas.pop(0)  # [N, O, H, W] or [N, O]; freed as soon as it is used
        x = x.to(delta.dtype)  # autocast's, chosen in the recorded pass
        if weight.requires_grad:
            linear = func is F.linear
            gradient = delta.t() @ x if linear else conv2d_weight(x, weight.shape, delta, *args, **kw)
            self.gradients.append((weight, gradient.to(weight.dtype)))
        if bias is not None and bias.requires_grad:
            by_sample = delta if delta.ndim == 2 else delta.sum((2, 3), dtype=self.scale.dtype)
            self.gradients.append((bias, (self.scale @ by_sample.to(self.scale.dtype)).to(bias.dtype)))
        if not self.deltas:  # nobody reads the last output
            return delta
        out = func(x, weight, None, *args, **kw)
        if bias is not None:
            out += (self.scale[:, None] * bias).to(out.dtype).reshape(*out.shape[:2], *[1] * (out.ndim - 2))
        return out

    def activation(self, x: Tensor, negative_slope: float = 0.0, inplace: bool = False) -> Tensor:
        return torch.ops.aten.leaky_relu_backward(x, self.signs.pop(0), negative_slope, False)


def real_gradients(
    discriminator: nn.Module, x: Tensor, r1_weight: float, loss_scale: Tensor | float = 1.0
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The gradients of loss_scale * (BCE(D(x), 1) + r1_weight * E|grad_x D(x)|^2) by the discriminator's parameters.

    discriminator: a piecewise linear module, images [N, C, H, W] -> logits [N], no layer mixing samples.
    Returns the logits, the penalty, unscaled, and a gradient for each parameter, zeros for one that is frozen or that
    no layer uses; nothing of it carries a graph. Raises TypeError where the network calls anything that is not known
    to be piecewise linear. Runs under autocast if the caller has it on.
    """
    x = x.detach().requires_grad_()
    outputs: list[Tensor] = []
    signs: list[Tensor] = []
    with _Record(outputs, signs):
        logits = discriminator(x)
    # Scaled like the gradient of an averaged loss, which is what a gradient scaler for fp16 expects.
    delta_scale = loss_scale / len(x)
    gradient, *deltas = torch.autograd.grad((logits * delta_scale).sum(), [x, *outputs])
    outputs.clear()
    with torch.no_grad():
        logits = logits.detach().to(x.dtype)
        gradient = gradient / delta_scale
        scale = -torch.sigmoid(-logits)  # of softplus(-f)
        start = scale[:, None, None, None] * x.detach() + 2 * r1_weight * gradient
        by_layer: list[tuple[Tensor, Tensor]] = []
        with _Replay(signs, deltas, scale, by_layer):
            discriminator(start)
        gradients = []
        for parameter in discriminator.parameters():
            parts = [part for owner, part in by_layer if owner is parameter]
            gradients.append(sum(parts[1:], parts[0]) if parts else torch.zeros_like(parameter))
        return logits, losses.gradient_penalty(gradient), gradients

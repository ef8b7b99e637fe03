"""Optimizers as functions of their inputs: one call updates all parameters in place, and torch.compile takes it whole.

torch.optim's `step` breaks a graph. These give its numbers (tests/training/test_optimizers.py), take the learning rate
as a number or a tensor, and change nothing where `overflow` says that a gradient is not finite, without asking the
device.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class _Optimizer:
    """`state`: lists of tensors, one for each parameter, by name."""

    def __init__(self, parameters: Iterable[Tensor], names: Sequence[str]) -> None:
        self.parameters = list(parameters)
        self.state = {name: [torch.zeros_like(p).detach() for p in self.parameters] for name in names}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, tensors in self.state.items():
            for mine, saved in zip(tensors, state[name], strict=True):
                mine.copy_(saved)


class RMSprop(_Optimizer):
    """v <- alpha v + (1 - alpha) g^2; p <- p - lr g / (sqrt(v) + eps). As torch.optim.RMSprop without momentum."""

    def __init__(self, parameters: Iterable[Tensor], alpha: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__(parameters, ["square_avg"])
        self.alpha, self.eps = alpha, eps

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lr: float | Tensor, overflow: Tensor | None = None) -> None:
        """gradients: one for each parameter. overflow: a bool scalar; where it is true nothing changes, or None."""
        g, v = _finite(gradients, overflow), self.state["square_avg"]
        _decay(v, self.alpha, overflow)
        torch._foreach_addcmul_(v, g, g, 1 - self.alpha)
        denominator = torch._foreach_sqrt(v)
        torch._foreach_add_(denominator, self.eps)
        _subtract(self.parameters, torch._foreach_div(g, denominator), lr)


class Adam(_Optimizer):
    """As torch.optim.Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1), without weight decay.

    `steps`: the updates done so far, a scalar tensor. With beta1 = 0 the first moment is the gradient and is not kept.
    Outside of a compiled graph it is torch's fused kernel: one pass over memory where the formulas below take twelve.
    """

    def __init__(
        self, parameters: Iterable[Tensor], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(parameters, ["exp_avg", "exp_avg_sq"] if betas[0] else ["exp_avg_sq"])
        self.betas, self.eps = betas, eps
        self.steps = torch.zeros((), device=self.parameters[0].device)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, **self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps.copy_(state["steps"])
        super().load_state_dict(state)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lr: float | Tensor, overflow: Tensor | None = None) -> None:
        """As `RMSprop.step`."""
        m, v = self.state.get("exp_avg"), self.state["exp_avg_sq"]
        (b1, b2), p = self.betas, self.parameters
        self.steps.add_(_unless(overflow, 1.0))
        if not torch.compiler.is_compiling():
            # The kernel walks all of them in the order of memory.
            g = [
                t if t.stride() == q.stride() else torch.empty_like(q).copy_(t)
                for t, q in zip(gradients, p, strict=True)
            ]
            found_inf = None if overflow is None else overflow.float()
            numbers: dict[str, Any] = {"beta1": b1, "beta2": b2, "weight_decay": 0.0, "eps": self.eps}
            torch._fused_adam_(
                p, g, g if m is None else m, v, [], [self.steps] * len(p), lr=lr, **numbers,
                amsgrad=False, maximize=False, found_inf=found_inf,
            )  # fmt: skip
            return
        g = _finite(gradients, overflow)
        if m is not None:
            _decay(m, b1, overflow)
            torch._foreach_add_(m, g, alpha=1 - b1)
        _decay(v, b2, overflow)
        torch._foreach_addcmul_(v, g, g, 1 - b2)
        steps = self.steps.clamp_min(1)  # 0 where the first gradients of all overflowed
        denominator = torch._foreach_sqrt(v)
        torch._foreach_mul_(denominator, (1 - b2**steps).rsqrt())
        torch._foreach_add_(denominator, self.eps)
        size = lr / (1 - b1**steps) * _unless(overflow, 1.0)
        _subtract(p, torch._foreach_div(g if m is None else m, denominator), size)


def _unless(overflow: Tensor | None, value: float) -> float | Tensor:
    """The value, or 0 where a gradient overflowed."""
    return value if overflow is None else torch.where(overflow, 0.0, value)


def _finite(gradients: Sequence[Tensor], overflow: Tensor | None) -> list[Tensor]:
    """The gradients, or zeros where any of them overflowed."""
    return list(gradients) if overflow is None else [torch.where(overflow, 0, g) for g in gradients]


def _decay(average: list[Tensor], beta: float, overflow: Tensor | None) -> None:
    torch._foreach_mul_(average, beta if overflow is None else torch.where(overflow, 1.0, beta))


def _subtract(parameters: list[Tensor], update: list[Tensor] | tuple[Tensor, ...], lr: float | Tensor) -> None:
    if isinstance(lr, Tensor):
        torch._foreach_mul_(update, lr)
        torch._foreach_sub_(parameters, update)
    else:
        torch._foreach_add_(parameters, update, alpha=-lr)


@torch.no_grad()
def move_average(average: Sequence[Tensor], parameters: Sequence[Tensor], decay: float | Tensor) -> None:
    """average <- decay average + (1 - decay) parameters."""
    weight = 1 - decay
    weights: Any = [weight] * len(average) if isinstance(weight, Tensor) else weight
    torch._foreach_lerp_(list(average), list(parameters), weights)

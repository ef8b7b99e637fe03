"""Whether torch.func.vmap or forward-mode differentiation is at work, under which the operators run as plain torch.

Their autograd Functions have rules for backward passes alone, and kernels read memory, where a batched tensor has more
than its shape tells. The references are differentiable compositions that torch has all the rules for.
"""

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack, maybe_current_level
from torch.autograd import forward_ad


@torch.compiler.assume_constant_result
def under_vmap() -> bool:
    return maybe_current_level() is not None and _in_stack(TransformType.Vmap)


@torch.compiler.assume_constant_result
def transforming() -> bool:
    """Whether vmap or forward mode is at work, in which case kernels and Functions are passed by."""
    if forward_ad._current_level >= 0:
        return True
    return maybe_current_level() is not None and (_in_stack(TransformType.Vmap) or _in_stack(TransformType.Jvp))


def is_batched(x: Tensor) -> bool:
    """Whether vmap, or torch.autograd.grad(is_grads_batched=True), hides a dimension of x: it has no channels_last."""
    return under_vmap() or torch._C._dispatch_keys(x).has("Batched")


def _in_stack(kind: TransformType) -> bool:
    return any(level.key() == kind for level in get_interpreter_stack() or [])

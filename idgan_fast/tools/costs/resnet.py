"""The ResNet generator and discriminator as lists of layers, read off a forward pass of the modules themselves.

The pass runs on meta tensors, without memory or arithmetic, in the form that a GPU takes; a dispatch mode sees every
operator of torch. Views move nothing. An activation or a concatenation in front of a layer joins it, and so does what
follows it (residual addition, tanh): fused, the layer would do these while it reads or writes. So the compulsory bytes
of a layer are its input, weight, bias and output, and of an addition the other operand.

Unfused, every operator is a kernel that reads its tensors and writes its result. The bias of a convolution is one too:
on a GPU torch adds it to cuDNN's result in place. The project runs these networks in that form, so ours is the same.
"""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from idgan_fast.config.settings import Config
from idgan_fast.ops.layer.up2_plan import Kernel
from idgan_fast.tools.costs.layer import Layer
from idgan_fast.training.networks import build_networks

KINDS = {
    "convolution": "conv",
    "addmm": "linear",
    "upsample_nearest2d": "upsample nearest",
    "avg_pool2d": "average pool",
}
BEFORE = {"leaky_relu", "cat"}  # join the layer that reads their result
AFTER = {"add", "tanh"}  # join the layer before them


@dataclass
class _Entry:
    """A layer in the making; numbers of elements."""

    name: str
    kind: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    flops: int
    compulsory: int
    kernels: list[Kernel] = field(default_factory=list)


class _Trace(TorchDispatchMode):
    """Lists the operators of a forward pass as layers; `modules` holds the names of the modules that are running."""

    def __init__(self, element: int) -> None:
        super().__init__()
        self.element = element
        self.modules: list[str] = []
        self.entries: list[_Entry] = []
        self.pending: list[Kernel] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self._record(func.overloadpacket.__name__, args, out)
        return out

    def _record(self, operator: str, args: tuple, out: Tensor) -> None:
        flat = [item for arg in args for item in (arg if isinstance(arg, list | tuple) else [arg])]
        tensors = [item for item in flat if isinstance(item, Tensor)]
        if operator in BEFORE:
            self.pending.append(self._kernel(operator, tensors, out))
        elif operator in AFTER:
            entry = self.entries[-1]
            entry.kernels.append(self._kernel(operator, tensors, out))
            entry.compulsory += sum(t.numel() for t in tensors) - out.numel()  # the layer's own result is at hand
        elif operator in KINDS:
            self.entries.append(self._entry(operator, tensors, out))
        else:
            where = self.modules[-1] or "the network"
            raise ValueError(f"roofline: no cost is known for the operator {operator} in {where}")

    def _kernel(self, name: str, tensors: list[Tensor], out: Tensor, flops: int = 0) -> Kernel:
        return Kernel(name, flops, self.element * (sum(t.numel() for t in tensors) + out.numel()))

    def _entry(self, operator: str, tensors: list[Tensor], out: Tensor) -> _Entry:
        bias: Tensor | None = None
        flops = 0
        if operator == "addmm":  # the bias comes first, and is part of the product
            x = tensors[1]
            flops = 2 * out.numel() * x.shape[1]
            kernels = [self._kernel(operator, tensors, out, flops)]
        else:
            x = tensors[0]
            if operator == "convolution":
                bias = tensors[2] if len(tensors) == 3 else None
                flops = 2 * out.numel() * prod(tensors[1].shape[1:])
            kernels = [self._kernel(operator, tensors[:2], out, flops)]
            if bias is not None:
                kernels.append(self._kernel("bias", [out, bias], out))
        compulsory = sum(t.numel() for t in tensors) + out.numel()
        kernels, self.pending = self.pending + kernels, []
        name = self.modules[-1]
        return _Entry(name, KINDS[operator], tuple(x.shape), tuple(out.shape), flops, compulsory, kernels)


def _traced(network: str, module: nn.Module, inputs: list[Tensor], element: int) -> tuple[list[Layer], Tensor]:
    """The layers of one forward pass, and its result on the meta device."""
    trace = _Trace(element)

    def leave(*_: Any) -> None:
        trace.modules.pop()

    hooks = []
    for name, part in module.named_modules():
        hooks.append(part.register_forward_pre_hook(lambda *_, name=name: trace.modules.append(name)))
        hooks.append(part.register_forward_hook(leave))
    try:
        with torch.no_grad(), trace:
            out = module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    layers = []
    for e in trace.entries:
        size_in, size_out = (shape[2] if len(shape) == 4 else 1 for shape in (e.x, e.y))
        moved, kernels = element * e.compulsory, tuple(e.kernels)
        shapes = (e.x[0], e.x[1], e.y[1], size_in, size_out)
        layers.append(Layer(network, e.name, e.kind, *shapes, e.flops, moved, kernels, kernels))
    return layers, out


def resnet_layers(config: Config, n: int, element: int) -> list[Layer]:
    """Forward passes of a preset's G and D at batch n. element: bytes of a number.

    Raises ValueError, one line, for a network with an operator whose cost is not known.
    """
    with torch.device("meta"):
        generator, discriminator = build_networks(config, config.images.channels)
        s, c = torch.empty(n, config.gan.s_dim), torch.empty(n, config.vae.c_dim)
    layers, images = _traced("G", generator, [s, c], element)
    return layers + _traced("D", discriminator, [images], element)[0]

"""The ResNet generator and discriminator as lists of layers, read off a forward pass of the modules themselves.

The pass runs on meta tensors, without memory or arithmetic, in the form that a GPU takes; a dispatch mode sees every
operator of torch. Views move nothing. An activation or a concatenation in front of a layer joins it, and so does what
follows it (residual addition, tanh): fused, the layer would do these while it reads or writes. So the compulsory bytes
of a layer are its input, weight, bias and output, and of an addition the other operand.

Unfused, every operator is a kernel that reads its tensors and writes its result. The bias of a convolution is one too:
on a GPU torch adds it to cuDNN's result in place. The project runs these networks in that form, so ours is the same.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

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


class _Trace(TorchDispatchMode):
    """Lists the operators of a network's forward pass as layers, by the modules that call them."""

    def __init__(self, network: str, element: int, tracker: ModuleTracker) -> None:
        super().__init__()
        self.network, self.element, self.tracker = network, element, tracker
        self.layers: list[Layer] = []
        self.pending: tuple[Kernel, ...] = ()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Tensor)]
            count = flop_registry.get(func.overloadpacket)
            self._record(func.overloadpacket.__name__, tensors, out, count(*args, out_val=out) if count else 0)
        return out

    def _record(self, operator: str, tensors: list[Tensor], out: Tensor, flops: int) -> None:
        if operator in BEFORE:
            self.pending += (self._kernel(operator, tensors, out),)
        elif operator in AFTER:
            last = self.layers[-1]
            kernels = (*last.ours, self._kernel(operator, tensors, out))
            more = self._bytes(*tensors) - self._bytes(out)  # the layer's own result is at hand
            self.layers[-1] = replace(last, compulsory=last.compulsory + more, ours=kernels, unfused=kernels)
        elif operator in KINDS:
            self.layers.append(self._layer(operator, tensors, out, flops))
            self.pending = ()
        else:
            where = self._module() or "the network"
            raise ValueError(f"roofline: no cost is known for the operator {operator} in {where}")

    def _module(self) -> str:
        """The name of the innermost module that is running; empty for the network itself."""
        return max(self.tracker.parents - {"Global"}, key=len).partition(".")[2]

    def _bytes(self, *tensors: Tensor) -> int:
        return self.element * sum(t.numel() for t in tensors)

    def _kernel(self, name: str, tensors: list[Tensor], out: Tensor, flops: int = 0) -> Kernel:
        return Kernel(name, flops, self._bytes(*tensors, out))

    def _layer(self, operator: str, tensors: list[Tensor], out: Tensor, flops: int) -> Layer:
        x, bias = tensors[0], tensors[2:]
        if operator == "addmm":  # the bias comes first, and is part of the product
            x, bias = tensors[1], []
        own = tensors[: len(tensors) - len(bias)]
        kernels = (*self.pending, self._kernel(operator, own, out, flops))
        if bias:
            kernels += (self._kernel("bias", [out, *bias], out),)
        size_in, size_out = (t.shape[2] if t.ndim == 4 else 1 for t in (x, out))
        shapes = (x.shape[0], x.shape[1], out.shape[1], size_in, size_out)
        moved = self._bytes(*tensors, out)
        return Layer(self.network, self._module(), KINDS[operator], *shapes, flops, moved, kernels, kernels)


def _trace(network: str, module: nn.Module, inputs: list[Tensor], element: int) -> tuple[list[Layer], Tensor]:
    """The layers of one forward pass, and its result on the meta device."""
    with torch.no_grad(), ModuleTracker() as tracker, _Trace(network, element, tracker) as trace:
        out = module(*inputs)
    return trace.layers, out


def resnet_layers(config: Config, n: int, element: int) -> list[Layer]:
    """Forward passes of a preset's G and D at batch n. element: bytes of a number.

    Raises ValueError, one line, for a network with an operator whose cost is not known.
    """
    with torch.device("meta"):
        generator, discriminator = build_networks(config, config.images.channels)
        s, c = torch.empty(n, config.gan.s_dim), torch.empty(n, config.vae.c_dim)
    layers, images = _trace("G", generator, [s, c], element)
    return layers + _trace("D", discriminator, [images], element)[0]

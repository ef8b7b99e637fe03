"""What is registered, once: custom ops with their references and samples, and the operators made of them.

Whoever lists operators (the dispatcher, `ops.available`, kernel verification, numerics, doctor, benchmarks) loops over
OPERATORS or CUSTOM_OPS; an operator's file registers it and nothing else names it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from idgan_fast.ops._transforms import transforming

Function = Callable[..., Any]

CUSTOM_OPS: dict[str, "CustomOp"] = {}
OPERATORS: dict[str, "Operator"] = {}
_library = torch.library.Library("idgan_fast", "DEF")


class CustomOp:
    """A registered operator `torch.ops.idgan_fast.<name>`, opaque to torch.compile, and its plain torch reference.

    The reference is the registered operator's kernel wherever nothing faster is compiled, and its fake kernel, so that
    shapes, dtypes and strides of every kernel have one definition.
    samples: from an image x [N, C, H, W] on the CPU to argument tuples that exercise every path of a kernel; what a
    kernel is verified with on a GPU before it is used.
    sample_shape: one more shape that verification takes x in, where a kernel's largest tiles need it.
    roundings: how many numbers are rounded to the images' dtype, one after the other, on the way to a result; of an
    operator with more than one its matrix products also take TF32, where torch's convolutions do.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        reference: Function,
        samples: Callable[[Tensor], Iterator[tuple]],
        *,
        sample_shape: tuple[int, ...] | None = None,
        roundings: int = 1,
    ) -> None:
        self.name, self.schema, self.reference, self.samples = name, schema, reference, samples
        self.sample_shape, self.roundings = sample_shape, roundings
        CUSTOM_OPS[name] = self
        _library.define(name + schema)
        _library.impl(name, reference, "CompositeExplicitAutograd")
        if "Tensor[]" in schema.partition("->")[2]:
            # For torch.autograd.grad(is_grads_batched=True), which calls other operators once for each gradient.
            _library.impl(name, reference, "Batched")
        torch.library.register_fake(f"idgan_fast::{name}", reference, lib=_library)

    def __call__(self, backend: str, *args: Any) -> Any:
        if backend == "reference" or transforming():
            return self.reference(*args)
        namespace = torch.ops.idgan_fast if backend == "native" else torch.ops.idgan_fast_triton
        return getattr(namespace, self.name).default(*args)


@dataclass(frozen=True)
class Case:
    """An operator on given shapes: ours and the plain torch compositions, all functions of the same tensors.

    plain: the forms in which StyleGAN code computes it; for modulated convolutions a weight for each sample, and one
    weight for all. The first in float64 gives the exact values.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    ours: Callable[..., Tensor]
    plain: tuple[Callable[..., Tensor], ...]


@dataclass(frozen=True)
class Operator:
    """An operator: the custom ops that a backend must have to run it, and the cases that it is measured on.

    cases: (device, channels, size) -> cases with images [2, channels, size, size].
    """

    name: str
    custom_ops: tuple[CustomOp, ...] = ()
    cases: Callable[[str, int, int], Iterator[Case]] | None = field(default=None, compare=False)
    names: tuple[str, ...] = field(init=False, compare=False)  # of its custom ops

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(op.name for op in self.custom_ops))
        OPERATORS[self.name] = self

"""A layer: its shapes, its arithmetic, and the kernels of two ways to run it."""

from dataclasses import dataclass

from idgan_fast.ops.layer.up2_plan import Kernel


@dataclass(frozen=True)
class Layer:
    """Input [n, c_in, size_in, size_in] -> output [n, c_out, size_out, size_out]; size 1 for a linear layer."""

    network: str
    """G or D."""
    name: str
    """No other layer of the network has it."""
    kind: str
    n: int
    c_in: int
    c_out: int
    size_in: int
    size_out: int
    flops: int
    """Of convolutions and matrix products, in the form with the least; a multiply-add is 2."""
    compulsory: int
    """Bytes of each input, weight and output, once."""
    ours: tuple[Kernel, ...]
    unfused: tuple[Kernel, ...]
    composite: tuple[Kernel, ...] | None = None
    """The other form of ours, where there is a choice (idgan_fast.ops.layer.up2_plan)."""

"""Which form a layer's convolution takes on a GPU: torch's between two kernels, or one of ours with all around it.

A shape that `idgan-fast tune` has measured on this GPU takes what was fastest there. For the others a rule: torch's
below 64 pixels a sample, where most of a tile would be empty; with up=2 the faster of two forms by `up2_plan`.
"""

import torch

from idgan_fast.ops.layer.devices import rates_of
from idgan_fast.ops.layer.up2_plan import composite_is_faster

SAME, COMPOSITE, TRANSPOSED, TORCH = "same", "composite", "transposed", "torch"
SMALLEST = 64  # predicted, not measured
BATCH = 8  # that the rule reckons with


def layer_key(c_in: int, c_out: int, height: int, width: int, k: int, up: int, dtype: torch.dtype) -> str:
    """The name of a layer's shape in the file of measurements."""
    return f"layer {c_in} {c_out} {height} {width} {k} {up} {str(dtype).removeprefix('torch.')}"


@torch.compiler.assume_constant_result
def choose_form(
    c_in: int, c_out: int, height: int, width: int,
    *, k: int, up: int, composable: bool, dtype: torch.dtype, device: torch.device,
) -> str:  # fmt: skip
    """same, composite, transposed or torch. height, width: of the input; composable: the composite form exists.

    The batch size is left out, so that a compiled graph serves all of them: it hardly shifts the balance of the forms.
    """
    from idgan_fast.kernels.styled_layer_measurements import measurements  # imports triton

    form = measurements(device).get(layer_key(c_in, c_out, height, width, k, up, dtype))
    if isinstance(form, str) and (composable or form != COMPOSITE):
        return form
    if height * width < SMALLEST:
        return TORCH
    if up == 1:
        return SAME
    peak, bandwidth = rates_of(device, dtype)
    shape = (BATCH, c_in, c_out, height, width, dtype.itemsize)
    if composable and composite_is_faster(*shape, peak=peak, bandwidth=bandwidth):
        return COMPOSITE
    return TRANSPOSED

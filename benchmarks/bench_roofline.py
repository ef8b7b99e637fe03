"""The styled layers of StyleGAN2's generators, forward, float16, beside what tools/roofline.py predicts for them.

Runs on the devices whose rates the model has. A layer must first agree with the reference in float32. Rows below some
20 µs are launches; a time under the floor would refute the model (docs/roofline.md).
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks.comparison import CLOCK, Comparison, record
from benchmarks.measuring import DEVICE, Call
from idgan_fast import ops
from idgan_fast.ops.layer.devices import device_key
from idgan_fast.tools.costs.layer import Layer
from idgan_fast.tools.roofline import default_batch, layers_of, row_of

TOLERANCE = 5e-3  # RMS error relative to the reference's RMS
KEY = device_key(torch.cuda.get_device_name()) if DEVICE == "cuda" else None


def comparisons(full: bool) -> Iterator[Comparison]:
    for preset in ("stylegan2-256", "stylegan2-1024") if KEY else ():
        for layer in layers_of(preset, default_batch(preset), "fp16"):
            if layer.kind.startswith("styled conv"):
                title = f"{preset}, fp16, batch {layer.n}"
                variants = ("ours", "predicted", "floor")
                yield Comparison(title, layer.name, variants, partial(prepare, layer), baseline="predicted")


@pytest.mark.benchmark(timer=CLOCK)
def test_layer(comparison: Comparison, variant: str, benchmark: Any, max_seconds: float) -> None:
    record(comparison, variant, benchmark, max_seconds)


def prepare(layer: Layer) -> dict[str, Call | float]:
    """A call, and two predictions in seconds."""
    half, exact = operands(layer, torch.float16), operands(layer, torch.float32)
    with torch.no_grad():
        expected = ops.styled_conv2d(**exact, impl="reference")
        error = (ops.styled_conv2d(**half).float() - expected).square().mean() / expected.square().mean()
    assert error.sqrt() < TOLERANCE
    row = row_of(layer, "fp16")
    names = {"predicted": f"{KEY}_ours_predicted_us", "floor": f"{KEY}_floor_predicted_us"}
    predicted = {name: float(row[column]) / 1e6 for name, column in names.items()}
    return {"ours": partial(ops.styled_conv2d, **half), **predicted}


def operands(layer: Layer, dtype: torch.dtype) -> dict[str, Any]:
    """Tensors of `ops.styled_conv2d`, channels_last."""
    torch.manual_seed(0)
    up = layer.size_out // layer.size_in
    tensors = {
        "x": torch.randn(layer.n, layer.c_in, layer.size_in, layer.size_in, device=DEVICE),
        "weight": torch.randn(layer.c_out, layer.c_in, 3, 3, device=DEVICE),
        "styles": torch.randn(layer.n, layer.c_in, device=DEVICE) + 1,
        "noise": torch.randn(layer.n, 1, layer.size_out, layer.size_out, device=DEVICE),
        "noise_strength": torch.tensor(0.5, device=DEVICE),
        "bias": torch.randn(layer.c_out, device=DEVICE),
    }
    tensors = {name: tensor.to(torch.float16).to(dtype) for name, tensor in tensors.items()}
    tensors["x"] = tensors["x"].to(memory_format=torch.channels_last)
    filter_taps = ops.setup_filter((1, 3, 3, 1), torch.device(DEVICE))
    return {**tensors, "up": up, "resample_filter": filter_taps, "clamp": 256.0}

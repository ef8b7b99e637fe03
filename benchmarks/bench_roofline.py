"""The styled layers of StyleGAN2's generators, forward, float16, beside what tools/roofline.py predicted for them.

Runs on the devices whose rates the model has. A layer must first agree with the reference in float32. Rows below some
20 µs are launches; a ratio below floor / predicted would refute the model (docs/roofline.md).
"""

from functools import partial
from statistics import median
from typing import Any

import pytest
import torch

from benchmarks import measuring
from benchmarks.measuring import CLOCK, DEVICE
from idgan_fast import ops
from idgan_fast.ops.layer.devices import device_key
from idgan_fast.tools.costs.layer import Layer
from idgan_fast.tools.roofline import default_batch, layers_of, row_of

ROUNDS = 21
TOLERANCE = 5e-3  # RMS error relative to the reference's RMS
LAYERS = [
    (preset, layer)
    for preset in ("stylegan2-256", "stylegan2-1024")
    for layer in layers_of(preset, default_batch(preset), "fp16")
    if layer.kind.startswith("styled conv")
]
KEY = device_key(torch.cuda.get_device_name()) if DEVICE == "cuda" else None


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


@pytest.mark.skipif(KEY is None, reason="the model has no rates of this device")
@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize(("preset", "layer"), LAYERS, ids=lambda value: getattr(value, "name", value))
def test_layer(preset: str, layer: Layer, benchmark: Any) -> None:
    assert KEY is not None
    given = operands(layer, torch.float16)
    with torch.no_grad():
        expected = ops.styled_conv2d(**operands(layer, torch.float32), impl="reference")
        error = (ops.styled_conv2d(**given).float() - expected).square().mean() / expected.square().mean()
        assert error.sqrt() < TOLERANCE
        del expected
        times = [measuring.seconds(partial(ops.styled_conv2d, **given)) for _ in range(ROUNDS)]
    row = row_of(layer, "fp16")
    taken = median(times) * 1e6
    benchmark.group, benchmark.name = f"{preset}, fp16, batch {layer.n}", layer.name
    columns = {"floor, predicted µs": f"{KEY}_floor_predicted_us", "predicted µs": f"{KEY}_ours_predicted_us"}
    benchmark.extra_info.update(
        {
            **{name: row[column] for name, column in columns.items()},
            "measured µs": round(taken, 3),
            "measured / predicted": round(taken / float(row[f"{KEY}_ours_predicted_us"]), 3),
        }
    )
    measuring.show(benchmark, times)

"""What `idgan-fast tune` measured on this GPU: {shape of a kernel: tile, shape of a layer: form}, in a file.

The file keeps it by GPU, torch, Triton and the kernels' text.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton

from idgan_fast.files import cache_file, digest, read_json


@cache
def identity(device: torch.device) -> str:
    """All that a measurement depends on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    text = digest(Path(__file__).parent.glob("*.py"))
    return json.dumps([name, torch.__version__, triton.__version__, text])


def tiles_file() -> Path:
    return cache_file("tiles.json")


@cache
def measurements(device: torch.device) -> dict[str, Any]:
    """{shape: tile, or layer: form} of this GPU; read once, when the first layer runs."""
    of_gpu = read_json(tiles_file()).get(identity(device))
    return of_gpu if isinstance(of_gpu, dict) else {}

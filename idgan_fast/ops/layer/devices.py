"""Rates of GPUs, from their vendors' datasheets: dense, without sparsity."""

from typing import NamedTuple

import torch


class Device(NamedTuple):
    name: str
    half: float
    """TFLOP/s of fp16 and bf16."""
    tf32: float
    fp32: float
    gb_per_s: float

    def rates(self, dtype: str) -> tuple[float, float]:
        """flops/s at the type (fp16, bf16, tf32, fp32), bytes/s."""
        peak = {"tf32": self.tf32, "fp32": self.fp32}.get(dtype, self.half)
        return peak * 1e12, self.gb_per_s * 1e9


DEVICES = {
    "a100": Device("A100 80 GB SXM", 312, 156, 19.5, 2039),
    "h100": Device("H100 SXM", 989, 495, 67, 3350),
    "h200": Device("H200 SXM", 989, 495, 67, 4800),
}


def device_key(name: str) -> str | None:
    """CUDA's name of a GPU -> its key in DEVICES; other forms of these chips have other rates."""
    names = {"a100": "A100-SXM4-80GB", "h100": "H100 80GB HBM3", "h200": "H200"}
    return next((key for key, part in names.items() if part in name and "NVL" not in name), None)


def rates_of(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """flops/s of the matrix units at `dtype` and bytes/s of a device; of one that is not in the table, an A100's."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return DEVICES[device_key(name) or "a100"].rates("tf32" if dtype == torch.float32 else "fp16")

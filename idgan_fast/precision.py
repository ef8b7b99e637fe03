"""The device, and mixed precision: what --device and --amp come to, and why."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from idgan_fast.config import Amp
from idgan_fast.errors import UserError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": torch.float32}


def pick_device(name: str) -> torch.device:
    """auto: a CUDA GPU if there is one, else the CPU. Raises UserError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps", "xpu"):
            raise RuntimeError(f"wanted auto, cpu, cuda, mps or xpu, got {device.type}")
        torch.empty(1, device=device).zero_()
        if device.type == "cuda":
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


@dataclass(frozen=True)
class Precision:
    """`name`: bf16, fp16 or off. `reason`: one line for the user."""

    name: str
    device_type: str
    reason: str

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device_type, _DTYPES[self.name], enabled=self.name != "off")

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler that does nothing unless the dtype is fp16."""
        return torch.amp.GradScaler(self.device_type, enabled=self.name == "fp16")


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 (x86: AVX-512 BF16 or AMX; Arm: BF16)."""
    read = getattr(torch.cpu, "get_capabilities", None)  # not in every torch
    if read is not None:
        found = read()
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def choose(amp: Amp, device: torch.device) -> Precision:
    """auto: bf16 where the hardware multiplies it, else fp16 with a gradient scaler on a GPU, else fp32."""
    if amp != "auto":
        return Precision(amp, device.type, "as asked")
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return Precision("bf16", "cuda", "this GPU multiplies bf16")
        return Precision("fp16", "cuda", "this GPU has no bf16 arithmetic: fp16 with a gradient scaler")
    if device.type == "cpu" and _cpu_has_bf16():
        return Precision("bf16", "cpu", "this processor multiplies bf16")
    return Precision("off", device.type, f"this {device.type} has no bf16 arithmetic: staying in fp32")

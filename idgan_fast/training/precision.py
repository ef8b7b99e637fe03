"""The device, and mixed precision: what --device and --amp come to, and why."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from idgan_fast.config.settings import Amp
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

    def loss_scale(self, device: torch.device) -> "LossScale":
        """One that does nothing unless the dtype is fp16."""
        return LossScale(device, enabled=self.name == "fp16")


def use_tf32(on: bool | None) -> None:
    """For the whole process: whether float32 products and convolutions may take TF32 on a GPU; None: torch's choice."""
    if on is not None:
        torch.backends.cuda.matmul.allow_tf32 = on
        torch.backends.cudnn.allow_tf32 = on


class LossScale:
    """Keeps fp16 gradients in range, as torch.amp.GradScaler does, but on the device and inside a compiled graph.

    The loss is multiplied by `factor`; gradients are divided by it again. An update with a gradient that is not finite
    is left out and halves the factor; GROWTH_INTERVAL good ones in a row double it.
    """

    FACTOR, GROWTH_INTERVAL = 2.0**16, 2000

    def __init__(self, device: torch.device, enabled: bool) -> None:
        self.enabled = enabled
        self.factor = torch.full((), self.FACTOR if enabled else 1.0, device=device)
        self.good = torch.zeros((), dtype=torch.int32, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        return loss * self.factor if self.enabled else loss

    def unscaled(self, gradients: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor | None]:
        """The gradients of the loss itself, and whether any number of them is not finite: a bool scalar, or None."""
        if not self.enabled:
            return gradients, None
        gradients = torch._foreach_mul(list(gradients), self.factor.reciprocal())
        finite = torch.stack([g.isfinite().all() for g in gradients]).all()
        return gradients, ~finite

    @torch.no_grad()
    def update(self, overflow: Tensor | None) -> None:
        """After an update of the weights, with what `unscaled` found."""
        if overflow is not None:
            grown = self.good + 1 >= self.GROWTH_INTERVAL
            self.factor.mul_(torch.where(overflow, 0.5, torch.where(grown, 2.0, 1.0)))
            self.good.copy_(torch.where(overflow | grown, 0, self.good + 1))

    def state_dict(self) -> dict[str, Tensor]:
        return {"factor": self.factor, "good": self.good} if self.enabled else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """A state without a factor, of a run in another dtype, changes nothing."""
        if self.enabled and state:
            self.factor.copy_(state["factor"])
            self.good.copy_(state["good"])


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 (x86: AVX-512 BF16 or AMX; Arm: BF16)."""
    read = getattr(torch.cpu, "get_capabilities", None)  # not in every torch
    if read is not None:
        capabilities = read()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
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

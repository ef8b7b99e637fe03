"""What the settings leave to the machine, resolved: the device, --amp, --compile and --loader.

What --amp auto and --compile auto resolved to stays so for the whole run on a kind of device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from idgan_fast.config.fields import settings_of
from idgan_fast.config.settings import Config
from idgan_fast.data import choose_loader
from idgan_fast.errors import UserError
from idgan_fast.training.precision import Precision, choose
from idgan_fast.training.step_compiler import cannot_compile, whether_to_compile


@dataclass(frozen=True)
class ResolvedSettings:
    """The values, and a reason in a few words for each that may be a surprise."""

    device: torch.device
    precision: Precision
    compiled: bool
    why_compiled: str
    loader: str
    """dali or torch, for images that are not kept in memory."""
    why_loader: str
    tf32: bool | None

    def record(self) -> dict[str, Any]:
        """What a checkpoint and the report hold: these values, and what else the numbers of a run depend on."""
        return {
            "device": str(self.device),
            "amp": self.precision.name,
            "compile": "on" if self.compiled else "off",
            "loader": self.loader,
            "tf32": self.tf32,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
        }


def resolve(config: Config, device: torch.device, previous: Mapping[str, Any]) -> ResolvedSettings:
    """Resolve the settings on a device. previous: the record of the run that is resumed, or nothing.

    Raises UserError where a value is asked for that cannot be.
    """
    precision = choose_precision(config, device, previous)
    compiled, why_compiled = choose_compile(config, device, precision, previous)
    loader, why_loader = choose_loader(config, device)
    return ResolvedSettings(
        device=device,
        precision=precision,
        compiled=compiled,
        why_compiled=why_compiled,
        loader=loader,
        why_loader=why_loader,
        tf32=config.tf32,
    )


def choose_precision(config: Config, device: torch.device, previous: Mapping[str, Any]) -> Precision:
    """Resolve --amp; auto stays what it was before."""
    if config.amp == "auto" and "amp" in previous:
        return Precision(previous["amp"], device.type, "as before")
    return choose(config.amp, device)


def choose_compile(
    config: Config, device: torch.device, precision: Precision, previous: Mapping[str, Any]
) -> tuple[bool, str]:
    """Whether to compile, and why. Raises UserError where it is asked for and cannot be."""
    if config.compile == "off":
        return False, "as asked"
    reason = cannot_compile(device)
    if config.compile == "on":
        if reason is not None:
            raise UserError(f"--compile on: {reason}; leave it out, or --compile off")
        return True, "as asked"
    if config.gan.model == "stylegan2" and config.gan.stylegan2.recompute:
        return False, "the compiler cannot recompute"
    if "compile" in previous and torch.device(previous["device"]).type == device.type:
        return previous["compile"] == "on" and reason is None, reason or "as before"
    iters = max(config.vae.iters, config.gan.iters)
    return whether_to_compile(device, iters, steps_of(config, device, precision))


def steps_of(config: Config, device: torch.device, precision: Precision) -> str:
    """All that decides which steps a run compiles, as a string to compare."""
    settings = {key: value for key, value, traits in settings_of(config) if traits.compiled}
    return f"{settings} {device} {precision.name} {torch.get_num_threads()}"

"""What --amp auto and --compile auto come to. What they chose once stays for the whole run on a kind of device."""

from collections.abc import Mapping
from typing import Any

import torch

from idgan_fast.config.fields import settings_of
from idgan_fast.config.settings import Config
from idgan_fast.errors import UserError
from idgan_fast.training.precision import Precision, choose
from idgan_fast.training.step_compiler import cannot_compile, whether_to_compile


def choose_precision(config: Config, device: torch.device, before: Mapping[str, Any]) -> Precision:
    """before: the choices of the run that is resumed, or nothing."""
    if config.amp == "auto" and "amp" in before:
        return Precision(before["amp"], device.type, "as before")
    return choose(config.amp, device)


def choose_compile(
    config: Config, device: torch.device, precision: Precision, before: Mapping[str, Any]
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
    if "compile" in before and torch.device(before["device"]).type == device.type:
        return before["compile"] == "on" and reason is None, reason or "as before"
    iters = max(config.vae.iters, config.gan.iters)
    return whether_to_compile(device, iters, steps_of(config, device, precision))


def steps_of(config: Config, device: torch.device, precision: Precision) -> str:
    """All that decides which graphs a run compiles."""
    settings = {key: value for key, value, carried in settings_of(config) if carried.compiled}
    return f"{settings} {device} {precision.name} {torch.get_num_threads()}"

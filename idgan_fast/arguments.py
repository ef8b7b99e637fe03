"""The command line -> settings: the preset's, then those of `--config FILE`, then those of the flags."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tyro

from idgan_fast.config import Config, flatten, override, read_yaml
from idgan_fast.errors import UserError, nearest
from idgan_fast.presets import preset


def normalise(argv: Sequence[str]) -> list[str]:
    """Give a bare --amp its value (auto), which the parser insists on."""
    result: list[str] = []
    for position, argument in enumerate(argv):
        result.append(argument)
        if argument == "--amp":
            following = argv[position + 1] if position + 1 < len(argv) else "--"
            if following.startswith("-"):
                result.append("auto")
    return result


def _given(argv: Sequence[str], flag: str) -> str | None:
    """The value of `flag` in the arguments, before they are parsed."""
    for position, argument in enumerate(argv):
        if argument == flag and position + 1 < len(argv):
            return argv[position + 1]
        if argument.startswith(flag + "="):
            return argument.split("=", 1)[1]
    return None


def parse(argv: Sequence[str], prog: str = "idgan-fast train") -> Config:
    """The command line -> settings, complete and checked. Raises UserError; SystemExit after --help."""
    argv = normalise(argv)
    file = _given(argv, "--config")
    values = read_yaml(Path(file)) if file is not None else {}
    name = _given(argv, "--preset") or values.get("preset") or Config.preset
    base = override(preset(str(name)), {**values, "preset": str(name)})
    config, unknown = tyro.cli(Config, prog=prog, args=argv, default=base, return_unknown_args=True)
    if unknown:
        flags = ["--" + key.replace("_", "-") for key in flatten(base)]
        raise UserError(f"{unknown[0]}: no such option; {nearest(unknown[0].split('=')[0], flags)}")
    return check(config)


def check(config: Config) -> Config:
    """The settings with `batch_size` and `out` put in place. Raises UserError where they contradict each other."""
    if config.batch_size is not None:
        config = replace(
            config,
            batch_size=None,
            vae=replace(config.vae, batch_size=config.batch_size),
            gan=replace(config.gan, batch_size=config.batch_size),
        )
    if config.data is None and config.dataset == "images":
        raise UserError(f"--data: the preset {config.preset} trains on your pictures: give a folder or a zip of them")
    if config.data is not None and config.dataset == "dsprites" and config.data.suffix != ".npz":
        raise UserError(
            f"--data: the preset {config.preset} takes the public dSprites .npz or nothing, got {config.data}; "
            "for pictures choose another preset, such as celeba-64"
        )
    size = config.images.size
    if size not in (64, 128, 256, 512, 1024):
        raise UserError(f"--images.size: must be 64, 128, 256, 512 or 1024, got {size}")
    if config.gan.model == "dsprites" and (size != 64 or config.gan.bottleneck):
        raise UserError("--gan.model dsprites: works at --images.size 64 and without --gan.bottleneck; use resnet")
    if config.gan.warm_start and (
        config.gan.model != "dsprites" or config.gan.s_dim or config.gan.width != config.vae.width
    ):
        raise UserError(
            "--gan.warm-start: needs --gan.model dsprites, --gan.s-dim 0 and --gan.width equal to --vae.width"
        )
    for key, value in flatten(config).items():
        least = 0 if key.endswith("iters") else 1
        whole = key.endswith(("iters", "batch_size", "_every", "c_dim", "width"))
        if whole and value is not None and value < least:
            raise UserError(f"--{key.replace('_', '-')}: must be at least {least}, got {value}")
    out = config.out or Path("runs") / f"{config.preset}-seed{config.seed}"
    return replace(config, out=out)

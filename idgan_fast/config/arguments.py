"""The command line becomes settings: the preset's, over these those of `--config FILE`, over these the flags."""

import contextlib
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from itertools import takewhile, zip_longest
from pathlib import Path

import tyro

from idgan_fast.config.fields import settings_of
from idgan_fast.config.presets import preset
from idgan_fast.config.settings import Config, field_type, flatten, override, type_in_words
from idgan_fast.config.settings_file import read_settings
from idgan_fast.errors import UserError, nearest, shown

LARGEST_WHOLE, LARGEST_FLOAT = 2**31 - 1, 3.4e38  # of numbers whose fields have no bounds of their own


def expand_bare_amp(argv: Sequence[str]) -> list[str]:
    """Give a bare --amp the value auto, since the parser insists on one."""
    result: list[str] = []
    for position, argument in enumerate(argv):
        result.append(argument)
        if argument == "--amp":
            after = argv[position + 1] if position + 1 < len(argv) else "--"
            if after.startswith("-"):
                result.append("auto")
    return result


def _last_value(argv: Sequence[str], flag: str) -> str | None:
    """Return the value that `flag` has in the end, in arguments that are not parsed yet."""
    last = None
    for argument, after in zip_longest(argv, argv[1:], fillvalue="--"):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == flag and (equals or not after.startswith("--")):
            last = value if equals else after
    return last


def require_values(argv: Sequence[str]) -> None:
    """Raise UserError for an option with an empty value, such as that of a shell's unset variable, or one with NUL."""
    for before, argument in zip(["", *argv], argv, strict=False):
        name, equals, value = argument.partition("=") if argument.startswith("-") else (before, "=", argument)
        if (equals and not value) or "\0" in argument:
            name = name if name.startswith("-") else "arguments"
            raise UserError(f"{name}: wanted a value, got {shown(value)}; give one, or leave the option out")


def parse(argv: Sequence[str], prog: str = "idgan-fast train", *, needs_data: bool = True) -> Config:
    """Parse the command line into settings that are complete and checked. Raises UserError; SystemExit after --help."""
    require_values(argv)
    argv = expand_bare_amp(argv)
    file = _last_value(argv, "--config")
    values = read_settings(Path(file)) if file is not None else {}
    flag = _last_value(argv, "--preset")
    named = preset(values.pop("preset", Config.preset) if flag is None else flag)
    both = override(named, {"batch_size": values.pop("batch_size", None)})
    base = override(_with_batch_size(both), {**values, "preset": named.preset})
    config = _parse_flags(argv, base, prog)
    if config.batch_size is not None:  # once more, so that --gan.batch-size goes before it
        config = _parse_flags(argv, _with_batch_size(replace(base, batch_size=config.batch_size)), prog)
    config = replace(config, batch_size=None)
    check(config, needs_data=needs_data)
    return config


def _with_batch_size(config: Config) -> Config:
    """Give both stages the batch size that is set for both, if one is. Raises UserError where it is out of bounds."""
    _check_bounds(config)
    n = config.batch_size
    if n is None:
        return config
    return replace(
        config, batch_size=None, vae=replace(config.vae, batch_size=n), gan=replace(config.gan, batch_size=n)
    )


def _parse_flags(argv: Sequence[str], base: Config, prog: str) -> Config:
    """Run tyro's parser. Raises UserError for an unknown flag, and with its boxed message on a value as one line."""
    errors = StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            config, unknown = tyro.cli(Config, prog=prog, args=argv, default=base, return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip(" │|─-╭╮╰╯") for line in errors.getvalue().splitlines()]
        _, *body = filter(None, lines)  # a title, the message, help
        message = " ".join(takewhile(lambda line: not line.startswith(("For full help", "Argument help")), body))
        if match := re.match(r"Error parsing --([\w.-]+):", message):
            wanted = type_in_words(field_type(Config, match[1].replace("-", "_")))
            message = f"--{match[1]}: must be {wanted}, got {shown(_last_value(argv, '--' + match[1]))}"
        raise UserError(f"{message.rstrip('.')}; {prog} --help shows what there is") from None
    if unknown:
        flags = ["--" + key.replace("_", "-") for key in flatten(base) if key != "dataset"]
        raise UserError(f"{unknown[0]}: no such option; {nearest(unknown[0].split('=')[0], flags)}")
    return config


def _check_bounds(config: Config) -> None:
    """Raise UserError for a number out of its field's bounds, or not finite."""
    for key, value, traits in settings_of(config):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        stated = traits.at_most < math.inf
        most = LARGEST_WHOLE if isinstance(value, int) else LARGEST_FLOAT
        low, high = max(traits.at_least, -most), traits.at_most if stated else most
        if not low <= value <= high:
            wanted = f"from {low} to {high}" if stated else f"at most {high}" if value > high else f"at least {low}"
            raise UserError(f"--{key.replace('_', '-')}: must be {wanted}, got {shown(value)}")


def check(config: Config, *, needs_data: bool = True) -> None:
    """Raise UserError where settings cannot work or contradict each other."""
    _check_bounds(config)
    if needs_data and config.data is None and config.dataset == "images":
        raise UserError(f"--data: the preset {config.preset} trains on your pictures: give a folder or a zip of them")
    if config.data is not None and config.dataset == "dsprites" and config.data.suffix != ".npz":
        raise UserError(
            f"--data: the preset {config.preset} takes the public dSprites .npz or nothing, got {config.data}; "
            "for pictures choose another preset, such as images-quick"
        )
    if any("\ud800" <= character <= "\udfff" for character in str(config.out or "")):
        raise UserError(f"--out: TensorBoard wants a path in UTF-8, got {config.out}; give a folder of another name")
    if config.out is not None and config.resume == "never" and config.out.name in ("", ".."):
        raise UserError(f"--resume never: renames the run's folder, got --out {config.out}; give its name")
    if config.vae.beta_start == 0:
        raise UserError("--vae.beta-start: must be above 0, as beta falls geometrically from it; got 0")
    size, gan = config.images.size, config.gan
    if config.dataset == "dsprites" and size != 64:
        raise UserError(f"--images.size: dSprites has pictures of 64x64, got {size}")
    if size not in (64, 128, 256, 512, 1024):
        raise UserError(f"--images.size: must be 64, 128, 256, 512 or 1024, got {size}")
    if gan.model == "dsprites" and size != 64:
        raise UserError(f"--gan.model dsprites: works at --images.size 64, got {size}; use resnet")
    if gan.model == "resnet" and gan.width > gan.max_width:
        raise UserError(f"--gan.width: must be at most --gan.max-width, {gan.max_width}, got {gan.width}")
    if gan.bottleneck and gan.model != "resnet":
        raise UserError(f"--gan.bottleneck: is the ResNet discriminator's, got --gan.model {gan.model}")
    if gan.square_decay == 1:
        raise UserError(f"--gan.square-decay: must be less than 1, got {gan.square_decay}")
    stylegan2 = gan.stylegan2
    with_code = [4 << i for i in range(9) if stylegan2.code_from <= 4 << i <= min(stylegan2.code_to, size)]
    if gan.model == "stylegan2" and stylegan2.code == "style" and not with_code:
        raise UserError(
            f"--gan.stylegan2.code-from, code-to: no resolution from 4 to {size} lies in {stylegan2.code_from} to "
            f"{stylegan2.code_to}, so that G would not see c"
        )
    if gan.model == "stylegan2" and gan.s_dim == 0:
        raise UserError("--gan.s-dim: StyleGAN2's mapping network needs at least 1, got 0")
    if gan.model == "stylegan2" and stylegan2.recompute and config.compile == "on":
        raise UserError("--compile on: the compiler cannot recompute; leave out --gan.stylegan2.recompute")
    if gan.warm_start and (gan.model != "dsprites" or gan.width != config.vae.width):
        raise UserError("--gan.warm-start: needs --gan.model dsprites and --gan.width equal to --vae.width")

"""The settings of a run: frozen dataclasses, and their record as YAML, in which unknown keys are refused."""

import contextlib
import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

from idgan_fast.config.fields import setting, settings_of
from idgan_fast.errors import UserError, nearest, shown

Amp = Literal["auto", "bf16", "fp16", "off"]
Compile = Literal["auto", "on", "off"]
Loader = Literal["auto", "dali", "torch"]

IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path", type(None): "None"}
MOST_CHANNELS, MOST_IMAGES = 2**20, 2**20  # of a layer and of a batch: far above use, so that no size overflows


@dataclass(frozen=True)
class ImagesConfig:
    """How pictures are framed; the same for both stages. Stage 1 sees them at 64x64."""

    size: int = setting(64, on_resume="stage 2")
    """Side of the generated images, in pixels: a power of two from 64 to 1024."""
    channels: Literal[1, 3] = 3
    framing: Literal["crop", "squash"] = setting("crop", compiled=False)
    """A centered square, or the whole picture squashed to one."""
    crop: int | None = setting(None, at_least=1, compiled=False)
    """Side of the center crop before resizing, in pixels; None takes the shorter side."""
    min_side: int = setting(0, at_least=0, compiled=False)
    """Pictures whose shorter side is under this many pixels are skipped."""
    max_megapixels: float = setting(178.0, at_least=0.001, on_resume="remedy", compiled=False, departure=False)
    """Pictures of more million pixels are skipped: each process or thread that decodes takes up to 17 bytes a
    pixel, 3 GB for 178."""
    max_file_mib: float = setting(256.0, at_least=0.001, on_resume="remedy", compiled=False, departure=False)
    """Pictures whose file takes more MiB, when it is unpacked from an archive, are skipped."""
    flip: bool = setting(True, on_resume="stage 2", compiled=False)
    """Mirror half of the pictures (stage 2 only)."""
    dequantise: bool = setting(True, on_resume="stage 2", compiled=False)
    """Add U[0, 1/128) noise (stage 2 only)."""
    cache_gib: float = setting(4.0, at_least=0, on_resume="free")
    """Decoded pictures are kept in memory if they fit in this many GiB."""


@dataclass(frozen=True)
class VAEConfig:
    """Stage 1: a beta-VAE on 64x64 images."""

    iters: int = setting(1_000_000, at_least=0, compiled=False)
    batch_size: int = setting(64, at_least=1, at_most=MOST_IMAGES, on_resume="remedy")
    c_dim: int = setting(20, at_least=1, at_most=MOST_CHANNELS)
    """Dimensions of the code c."""
    beta: float = setting(6.4, at_least=0)
    """Weight of the KL term, at the end of its schedule."""
    beta_start: float | None = setting(None, at_least=0)
    """Weight of the KL term at first: held for `beta_hold` of the iterations, then falling geometrically to `beta`
    at `beta_reach` of them. None keeps `beta` throughout."""
    beta_hold: float = setting(0.22, at_least=0, at_most=1)
    beta_reach: float = setting(0.82, at_least=0, at_most=1)
    reconstruction: Literal["bernoulli", "gaussian"] = "gaussian"
    width: int = setting(32, at_least=1, at_most=MOST_CHANNELS)
    """Channels of the first convolution."""
    init: Literal["normal", "kaiming"] = "normal"
    lr: float = setting(1e-4, at_least=0, on_resume="remedy")
    lr_warmup: float = setting(0.0, at_least=0, at_most=1)
    """Share of the iterations at the start over which the learning rate rises linearly from 0."""
    lr_decay: float = setting(0.0, at_least=0, at_most=1)
    """Share of the iterations at the end over which the learning rate falls linearly to 0."""


@dataclass(frozen=True)
class StyleGAN2Config:
    """What only `--gan.model stylegan2` reads."""

    channel_base: int = setting(16384, at_least=1, at_most=1024 * MOST_CHANNELS)
    """Channels at resolution R are min(channel_base / R, channel_max)."""
    channel_max: int = setting(512, at_least=1, at_most=MOST_CHANNELS)
    w_dim: int = setting(512, at_least=1, at_most=MOST_CHANNELS)
    mapping_layers: int = setting(8, at_least=1, at_most=100)
    architecture: Literal["skip", "residual"] = "skip"
    """Of the generator; the discriminator is residual."""
    code: Literal["style", "mapping"] = "style"
    """Where c enters: beside w in the styles, or beside s in the mapping network."""
    code_from: int = 4
    """First resolution whose styles see c (code style only)."""
    code_to: int = 1024
    """Last resolution whose styles see c (code style only)."""
    style_mixing: float = setting(0.9, at_least=0, at_most=1)
    """Share of the training pictures whose later layers take another s."""
    path_weight: float = setting(2.0, at_least=0)
    """Weight of the path length penalty."""
    path_every: int = setting(4, at_least=1)
    """A path length step after every k-th step, k times as strong."""
    path_shrink: int = setting(2, at_least=1)
    """The path length step takes this fraction of the batch."""
    low_precision_levels: int = setting(4, at_least=0)
    """How many of the highest resolutions mixed precision computes in its half type."""
    recompute: bool = False
    """Compute the blocks' activations again in the backward pass instead of keeping them: less memory, more time."""


@dataclass(frozen=True)
class GANConfig:
    """Stage 2: generator and discriminator, with the frozen encoder as teacher."""

    iters: int = setting(300_000, at_least=0, compiled=False)
    batch_size: int = setting(64, at_least=1, at_most=MOST_IMAGES, on_resume="remedy")
    model: Literal["resnet", "dsprites", "stylegan2"] = "resnet"
    bottleneck: bool = False
    """The VGAN discriminator (resnet only)."""
    s_dim: int = setting(256, at_least=0, at_most=MOST_CHANNELS)
    """Dimensions of the nuisance variable s."""
    width: int = setting(64, at_least=1, at_most=MOST_CHANNELS)
    """Channels of G and D at full size."""
    max_width: int = setting(512, at_least=1, at_most=MOST_CHANNELS)
    stylegan2: StyleGAN2Config = field(default_factory=lambda: StyleGAN2Config())
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """RMSprop, or Adam with beta1 = 0."""
    square_decay: float = setting(0.99, at_least=0, at_most=1)
    """Decay of the average of squared gradients: RMSprop's alpha, Adam's beta2. A gradient far above its average moves
    a weight by up to lr / sqrt(1 - this): high learning rates need less."""
    lr_g: float = setting(1e-4, at_least=0, on_resume="remedy")
    lr_d: float = setting(1e-4, at_least=0, on_resume="remedy")
    r1_weight: float = setting(10.0, at_least=0)
    """Weight of E|grad D(x)|^2 (R1 without the 1/2)."""
    r1_every: int = setting(1, at_least=1)
    """R1 in every k-th step, k times as strong."""
    distill_weight: float = setting(1e-3, at_least=0, compiled=False)
    """Weight of the information distillation loss, lambda."""
    distill_warmup: int = setting(0, at_least=0, compiled=False)
    """Iterations over which that weight rises linearly from 0."""
    distill_eps: float = setting(1e-8, at_least=0)
    """Added to the encoder's variance in that loss."""
    ema: float = setting(0.999, at_least=0, at_most=1, compiled=False)
    """Decay of the moving average of G's weights, which all pictures are made with."""
    ema_rampup: float = setting(0.0, at_least=0, at_most=1, compiled=False)
    """Its half-life is at most this share of the iterations done; 0 for no such limit."""
    ada: bool = False
    """Adaptive augmentation of what the discriminator sees, for small data sets (arXiv 2006.06676)."""
    ada_target: float = setting(0.6, at_least=0, at_most=1)
    """The mean sign of D's logits on real images that its probability is adapted to."""
    ada_images: int = setting(500_000, at_least=1)
    """Images in which that probability can go from 0 to 1."""
    sample_code: Literal["posterior", "prior"] = setting("prior", on_resume="free", departure=True)
    """Where c comes from in sample pictures: q(c|x) of real images, or N(0, I) as in the public code."""
    warm_start: bool = False
    """Start G from the VAE's decoder (dsprites model of the VAE's width only)."""


@dataclass(frozen=True)
class Config:
    """Train ID-GAN: a VAE that finds a disentangled code, then a GAN that draws from it."""

    preset: str = setting("dsprites-quick", on_resume="stage 2", compiled=False, departure=False)
    """Settings to start from."""
    data: Path | None = setting(None, on_resume="free")
    """A folder or zip of pictures, tar shards of a WebDataset, or the public dSprites .npz; None renders dSprites."""
    out: Path | None = setting(None, on_resume="free", recorded=False)
    """The run's folder; None means runs/PRESET-seedSEED, with a number where finished runs of other settings lie."""
    batch_size: int | None = setting(
        None, at_least=1, at_most=MOST_IMAGES, compiled=False, departure=False, recorded=False
    )
    """Sets both stages' batch size; --vae.batch-size and --gan.batch-size go before it."""
    seed: int = setting(0, at_least=0, at_most=2**32, compiled=False, departure=False)
    device: str = setting("auto", on_resume="free")
    """auto (a CUDA GPU if there is one, else the CPU), cpu, cuda, cuda:1, ..."""
    amp: Amp = setting("off", on_resume="remedy", compiled=False)
    """Mixed precision; a bare --amp means auto."""
    tf32: bool | None = setting(None, on_resume="free")
    """Let an NVIDIA GPU multiply float32 numbers in TF32: faster, with 10 bits of mantissa. None: torch's own choice,
    which is yes for convolutions and no for matrix products."""
    compile: Compile = setting("auto", on_resume="free")
    """Each step as one compiled graph. auto: on a GPU; on a CPU where it was compiled before, or the run is long."""
    resume: str = setting("auto", on_resume="free", recorded=False)
    """auto: go on where the run's folder stopped; never: start anew; or the path of a checkpoint."""
    config: Path | None = setting(None, on_resume="free", recorded=False)
    """A YAML file of settings, such as a run's config.yaml."""
    loader: Loader = setting("auto", on_resume="free")
    """What decodes pictures: NVIDIA DALI, or Pillow in processes of torch's DataLoader. auto: those that fit in memory
    once, to be kept; others by DALI where it is installed."""
    workers: int | None = setting(None, at_least=0, at_most=1024, on_resume="free")
    """Processes or threads that decode pictures which do not fit in memory; None means one a core."""
    log_every: int = setting(50, at_least=1, on_resume="free")
    """Iterations between two lines of stats.jsonl; slow runs write one every half minute."""
    picture_every: int = setting(5000, at_least=1, on_resume="free")
    """Iterations between two sets of pictures."""
    save_every: int = setting(5000, at_least=1, on_resume="free")
    """Iterations between two checkpoints; slow runs write one every ten minutes."""
    dataset: tyro.conf.Suppress[Literal["dsprites", "images"]] = setting("images", compiled=False)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    gan: GANConfig = field(default_factory=GANConfig)


def flatten(config: Any) -> dict[str, Any]:
    """Flatten nested dataclasses to {"vae.beta": 8.0, ...}, with paths as strings: what YAML and checkpoints hold."""
    return {key: str(value) if isinstance(value, Path) else value for key, value, _ in settings_of(config)}


def to_yaml(config: Config) -> str:
    """Write the settings as config.yaml has them: without what only says where and how the run was started."""
    nested: dict[str, Any] = {}
    values = flatten(config)
    for key in (key for key, _, traits in settings_of(config) if traits.recorded):
        *groups, name = key.split(".")
        target = nested
        for group in groups:
            target = target.setdefault(group, {})
        target[name] = values[key]
    return yaml.safe_dump(nested, sort_keys=False)


def override(base: Any, values: Any, where: str = "") -> Any:
    """Return a copy of the dataclass `base` with the nested mapping `values` put in.

    Raises UserError for unknown keys and wrong types. where: the dotted prefix of the keys, for its message.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"config: {where.rstrip('.') or 'the file'} must be a mapping of settings, got {shown(values)}")
    hints = typing.get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            name = key if isinstance(key, str) else shown(key)
            raise UserError(f"config: no setting named {where}{name}; {nearest(name, hints)}")
        if dataclasses.is_dataclass(hints[key]):
            changes[key] = override(getattr(base, key), value, f"{where}{key}.")
        else:
            changes[key] = _converted(hints[key], value, f"{where}{key}")
    return replace(base, **changes)


def _converted(hint: Any, value: Any, where: str) -> Any:
    """Return a value from YAML as the type that a field's hint allows. Raises UserError where there is none."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if typing.get_origin(option) is Literal:
            allowed = typing.get_args(option)
            value = "off" if value is False and "off" in allowed else value  # YAML reads a bare off as false
            if any(type(value) is type(known) and value == known for known in allowed):
                return value
        elif option in (str, Path) and isinstance(value, str):
            if not value or "\0" in value:
                raise UserError(f"config: {where} must be some text without NUL, got {shown(value)}")
            return option(value)
        elif (option is type(None) and value is None) or type(value) is option:
            return value
        elif option is float and type(value) in (int, str):
            with contextlib.suppress(ValueError, OverflowError):  # YAML reads 1e-4 as a string
                return float(value)
    raise UserError(f"config: {where} must be {type_in_words(hint)}, got {shown(value)}")


def field_type(config: type, key: str) -> Any:
    """The type of the field with this dotted key."""
    name, _, rest = key.partition(".")
    hint = typing.get_type_hints(config)[name]
    return field_type(hint, rest) if rest else hint


def type_in_words(hint: Any) -> str:
    """What a field of this type may be, for an error line."""
    if typing.get_origin(hint) is Literal:
        return ", ".join(map(str, typing.get_args(hint)))
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(IN_WORDS.get(option, "some text") for option in options)

"""The presets. Those named after a data set hold the public code's constants, untouched; two are short ones of our own,
and three have StyleGAN2's networks."""

from dataclasses import replace
from typing import Any

from idgan_fast.config.fields import settings_of
from idgan_fast.config.settings import Config, GANConfig, ImagesConfig, StyleGAN2Config, VAEConfig, flatten
from idgan_fast.errors import UserError, nearest, shown

_DSPRITES = Config(
    dataset="dsprites",
    images=ImagesConfig(channels=1, flip=False, dequantise=False),
    vae=VAEConfig(iters=500_000, c_dim=10, beta=8.0, reconstruction="bernoulli"),
    gan=GANConfig(model="dsprites", s_dim=0, width=32, lr_g=1e-3, distill_weight=1e-4),
)
# The StyleGAN2 pairing: widths and rates of arXiv 1912.04958 and 2006.06676, R1's gamma 10 (with the 1/2: 5 here), a
# half-life of 10,000 images for the average, the distillation of github.com/rosinality/id-gan-pytorch.
_STYLEGAN2_64 = Config(
    images=ImagesConfig(size=64),
    gan=GANConfig(
        model="stylegan2",
        batch_size=32,
        s_dim=512,
        optimizer="adam",
        lr_g=2e-3,
        lr_d=2e-3,
        r1_weight=5.0,
        r1_every=16,
        distill_weight=0.01,
        distill_warmup=1000,
        distill_eps=1e-6,
        ema=0.998,
        ema_rampup=0.05,
        sample_code="posterior",
    ),
)

_PRESETS = {
    "dsprites": _DSPRITES,
    "dsprites-quick": replace(
        _DSPRITES,
        picture_every=500,
        save_every=1000,
        vae=replace(
            _DSPRITES.vae,
            iters=6400,
            batch_size=16,
            width=16,
            init="kaiming",
            beta_start=60.0,
            lr=1e-2,
            lr_warmup=0.2,
            lr_decay=0.2,
        ),
        gan=replace(_DSPRITES.gan, iters=2000, batch_size=32, width=16, lr_g=2e-4, lr_d=4e-4, warm_start=True),
    ),
    "images-quick": Config(
        picture_every=300,
        save_every=500,
        vae=VAEConfig(iters=2500, beta=2.0, init="kaiming", lr=1e-3, lr_decay=0.2),
        gan=GANConfig(
            iters=1800,
            batch_size=16,
            width=32,
            max_width=256,
            lr_g=4e-4,
            lr_d=4e-4,
            distill_weight=0.02,
            ema=0.98,
            sample_code="posterior",
        ),
    ),
    "celeba-64": Config(images=ImagesConfig(crop=160)),
    "celeba-256": Config(images=ImagesConfig(crop=160, size=256), gan=GANConfig(batch_size=24)),
    "chairs-64": Config(
        images=ImagesConfig(crop=450),
        vae=VAEConfig(beta=10.0),
        gan=GANConfig(r1_weight=1000.0, distill_weight=1e-4),
    ),
    "cars-64": Config(images=ImagesConfig(framing="squash", min_side=64), vae=VAEConfig(beta=5.0)),
    "celebahq-1024": Config(images=ImagesConfig(size=1024), gan=GANConfig(batch_size=1, width=16, distill_weight=1e-4)),
    "stylegan2-64": _STYLEGAN2_64,
    "stylegan2-256": replace(
        _STYLEGAN2_64, images=ImagesConfig(size=256), gan=replace(_STYLEGAN2_64.gan, batch_size=16, ema=0.9989)
    ),
    "stylegan2-1024": replace(
        _STYLEGAN2_64,
        images=ImagesConfig(size=1024),
        gan=replace(
            _STYLEGAN2_64.gan,
            iters=1_000_000,
            batch_size=4,
            ema=0.9997,
            stylegan2=StyleGAN2Config(channel_base=32768),
        ),
    ),
}
PRESETS: dict[str, Config] = {name: replace(config, preset=name) for name, config in _PRESETS.items()}

# The preset that each one is compared with in the report's list of departures from the paper.
PAPER = PRESETS | {
    "dsprites-quick": PRESETS["dsprites"],
    "images-quick": PRESETS["celeba-64"],
    "stylegan2-64": PRESETS["celeba-64"],
    "stylegan2-256": PRESETS["celeba-256"],
    "stylegan2-1024": PRESETS["celebahq-1024"],
}


def preset(name: Any) -> Config:
    """Return the settings of a preset. Raises UserError for what is no name of one."""
    if not isinstance(name, str) or name not in PRESETS:
        near = nearest(name if isinstance(name, str) else "", PRESETS)
        raise UserError(f"--preset: no preset named {shown(name)}; {near}")
    return PRESETS[name]


def departures(config: Config) -> list[tuple[str, Any, Any]]:
    """List (setting, the paper's value, the run's value) where they differ and the difference is a departure."""
    paper = flatten(PAPER[config.preset])
    rows: list[tuple[str, Any, Any]] = [
        (key, paper[key], value)
        for key, value, traits in settings_of(config)
        if traits.departure and value != paper[key]
    ]
    if config.dataset == "dsprites" and config.data is None:
        rows.insert(0, ("data", "the public dSprites file", "the same factor grid, rendered by this project"))
    if config.preset == "celebahq-1024":
        rows.insert(0, ("teacher's pictures", "CelebA, 160-pixel center crops", "those of stage 2, at 64x64"))
    return rows

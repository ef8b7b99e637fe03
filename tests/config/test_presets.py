"""The presets hold the published constants; a short one lists where it departs from them."""

from dataclasses import replace
from pathlib import Path

import pytest

from idgan_fast.config.presets import PRESETS, departures, preset
from idgan_fast.errors import UserError

IMAGE_PRESETS = ("celeba-64", "celeba-256", "chairs-64", "cars-64", "celebahq-1024")
PUBLISHED = ("dsprites", *IMAGE_PRESETS)

# stage-1 iterations, reconstruction, c_dim, beta, s_dim, width, R1 weight, lambda, batch of stage 2, image size
TABLE = {
    "dsprites": (500_000, "bernoulli", 10, 8, 0, 32, 10, 1e-4, 64, 64),
    "celeba-64": (1_000_000, "gaussian", 20, 6.4, 256, 64, 10, 1e-3, 64, 64),
    "celeba-256": (1_000_000, "gaussian", 20, 6.4, 256, 64, 10, 1e-3, 24, 256),
    "chairs-64": (1_000_000, "gaussian", 20, 10, 256, 64, 1000, 1e-4, 64, 64),
    "cars-64": (1_000_000, "gaussian", 20, 5, 256, 64, 10, 1e-3, 64, 64),
    "celebahq-1024": (1_000_000, "gaussian", 20, 6.4, 256, 16, 10, 1e-4, 1, 1024),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_table(name):
    config = preset(name)
    vae, gan = config.vae, config.gan
    assert TABLE[name] == (
        vae.iters,
        vae.reconstruction,
        vae.c_dim,
        vae.beta,
        gan.s_dim,
        gan.width,
        gan.r1_weight,
        gan.distill_weight,
        gan.batch_size,
        config.images.size,
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_constants_that_all_published_presets_share(name):
    config = preset(name)
    vae, gan = config.vae, config.gan
    assert (vae.lr, vae.batch_size, vae.width, vae.init) == (1e-4, 64, 32, "normal")
    assert (vae.beta_start, vae.lr_warmup, vae.lr_decay) == (None, 0, 0)
    assert (gan.iters, gan.max_width, gan.ema, gan.r1_every) == (300_000, 512, 0.999, 1)
    assert gan.lr_d == 1e-4
    assert gan.lr_g == (1e-3 if name == "dsprites" else 1e-4)
    assert not gan.bottleneck
    assert not gan.warm_start
    assert config.amp == "off"


@pytest.mark.parametrize("name", PUBLISHED)
def test_pictures_are_prepared_as_published(name):
    config = preset(name)
    images = config.images
    is_dsprites = name == "dsprites"
    assert config.dataset == ("dsprites" if is_dsprites else "images")
    assert config.gan.model == ("dsprites" if is_dsprites else "resnet")
    assert images.channels == (1 if is_dsprites else 3)
    assert (images.flip, images.dequantise) == (not is_dsprites, not is_dsprites)
    crops = {"celeba-64": 160, "celeba-256": 160, "chairs-64": 450}
    assert images.crop == crops.get(name)
    assert (images.framing, images.min_side) == (("squash", 64) if name == "cars-64" else ("crop", 0))


def test_every_preset_is_known_by_its_own_name():
    ours = {"dsprites-quick", "images-quick", "stylegan2-64", "stylegan2-256", "stylegan2-1024"}
    assert set(PRESETS) == {*PUBLISHED, *ours}
    assert all(preset(name).preset == name for name in PRESETS)


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"^--preset: no preset named 'celeba64'; did you mean celeba-64\?$"):
        preset("celeba64")


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_untouched_preset_with_its_data_departs_in_nothing(name):
    rows = departures(replace(preset(name), data=Path("data")))
    assert [key for key, _, _ in rows] == (["teacher's pictures"] if name == "celebahq-1024" else [])


def test_settings_that_only_keep_the_run_are_no_departures():
    config = preset("celeba-64")
    images = replace(config.images, cache_gib=9.0)
    changed = replace(
        config, data=Path("x"), out=Path("y"), seed=3, workers=7, save_every=1, log_every=1, images=images
    )
    assert departures(changed) == []


def test_a_changed_setting_is_a_departure():
    config = replace(preset("cars-64"), data=Path("x"), amp="bf16")
    config = replace(config, gan=replace(config.gan, r1_every=16), vae=replace(config.vae, beta=4.0))
    assert sorted(departures(config)) == [("amp", "off", "bf16"), ("gan.r1_every", 1, 16), ("vae.beta", 5, 4)]


def test_rendered_pictures_are_a_departure():
    ((key, paper, ours),) = departures(preset("dsprites"))
    assert key == "data"
    assert paper != ours


def test_the_quick_preset_lists_its_departures():
    config = preset("dsprites-quick")
    rows = {key: (paper, ours) for key, paper, ours in departures(config)}
    assert rows.pop("data")
    published = {
        "vae.iters": 500_000,
        "vae.batch_size": 64,
        "vae.width": 32,
        "vae.init": "normal",
        "vae.beta_start": None,
        "vae.lr": 1e-4,
        "vae.lr_warmup": 0.0,
        "vae.lr_decay": 0.0,
        "gan.iters": 300_000,
        "gan.batch_size": 64,
        "gan.width": 32,
        "gan.lr_g": 1e-3,
        "gan.lr_d": 1e-4,
        "gan.warm_start": False,
    }
    assert {key: paper for key, (paper, _) in rows.items()} == published
    assert all(
        ours == getattr(getattr(config, key.split(".")[0]), key.split(".")[1]) for key, (_, ours) in rows.items()
    )


def test_the_quick_preset_keeps_the_method():
    """The stage-1 recipe: beta from 60 to 6-8; a high learning rate, which turns the axes of x and y into place."""
    config, paper = preset("dsprites-quick"), preset("dsprites")
    assert (config.vae.init, config.vae.lr, config.vae.batch_size) == ("kaiming", 1e-2, 16)
    assert (config.vae.beta_start, config.vae.lr_decay) == (60, 0.2)
    assert 6 <= config.vae.beta <= 8
    assert 0.2 <= config.vae.beta_hold <= 0.25
    assert 0.8 <= config.vae.beta_reach <= 0.85
    assert config.images == paper.images
    for name in ("r1_weight", "distill_weight", "ema", "s_dim"):
        assert getattr(config.gan, name) == getattr(paper.gan, name), name

"""What the fields of the settings carry: bounds, what a resumed run may change, what a compiled step depends on."""

import math
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from idgan_fast.config.arguments import check
from idgan_fast.config.fields import OnResume, Traits, settings_of
from idgan_fast.config.presets import PRESETS, departures
from idgan_fast.config.settings import Config, flatten
from idgan_fast.run.resolved_settings import steps_of
from idgan_fast.training.precision import Precision
from tests.common import error_of

TRAITS = {key: traits for key, _, traits in settings_of(Config())}
BASE = PRESETS["dsprites"]

BOUNDS = {
    (
        0,
        math.inf,
    ): "images.min_side images.cache_gib vae.iters vae.beta vae.beta_start vae.lr gan.iters "
    "gan.lr_g gan.lr_d gan.r1_weight gan.distill_weight gan.distill_warmup gan.distill_eps gan.stylegan2.path_weight "
    "gan.stylegan2.low_precision_levels",
    (
        1,
        math.inf,
    ): "log_every picture_every save_every images.crop gan.r1_every gan.ada_images gan.stylegan2.path_every "
    "gan.stylegan2.path_shrink",
    (
        1,
        2**20,
    ): "batch_size vae.batch_size gan.batch_size vae.c_dim vae.width gan.width gan.max_width "
    "gan.stylegan2.channel_max gan.stylegan2.w_dim",
    (0, 2**20): "gan.s_dim",
    (1, 2**30): "gan.stylegan2.channel_base",
    (1, 100): "gan.stylegan2.mapping_layers",
    (0, 1024): "workers",
    (0, 1): "vae.beta_hold vae.beta_reach vae.lr_warmup vae.lr_decay gan.square_decay gan.ema gan.ema_rampup "
    "gan.ada_target gan.stylegan2.style_mixing",
    (0, 2**32): "seed",
    (0.001, math.inf): "images.max_megapixels images.max_file_mib",
}
FREE = (
    "data out device tf32 compile resume config loader workers log_every picture_every save_every images.cache_gib "
    "gan.sample_code"
)
RUN = "preset seed batch_size"  # neither kept nor computed
OUTSIDE = (  # of the compiled steps, beside what is free
    "amp dataset images.framing images.crop images.min_side images.max_megapixels images.max_file_mib "
    "images.flip images.dequantise vae.iters gan.iters gan.distill_weight gan.distill_warmup gan.ema gan.ema_rampup"
)


def with_value(config: Any, key: str, value: object) -> Any:
    """The settings with another value, of whatever type."""
    group, _, rest = key.partition(".")
    return replace(config, **{group: with_value(getattr(config, group), rest, value) if rest else value})


def keys_where(condition: Callable[[Traits], bool]) -> set[str]:
    return {key for key, traits in TRAITS.items() if condition(traits)}


def test_every_field_is_walked() -> None:
    assert TRAITS.keys() == flatten(Config()).keys()
    nested = asdict(Config())
    for key, value, traits in settings_of(Config()):
        there: object = nested
        for name in key.split("."):
            there = there[name]  # type: ignore[index]
        assert there == value
        assert isinstance(traits, Traits)
        assert traits.on_resume in get_args(OnResume)
        assert traits.at_least < traits.at_most


def test_bounds() -> None:
    bounded = {key: (traits.at_least, traits.at_most) for key, traits in TRAITS.items()}
    expected = {key: bounds for bounds, keys in BOUNDS.items() for key in keys.split()}
    assert {key: bounds for key, bounds in bounded.items() if bounds != (-math.inf, math.inf)} == expected


@pytest.mark.parametrize("key", sorted(key for keys in BOUNDS.values() for key in keys.split()))
def test_bounds_are_checked(key: str) -> None:
    low, high = TRAITS[key].at_least, TRAITS[key].at_most
    wanted = f"at least {low}" if high == math.inf else f"from {low} to {high}"
    for value in [low - 1] if high == math.inf else [low - 1, high + 1]:
        config = with_value(BASE, key, value)
        assert error_of(lambda config=config: check(config)) == (
            f"--{key.replace('_', '-')}: must be {wanted}, got {value}"
        )


def test_every_preset_lies_within_the_bounds() -> None:
    for config in PRESETS.values():
        check(config, needs_data=False)


def test_what_a_resumed_run_may_change() -> None:
    assert keys_where(lambda traits: traits.on_resume == "free") == set(FREE.split())
    remedies = "amp images.max_megapixels images.max_file_mib vae.lr vae.batch_size gan.lr_g gan.lr_d gan.batch_size"
    assert keys_where(lambda traits: traits.on_resume == "remedy") == set(remedies.split())
    until_stage_2 = "preset images.size images.flip images.dequantise"
    assert keys_where(lambda traits: traits.on_resume == "stage 2") == set(until_stage_2.split())


def test_what_compiled_steps_depend_on() -> None:
    assert keys_where(lambda traits: not traits.compiled) == {*FREE.split(), *RUN.split(), *OUTSIDE.split()}
    for key, traits in TRAITS.items():
        assert (steps(with_value(BASE, key, "other")) != steps(BASE)) == traits.compiled, key


def steps(config: Config) -> str:
    return steps_of(config, torch.device("cpu"), Precision("off", "cpu", ""))


def test_what_counts_as_a_departure() -> None:
    limits = {"images.max_megapixels", "images.max_file_mib"}
    expected = ({*FREE.split(), *RUN.split()} | limits) - {"gan.sample_code"}
    assert keys_where(lambda traits: not traits.departure) == expected
    for key in TRAITS.keys() - {"preset", "data", "dataset"}:  # these bring rows of their own
        rows = [row[0] for row in departures(with_value(replace(BASE, data=Path("x")), key, "other"))]
        assert rows == ([key] if TRAITS[key].departure else []), key


def test_what_the_record_leaves_out() -> None:
    assert keys_where(lambda traits: not traits.recorded) == {"out", "resume", "config", "batch_size"}


def test_settings_travel_to_other_processes() -> None:
    for config in PRESETS.values():
        assert pickle.loads(pickle.dumps(config)) == config

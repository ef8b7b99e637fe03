"""`idgan-fast tune` on the CPU, with interpreted kernels and a clock that prefers certain tiles and forms."""

import importlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from idgan_fast.files import read_json
from idgan_fast.kernels import (
    styled_layer_conv,
    styled_layer_measurements,
    styled_layer_tiles,
    styled_layer_weight_grad,
)
from idgan_fast.ops.layer import conv_plan
from idgan_fast.tools import tune
from idgan_fast.tools.costs.layer import Layer

CPU = torch.device("cpu")
LAYERS = [
    replace(layer, c_in=20, c_out=24, size_in=8, size_out=8 * layer.size_out // layer.size_in)
    for layer in tune.modulated_layers("stylegan2-256", 1, "fp16")[2:4]
]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    styled_layer_measurements.measurements.cache_clear()
    yield
    styled_layer_measurements.measurements.cache_clear()


plan = partial(conv_plan.choose_form, dtype=torch.float16, device=CPU)


def prefers(key: str) -> Any:
    """Seconds that fall the nearer a tile is to 32 pixels, two warps and two stages; of whole layers torch's first."""

    def seconds(call: Any) -> float:
        call()
        tile = styled_layer_measurements.measurements(CPU).get(key, {})
        if not isinstance(tile, dict):
            return {"torch": 2.0, "same": 3.0, "composite": 1.0, "transposed": 4.0}[tile]
        return 1 + abs(tile["BLOCK_M"] - 32) + tile["num_warps"] + tile["num_stages"]

    return seconds


def job(layer: Layer, index: int) -> tune.Job:
    return tune.jobs_of(tune.operands(layer, torch.float16, CPU))[index]


@pytest.mark.parametrize("index", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_fastest_tile_is_found_and_taken(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one = job(next(layer for layer in LAYERS if layer.kind == "styled conv"), index)
    best, least, before = tune.improve(one, CPU, prefers(one.shape.key))
    assert (best["BLOCK_M"], best["num_warps"], best["num_stages"]) == (32, 2, 1)
    assert least == 4
    assert before > least
    launched = []
    kernel = (
        styled_layer_weight_grad.styled_layer_weight_grad_kernel
        if index == 2
        else styled_layer_conv.styled_layer_fwd_kernel
    )
    monkeypatch.setattr(type(kernel), "__getitem__", lambda self, grid: lambda *a, **options: launched.append(options))
    one.call()
    assert launched[0].items() >= best.items()


def test_tiles_that_fail_or_give_another_result_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    one = job(next(layer for layer in LAYERS if layer.kind == "styled conv"), 0)

    def call() -> torch.Tensor:
        tile = styled_layer_tiles.tile_of(one.shape, CPU)
        if tile["BLOCK_M"] == 32:
            raise RuntimeError("out of shared memory")
        wanted = torch.ones(3)
        wanted[1] += tile["num_stages"] == 2  # as a wrong kernel would
        return wanted

    best, _, _ = tune.improve(one._replace(call=call), CPU, prefers(one.shape.key))
    assert best["BLOCK_M"] == 64
    assert best["num_warps"] == 2
    assert best["num_stages"] == 3


@pytest.mark.slow
def test_forms_are_measured_kept_and_taken_by_later_runs() -> None:
    out = io.StringIO()
    keys = []
    for layer in LAYERS:
        k, up = 3, layer.size_out // layer.size_in
        keys.append(conv_plan.layer_key(20, 24, 8, 8, k, up, torch.float16))

    def seconds(call: Any) -> float:
        call()
        forms = [
            styled_layer_measurements.measurements(CPU)[key]
            for key in keys
            if key in styled_layer_measurements.measurements(CPU)
        ]
        return {"torch": 2.0, "same": 3.0, "composite": 1.0, "transposed": 4.0}[forms[-1]] if forms else 1.0

    tune.tune(LAYERS, torch.float16, CPU, seconds, Console(file=out, width=200))
    assert "[2/2]" in out.getvalue()
    assert "times the table's" in out.getvalue()
    kept = read_json(styled_layer_measurements.tiles_file())
    assert set(kept) == {styled_layer_measurements.identity(CPU)}
    styled_layer_measurements.measurements.cache_clear()  # as in another process
    forms = {
        layer.kind: plan(20, 24, 8, 8, k=3, up=layer.size_out // layer.size_in, composable=True) for layer in LAYERS
    }
    assert forms == {"styled conv": "torch", "styled conv up=2": "composite"}
    assert plan(20, 24, 16, 16, k=3, up=1, composable=False) == "same", "another size: the rule"


def test_measurements_of_other_kernels_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    one = job(LAYERS[0], 0)
    styled_layer_measurements.tiles_file().parent.mkdir()
    styled_layer_measurements.tiles_file().write_text(json.dumps({"another GPU": {one.shape.key: {"BLOCK_M": 16}}}))
    assert styled_layer_measurements.measurements(CPU) == {}
    styled_layer_measurements.measurements.cache_clear()
    styled_layer_measurements.tiles_file().write_text("not JSON")
    assert styled_layer_measurements.measurements(CPU) == {}


def test_plans_without_measurements() -> None:
    assert plan(512, 512, 4, 4, k=3, up=1, composable=False) == "torch"
    assert plan(512, 512, 16, 16, k=3, up=1, composable=False) == "same"
    assert plan(512, 512, 16, 16, k=3, up=2, composable=True) == "transposed"
    assert plan(16, 8, 512, 512, k=3, up=2, composable=True) == "composite"
    assert plan(16, 8, 512, 512, k=3, up=2, composable=False) == "transposed"
    assert importlib.import_module("idgan_fast.ops.layer.composition").conv_plan is conv_plan

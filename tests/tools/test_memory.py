"""The predicted memory of the steps against what torch's profiler sees of the same steps, and the command."""

import gc
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from benchmarks.measuring import peak_bytes
from idgan_fast.config.presets import preset
from idgan_fast.config.settings import Config
from idgan_fast.tools.memory import Alive, Fake, bytes_of, main, persisting, predict, scratch
from idgan_fast.training.gan import GANStage
from idgan_fast.training.precision import Precision
from idgan_fast.training.step_compiler import StepCompiler
from idgan_fast.training.vae import VAEStage

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def no_cycles_freed() -> Iterator[None]:
    """What earlier tests left is freed before, not while something is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def resnet(**changes: Any) -> Config:
    config = preset("celeba-64")
    gan = replace(config.gan, batch_size=8, width=16, max_width=128, **changes)
    return replace(config, vae=replace(config.vae, batch_size=16, width=16), gan=gan)


def styled(r1_every: int = 16, **changes: Any) -> Config:
    config = preset("stylegan2-64")
    settings = {"channel_base": 2048, "channel_max": 32, "w_dim": 64, "mapping_layers": 2, **changes}
    stylegan2 = replace(config.gan.stylegan2, **settings)
    vae = replace(config.vae, batch_size=16, width=8)
    gan = replace(config.gan, batch_size=8, s_dim=64, r1_every=r1_every, stylegan2=stylegan2)
    return replace(config, vae=vae, gan=gan)


CASES = {
    "resnet": (resnet(), "off"),
    "resnet, bf16": (resnet(), "bf16"),
    "stylegan2": (styled(), "off"),
    "stylegan2, bf16": (styled(1, path_weight=0.0), "bf16"),
    "stylegan2, bf16, recompute": (styled(1, path_weight=0.0, recompute=True), "bf16"),
}


class Measured(StepCompiler):
    """Steps whose peaks are measured, with their arguments."""

    def __init__(self) -> None:
        super().__init__(False, CPU)
        self.peaks: dict[str, int] = {}

    def step(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            out: list[Any] = []
            self.peaks[name] = bytes_of(*args) + peak_bytes(lambda: out.append(function(*args)))
            return out[0]

        return call


def train(config: Config, amp: str, stage: str, graphs: StepCompiler | None = None) -> dict[str, int]:
    """The steps of one stage, of real tensors; what persists in it."""
    chosen, channels, size = Precision(amp, "cpu", ""), config.images.channels, config.images.size
    vae = VAEStage(config, channels, CPU, chosen, graphs)
    if stage == "vae":
        vae.step(torch.zeros(vae.batch_size, channels, 64, 64, dtype=torch.uint8), 0)
        return persisting(vae)
    gan = GANStage(config, channels, CPU, chosen, vae.vae, graphs)
    for iteration in [0, 1] if config.gan.r1_every > 1 else [0]:
        gan.step(torch.zeros(gan.batch_size, channels, size, size, dtype=torch.uint8), iteration)
    return persisting(vae, gan)


@cache
def measured(case: str, stage: str) -> tuple[int, int]:
    """Bytes that persist, and the peak of all: everything that is made, from the weights on."""
    kept: list[int] = []
    with no_cycles_freed():
        peak = peak_bytes(lambda: kept.append(sum(train(*CASES[case], stage).values())))
    return kept[0], peak


@cache
def predicted(case: str) -> dict[str, dict[str, Any]]:
    config, amp = CASES[case]
    return predict(config, CPU, Precision(amp, "cpu", ""))


SLOW = ("stylegan2", "stylegan2, bf16, recompute")


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in CASES])
def test_what_persists_and_the_peak_are_those_measured(case: str) -> None:
    for stage in ("vae", "gan") if case.startswith("resnet") else ("gan",):
        found, (kept, peak) = predicted(case)[stage], measured(case, stage)
        assert sum(found["persisting"].values()) == pytest.approx(kept, rel=0.01)
        assert found["peak"] == pytest.approx(peak, rel=0.03)
        assert found["peak"] - kept == pytest.approx(peak - kept, rel=0.05)


@pytest.mark.parametrize("case", ["resnet", "stylegan2"])
def test_each_step_is_within_a_tenth_of_that_measured(case: str) -> None:
    steps, found = Measured(), predicted(case)["gan"]["steps"]
    train(*CASES[case], "gan", steps)
    assert len(found) == {"resnet": 2, "stylegan2": 4}[case]
    for name, size in found.items():
        assert size == pytest.approx(steps.peaks[name], rel=0.1), name


def test_recomputing_lowers_what_is_predicted_and_what_is_measured() -> None:
    keeps, again = "stylegan2, bf16", "stylegan2, bf16, recompute"
    assert predicted(again)["gan"]["steps"]["G"] < 0.7 * predicted(keeps)["gan"]["steps"]["G"]
    assert predicted(again)["gan"]["peak"] < 0.95 * predicted(keeps)["gan"]["peak"]
    assert measured(again, "gan")[1] < 0.95 * measured(keeps, "gan")[1]


def test_a_tensor_more_that_is_kept_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = predicted("resnet")
    update = GANStage.update_g

    def greedy(self: GANStage, *args: Any) -> Any:
        more = torch.empty(5 * MIB, dtype=torch.uint8)
        metrics = update(self, *args)
        del more
        return metrics

    monkeypatch.setattr(GANStage, "update_g", greedy)
    found = predict(resnet(), CPU, Precision("off", "cpu", ""))
    assert found["gan"]["steps"]["G"] - plain["gan"]["steps"]["G"] == 5 * MIB
    assert found["gan"]["steps"]["D with R1"] == plain["gan"]["steps"]["D with R1"]
    assert found["vae"] == plain["vae"]


def test_storages_are_counted_once_and_until_they_die() -> None:
    with Fake(), Alive() as alive:
        x = torch.empty(MIB, dtype=torch.uint8)
        views = [x[1:], x.view(2, -1), x.detach(), x.add_(1)]
        assert alive.now == alive.peak == MIB
        y = torch.empty(2 * MIB, dtype=torch.uint8)
        del x, views
        assert (alive.now, alive.peak) == (2 * MIB, 3 * MIB)
        kept = (torch.ones(MIB // 4, requires_grad=True) * 2).exp()  # exp keeps its result, the product dies
        assert alive.now == 4 * MIB  # the leaf, which `kept` holds by its graph
        del y, kept
        assert alive.now == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "c_in", "c_out", "k", "size"), [(2, 64, 128, 3, 32), (2, 256, 256, 3, 8)])
def test_what_a_convolution_holds_besides(dtype: torch.dtype, n: int, c_in: int, c_out: int, k: int, size: int) -> None:
    last = torch.channels_last
    x, w = torch.randn(n, c_in, size, size), torch.randn(c_out, c_in, k, k)
    x, w = x.to(dtype=dtype, memory_format=last), w.to(dtype=dtype, memory_format=last)
    backward = torch.ops.aten.convolution_backward
    dy = torch.randn(n, c_out, size, size).to(dtype=dtype, memory_format=last)
    args = (dy, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False])
    outputs = bytes_of(*backward(*args)[:2])
    assert scratch(backward.default, args, None) == pytest.approx(
        peak_bytes(lambda: backward(*args)) - outputs, rel=0.1
    )


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_what_winograds_convolution_holds_besides(layout: torch.memory_format) -> None:
    x, w = torch.randn(2, 48, 32, 32).contiguous(memory_format=layout), torch.randn(64, 48, 3, 3)
    convolution = torch.ops.idgan_fast.winograd_conv2d.default
    besides = peak_bytes(lambda: convolution(x, w)) - bytes_of(convolution(x, w))
    assert scratch(convolution, (x, w), None) == pytest.approx(besides, rel=0.01)


# ---- the command


def test_large_networks_take_no_memory(capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fewer_steps = ["--gan.stylegan2.path-weight", "0", "--gan.r1-weight", "0"]
    assert main(["--preset", "stylegan2-1024", "--batch-size", "4", "--device", "cpu", "--json", *fewer_steps]) == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB
    found = json.loads(capsys.readouterr().out)
    assert found["peak"] > 9 * 2**30
    assert set(found["stages"]["gan"]["steps"]) == {"D", "G"}


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["--preset", "dsprites-quick", "--gan.batch-size", "4", "--amp", "bf16", "--device", "cpu", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["preset"], found["device"], found["amp"]) == ("dsprites-quick", "cpu", "bf16")
    vae, gan = found["stages"]["vae"], found["stages"]["gan"]
    assert (vae["batch_size"], gan["batch_size"]) == (16, 4)
    assert (set(vae["steps"]), set(gan["steps"])) == ({"vae"}, {"D with R1", "G"})
    names = ["stage 1", "weights", "optimizer state", "average of G", "teacher", "other"]
    assert list(gan["persisting"]) == names
    assert gan["persisting"]["stage 1"] == vae["persisting"]["weights"] + vae["persisting"]["optimizer state"]
    for stage in (vae, gan):
        assert stage["peak"] == pytest.approx(sum(stage["persisting"].values()) + max(stage["steps"].values()))
    assert found["peak"] == max(vae["peak"], gan["peak"])


def test_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["--preset", "celeba-64", "--batch-size", "2", "--gan.width", "8", "--device", "cuda"]) == 0
    out, error = capsys.readouterr()
    assert error == "no CUDA device here: the prediction is for the CPU's steps\n"
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0].startswith("celeba-64, cpu, amp off: ")
    assert lines[1].split("  ") == ["stage 1, batch 2", "stage 2, batch 2"]
    rows = [
        "weights",
        "optimizer state",
        "teacher",
        "all that persists",
        "step vae",
        "step D with R1",
        "step G",
        "peak",
    ]
    assert all(any(line.startswith(row) and line.endswith("iB") for line in lines) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "stylegan2-25"], "error: --preset: no preset named 'stylegan2-25'; did you mean stylegan2-256?"),
        (
            ["--preset", "celeba-64", "--gan.widht", "8"],
            "error: --gan.widht: no such option; did you mean --gan.width?",
        ),
        (["--preset", "celeba-64", "--batch-size", "0"], "error: --batch-size: must be from 1 to 1048576, got 0"),
        (["--preset", "dsprites", "--device", "abacus"], "error: --device abacus: "),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1

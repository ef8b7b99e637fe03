"""Each step is one graph, compiled once, and gives what it gives without the compiler."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from idgan_fast.config.presets import preset
from idgan_fast.config.settings import Config, StyleGAN2Config
from idgan_fast.models.vae import VAE
from idgan_fast.training.gan import GANStage
from idgan_fast.training.precision import Precision
from idgan_fast.training.step_compiler import (
    LONG,
    CUDAGraph,
    StepCompiler,
    cannot_compile,
    mark_warm,
    whether_to_compile,
)
from idgan_fast.training.vae import VAEStage

CPU = torch.device("cpu")
TINY = StyleGAN2Config(channel_base=128, channel_max=4, w_dim=5, mapping_layers=1, path_every=2)


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


def vae_stage(amp: str, compiler: StepCompiler) -> VAEStage:
    config = preset("dsprites-quick")
    torch.manual_seed(0)
    return VAEStage(replace(config, vae=replace(config.vae, width=2)), 1, CPU, Precision(amp, "cpu", ""), compiler)


def gan_stage(name: str, size: int = 64, **changes: object) -> Callable[[str, StepCompiler], GANStage]:
    def build(amp: str, compiler: StepCompiler) -> GANStage:
        config: Config = preset(name)
        # Adam's first steps have the size of the learning rate wherever a gradient is rounding alone
        gan = {"width": 2, "max_width": 4, "s_dim": 5, "r1_every": 2, "stylegan2": TINY, "optimizer": "rmsprop"}
        images, vae = replace(config.images, size=size), replace(config.vae, width=2, c_dim=3)
        config = replace(config, images=images, vae=vae, gan=replace(config.gan, **gan | changes))
        torch.manual_seed(0)
        channels = config.images.channels
        return GANStage(config, channels, CPU, Precision(amp, "cpu", ""), VAE(3, channels, 2, "kaiming"), compiler)

    return build


# How each stage is built, and its graphs: VAE; D with R1, D, G; and the path length.
STAGES = {
    "VAE": (vae_stage, 1),
    "dSprites": (gan_stage("dsprites", s_dim=0), 3),
    "ResNet": (gan_stage("celeba-64", 8), 3),
    "VGAN": (gan_stage("celeba-64", 8, bottleneck=True, r1_every=1), 2),
    "StyleGAN2": (gan_stage("stylegan2-64", 8), 4),
    "StyleGAN2, ADA": (gan_stage("stylegan2-64", 8, ada=True, r1_every=1), 3),
}
# One of each kind of step: an fp16 scale, R1, a bottleneck, the path length, the augmentation.
FAST = [("VAE", "fp16"), ("VGAN", "off"), ("StyleGAN2, ADA", "bf16")]
SLOW = [("VAE", "off"), ("dSprites", "off"), ("ResNet", "off"), ("ResNet", "fp16"), ("StyleGAN2", "off")]


@pytest.mark.parametrize(("name", "amp"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_one_graph_for_each_step_and_the_same_numbers(name: str, amp: str) -> None:
    build, count = STAGES[name]
    counter = CompileCounterWithBackend("aot_eager")
    said: list[str] = []
    compiler = StepCompiler(True, CPU, said.append, counter)
    compiled, eager = build(amp, compiler), build(amp, StepCompiler(False, CPU))
    for stage in (compiled, eager):
        stage.scale.factor.fill_(64 if amp == "fp16" else 1)  # no overflow, which would leave the weights alone
        if name == "StyleGAN2, ADA":
            stage.loss_d.ada.p.fill_(0.5)  # type: ignore[union-attr]
    before = {key: value.clone() for key, value in eager.weights().items()}
    tolerance = {"off": 1e-4, "bf16": 2e-2, "fp16": 2e-2}[amp]
    rng = torch.Generator().manual_seed(0)
    for i in range(4):
        size = eager.images.size if isinstance(eager, GANStage) else 64
        shape = (4, 1 if name in ("VAE", "dSprites") else 3, size, size)
        batch = torch.randint(256, shape, dtype=torch.uint8, generator=rng)
        got, wanted = compiled.step(batch, i), eager.step(batch, i)
        assert got.keys() == wanted.keys()
        for key, value in wanted.items():
            torch.testing.assert_close(got[key], value, rtol=tolerance, atol=tolerance, msg=key)
    assert counter.frame_count == count
    assert len(compiler.seconds) == count
    assert compiler.complete()
    assert len(said) == 2 * count
    moved = 0
    for key, value in eager.weights().items():
        step = (value - before[key]).norm().item()
        moved += step > 0
        error = (compiled.weights()[key] - value).norm().item()
        assert error <= (1e-2 if amp == "off" else 0.5) * step + 1e-6, key
    assert moved > len(before) / 2
    for a, b in zip(
        compiled.state_dict().get("average", {}).values(), eager.state_dict().get("average", {}).values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_the_compiler_itself() -> None:
    """One of the steps by inductor, as a run compiles it."""
    compiled, eager = vae_stage("off", StepCompiler(True, CPU)), vae_stage("off", StepCompiler(False, CPU))
    batch = torch.randint(256, (4, 1, 64, 64), dtype=torch.uint8)
    for i in range(2):
        got, wanted = compiled.step(batch, i), eager.step(batch, i)
        for key, value in wanted.items():
            torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-4)


def test_when_to_compile(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert whether_to_compile(CPU, LONG - 1, "steps") == (False, "the run is short")
    assert whether_to_compile(CPU, LONG, "steps")[0]
    mark_warm("steps")
    assert whether_to_compile(CPU, 1, "steps") == (True, "these steps were compiled here before")
    assert not whether_to_compile(CPU, 1, "other steps")[0]
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    assert whether_to_compile(CPU, LONG, "steps") == (
        False,
        "it needs a C++ compiler, and there is no no-such-compiler",
    )
    monkeypatch.setenv("CXX", "sh -m64")  # any command that is there
    assert cannot_compile(CPU) is None
    assert cannot_compile(torch.device("mps")) == "it serves CPUs and CUDA GPUs, this is mps"
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    assert whether_to_compile(gpu, 1, "steps") == (False, "Triton needs a GPU from Volta on")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert whether_to_compile(gpu, 1, "steps") == (True, "on a GPU it pays")


def test_a_cuda_graph_replays_what_it_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch.cuda stood in for: a recording notes the function, a replay runs it on the graph's own tensors."""

    class Recorded:
        def replay(self) -> None:
            self.run()

    graphs: list[Recorded] = []

    def record(graph: Recorded, pool: object, stream: object, capture_error_mode: str):  # type: ignore[no-untyped-def]
        assert capture_error_mode == "thread_local"
        graphs.append(graph)
        return contextlib.nullcontext()

    class Stream:
        def wait_stream(self, _: object) -> None: ...

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    total = torch.zeros(2)

    def function(x: torch.Tensor, more: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        total.add_(x + more["y"])
        return {"sum": total * 1}

    graph = CUDAGraph(function, Stream(), None)

    def given(value: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return torch.full((2,), value), {"y": torch.ones(2)}

    for value in (1.0, 2.0):
        graph(*given(value))
    assert not graphs
    # On a GPU a recording runs nothing: here what it ran is undone, and what a replay does is written out.
    graph.graph.run = lambda: None  # type: ignore[method-assign]
    before = total.clone()
    graph(*given(3.0))
    total.copy_(before)
    graph.graph.run = lambda: graph.outputs["sum"].copy_(function(*graph.inputs)["sum"])  # type: ignore[method-assign]
    first = graph(*given(4.0))
    second = graph(*given(5.0))
    assert len(graphs) == 1
    assert (first["sum"][0].item(), second["sum"][0].item()) == (5.0 + 5, 5.0 + 5 + 6)
    with pytest.raises(ValueError, match=r"^CUDAGraph: wanted torch.float32 \[2\].*got torch.float32 \[1\]$"):
        graph(torch.ones(1), {"y": torch.ones(2)})

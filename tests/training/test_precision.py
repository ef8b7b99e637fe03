"""What --amp comes to on a device."""

from collections.abc import Callable

import pytest
import torch

from idgan_fast.training.precision import LossScale, Precision, choose, use_tf32

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": torch.float32}


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that the processor can do what is named and nothing else."""

    def pretend(*able: str) -> None:
        found = {name: name in able for name in ("avx2", "avx512_bf16", "amx_bf16", "amx_tile")}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)

    return pretend


@pytest.fixture
def older_torch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The same for a torch without get_capabilities."""

    def pretend(*able: str) -> None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        for name in ("avx512_bf16", "amx_tile"):
            monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in able, raising=False)

    return pretend


def gpu(monkeypatch: pytest.MonkeyPatch, major: int, minor: int) -> None:
    """Pretends that there is a GPU of this compute capability."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, minor))


def check_reason(precision: Precision) -> None:
    assert precision.reason.strip()
    assert "\n" not in precision.reason


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16"])
def test_auto_on_a_processor_with_bf16(processor: Callable[..., None], feature: str) -> None:
    processor("avx2", feature)
    precision = choose("auto", CPU)
    assert (precision.name, precision.device_type) == ("bf16", "cpu")
    assert "bf16" in precision.reason
    check_reason(precision)


def test_auto_on_a_processor_without_bf16(processor: Callable[..., None]) -> None:
    processor("avx2")
    precision = choose("auto", CPU)
    assert (precision.name, precision.device_type) == ("off", "cpu")
    assert "no bf16" in precision.reason
    check_reason(precision)


@pytest.mark.parametrize(("able", "name"), [("avx512_bf16", "bf16"), ("amx_tile", "bf16"), ("", "off")])
def test_auto_with_an_older_torch(older_torch: Callable[..., None], able: str, name: str) -> None:
    older_torch(able)
    assert choose("auto", CPU).name == name


def test_auto_on_this_machine_is_one_of_the_two() -> None:
    precision = choose("auto", CPU)
    assert precision.name in ("bf16", "off")
    check_reason(precision)


@pytest.mark.parametrize(
    ("capability", "name"),
    [((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((8, 9), "bf16"), ((9, 0), "bf16"), ((12, 0), "bf16")],
)
def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], name: str) -> None:
    gpu(monkeypatch, *capability)
    precision = choose("auto", CUDA)
    assert (precision.name, precision.device_type) == (name, "cuda")
    assert name in precision.reason
    check_reason(precision)


def test_auto_asks_for_the_run_s_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {0: (9, 0), 1: (7, 5)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: cards[torch.device(device).index])
    assert choose("auto", torch.device("cuda:0")).name == "bf16"
    assert choose("auto", torch.device("cuda:1")).name == "fp16"


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_is_asked_for_is_done(
    monkeypatch: pytest.MonkeyPatch, processor: Callable[..., None], amp: str, device: torch.device
) -> None:
    """Whatever the hardware would rather do."""
    processor()
    gpu(monkeypatch, 7, 0)
    precision = choose(amp, device)  # type: ignore[arg-type]
    assert (precision.name, precision.device_type) == (amp, device.type)
    check_reason(precision)


@pytest.mark.parametrize("name", DTYPES)
def test_autocast_multiplies_in_the_dtype(name: str) -> None:
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with choose(name, CPU).autocast():  # type: ignore[arg-type]
        assert layer(x).dtype == DTYPES[name]
    assert layer(x).dtype == torch.float32


@pytest.mark.parametrize("name", DTYPES)
def test_only_fp16_scales_gradients(name: str) -> None:
    scale = choose(name, CPU).loss_scale(CPU)  # type: ignore[arg-type]
    assert (scale.scaled(torch.ones(())) > 1).item() is (name == "fp16")
    gradients, overflow = scale.unscaled([torch.full((2,), 8.0) * scale.factor])
    assert gradients[0].tolist() == [8.0, 8.0]
    assert (overflow is None) is (name != "fp16")
    scale.update(overflow)


def test_the_loss_scale_is_that_of_torch() -> None:
    """Beside torch.amp.GradScaler, over overflows of both kinds and past a growth."""
    ours, theirs = LossScale(CPU, enabled=True), torch.amp.GradScaler("cpu", growth_interval=3)
    ours.GROWTH_INTERVAL = 3  # type: ignore[misc]
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    for gradient in (1.0, float("inf"), 1.0, 1.0, 1.0, 1.0, float("nan"), 1.0):
        theirs.scale(torch.zeros(()))  # which makes its factor
        parameter.grad = torch.tensor([1.0, gradient])
        _, overflow = ours.unscaled([parameter.grad])
        theirs.step(optimizer)
        theirs.update()
        ours.update(overflow)
        assert ours.factor.item() == theirs.get_scale()
    other = LossScale(CPU, enabled=True)
    other.load_state_dict(LossScale(CPU, enabled=False).state_dict())  # of a run in float32
    assert other.factor == 2**16
    other.load_state_dict(ours.state_dict())
    assert torch.equal(other.factor, ours.factor)
    assert torch.equal(other.good, ours.good)


def test_on_a_gpu_fp16_comes_with_a_loss_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu(monkeypatch, 7, 5)
    assert choose("auto", CUDA).loss_scale(CPU).enabled
    gpu(monkeypatch, 8, 0)
    assert not choose("auto", CUDA).loss_scale(CPU).enabled


def test_tf32_is_for_products_and_convolutions() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        use_tf32(None)
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
        for on in (True, False):
            use_tf32(on)
            assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (on, on)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before

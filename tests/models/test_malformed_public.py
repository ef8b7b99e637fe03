"""Public checkpoints that claim what they do not hold: one line, and no memory by the claim."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from idgan_fast.models.public_idgan import load_public
from idgan_fast.models.public_stylegan2 import load_public_stylegan2
from idgan_fast.models.vae import VAE
from idgan_fast.models.weights_file import read_weights
from tests.common import assert_equal, error_of, limited_memory
from tests.malformed import stylegan2


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """An allocation of more than a GiB fails."""
    with limited_memory(2**30):
        yield


def vae() -> dict[str, torch.Tensor]:
    return dict(VAE(3, 1, 4).state_dict())


def write(path: Path, weights: object) -> Path:
    torch.save({"model_states": {"net": weights}}, path)
    return path


def test_the_whole_one(tmp_path: Path) -> None:
    weights = vae()
    assert_equal(dict(load_public(write(tmp_path / "last", weights))["vae"].state_dict()), weights)


def test_few_numbers_that_stand_for_many(tmp_path: Path) -> None:
    weights = {**vae(), "encoder.layer.0.weight": torch.zeros(1).expand(60_000, 1, 4, 4)}
    assert "a tensor of (60000, 1, 4, 4) has 4 bytes" in error_of(lambda: load_public(write(tmp_path / "a", weights)))


def test_a_width_that_the_other_entries_do_not_have(tmp_path: Path) -> None:
    """A network of it has weights of 230 GB."""
    weights = {**vae(), "encoder.layer.0.weight": torch.zeros(60_000, 1, 4, 4)}
    text = error_of(lambda: load_public(write(tmp_path / "a", weights)))
    assert "wanted (60000,) in encoder.layer.0.bias, got (4,)" in text


@pytest.mark.parametrize(
    "content",
    [
        {"model_states": 3},
        {"model_states": {"net": [1]}},
        {"model_states": {"net": {"encoder.layer.0.weight": 5}}},
        {"model_states": {"net": {**vae(), "encoder.layer.0.weight": torch.zeros(())}}},
        {"generator": {3: 4}, "discriminator": {}, "generator_test": {}},
        {
            name: {f"resnet.{i}.conv_1.weight": torch.zeros(2) for i in range(3000)}
            | {"conv_img.weight": torch.zeros(3, 4), "resnet.0.conv_0.weight": torch.zeros(3, 4)}
            for name in ("generator", "discriminator", "generator_test")
        },
        torch.zeros(3),
        None,
    ],
)
def test_entries_of_a_wrong_kind(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a")
    text = error_of(lambda: load_public(tmp_path / "a"))
    assert text.startswith(f"load_public: {tmp_path / 'a'} is not a checkpoint of the public ID-GAN code")
    assert len(text) < 600


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, torch.Tensor]:
    (tmp_path / "g.pt").write_bytes(stylegan2())
    return dict(read_weights(tmp_path / "g.pt"))


def widen(weights: dict[str, torch.Tensor]) -> None:
    for resolution, width in ((4, 64_000), (8, 64_000), (16, 64_000)):
        weights[f"synthesis.b{resolution}.conv1.weight"] = torch.zeros(width, 1, 1, 1)


def deepen(weights: dict[str, torch.Tensor]) -> None:
    weights["synthesis.b" + "9" * 5000 + ".const"] = torch.zeros(1)


def enlarge(weights: dict[str, torch.Tensor]) -> None:
    weights["synthesis.b1048576.const"] = torch.zeros(1)


def name_by_number(weights: dict) -> None:
    weights[10**5000] = torch.zeros(1)


@pytest.mark.parametrize("harm", [widen, deepen, enlarge, name_by_number])
def test_stylegan2(harm: Callable[[dict], None], weights: dict[str, torch.Tensor]) -> None:
    load_public_stylegan2(weights)
    harm(weights)
    text = error_of(lambda: load_public_stylegan2(weights))
    assert text.startswith("StyleGAN2 weights: ")
    assert len(text) < 600


@pytest.mark.parametrize("content", [torch.zeros(3), [1], None, 5])
def test_what_is_no_mapping_for_stylegan2(content: object) -> None:
    assert "wanted names and tensors" in error_of(lambda: load_public_stylegan2(content))  # type: ignore[arg-type]

"""Checkpoints of the public ID-GAN code, made here from the names and shapes of its description."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idgan_fast.checkpoint import load_public
from idgan_fast.models.resnet import ResnetDiscriminator, ResnetGenerator, VGANDiscriminator
from idgan_fast.models.vae import VAE, DSpritesDiscriminator, DSpritesGenerator
from tests.common import error_of

Shapes = dict[str, tuple[int, ...]]
Weights = dict[str, Tensor]


# ---- names and shapes


def layer(name: str, *shape: int, bias: int | None = None) -> Shapes:
    """A weight and, with as many entries as outputs (or `bias`), its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": (shape[0] if bias is None else bias,)}


def conv_encoder(prefix: str, channels: int, w: int, outputs: int) -> Shapes:
    return {
        **layer(f"{prefix}.0", w, channels, 4, 4),
        **layer(f"{prefix}.2", w, w, 4, 4),
        **layer(f"{prefix}.4", 2 * w, w, 4, 4),
        **layer(f"{prefix}.6", 2 * w, 2 * w, 4, 4),
        **layer(f"{prefix}.8", 8 * w, 2 * w, 4, 4),
        **layer(f"{prefix}.11", outputs, 8 * w),
    }


def conv_decoder(prefix: str, channels: int, w: int, inputs: int) -> Shapes:
    """Transposed convolutions hold [inputs, outputs, 4, 4]."""
    return {
        **layer(f"{prefix}.0", 8 * w, inputs),
        **layer(f"{prefix}.3", 8 * w, 2 * w, 4, 4, bias=2 * w),
        **layer(f"{prefix}.5", 2 * w, 2 * w, 4, 4, bias=2 * w),
        **layer(f"{prefix}.7", 2 * w, w, 4, 4, bias=w),
        **layer(f"{prefix}.9", w, w, 4, 4, bias=w),
        **layer(f"{prefix}.11", w, channels, 4, 4, bias=channels),
    }


def vae_shapes(c_dim: int = 20, channels: int = 3, width: int = 32) -> Shapes:
    return {
        **conv_encoder("encoder.layer", channels, width, 2 * c_dim),
        **conv_decoder("decoder.layer", channels, width, c_dim),
    }


def block(name: str, inputs: int, outputs: int) -> Shapes:
    hidden = min(inputs, outputs)
    shapes = {**layer(f"{name}.conv_0", hidden, inputs, 3, 3), **layer(f"{name}.conv_1", outputs, hidden, 3, 3)}
    return shapes if inputs == outputs else {**shapes, f"{name}.conv_s.weight": (outputs, inputs, 1, 1)}


def widths_from_full_size(size: int, width: int, widest: int) -> list[int]:
    return [min(width * 2**level, widest) for level in range(int(math.log2(size / 4)) + 1)]


def generator_shapes(size: int, width: int, widest: int, inputs: int = 276, channels: int = 3) -> Shapes:
    w = widths_from_full_size(size, width, widest)[::-1]
    shapes = layer("fc", w[0] * 16, inputs)
    for i, (wide, narrow) in enumerate(zip(w[:-1], w[1:], strict=True)):
        shapes |= block(f"resnet.{2 * i}", wide, narrow)
    return {**shapes, **block(f"resnet.{2 * len(w) - 2}", width, width), **layer("conv_img", channels, width, 3, 3)}


def discriminator_shapes(size: int, width: int, widest: int, channels: int = 3) -> Shapes:
    w = widths_from_full_size(size, width, widest)
    shapes = {**layer("conv_img", width, channels, 3, 3), **block("resnet.0", width, width)}
    for i, (narrow, wide) in enumerate(zip(w[:-1], w[1:], strict=True)):
        shapes |= block(f"resnet.{2 * i + 2}", narrow, wide)
    return {**shapes, **layer("fc", 1, w[-1] * 16)}


def vgan_shapes(size: int, width: int, widest: int, channels: int = 3) -> Shapes:
    f = widths_from_full_size(size, width, widest)[-1]
    both = {**layer("mean_fn", f, f, 1, 1), **layer("logstd_fn", f, f, 1, 1)}
    return {**discriminator_shapes(size, width, widest, channels), **both}


# ---- files


def fill(shapes: Shapes, seed: int = 0) -> Weights:
    """Random weights that keep activations of a fair size."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=rng) / math.sqrt(max(math.prod(shape[1:]), 1))
        for name, shape in shapes.items()
    }


def optimizer(weights: Weights, name: str) -> dict[str, Any]:
    """The state of torch's optimizer after one step."""
    parameters = [nn.Parameter(w.clone()) for w in weights.values()]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    made = getattr(torch.optim, name)(parameters, lr=1e-4)
    made.step()
    return made.state_dict()


def write_vae(folder: Path, weights: Weights, name: str = "last", legacy: bool = False) -> Path:
    path = folder / name
    content = {
        "iter": 1_000_000,
        "model_states": {"net": weights},
        "optim_states": {"optim": optimizer(weights, "Adam")},
    }
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def gan_content(generator: Shapes, discriminator: Shapes, prefix: str = "module.") -> tuple[dict, dict[str, Weights]]:
    """A file's content, and its weights by our names and without prefix."""
    weights = {
        "generator": fill(generator, 1),
        "discriminator": fill(discriminator, 2),
        "average": fill(generator, 3),
    }
    public = {name: {prefix + key: w for key, w in part.items()} for name, part in weights.items()}
    content = {
        "it": 300_000,
        "generator": public["generator"],
        "discriminator": public["discriminator"],
        "g_optimizer": optimizer(weights["generator"], "RMSprop"),
        "d_optimizer": optimizer(weights["discriminator"], "RMSprop"),
        "generator_test": public["average"],
    }
    return content, weights


def write_gan(
    folder: Path, generator: Shapes, discriminator: Shapes, prefix: str = "module.", legacy: bool = False
) -> tuple[Path, dict[str, Weights]]:
    content, weights = gan_content(generator, discriminator, prefix)
    path = folder / "model.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path, weights


def assert_holds(module: nn.Module, weights: Weights) -> None:
    """The module has these weights and no others."""
    state = module.state_dict()
    assert set(state) == set(weights)
    for name, weight in weights.items():
        assert torch.equal(state[name], weight), name
    assert sum(p.numel() for p in module.parameters()) == sum(w.numel() for w in weights.values())


# ---- the public networks once more, from their weights alone


def run_encoder(w: Weights, prefix: str, x: Tensor) -> Tensor:
    for i in (0, 2, 4, 6):
        x = F.relu(F.conv2d(x, w[f"{prefix}.{i}.weight"], w[f"{prefix}.{i}.bias"], stride=2, padding=1))
    x = F.relu(F.conv2d(x, w[f"{prefix}.8.weight"], w[f"{prefix}.8.bias"])).flatten(1)
    return F.linear(x, w[f"{prefix}.11.weight"], w[f"{prefix}.11.bias"])


def run_decoder(w: Weights, prefix: str, z: Tensor) -> Tensor:
    x = F.relu(F.linear(z, w[f"{prefix}.0.weight"], w[f"{prefix}.0.bias"]))[:, :, None, None]
    x = F.conv_transpose2d(x, w[f"{prefix}.3.weight"], w[f"{prefix}.3.bias"])
    for i in (5, 7, 9, 11):
        weight, bias = w[f"{prefix}.{i}.weight"], w[f"{prefix}.{i}.bias"]
        x = F.conv_transpose2d(F.relu(x), weight, bias, stride=2, padding=1)
    return x


def run_block(w: Weights, name: str, x: Tensor) -> Tensor:
    h = F.conv2d(F.leaky_relu(x, 0.2), w[f"{name}.conv_0.weight"], w[f"{name}.conv_0.bias"], padding=1)
    h = F.conv2d(F.leaky_relu(h, 0.2), w[f"{name}.conv_1.weight"], w[f"{name}.conv_1.bias"], padding=1)
    shortcut = F.conv2d(x, w[f"{name}.conv_s.weight"]) if f"{name}.conv_s.weight" in w else x
    return shortcut + 0.1 * h


def run_generator(w: Weights, z: Tensor, size: int) -> Tensor:
    x = F.linear(z, w["fc.weight"], w["fc.bias"])
    x = x.view(len(z), -1, 4, 4)
    levels = int(math.log2(size / 4))
    for i in range(levels):
        x = F.interpolate(run_block(w, f"resnet.{2 * i}", x), scale_factor=2, mode="nearest")
    x = F.leaky_relu(run_block(w, f"resnet.{2 * levels}", x), 0.2)
    return torch.tanh(F.conv2d(x, w["conv_img.weight"], w["conv_img.bias"], padding=1))


def run_trunk(w: Weights, x: Tensor, size: int) -> Tensor:
    x = run_block(w, "resnet.0", F.conv2d(x, w["conv_img.weight"], w["conv_img.bias"], padding=1))
    for i in range(int(math.log2(size / 4))):
        x = run_block(w, f"resnet.{2 * i + 2}", F.avg_pool2d(x, 3, 2, 1))
    return x


def run_head(w: Weights, x: Tensor) -> Tensor:
    return F.linear(F.leaky_relu(x, 0.2).flatten(1), w["fc.weight"], w["fc.bias"])[:, 0]


# ---- the shapes above are those of the description


@pytest.mark.parametrize(
    ("size", "width", "generator", "discriminator"),
    [(64, 64, 9.56, 7.30), (256, 64, 19.00, 16.74), (1024, 16, 18.97, 16.71)],
)
def test_parameter_counts_in_millions(size: int, width: int, generator: float, discriminator: float) -> None:
    def millions(shapes: Shapes) -> float:
        return sum(map(math.prod, shapes.values())) / 1e6

    assert millions(generator_shapes(size, width, 512)) == pytest.approx(generator, abs=0.006)
    assert millions(discriminator_shapes(size, width, 512)) == pytest.approx(discriminator, abs=0.006)


# ---- VAE files


@pytest.mark.parametrize(("c_dim", "channels", "width"), [(20, 3, 32), (10, 1, 32), (4, 3, 8), (7, 1, 4)])
def test_a_vae_file(tmp_path: Path, c_dim: int, channels: int, width: int) -> None:
    weights = fill(vae_shapes(c_dim, channels, width))
    loaded = load_public(write_vae(tmp_path, weights))
    assert set(loaded) == {"vae"}
    vae = loaded["vae"]
    assert isinstance(vae, VAE)
    assert_holds(vae, weights)
    assert (vae.encoder.c_dim, vae.encoder.channels) == (c_dim, channels)

    x, eps = torch.rand(2, channels, 64, 64), torch.randn(2, c_dim)
    with torch.no_grad():
        logits, mean, logvar = vae(x, eps)
        code = run_encoder(weights, "encoder.layer", x)
    torch.testing.assert_close(torch.cat([mean, logvar], 1), code)
    torch.testing.assert_close(logits, run_decoder(weights, "decoder.layer", mean + eps * (logvar / 2).exp()))


def test_a_vae_file_named_by_its_iteration(tmp_path: Path) -> None:
    weights = fill(vae_shapes(4, 1, 4))
    path = write_vae(tmp_path, weights, name="1000000")
    assert path.suffix == ""
    assert_holds(load_public(path)["vae"], weights)
    assert_holds(load_public(str(path))["vae"], weights)


# ---- GAN files


@pytest.mark.parametrize(
    ("size", "width", "widest", "channels"),
    [(64, 8, 64, 3), (64, 4, 512, 1), (64, 16, 16, 3), (128, 4, 16, 3), (256, 2, 8, 3), (1024, 1, 4, 3)],
)
def test_a_resnet_file(tmp_path: Path, size: int, width: int, widest: int, channels: int) -> None:
    path, weights = write_gan(
        tmp_path,
        generator_shapes(size, width, widest, 276, channels),
        discriminator_shapes(size, width, widest, channels),
    )
    loaded = load_public(path)
    assert set(loaded) == {"generator", "discriminator", "average"}
    for name, module in loaded.items():
        assert_holds(module, weights[name])
    generator, discriminator = loaded["generator"], loaded["discriminator"]
    assert isinstance(generator, ResnetGenerator)
    assert isinstance(loaded["average"], ResnetGenerator)
    assert type(discriminator) is ResnetDiscriminator
    assert (generator.s_dim, generator.c_dim) == (256, 20)

    s, c = torch.randn(2, 256), torch.randn(2, 20)
    with torch.no_grad():
        for name in ("generator", "average"):
            images = loaded[name](s, c)
            assert images.shape == (2, channels, size, size)
            torch.testing.assert_close(images, run_generator(weights[name], torch.cat([s, c], 1), size))
        logits = discriminator(images)
        own = weights["discriminator"]
        torch.testing.assert_close(logits, run_head(own, run_trunk(own, images, size)))


def test_a_resnet_file_with_another_code(tmp_path: Path) -> None:
    path, weights = write_gan(tmp_path, generator_shapes(64, 4, 16, 30), discriminator_shapes(64, 4, 16))
    loaded = load_public(path, c_dim=6)
    for name in ("generator", "average"):
        assert (loaded[name].s_dim, loaded[name].c_dim) == (24, 6)
        assert_holds(loaded[name], weights[name])
        assert loaded[name](torch.randn(1, 24), torch.randn(1, 6)).shape == (1, 3, 64, 64)


def test_a_vgan_file(tmp_path: Path) -> None:
    path, weights = write_gan(tmp_path, generator_shapes(128, 4, 16), vgan_shapes(128, 4, 16))
    loaded = load_public(path)
    discriminator = loaded["discriminator"]
    assert isinstance(discriminator, VGANDiscriminator)
    assert_holds(discriminator, weights["discriminator"])
    assert_holds(loaded["generator"], weights["generator"])

    x, eps = torch.rand(2, 3, 128, 128) * 2 - 1, torch.randn(2, 16, 4, 4)
    own = weights["discriminator"]
    with torch.no_grad():
        logits, mean, logstd = discriminator(x, eps)
    h = run_trunk(own, x, 128)
    torch.testing.assert_close(mean, F.conv2d(h, own["mean_fn.weight"], own["mean_fn.bias"]))
    torch.testing.assert_close(logstd, F.conv2d(h, own["logstd_fn.weight"], own["logstd_fn.bias"]))
    torch.testing.assert_close(logits, run_head(own, mean + eps * logstd.exp()))


@pytest.mark.parametrize(("inputs", "channels", "width"), [(10, 1, 32), (6, 3, 8)])
def test_a_dsprites_file(tmp_path: Path, inputs: int, channels: int, width: int) -> None:
    path, weights = write_gan(
        tmp_path, conv_decoder("layer", channels, width, inputs), conv_encoder("layer", channels, width, 1)
    )
    loaded = load_public(path)
    assert set(loaded) == {"generator", "discriminator", "average"}
    for name, module in loaded.items():
        assert_holds(module, weights[name])
    generator, discriminator = loaded["generator"], loaded["discriminator"]
    assert isinstance(generator, DSpritesGenerator)
    assert isinstance(loaded["average"], DSpritesGenerator)
    assert isinstance(discriminator, DSpritesDiscriminator)
    assert (generator.s_dim, generator.c_dim) == (0, inputs)

    c = torch.randn(2, inputs)
    with torch.no_grad():
        images = generator(torch.empty(2, 0), c)
        torch.testing.assert_close(images, run_decoder(weights["generator"], "layer", c).tanh())
        logits = discriminator(images)
    assert logits.shape == (2,)
    torch.testing.assert_close(logits, run_encoder(weights["discriminator"], "layer", images)[:, 0])


def test_a_dsprites_file_with_a_nuisance_variable(tmp_path: Path) -> None:
    path, _ = write_gan(tmp_path, conv_decoder("layer", 1, 4, 10), conv_encoder("layer", 1, 4, 1))
    generator = load_public(path, c_dim=7)["generator"]
    assert (generator.s_dim, generator.c_dim) == (3, 7)
    assert generator(torch.randn(2, 3), torch.randn(2, 7)).shape == (2, 1, 64, 64)


def test_a_file_without_the_prefix(tmp_path: Path) -> None:
    path, weights = write_gan(tmp_path, generator_shapes(64, 4, 8), discriminator_shapes(64, 4, 8), prefix="")
    for name, module in load_public(path).items():
        assert_holds(module, weights[name])


def test_files_of_the_torch_of_that_time(tmp_path: Path) -> None:
    """Before torch 1.6, files were plain pickles."""
    vae_weights = fill(vae_shapes(4, 1, 4))
    assert_holds(load_public(write_vae(tmp_path, vae_weights, legacy=True))["vae"], vae_weights)
    shapes = generator_shapes(64, 4, 8), discriminator_shapes(64, 4, 8)
    path, weights = write_gan(tmp_path, *shapes, legacy=True)
    for name, module in load_public(path).items():
        assert_holds(module, weights[name])


def test_loaded_networks_can_be_trained(tmp_path: Path) -> None:
    path, _ = write_gan(tmp_path, generator_shapes(64, 4, 8), discriminator_shapes(64, 4, 8))
    loaded = load_public(path)
    loaded["discriminator"](loaded["generator"](torch.randn(1, 256), torch.randn(1, 20))).sum().backward()
    assert all(p.grad is not None for p in loaded["generator"].parameters())


# ---- wrong files


def refused(path: Path) -> None:
    assert str(path) in error_of(lambda: load_public(path))


@pytest.mark.parametrize(
    "content",
    [
        {"format": 1, "stage": "vae", "iteration": 3, "vae": {}},
        {"model_states": {}},
        {"model_states": {"net": {}}},
        {"model_states": {"net": [1, 2]}},
        {"state_dict": {}},
        {"generator": {}, "discriminator": {}, "generator_test": {}},
        {"generator": {"module.fc.weight": torch.zeros(4, 4)}, "discriminator": {}, "generator_test": {}},
        [1, 2, 3],
        "words",
        5,
        None,
    ],
)
def test_a_file_of_other_code(tmp_path: Path, content: object) -> None:
    path = tmp_path / "last"
    torch.save(content, path)
    refused(path)


@pytest.mark.parametrize("missing", ["generator", "discriminator", "generator_test"])
def test_a_gan_file_without_a_part(tmp_path: Path, missing: str) -> None:
    content, _ = gan_content(generator_shapes(64, 4, 8), discriminator_shapes(64, 4, 8))
    del content[missing]
    path = tmp_path / "model.pt"
    torch.save(content, path)
    text = error_of(lambda: load_public(path))
    assert str(path) in text
    assert missing in text


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part.pop("module.resnet.2.conv_0.bias"),
        lambda part: part.update({"module.resnet.2.conv_9.bias": torch.zeros(3)}),
        lambda part: part.update({"module.resnet.2.conv_0.weight": torch.zeros(3, 3, 3, 3)}),
        lambda part: part.update({"module.resnet.2.conv_0.weight": "words"}),
    ],
)
@pytest.mark.parametrize("name", ["generator", "discriminator", "generator_test"])
def test_a_gan_file_with_one_wrong_weight(tmp_path: Path, name: str, change: Callable[[dict], object]) -> None:
    content, _ = gan_content(generator_shapes(64, 4, 8), discriminator_shapes(64, 4, 8))
    change(content[name])
    path = tmp_path / "model.pt"
    torch.save(content, path)
    refused(path)


def test_a_vae_file_with_one_wrong_weight(tmp_path: Path) -> None:
    weights = fill(vae_shapes(4, 1, 4))
    weights["decoder.layer.5.bias"] = torch.zeros(99)
    refused(write_vae(tmp_path, weights))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file(tmp_path: Path, share: float, legacy: bool) -> None:
    path = write_vae(tmp_path, fill(vae_shapes(4, 1, 4)), legacy=legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "last"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "last", tmp_path):
        refused(path)


@pytest.mark.parametrize(
    "content",
    [
        {"generator": [], "discriminator": {}, "generator_test": {}},
        {"generator": torch.zeros(3)},
        {"generator": {"layer.0.weight": torch.zeros(3)}, "discriminator": {}, "generator_test": {}},
        {"model_states": {"net": torch.zeros(2)}},
    ],
)
def test_load_public_of_odd_content(tmp_path: Path, content: object) -> None:
    path = tmp_path / "last"
    torch.save(content, path)
    assert str(path) in error_of(lambda: load_public(path))

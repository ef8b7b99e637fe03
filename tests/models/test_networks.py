"""Sizes, names, initialization and arithmetic of the networks."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from idgan_fast.models.resnet import (
    ResnetBlock,
    ResnetDiscriminator,
    ResnetGenerator,
    VGANDiscriminator,
    conv3_upsampled,
)
from idgan_fast.models.vae import VAE, Decoder, DSpritesDiscriminator, DSpritesGenerator, Encoder, reparameterize
from tests.common import millions


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_vae_parameter_counts():
    vae = VAE(c_dim=20, channels=3)
    assert (millions(vae.encoder), millions(vae.decoder)) == ("0.39", "0.38")


@pytest.mark.parametrize(
    ("size", "width", "generator", "discriminator"),
    [(64, 64, "9.56", "7.30"), (256, 64, "19.00", "16.74"), (1024, 16, "18.97", "16.71")],
)
def test_resnet_parameter_counts(size, width, generator, discriminator):
    with torch.device("meta"):
        assert millions(ResnetGenerator(size, 256, 20, width=width)) == generator
        assert millions(ResnetDiscriminator(size, width)) == discriminator


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_resnet_shapes_and_ranges(size, channels):
    g = ResnetGenerator(size, s_dim=5, c_dim=3, width=2, max_width=4, channels=channels)
    with torch.no_grad():
        g.conv_img.weight.mul_(100)  # so that the limits of the range are met
        images = g(normal(2, 5), normal(2, 3))
        logits = ResnetDiscriminator(size, width=2, max_width=4, channels=channels)(images)
        v = VGANDiscriminator(size, width=2, max_width=4, channels=channels)
        v_logits, mean, logstd = v(images, normal(2, *v.bottleneck_shape))
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert images.min() < -0.5
    assert images.max() > 0.5
    assert logits.shape == v_logits.shape == (2,)
    assert mean.shape == logstd.shape == (2, 4, 4, 4)


@pytest.mark.parametrize("batch", [1, 3])
def test_vae_and_dsprites_shapes_and_ranges(batch):
    x, c = torch.rand(batch, 1, 64, 64), normal(batch, 4)
    mean, logvar = Encoder(c_dim=4, channels=1, width=2)(x)
    assert mean.shape == logvar.shape == (batch, 4)
    assert Decoder(c_dim=4, channels=1, width=2)(c).shape == (batch, 1, 64, 64)
    logits, mean, logvar = VAE(c_dim=4, channels=1, width=2)(x, c)
    assert logits.shape == x.shape
    assert mean.shape == logvar.shape == (batch, 4)
    g = DSpritesGenerator(s_dim=2, c_dim=4, channels=1, width=2)
    with torch.no_grad():
        g.layer[11].weight.mul_(1000)
        images = g(normal(batch, 2), c)
    assert images.shape == x.shape
    assert 0.5 < images.abs().max() <= 1
    assert images.min() < 0 < images.max()
    assert DSpritesDiscriminator(channels=1, width=2)(x).shape == (batch,)


@pytest.mark.parametrize("network", [ResnetGenerator, ResnetDiscriminator, VGANDiscriminator])
@pytest.mark.parametrize("size", [0, 4, 48, 100])
def test_a_wrong_size_is_named(network, size):
    with pytest.raises(ValueError, match=rf"^size must be a power of two of at least 8, got {size}$"):
        network(size=size, width=2)


def resnet_names(module):
    """State-dict names -> the modules that they belong to, those of `resnet` by (index, name)."""
    modules = {name.rsplit(".", 1)[0] for name in module.state_dict()}
    blocks = {tuple(name.split(".")[1:]) for name in modules if name.startswith("resnet.")}
    return blocks, {name for name in modules if not name.startswith("resnet.")}


def expected_blocks(count, with_shortcut):
    """Blocks stand at even places, with resampling between."""
    names = {(str(2 * i), conv) for i in range(count) for conv in ("conv_0", "conv_1")}
    return names | {(str(2 * i), "conv_s") for i in with_shortcut}


def test_resnet_names_are_those_of_the_public_checkpoints():
    blocks, rest = resnet_names(ResnetGenerator(64, 4, 2, width=2, max_width=8))  # 8 8 8 4 2, then 2 -> 2
    assert rest == {"fc", "conv_img"}
    assert blocks == expected_blocks(5, with_shortcut=[2, 3])
    blocks, rest = resnet_names(ResnetDiscriminator(64, width=2, max_width=8))  # 2 -> 2, then 2 4 8 8 8
    assert rest == {"fc", "conv_img"}
    assert blocks == expected_blocks(5, with_shortcut=[1, 2])
    blocks, rest = resnet_names(VGANDiscriminator(64, width=2, max_width=8))
    assert rest == {"fc", "conv_img", "mean_fn", "logstd_fn"}
    assert blocks == expected_blocks(5, with_shortcut=[1, 2])


def test_shortcuts_and_first_layers_have_the_right_shapes():
    g = ResnetGenerator(64, 4, 2, width=2, max_width=8).state_dict()
    assert g["fc.weight"].shape == (8 * 16, 6)
    assert g["resnet.4.conv_0.weight"].shape == (4, 8, 3, 3)  # hidden width min(in, out)
    assert g["resnet.4.conv_1.weight"].shape == (4, 4, 3, 3)
    assert g["resnet.4.conv_s.weight"].shape == (4, 8, 1, 1)
    assert "resnet.4.conv_s.bias" not in g
    assert g["conv_img.weight"].shape == (3, 2, 3, 3)
    d = VGANDiscriminator(64, width=2, max_width=8).state_dict()
    assert d["resnet.2.conv_0.weight"].shape == (2, 2, 3, 3)
    assert d["resnet.2.conv_1.weight"].shape == (4, 2, 3, 3)
    assert d["mean_fn.weight"].shape == d["logstd_fn.weight"].shape == (8, 8, 1, 1)
    assert d["fc.weight"].shape == (1, 8 * 16)


def with_parameters(prefix, indices):
    return {f"{prefix}{i}.{kind}" for i in indices for kind in ("weight", "bias")}


def test_vae_and_dsprites_names_are_those_of_the_public_checkpoints():
    encoder, decoder = (0, 2, 4, 6, 8, 11), (0, 3, 5, 7, 9, 11)
    expected = with_parameters("encoder.layer.", encoder) | with_parameters("decoder.layer.", decoder)
    assert set(VAE(width=2).state_dict()) == expected
    assert set(DSpritesGenerator(width=2).state_dict()) == with_parameters("layer.", decoder)
    assert set(DSpritesDiscriminator(width=2).state_dict()) == with_parameters("layer.", encoder)


def test_vae_starts_from_small_normal_weights_and_zero_biases():
    vae = VAE(c_dim=10, channels=1)
    for name, parameter in vae.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.numel() > 1000:
            error = 0.02 / parameter.numel() ** 0.5
            assert abs(parameter.mean().item()) < 5 * error, name
            assert parameter.std().item() == pytest.approx(0.02, abs=5 * error), name
            assert parameter.abs().max() > 0.05, name  # the tails of a normal


def test_kaiming_start_keeps_the_scale_by_fan_in():
    vae = VAE(c_dim=10, channels=1, init="kaiming")
    weight = vae.encoder.layer[4].weight  # 32 -> 64, 4x4
    assert weight.std().item() == pytest.approx((2 / (32 * 16)) ** 0.5, rel=0.05)
    assert all(not p.any() for name, p in vae.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(
    ("build", "fan_in"),
    [
        (lambda: ResnetDiscriminator(64, width=16, max_width=32).resnet[4].conv_0, 32 * 9),
        (lambda: DSpritesDiscriminator().layer[2], 32 * 16),
        (lambda: ResnetGenerator(64, 30, 20, width=4, max_width=8).fc, 50),
    ],
    ids=["resnet D", "dSprites D", "resnet G"],
)
def test_other_networks_keep_the_default_initialization(build, fan_in):
    layer = build()
    bound = fan_in**-0.5  # torch draws weights and biases from U[-bound, bound]
    assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert 0.5 * bound < layer.bias.abs().max() <= bound


def test_copied_decoder_gives_the_same_picture():
    decoder = Decoder(c_dim=6, channels=1, width=4).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(normal(*parameter.shape, seed=parameter.numel(), dtype=torch.float64) * 0.3)
    g = DSpritesGenerator(s_dim=0, c_dim=6, channels=1, width=4).double()
    before = {name: p.clone() for name, p in decoder.state_dict().items()}
    g.copy_decoder(decoder)
    c = normal(3, 6, seed=1, dtype=torch.float64)
    with torch.no_grad():
        logits, images = decoder(c), g(c.new_empty(3, 0), c)
    assert logits.std() > 0.1
    torch.testing.assert_close(images, 2 * torch.sigmoid(logits) - 1, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(p, before[name]) for name, p in decoder.state_dict().items())


def test_copied_decoder_is_a_copy():
    decoder, g = Decoder(c_dim=3, width=2), DSpritesGenerator(0, 3, channels=3, width=2)
    g.copy_decoder(decoder)
    before = decoder.layer[3].weight.clone()
    with torch.no_grad():
        g.layer[3].weight.add_(1)
    assert torch.equal(decoder.layer[3].weight, before)


def test_copied_decoder_beside_s():
    """At s = 0 the generator is the decoder; s enters by weights of its own."""
    decoder, g = Decoder(c_dim=3, width=2).double(), DSpritesGenerator(s_dim=2, c_dim=3, channels=3, width=2).double()
    g.copy_decoder(decoder)
    c, s = normal(4, 3, seed=2, dtype=torch.float64), normal(4, 2, seed=3, dtype=torch.float64)
    with torch.no_grad():
        expected = 2 * torch.sigmoid(decoder(c)) - 1
        torch.testing.assert_close(g(torch.zeros_like(s), c), expected, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(g(s, c), expected)


def conv(x, weight, bias, padding):
    """A convolution of stride 1 in numpy, as a sum over the kernel's places."""
    n, _, height, width = x.shape
    side = weight.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    out = np.zeros((n, len(weight), height, width))
    for i in range(side):
        for j in range(side):
            out += np.einsum("nchw,oc->nohw", padded[:, :, i : i + height, j : j + width], weight[:, :, i, j])
    return out if bias is None else out + bias[:, None, None]


def lrelu(x):
    return np.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize(("wide_in", "wide_out"), [(3, 3), (2, 5), (5, 2)])
def test_block_against_numpy(wide_in, wide_out):
    block = ResnetBlock(wide_in, wide_out).double()
    x = normal(2, wide_in, 6, 7, seed=2, dtype=torch.float64)
    weights = {name: p.detach().numpy() for name, p in block.named_parameters()}
    h = conv(lrelu(x.numpy()), weights["conv_0.weight"], weights["conv_0.bias"], 1)
    h = conv(lrelu(h), weights["conv_1.weight"], weights["conv_1.bias"], 1)
    shortcut = x.numpy() if wide_in == wide_out else conv(x.numpy(), weights["conv_s.weight"], None, 0)
    np.testing.assert_allclose(block(x).detach().numpy(), shortcut + 0.1 * h, rtol=1e-12, atol=1e-12)


def test_whole_generator_and_discriminator_against_their_description():
    """Linear -> 4x4, (block, nearest x2), block, lrelu, conv3, tanh; conv3, block, (pool, block), Linear(lrelu)."""
    g = ResnetGenerator(8, s_dim=3, c_dim=2, width=2, max_width=8).double()
    d = VGANDiscriminator(8, width=2, max_width=8).double()
    s, c = normal(2, 3, seed=3, dtype=torch.float64), normal(2, 2, seed=4, dtype=torch.float64)
    with torch.no_grad():
        h = (torch.cat([s, c], 1) @ g.fc.weight.T + g.fc.bias).reshape(2, 4, 4, 4)
        h = g.resnet[0](h).repeat_interleave(2, 2).repeat_interleave(2, 3)
        h = lrelu(g.resnet[2](h).numpy())
        image = np.tanh(conv(h, g.conv_img.weight.numpy(), g.conv_img.bias.numpy(), 1))
        np.testing.assert_allclose(g(s, c).numpy(), image, rtol=1e-10, atol=1e-12)

        h = torch.from_numpy(conv(image, d.conv_img.weight.numpy(), d.conv_img.bias.numpy(), 1))
        h = nn.functional.pad(d.resnet[0](h), (1, 1, 1, 1))
        h = sum(h[:, :, i : i + 8 : 2, j : j + 8 : 2] for i in range(3) for j in range(3)) / 9
        h = d.resnet[2](h)
        mean = conv(h.numpy(), d.mean_fn.weight.numpy(), d.mean_fn.bias.numpy(), 0)
        logstd = conv(h.numpy(), d.logstd_fn.weight.numpy(), d.logstd_fn.bias.numpy(), 0)
        eps = normal(2, *d.bottleneck_shape, seed=5, dtype=torch.float64)
        sample = lrelu(mean + eps.numpy() * np.exp(logstd)).reshape(2, -1)
        logits = sample @ d.fc.weight[0].numpy() + d.fc.bias.item()
        for actual, expected in zip(d(torch.from_numpy(image), eps), (logits, mean, logstd), strict=True):
            np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_reparameterised_sample_takes_the_log_of_the_variance():
    mean, logvar, eps = (normal(4, 3, seed=6 + i, dtype=torch.float64) for i in range(3))
    expected = mean.numpy() + np.sqrt(np.exp(logvar.numpy())) * eps.numpy()
    np.testing.assert_allclose(reparameterize(mean, logvar, eps).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("network", "shapes"),
    [
        (lambda: ResnetGenerator(64, 5, 3, width=4, max_width=8), [(2, 5), (2, 3)]),
        (lambda: ResnetDiscriminator(64, width=4, max_width=8), [(2, 3, 64, 64)]),
        (lambda: VGANDiscriminator(64, width=4, max_width=8), [(2, 3, 64, 64), (2, 8, 4, 4)]),
        (lambda: VAE(c_dim=3, channels=3, width=4, init="kaiming"), [(2, 3, 64, 64), (2, 3)]),
        (lambda: DSpritesGenerator(1, 3, width=4), [(2, 1), (2, 3)]),
        (lambda: DSpritesDiscriminator(3, width=4), [(2, 3, 64, 64)]),
    ],
    ids=["resnet G", "resnet D", "VGAN D", "VAE", "dSprites G", "dSprites D"],
)
def test_channels_last_changes_nothing(network, shapes):
    module = network().double()
    inputs = [normal(*shape, seed=9 + i, dtype=torch.float64) for i, shape in enumerate(shapes)]
    with torch.no_grad():
        expected = module(*inputs)
        last = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
        actual = module.to(memory_format=torch.channels_last)(*last)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 1, 1), (3, 2, 5, 1), (1, 4, 3, 6), (0, 2, 4, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_folded_upsampling_is_upsampling_and_convolution(shape, layout):
    """Values and every gradient, in float64."""
    conv_layer = nn.Conv2d(shape[1], 5, 3, padding=1).double()
    x = normal(*shape, seed=1, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    parameters = [x, *conv_layer.parameters()]
    expected = conv_layer(F.interpolate(x, scale_factor=2)) if len(x) else x.new_empty(0, 5, 2 * shape[2], 2 * shape[3])
    actual = conv3_upsampled(x, conv_layer)
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    if len(x):
        weights = normal(*expected.shape, seed=2, dtype=torch.float64)
        ours = torch.autograd.grad((actual * weights).sum(), parameters)
        theirs = torch.autograd.grad((expected * weights).sum(), parameters)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_folded_upsampling_has_gradients_of_second_order():
    conv_layer = nn.Conv2d(2, 2, 3, padding=1).double()
    x = normal(1, 2, 2, 3, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: conv3_upsampled(x, conv_layer), x)


def test_a_block_of_an_upsampled_input():
    """The block with `upsample` is the block after nearest upsampling."""
    for out_channels in (2, 4):
        block = ResnetBlock(4, out_channels).double()
        x = normal(2, 4, 3, 3, seed=5, dtype=torch.float64)
        with torch.no_grad():
            expected = block(F.interpolate(x, scale_factor=2))
            torch.testing.assert_close(block(x, upsample=True), expected, rtol=1e-12, atol=1e-12)

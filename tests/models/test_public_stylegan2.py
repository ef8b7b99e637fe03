"""Public StyleGAN2 weights, made here from their descriptions, against forward passes written from these alone."""

import math

import pytest
import torch
from torch.nn import functional as F

from idgan_fast.models.public_stylegan2 import load_public_stylegan2
from idgan_fast.models.stylegan2 import StyleGAN2Generator
from idgan_fast.models.stylegan2_discriminator import StyleGAN2Discriminator
from tests.common import error_of

S, W, CHANNELS = 3, 6, 2  # of s, of w, and of the image
WIDTHS = {4: 5, 8: 4, 16: 2}  # min(32 // size, 5)
BLUR = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


def draw(shapes, filters, seed=0):
    """Random weights of these shapes, and the filters. Biases of affine layers are around 1."""
    rng = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    for name in made:
        if name.startswith(("mapping.fc", "style.")):
            made[name] *= 100
        elif name.endswith(("affine.bias", "modulation.bias")):
            made[name] = 1 + made[name] / 4
        elif name.endswith(("noise_strength", "noise.weight")):
            made[name] = made[name] / 4 + 0.5
    return {**made, **{name: BLUR * total for name, total in filters.items()}}


# ---- names and shapes


def ada_generator(size, residual=False):
    shapes = {"mapping.fc0.weight": (W, S), "mapping.fc1.weight": (W, W), "mapping.w_avg": (W,)}
    shapes |= {"mapping.fc0.bias": (W,), "mapping.fc1.bias": (W,), "synthesis.b4.const": (WIDTHS[4], 4, 4)}
    filters = {}
    for r in (r for r in WIDTHS if r <= size):
        b, c, i = f"synthesis.b{r}", WIDTHS[r], WIDTHS.get(r // 2)
        for conv, c_in in [("conv1", c)] if r == 4 else [("conv0", i), ("conv1", c)]:
            shapes |= {f"{b}.{conv}.weight": (c, c_in, 3, 3), f"{b}.{conv}.bias": (c,)}
            shapes |= {f"{b}.{conv}.noise_const": (r, r), f"{b}.{conv}.noise_strength": ()}
            shapes |= {f"{b}.{conv}.affine.weight": (c_in, W), f"{b}.{conv}.affine.bias": (c_in,)}
            filters[f"{b}.{conv}.resample_filter"] = 1
        if r == size or not residual:
            shapes |= {f"{b}.torgb.weight": (CHANNELS, c, 1, 1), f"{b}.torgb.bias": (CHANNELS,)}
            shapes |= {f"{b}.torgb.affine.weight": (c, W), f"{b}.torgb.affine.bias": (c,)}
        if r > 4 and residual:
            shapes[f"{b}.skip.weight"] = (c, i, 1, 1)
            filters[f"{b}.skip.resample_filter"] = 1
        filters[f"{b}.resample_filter"] = 1
    return draw(shapes, filters)


def ada_discriminator(size):
    c = WIDTHS[4]
    shapes = {f"b{size}.fromrgb.weight": (WIDTHS[size], CHANNELS, 1, 1), f"b{size}.fromrgb.bias": (WIDTHS[size],)}
    shapes |= {
        "b4.conv.weight": (c, c + 1, 3, 3),
        "b4.conv.bias": (c,),
        "b4.fc.weight": (c, 16 * c),
        "b4.fc.bias": (c,),
    }
    shapes |= {"b4.out.weight": (1, c), "b4.out.bias": (1,)}
    filters = {f"b{size}.fromrgb.resample_filter": 1, "b4.conv.resample_filter": 1}
    for r in (r for r in WIDTHS if 4 < r <= size):
        i, o = WIDTHS[r], WIDTHS[r // 2]
        shapes |= {f"b{r}.conv0.weight": (i, i, 3, 3), f"b{r}.conv0.bias": (i,), f"b{r}.conv1.weight": (o, i, 3, 3)}
        shapes |= {f"b{r}.conv1.bias": (o,), f"b{r}.skip.weight": (o, i, 1, 1)}
        filters |= {f"b{r}.{part}resample_filter": 1 for part in ("", "conv0.", "conv1.", "skip.")}
    return draw(shapes, filters)


def rosinality_generator(size):
    shapes = {"style.1.weight": (W, S), "style.1.bias": (W,), "style.2.weight": (W, W), "style.2.bias": (W,)}
    shapes |= {"input.input": (1, WIDTHS[4], 4, 4), "noises.noise_0": (1, 1, 4, 4)}
    filters = {}
    layers, rgbs = [("conv1", WIDTHS[4], WIDTHS[4])], [("to_rgb1", WIDTHS[4])]
    for k, r in enumerate(r for r in WIDTHS if 4 < r <= size):
        c = WIDTHS[r]
        layers += [(f"convs.{2 * k}", WIDTHS[r // 2], c), (f"convs.{2 * k + 1}", c, c)]
        rgbs += [(f"to_rgbs.{k}", c)]
        shapes |= {f"noises.noise_{2 * k + 1}": (1, 1, r, r), f"noises.noise_{2 * k + 2}": (1, 1, r, r)}
        filters |= {f"convs.{2 * k}.conv.blur.kernel": 4, f"to_rgbs.{k}.upsample.kernel": 4}
    for name, i, o in layers:
        shapes |= {f"{name}.conv.weight": (1, o, i, 3, 3), f"{name}.noise.weight": (1,), f"{name}.activate.bias": (o,)}
        shapes |= {f"{name}.conv.modulation.weight": (i, W), f"{name}.conv.modulation.bias": (i,)}
    for name, i in rgbs:
        shapes |= {f"{name}.conv.weight": (1, CHANNELS, i, 1, 1), f"{name}.bias": (1, CHANNELS, 1, 1)}
        shapes |= {f"{name}.conv.modulation.weight": (i, W), f"{name}.conv.modulation.bias": (i,)}
    weights = draw(shapes, filters)
    weights["to_rgbs.0.bias"] *= 1000  # no clamp in this family
    for name in ("conv1", "convs.0"):
        weights[f"{name}.conv.weight"] *= 1e-4  # so small that the epsilon of the demodulation shows the scale
    return weights


def rosinality_discriminator(size):
    c = WIDTHS[4]
    shapes = {"convs.0.0.weight": (WIDTHS[size], CHANNELS, 1, 1), "convs.0.1.bias": (WIDTHS[size],)}
    shapes |= {"final_conv.0.weight": (c, c + 1, 3, 3), "final_conv.1.bias": (c,)}
    shapes |= {"final_linear.0.weight": (c, 16 * c), "final_linear.0.bias": (c,)}
    shapes |= {"final_linear.1.weight": (1, c), "final_linear.1.bias": (1,)}
    filters = {}
    for k, r in enumerate((r for r in (16, 8) if r <= size), start=1):
        i, o, at = WIDTHS[r], WIDTHS[r // 2], f"convs.{k}"
        shapes |= {f"{at}.conv1.0.weight": (i, i, 3, 3), f"{at}.conv1.1.bias": (i,), f"{at}.conv2.2.bias": (o,)}
        shapes |= {f"{at}.conv2.1.weight": (o, i, 3, 3), f"{at}.skip.1.weight": (o, i, 1, 1)}
        filters |= {f"{at}.conv2.0.kernel": 1, f"{at}.skip.0.kernel": 1}
    return draw(shapes, filters)


# ---- the forward passes of the families; p: the weights in float64


def blurred(x, kernel, before, after):
    k = kernel.flip(0, 1).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (before, after, before, after)), k, groups=x.shape[1])


def doubled(x, kernel):
    """upfirdn of zeros between the pixels; kernel sums to 4."""
    y = torch.zeros(*x.shape[:3], 2, x.shape[3], 2, dtype=x.dtype)
    y[:, :, :, 0, :, 0] = x
    return blurred(y.flatten(4).flatten(2, 3), kernel, 2, 1)


def leaky(x):
    return F.leaky_relu(x, 0.2) * 2**0.5


def channelwise(bias):
    return bias.reshape(1, -1, 1, 1)


def linear(p, name, x, rate=1.0):
    return F.linear(x, p[f"{name}.weight"] * (rate / math.sqrt(x.shape[1])), p[f"{name}.bias"] * rate)


def mapped(p, names, s):
    x = s * torch.rsqrt(s.pow(2).mean(1, keepdim=True) + 1e-8)
    for name in names:
        x = leaky(linear(p, name, x, 0.01))
    return x


def modulated(x, weight, style, demodulate, kernel=None):
    """weight [O, I, k, k], as the families hold it; kernel, of sum 4: of a transposed convolution of stride 2."""
    n, (o, i, k, _) = len(x), weight.shape
    w = weight[None] * style.reshape(n, 1, i, 1, 1)
    if demodulate:
        w = w * torch.rsqrt(w.pow(2).sum((2, 3, 4)) + 1e-8).reshape(n, o, 1, 1, 1)
    x = x.reshape(1, n * i, *x.shape[2:])
    if kernel is None:
        y = F.conv2d(x, w.reshape(n * o, i, k, k), padding=k // 2, groups=n)
    else:
        y = F.conv_transpose2d(x, w.transpose(1, 2).reshape(n * i, o, k, k), stride=2, groups=n)
        y = blurred(y, kernel, 1, 1)
    return y.reshape(n, o, *y.shape[2:])


def ada_images(p, w, size):
    at, image = 0, None
    x = p["synthesis.b4.const"].repeat(len(w), 1, 1, 1)
    for r in (r for r in WIDTHS if r <= size):
        b, before = f"synthesis.b{r}", x
        residual = f"{b}.skip.weight" in p
        for conv in ("conv1",) if r == 4 else ("conv0", "conv1"):
            kernel = p[f"{b}.{conv}.resample_filter"] * 4 if conv == "conv0" else None
            style = linear(p, f"{b}.{conv}.affine", w[:, at])
            x = modulated(x, p[f"{b}.{conv}.weight"], style, True, kernel)
            x = x + p[f"{b}.{conv}.noise_const"] * p[f"{b}.{conv}.noise_strength"]
            x = leaky(x + channelwise(p[f"{b}.{conv}.bias"]))
            at += 1
        if residual:
            skip = F.conv2d(doubled(before, p[f"{b}.skip.resample_filter"] * 4), p[f"{b}.skip.weight"])
            x = (x + skip / before.shape[1] ** 0.5) * 0.5**0.5
        if f"{b}.torgb.weight" in p:
            style = linear(p, f"{b}.torgb.affine", w[:, at]) / x.shape[1] ** 0.5
            rgb = modulated(x, p[f"{b}.torgb.weight"], style, False) + channelwise(p[f"{b}.torgb.bias"])
            image = rgb if image is None else doubled(image, p[f"{b}.resample_filter"] * 4) + rgb
    return image


def rosinality_images(p, w, size):
    def layer(name, x, w, noise):
        weight = p[f"{name}.conv.weight"][0]
        style = linear(p, f"{name}.conv.modulation", w)
        x = modulated(x, weight / (weight.shape[1] * 9) ** 0.5, style, True, p.get(f"{name}.conv.blur.kernel"))
        x = x + p[f"{name}.noise.weight"] * p[f"noises.noise_{noise}"]
        return leaky(x + channelwise(p[f"{name}.activate.bias"]))

    def rgb(name, x, w):
        weight = p[f"{name}.conv.weight"][0]
        style = linear(p, f"{name}.conv.modulation", w)
        return modulated(x, weight / weight.shape[1] ** 0.5, style, False) + p[f"{name}.bias"]

    x = layer("conv1", p["input.input"].repeat(len(w), 1, 1, 1), w[:, 0], 0)
    image = rgb("to_rgb1", x, w[:, 1])
    for k in range(size.bit_length() - 3):
        x = layer(f"convs.{2 * k}", x, w[:, 2 * k + 1], 2 * k + 1)
        x = layer(f"convs.{2 * k + 1}", x, w[:, 2 * k + 2], 2 * k + 2)
        image = doubled(image, p[f"to_rgbs.{k}.upsample.kernel"]) + rgb(f"to_rgbs.{k}", x, w[:, 2 * k + 3])
    return image


def logits(p, x, from_rgb, blocks, final, fc, out):
    """from_rgb, final: names of weight and bias; blocks: those of both convolutions and the shortcut, and filters."""

    def conv(x, weight, stride=1, padding=0):
        weight = p[weight]
        return F.conv2d(x, weight / weight[0].numel() ** 0.5, stride=stride, padding=padding)

    def act(x, bias):
        return leaky(x + channelwise(p[bias]))

    x = act(conv(x, from_rgb[0]), from_rgb[1])
    for weight0, bias0, kernel1, weight1, bias1, kernel, skip in blocks:
        y = act(conv(x, weight0, padding=1), bias0)
        y = act(conv(blurred(y, p[kernel1], 2, 2), weight1, stride=2), bias1)
        x = (y + conv(blurred(x, p[kernel], 1, 1), skip, stride=2)) / 2**0.5
    n = len(x)
    members = x.reshape(min(n, 4), -1, *x.shape[1:])
    deviation = (members.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    x = torch.cat([x, deviation.repeat(min(n, 4)).reshape(n, 1, 1, 1).expand(n, 1, 4, 4)], 1)
    x = act(conv(x, final[0], padding=1), final[1]).reshape(n, -1)
    return linear(p, out, leaky(linear(p, fc, x))).squeeze(1)


def ada_logits(p, x, size):
    blocks = []
    for r in (r for r in (16, 8) if r <= size):
        names = "conv0.weight conv0.bias conv1.resample_filter conv1.weight conv1.bias skip.resample_filter skip.weight"
        blocks.append([f"b{r}.{name}" for name in names.split()])
    from_rgb = (f"b{size}.fromrgb.weight", f"b{size}.fromrgb.bias")
    return logits(p, x, from_rgb, blocks, ("b4.conv.weight", "b4.conv.bias"), "b4.fc", "b4.out")


def rosinality_logits(p, x, size):
    names = "conv1.0.weight conv1.1.bias conv2.0.kernel conv2.1.weight conv2.2.bias skip.0.kernel skip.1.weight"
    blocks = [[f"convs.{k + 1}.{name}" for name in names.split()] for k in range(size.bit_length() - 3)]
    ends = (("final_conv.0.weight", "final_conv.1.bias"), "final_linear.0", "final_linear.1")
    return logits(p, x, ("convs.0.0.weight", "convs.0.1.bias"), blocks, *ends)


# ---- the tests


def doubles(weights):
    return {name: value.double() for name, value in weights.items()}


def loaded(weights):
    module = load_public_stylegan2(weights)
    assert all(p.dtype == torch.float32 for p in module.parameters())
    return module.double()


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


GENERATORS = {
    "ada 8": (8, lambda: ada_generator(8), ada_images, ("mapping.fc0", "mapping.fc1")),
    "ada 16": (16, lambda: ada_generator(16), ada_images, ("mapping.fc0", "mapping.fc1")),
    "ada residual 16": (16, lambda: ada_generator(16, residual=True), ada_images, ("mapping.fc0", "mapping.fc1")),
    "rosinality 8": (8, lambda: rosinality_generator(8), rosinality_images, ("style.1", "style.2")),
    "rosinality 16": (16, lambda: rosinality_generator(16), rosinality_images, ("style.1", "style.2")),
}
DISCRIMINATORS = {
    "ada 8": (8, ada_discriminator, ada_logits),
    "ada 16": (16, ada_discriminator, ada_logits),
    "rosinality 8": (8, rosinality_discriminator, rosinality_logits),
    "rosinality 16": (16, rosinality_discriminator, rosinality_logits),
}


@pytest.mark.parametrize("which", GENERATORS)
def test_generator_gives_the_familys_images(which):
    size, make, images, mapping = GENERATORS[which]
    weights = make()
    g, p = loaded(weights), doubles(weights)
    assert isinstance(g, StyleGAN2Generator)
    s, ws, no_code = random(3, S, seed=1), random(3, g.num_ws, W, seed=2), torch.zeros(3, 0, dtype=torch.float64)
    with torch.no_grad():
        w = mapped(p, mapping, s)
        expected = images(p, ws, size)
        assert expected.shape == (3, CHANNELS, size, size)
        torch.testing.assert_close(g.map(s, no_code), w, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(g.synthesize(ws, no_code), expected, rtol=1e-5, atol=1e-5)
        expected = images(p, w[:, None].expand_as(ws), size)
        torch.testing.assert_close(g(s, no_code), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [2, 8])
@pytest.mark.parametrize("which", DISCRIMINATORS)
def test_discriminator_gives_the_familys_logits(which, n):
    size, make, logits_of = DISCRIMINATORS[which]
    weights = make(size)
    d, x = loaded(weights), random(n, CHANNELS, size, size, seed=3)
    assert isinstance(d, StyleGAN2Discriminator)
    with torch.no_grad():
        torch.testing.assert_close(d(x), logits_of(doubles(weights), x, size), rtol=1e-5, atol=1e-5)


def test_average_of_w_is_the_files_or_an_estimate():
    weights = ada_generator(8)
    assert torch.equal(load_public_stylegan2(weights).mapping.w_avg, weights["mapping.w_avg"])
    weights = rosinality_generator(8)
    w = mapped(doubles(weights), ("style.1", "style.2"), random(100_000, S, seed=4))
    error = (load_public_stylegan2(weights).mapping.w_avg - w.mean(0)).abs()
    assert (error < 5 * w.std(0) / 4096**0.5).all()


def test_half_types_load_and_weights_stay_as_they_were():
    weights = {name: value.half() for name, value in rosinality_discriminator(8).items()}
    before = {name: value.clone() for name, value in weights.items()}
    assert load_public_stylegan2(weights).b4.out.weight.dtype == torch.float32
    assert all(torch.equal(weights[name], before[name]) for name in before)


SETS = {
    "ada G": lambda: ada_generator(16),
    "ada residual G": lambda: ada_generator(16, residual=True),
    "ada D": lambda: ada_discriminator(16),
    "rosinality G": lambda: rosinality_generator(16),
    "rosinality D": lambda: rosinality_discriminator(16),
}


@pytest.mark.parametrize("which", SETS)
def test_every_missing_entry_wrong_size_and_stranger_is_refused(which):
    weights = SETS[which]()
    load_public_stylegan2(weights)
    for name, value in weights.items():
        text = error_of(lambda name=name: load_public_stylegan2({k: v for k, v in weights.items() if k != name}))
        assert text.startswith("StyleGAN2 weights: ")
        s_dim_is_free = name in ("mapping.fc0.weight", "style.1.weight")
        shapes = [(1, *value.shape), (*value.shape[:-1], 7), (0,)][:: 2 if s_dim_is_free else 1]
        for wrong in map(value.new_zeros, shapes):
            error_of(lambda name=name, wrong=wrong: load_public_stylegan2({**weights, name: wrong}))
        if name.endswith(("kernel", "filter")):
            for other in (value * 1.1, value.new_tensor([1.0, 2, 2, 1]).outer(torch.ones(4)) / 24):
                text = error_of(lambda name=name, other=other: load_public_stylegan2({**weights, name: other}))
                assert f"{name} must be (1, 3, 3, 1)^2" in text
    text = error_of(lambda: load_public_stylegan2({**weights, "convs.9.surprise": torch.zeros(1)}))
    assert "should not have convs.9.surprise" in text


def relabeled(weights, old, new):
    return {name.replace(old, new): value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (dict, ["wanted an entry synthesis.b4.const", "got nothing"]),
        (lambda: {"fc.weight": torch.zeros(2, 3)}, ["wanted an entry synthesis.b4.const", "got fc.weight"]),
        (lambda: {"g_ema": rosinality_generator(8)}, ["as under 'g_ema'", "got dict under 'g_ema'"]),
        (lambda: {0: torch.zeros(1)}, ["got Tensor under 0"]),
        (lambda: {**ada_generator(8), "mapping.embed.weight": torch.zeros(W, 2)}, ["without labels", "mapping.embed"]),
        (lambda: {**ada_discriminator(8), "mapping.embed.bias": torch.zeros(W)}, ["without labels", "mapping.embed"]),
        (lambda: relabeled(ada_generator(8), ".b8.", ".b12."), ["8, 16, 32", "got one of 12"]),
        (lambda: relabeled(ada_generator(16), ".b16.", ".b32."), ["wanted an entry synthesis.b16.conv1.weight"]),
        (lambda: {**ada_generator(16), "synthesis.b8.conv1.weight": torch.zeros(1, 1, 3, 3)}, ["5 at 4, 1 at 8"]),
        (lambda: {**ada_generator(8), "synthesis.b8.conv1.bias": torch.zeros(3)}, ["b8.conv1.bias", "(4,)", "(3,)"]),
        (lambda: {**rosinality_generator(8), "noises.noise_2": torch.zeros(8, 8)}, ["(1, 1, 8, 8), got (8, 8)"]),
    ],
)
def test_the_error_names_what_is_wrong(make, words):
    text = error_of(lambda: load_public_stylegan2(make()))
    for word in words:
        assert word in text


@pytest.mark.parametrize("widths", [{4: 5, 8: 4, 16: 2}, {4: 5, 8: 5, 16: 2}, {4: 7, 8: 3, 16: 1}, {4: 2, 8: 1, 16: 1}])
def test_widths_are_read_off_the_file(monkeypatch, widths):
    monkeypatch.setitem(globals(), "WIDTHS", widths)
    g, d = load_public_stylegan2(rosinality_generator(16)), load_public_stylegan2(ada_discriminator(16))
    assert {at: len(getattr(g.synthesis, f"b{at}").conv1.bias) for at in widths} == widths
    assert {8: len(d.b8.conv0.bias), 16: len(d.b16.conv0.bias), 4: len(d.b4.conv.bias)} == widths

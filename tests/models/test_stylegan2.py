"""StyleGAN2's networks against formulas in plain torch, written apart from them, in float64."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from idgan_fast.config.settings import StyleGAN2Config
from idgan_fast.models import stylegan2, stylegan2_discriminator
from idgan_fast.models.stylegan2 import StyleGAN2Generator
from idgan_fast.models.stylegan2_discriminator import StyleGAN2Discriminator
from tests.common import millions

TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
SMALL = {"channel_base": 32, "channel_max": 5}  # 5 channels at 4x4, 4 at 8x8, 2 at 16x16
DIMS = {"s_dim": 3, "c_dim": 2, "w_dim": 4, "mapping_layers": 2}
SETTINGS = StyleGAN2Config(**SMALL, w_dim=DIMS["w_dim"], mapping_layers=DIMS["mapping_layers"])
LR = 0.01  # of the mapping network
CLOSE = {"rtol": 1e-10, "atol": 1e-11}
ROUGHLY = {"rtol": 1e-8, "atol": 1e-8}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def stirred(module):
    """In float64, with nothing left at 0 that starts there."""
    with torch.no_grad():
        for name, p in module.double().named_parameters():
            if name.endswith(("bias", "noise_strength")):
                p.add_(torch.randn_like(p) * (0.3 / LR if name.startswith("mapping") else 0.3))
        for name, b in module.named_buffers():
            if name.endswith("w_avg"):
                b.normal_()
    return module


def generator(size=16, **options):
    dims = [options.pop(name, default) for name, default in (("s_dim", 3), ("c_dim", 2), ("channels", 3))]
    return stirred(StyleGAN2Generator(size, *dims, replace(SETTINGS, **options)))


def discriminator(size=16, **options):
    return stirred(StyleGAN2Discriminator(size, options.pop("channels", 3), replace(SETTINGS, **options)))


def inputs(n, dtype=torch.float64):
    return normal(n, DIMS["s_dim"], seed=1, dtype=dtype), normal(n, DIMS["c_dim"], seed=2, dtype=dtype)


# ---- the formulas; p: the network's state dict


def filtered(x):
    """(1, 3, 3, 1)^2 / 64, without padding."""
    h, w = x.shape[2] - 3, x.shape[3] - 3
    return sum(a * b * x[:, :, i : i + h, j : j + w] for i, a in enumerate(TAPS) for j, b in enumerate(TAPS))


def upsampled(x, more=0):
    """[N, C, 2 H + 2 more, 2 W + 2 more]: the filter's tail goes on beyond the image."""
    y = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    y[:, :, ::2, ::2] = x
    return 4 * filtered(F.pad(y, (2 + more, 1 + more, 2 + more, 1 + more)))


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def limited(x, bound):
    return x if bound is None else x.clamp(-bound, bound)


def dense(p, name, x, lr=1.0):
    weight = p[f"{name}.weight"]
    return x @ (weight * lr / math.sqrt(weight.shape[1])).T + lr * p[f"{name}.bias"]


def mapped(p, s, c):
    x = s / (s.square().mean(1, keepdim=True) + 1e-8).sqrt()
    x = x if c is None else torch.cat([x, c], 1)
    for i in range(DIMS["mapping_layers"]):
        x = lrelu(dense(p, f"mapping.fc{i}", x, LR))
    return x


def per_sample(x, weight):
    """x [N, I, H, W] correlated with weight [N, O, I, k, k], without padding."""
    n, o = weight.shape[:2]
    return F.conv2d(x.flatten(0, 1)[None], weight.flatten(0, 1), groups=n)[0].unflatten(0, (n, o))


def styled(p, name, x, w, noise, up, gain, bound):
    weight = p[f"{name}.weight"] * dense(p, f"{name}.affine", w)[:, None, :, None, None]
    weight = weight / (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    y = per_sample(upsampled(x, 1) if up else F.pad(x, (1, 1, 1, 1)), weight)
    noise = p[f"{name}.noise_const"] if noise is None else noise.reshape(len(y), 1, *y.shape[2:])
    y = y + noise * p[f"{name}.noise_strength"] + p[f"{name}.bias"][:, None, None]
    return limited(lrelu(y) * gain, bound if bound is None else bound * gain)


def to_rgb(p, name, x, w, bound):
    weight = p[f"{name}.weight"] * dense(p, f"{name}.affine", w)[:, None, :, None, None] / math.sqrt(x.shape[1])
    return limited(per_sample(x, weight) + p[f"{name}.bias"][:, None, None], bound)


def synthesized(p, size, w, code, noise, residual, bounds):
    """w [N, num_ws, w_dim]; code: resolution -> what joins w there; bounds: resolution -> clamp."""
    levels = [4 << i for i in range(size.bit_length() - 2)]
    parts = iter([None] * 99)
    if noise is not None:
        pixels = [16, *(r * r for r in levels[1:] for _ in range(2))]
        assert sum(pixels) == noise.shape[1]
        parts = iter(noise.split(pixels, 1))
    x = image = None
    for k, r in enumerate(levels):
        name, bound = f"synthesis.b{r}", bounds.get(r)
        ws = [torch.cat([w[:, i], code[r]], 1) if r in code else w[:, i] for i in range(w.shape[1])]
        if r == 4:
            x = p[f"{name}.const"].expand(len(w), -1, -1, -1)
            x = styled(p, f"{name}.conv1", x, ws[0], next(parts), False, 1.0, bound)
        else:
            gain = math.sqrt(0.5) if residual else 1.0
            before = x
            x = styled(p, f"{name}.conv0", x, ws[2 * k - 1], next(parts), True, 1.0, bound)
            x = styled(p, f"{name}.conv1", x, ws[2 * k], next(parts), False, gain, bound)
            if residual:
                weight = p[f"{name}.skip.weight"] / math.sqrt(before.shape[1])
                x = x + F.conv2d(upsampled(before), weight) * math.sqrt(0.5)
        if r == size or not residual:
            rgb = to_rgb(p, f"{name}.torgb", x, ws[2 * k + 1], bound)
            image = rgb if image is None else upsampled(image) + rgb
    return image


def conv(p, name, x, bound=None):
    """Padded, with lrelu."""
    weight = p[f"{name}.weight"]
    k = weight.shape[2]
    y = F.conv2d(x, weight / math.sqrt(weight.shape[1] * k * k), padding=k // 2)
    return limited(lrelu(y + p[f"{name}.bias"][:, None, None]), bound)


def discriminated(p, size, x, bounds):
    x, half = conv(p, f"b{size}.fromrgb", x, bounds.get(size)), math.sqrt(0.5)
    r = size
    while r > 4:
        bound = bounds.get(r)
        skip = p[f"b{r}.skip.weight"] / math.sqrt(x.shape[1])
        shortcut = F.conv2d(filtered(F.pad(x, (1, 1, 1, 1)))[:, :, ::2, ::2], skip) * half
        weight = p[f"b{r}.conv1.weight"]
        y = filtered(F.pad(conv(p, f"b{r}.conv0", x, bound), (2, 2, 2, 2)))
        y = F.conv2d(y, weight / math.sqrt(weight.shape[1] * 9), stride=2) + p[f"b{r}.conv1.bias"][:, None, None]
        x = shortcut + limited(lrelu(y) * half, bound and bound * half)
        r //= 2
    groups = {1: 1, 3: 1, 4: 1, 6: 2}[len(x)]  # of 1, 3, 4 and 3 samples
    statistic = torch.empty(len(x), 1, 4, 4, dtype=x.dtype)
    for group in range(groups):
        members = x[group::groups]
        statistic[group::groups] = (members.var(0, unbiased=False) + 1e-8).sqrt().mean()
    y = lrelu(dense(p, "b4.fc", conv(p, "b4.conv", torch.cat([x, statistic], 1)).flatten(1)))
    return dense(p, "b4.out", y)[:, 0]


# ---- whole networks

NETWORKS = [  # size, batch, architecture, code, code_from, code_to, the resolutions that take it, low_precision_levels
    (8, 1, "skip", "style", 4, 1024, (4, 8), 0),
    (8, 4, "residual", "mapping", 4, 1024, (), 2),
    (16, 3, "skip", "style", 8, 8, (8,), 1),
    (16, 6, "skip", "style", 4, 8, (4, 8), 2),
    (16, 4, "skip", "mapping", 4, 8, (), 4),
    (16, 1, "residual", "style", 16, 1024, (16,), 1),
    (16, 3, "residual", "style", 4, 1024, (4, 8, 16), 3),
]


@pytest.mark.parametrize(("size", "n", "architecture", "code", "start", "stop", "taking", "low"), NETWORKS)
def test_generator_against_its_formula(monkeypatch, size, n, architecture, code, start, stop, taking, low):
    bound = 0.8
    monkeypatch.setattr(stylegan2, "CLAMP", bound)
    options = {"architecture": architecture, "code": code, "code_from": start, "code_to": stop}
    g = generator(size, **options, low_precision_levels=low)
    p, (s, c) = g.state_dict(), inputs(n)
    levels = [4 << i for i in range(size.bit_length() - 2)]
    bounds = dict.fromkeys(levels[max(len(levels) - low, 0) :], bound)
    more = (dict.fromkeys(taking, c), None, architecture == "residual")
    w = mapped(p, s, c if code == "mapping" else None)
    ws = normal(n, 2 * len(levels), DIMS["w_dim"], seed=3)
    noise = normal(n, g.synthesis.noise_numel, seed=4)
    with torch.no_grad():
        assert g.num_ws == ws.shape[1]
        torch.testing.assert_close(g.map(s, c), w, **CLOSE)
        expected = synthesized(p, size, w[:, None].expand_as(ws), *more, bounds)
        assert expected.shape == (n, 3, size, size)
        torch.testing.assert_close(g(s, c), expected, **CLOSE)
        assert torch.equal(g(s, c), g(s, c))
        if low:
            free = synthesized(p, size, w[:, None].expand_as(ws), *more, {})
            assert (free - expected).abs().max() > 0.05  # the clamp binds
        expected = synthesized(p, size, ws, more[0], noise, more[2], bounds)
        torch.testing.assert_close(g.synthesize(ws, c, noise), expected, **CLOSE)


@pytest.mark.parametrize(("size", "n", "low"), [(8, 1, 0), (8, 6, 1), (16, 3, 1), (16, 4, 2), (16, 6, 0), (16, 1, 4)])
def test_discriminator_against_its_formula(monkeypatch, size, n, low):
    bound = 0.8
    monkeypatch.setattr(stylegan2_discriminator, "CLAMP", bound)
    d, x = discriminator(size, low_precision_levels=low), normal(n, 3, size, size, seed=5)
    bounds = {size >> i: bound for i in range(low)}
    with torch.no_grad():
        expected = discriminated(d.state_dict(), size, x, bounds)
        torch.testing.assert_close(d(x), expected, **CLOSE)
        if low:
            assert (discriminated(d.state_dict(), size, x, {}) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(("truncation", "architecture"), [(0.0, "skip"), (0.6, "residual")])
def test_truncation_draws_w_towards_its_average(truncation, architecture):
    g = generator(architecture=architecture)
    p, (s, c) = g.state_dict(), inputs(3)
    w = p["mapping.w_avg"] + truncation * (mapped(p, s, None) - p["mapping.w_avg"])
    codes = dict.fromkeys((4, 8, 16), c)
    expected = synthesized(p, 16, w[:, None].expand(-1, 6, -1), codes, None, architecture == "residual", {})
    with torch.no_grad():
        torch.testing.assert_close(g(s, c, truncation=truncation), expected, **CLOSE)
        same = torch.equal(g(s, c, truncation=truncation), g(s + 1, c, truncation=truncation))
        assert same == (truncation == 0)
        assert not torch.equal(g(s, c), g(s + 1, c))
        assert torch.equal(g(s, c, truncation=1.0), g(s, c))


# ---- sizes and the start


def test_parameter_counts_are_the_published_ones():
    assert millions(StyleGAN2Generator(256, c_dim=0)) == "24.77"
    assert millions(StyleGAN2Generator(1024, c_dim=0, config=StyleGAN2Config(channel_base=32768))) == "30.37"
    assert millions(StyleGAN2Discriminator(1024, config=StyleGAN2Config(channel_base=32768))) == "29.01"


@pytest.mark.parametrize("architecture", ["skip", "residual"])
def test_initial_statistics(architecture):
    config = StyleGAN2Config(channel_base=1024, channel_max=64, w_dim=64, architecture=architecture)
    g, d = StyleGAN2Generator(16, s_dim=64, c_dim=8, config=config), StyleGAN2Discriminator(16, config=config)
    for name, p in [*g.named_parameters(), *d.named_parameters()]:
        if name.endswith("affine.bias"):
            assert (p == 1).all(), name
        elif name.endswith(("bias", "noise_strength")):
            assert not p.any(), name
        else:
            scale = 1 / LR if name.startswith("mapping") else 1
            assert abs(p.mean().item()) < 5 * scale / p.numel() ** 0.5, name
            assert p.std().item() == pytest.approx(scale, rel=5 / (2 * p.numel()) ** 0.5), name
    assert all(layer.noise_const.std() > 0.6 for layer in g.modules() if hasattr(layer, "noise_const"))
    assert not g.mapping.w_avg.any()


@pytest.mark.parametrize("size", [0, 4, 12, 100])
@pytest.mark.parametrize("network", [StyleGAN2Generator, StyleGAN2Discriminator])
def test_a_wrong_size_is_named(network, size):
    with pytest.raises(ValueError, match=rf"^size must be a power of two of at least 8, got {size}$"):
        network(size)


# ---- ways of computing


@pytest.mark.parametrize("network", [StyleGAN2Generator, StyleGAN2Discriminator])
def test_networks_move_to_other_types(network):
    module = network(8, config=StyleGAN2Config(**SMALL)).double()
    given = (normal(1, 512), normal(1, 20)) if network is StyleGAN2Generator else (normal(1, 3, 8, 8),)
    assert module(*given).dtype == torch.float64


@pytest.mark.parametrize("network", [StyleGAN2Generator, StyleGAN2Discriminator])
def test_networks_are_made_on_the_meta_device(network):
    with torch.device("meta"):
        network(8, config=StyleGAN2Config(**SMALL))


def gradients(y, of):
    return torch.autograd.grad(y, of, retain_graph=True, materialize_grads=True)


def path_length(g, images_of):
    """The images of w, a gradient by w, and the gradients of its square by w and every weight."""
    ws = normal(3, 6, DIMS["w_dim"], seed=3).requires_grad_()
    images = images_of(ws, inputs(3)[1], normal(3, g.synthesis.noise_numel, seed=4))
    against = (images * normal(*images.shape, seed=6)).sum()
    (slope,) = torch.autograd.grad(against, ws, create_graph=True)
    of = [ws, *g.synthesis.parameters()]
    return [images, *gradients(against, of), *gradients(slope.square().sum(), of)]


def r1(d, logits_of):
    """The logits, a gradient by the images, and the gradients of its square by images and weights."""
    x = normal(6, 3, 16, 16, seed=5).requires_grad_()
    logits = logits_of(x)
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    of = [x, *d.parameters()]
    return [logits, *gradients(logits.square().sum(), of), *gradients(slope.square().sum(), of)]


@pytest.mark.parametrize("architecture", ["skip", "residual"])
def test_gradients_of_both_orders_with_and_without_recomputation(architecture):
    g, again = (generator(architecture=architecture, recompute=recompute) for recompute in (False, True))
    again.load_state_dict(g.state_dict())
    p, residual = g.state_dict(keep_vars=True), architecture == "residual"
    formula = path_length(
        g, lambda w, c, noise: synthesized(p, 16, w, dict.fromkeys((4, 8, 16), c), noise, residual, {})
    )
    assert sum(t.any().item() for t in formula) > 0.9 * len(formula)
    for module in (g, again):
        for a, b in zip(path_length(module, module.synthesize), formula, strict=True):
            torch.testing.assert_close(a, b, **ROUGHLY)


def test_gradients_of_the_discriminator_with_and_without_recomputation():
    d, again = discriminator(), discriminator(recompute=True)
    again.load_state_dict(d.state_dict())
    formula = r1(d, lambda x: discriminated(d.state_dict(keep_vars=True), 16, x, {}))
    for module in (d, again):
        for a, b in zip(r1(module, module), formula, strict=True):
            torch.testing.assert_close(a, b, **ROUGHLY)


@pytest.mark.parametrize("architecture", ["skip", "residual"])
def test_channels_last_changes_nothing(architecture):
    g, d, (s, c) = generator(architecture=architecture), discriminator(), inputs(3)
    with torch.no_grad():
        images = g(s, c)
        logits = d(images.contiguous())
        last = torch.channels_last
        torch.testing.assert_close(g.to(memory_format=last)(s, c), images, **CLOSE)
        torch.testing.assert_close(d.to(memory_format=last)(images.contiguous(memory_format=last)), logits, **CLOSE)


@pytest.mark.parametrize("architecture", ["skip", "residual"])
@pytest.mark.parametrize("recompute", [False, True])
def test_autocast_spares_the_low_resolutions(architecture, recompute):
    options = {"low_precision_levels": 1, "recompute": recompute}
    g = generator(architecture=architecture, **options).float()
    d, (s, c) = discriminator(**options).float(), inputs(4, torch.float32)
    images = g(s, c)
    logits = d(images.detach())
    types: dict[str, torch.dtype] = {}
    blocks = {**{f"G b{b.size}": b for b in g.synthesis.blocks()}, "D b16": d.b16, "D b8": d.b8, "D b4": d.b4}
    for name, block in blocks.items():
        block.register_forward_hook(
            lambda _, __, out, name=name: types.update({name: (out[0] if isinstance(out, tuple) else out).dtype})
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low_images = g(s, c)
        low_logits = d(images.detach())
        low_images.square().mean().backward()
        low_logits.sum().backward()
    half = {"G b16", "D b16"}
    assert types == {name: torch.bfloat16 if name in half else torch.float32 for name in blocks}
    for low, full in ((low_images, images), (low_logits, logits)):
        assert low.dtype == torch.float32
        assert 0 < (low - full).abs().max() < 0.05 * full.abs().max()
    assert all(p.grad.isfinite().all() for m in (g, d) for p in m.parameters())

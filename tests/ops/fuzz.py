"""Random cases of every low-level operator: the kernels of one backend against the plain twins.

`kernels` is torch.ops.idgan_fast or torch.ops.idgan_fast_triton, `count` the number of cases.
"""

import importlib
import itertools
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from idgan_fast.ops import bias_lrelu
from idgan_fast.ops._resampling import output_size
from idgan_fast.ops.bias_act import OPERATOR as BIAS_ACT
from idgan_fast.ops.layer import styled_epilogue
from idgan_fast.ops.upfirdn2d import reference

filtered_lrelu = importlib.import_module("idgan_fast.ops.filtered_lrelu")  # the module, not the function

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Of a result that is rounded once, relative to the largest value, and of sums in float32.
ROUNDING = {torch.float32: 4e-6, torch.float64: 1e-13, torch.bfloat16: 8e-3, torch.float16: 1e-3}
SUMS = {torch.float64: 1e-12}
FACTORS = [((1, 1), (1, 1)), ((2, 2), (1, 1)), ((1, 1), (2, 2)), ((3, 2), (2, 1)), ((1, 2), (3, 3)), ((4, 4), (1, 1))]


def image(rng: random.Random, dtype: torch.dtype) -> Tensor:
    large = rng.random() < 0.3
    n = rng.choice([0, 1, 2, 3] if rng.random() < 0.1 else [1, 2])
    c = rng.choice([1, 2, 3, 16, 20, 32, 40] if large else [1, 2, 3, 16, 20, 32, 40, 150, 272])
    x = torch.randn(n, c, rng.randint(1, 50 if large else 7), rng.randint(1, 70 if large else 7)).to(dtype)
    layout = rng.random()
    if layout < 0.5:
        return x.contiguous(memory_format=torch.channels_last)
    return x.transpose(2, 3) if layout < 0.6 else x


def filters(rng: random.Random) -> Tensor | None:
    sizes = [rng.randint(1, 6) for _ in range(4)]
    kind = rng.randrange(4)
    if kind == 0:
        return None
    if kind == 1:
        return torch.randn(rng.choice([*range(1, 10), 12, 24]))
    return torch.randn(sizes[0], sizes[1]) if kind == 2 else torch.outer(torch.randn(sizes[2]), torch.randn(sizes[3]))


def four_taps(rng: random.Random) -> Tensor:
    """The filter of StyleGAN's layers, and others of its size, separable and not."""
    usual = torch.outer(*[torch.tensor([1.0, 3.0, 3.0, 1.0])] * 2) / 64
    return rng.choice([usual, torch.randn(4), torch.randn(4, 4), torch.outer(torch.rand(4), torch.rand(4))])


def assert_same(got: Tensor, wanted: Tensor, tolerance: float, what: Any) -> None:
    assert got.shape == wanted.shape, what
    assert got.dtype == wanted.dtype, what
    for a, b, size in zip(got.stride(), wanted.stride(), wanted.shape, strict=True):
        assert a == b or size <= 1 or not wanted.numel(), what
    if wanted.numel():
        scale = wanted.double().abs().max().clamp_min(1.0)
        error = ((got.double() - wanted.double()).abs().max() / scale).item()
        assert error <= tolerance, (what, error)


def some_axes(x: Tensor, rng: random.Random) -> Tensor:
    """An image, or a tensor of 1, 2, 3 or 5 axes."""
    others = (x.flatten(), x.mean((2, 3)), x.flatten(2), x[:, :, None])
    return x if rng.random() < 0.7 else rng.choice(others)


def option(rng: random.Random, t: Tensor) -> Tensor | None:
    return t if rng.random() < 0.7 else None


def check_bias_lrelu(kernels: Any, dtype: torch.dtype, count: int) -> None:
    rng = random.Random(1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for _ in range(count):
        x = some_axes(image(rng, dtype), rng)
        dim = rng.randrange(x.ndim)
        b = option(rng, torch.randn(x.shape[dim], dtype=wide))
        clamp = rng.choice([None, 0.75])
        numbers = (dim, rng.choice([0.2, 1.0, 0.0]), rng.choice([1.4, -0.7]), clamp)
        what = (x.shape, x.stride(), numbers)
        y = bias_lrelu._forward_reference(x, b, *numbers)
        assert_same(kernels.bias_lrelu_fwd(x, b, *numbers), y, ROUNDING[dtype], what)
        dy, want_db = torch.randn_like(y), rng.random() < 0.7
        got = kernels.bias_lrelu_bwd(dy, y, *numbers, want_db)
        wanted = bias_lrelu._backward_reference(dy, y, *numbers, want_db)
        assert_same(got[0], wanted[0], ROUNDING[dtype], what)
        assert_same(got[1], wanted[1], SUMS.get(dtype, 2e-5), what)


def check_bias_act(kernels: Any, act: str, dtype: torch.dtype, count: int) -> None:
    rng = random.Random(4)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    # All pairs of them in turn, since six cases drawn at random may miss a clamp that binds. Tanh times 0.7 reaches it.
    pairs = itertools.cycle(itertools.product([0.6, None], [1.4, -0.7, 0.0]))
    for clamp, gain in itertools.islice(pairs, count):
        x = some_axes(image(rng, dtype), rng)
        dim = rng.randrange(x.ndim)
        b = option(rng, torch.randn(x.shape[dim], dtype=wide))
        numbers = (dim, act, rng.choice([0.2, -0.5, 0.0]), gain, clamp)
        what = (x.shape, x.stride(), numbers)
        y = BIAS_ACT.custom_ops[0].reference(x, b, *numbers)
        assert_same(kernels.bias_act_fwd(x, b, *numbers), y, ROUNDING[dtype], what)
        dy, want_db = torch.randn(x.shape).to(dtype), rng.random() < 0.7
        got = kernels.bias_act_bwd(dy, x, b, *numbers, want_db)
        wanted = BIAS_ACT.custom_ops[1].reference(dy, x, b, *numbers, want_db)
        assert_same(got[0], wanted[0], ROUNDING[dtype], what)
        assert_same(got[1], wanted[1], SUMS.get(dtype, 2e-5), what)
        ddx, ddb = torch.randn(x.shape).to(dtype), option(rng, torch.randn(x.shape[dim], dtype=wide))
        got = kernels.bias_act_bwd2(ddx, ddb, dy, x, b, *numbers, want_db)
        wanted = BIAS_ACT.custom_ops[2].reference(ddx, ddb, dy, x, b, *numbers, want_db)
        for i in range(2):
            assert_same(got[i], wanted[i], ROUNDING[dtype], what)
        assert_same(got[2], wanted[2], SUMS.get(dtype, 2e-5), what)


def check_weight_square_sum(kernels: Any, dtype: torch.dtype, count: int) -> None:
    rng = random.Random(5)
    for _ in range(count):
        o, i = rng.choice([0, 1, 3, 16, 37]), rng.choice([1, 2, 17, 40, 1030])
        weight = torch.randn(o, i, rng.choice([1, 3, 5]), rng.choice([1, 3, 4, 7])).to(dtype)
        layout = rng.randrange(3)
        if layout > 0:
            weight = weight.contiguous(memory_format=torch.channels_last) if layout == 1 else weight.transpose(0, 1)
        wanted = weight.double().square().sum((2, 3)).to(torch.promote_types(dtype, torch.float32))
        tolerance = 1e-13 if dtype == torch.float64 else 1e-6
        assert_same(kernels.weight_square_sum(weight), wanted.contiguous(), tolerance, (weight.shape, weight.stride()))


def check_winograd_conv2d(kernels: Any, dtype: torch.dtype, count: int) -> None:
    """In both layouts, with weights of any strides; the limit on float32 is that of 150 channels."""
    rng = random.Random(6)
    for _ in range(count):
        x = image(rng, dtype)
        o, c = rng.choice([1, 5, 16, 31, 32, 33, 64, 70]), x.shape[1]
        weight = torch.randn(o, c, 3, 3).to(dtype) / (3 * c**0.5)
        layout = rng.randrange(4)
        if layout == 1:
            weight = weight.contiguous(memory_format=torch.channels_last)
        elif layout > 1:
            weight = weight.transpose(0, 1).contiguous().transpose(0, 1)
            weight = weight if layout == 2 else weight.transpose(2, 3)
        y = torch.nn.functional.conv2d(x.double(), weight.double(), padding=1).to(dtype)
        wanted = torch.empty_like(y, memory_format=torch.channels_last).copy_(y)
        assert_same(kernels.winograd_conv2d(x, weight), wanted, ROUNDING[dtype], (x.shape, x.stride(), weight.stride()))


def check_upfirdn2d(kernels: Any, dtype: torch.dtype, count: int) -> None:
    rng = random.Random(2)
    done = 0
    while done < count:
        x, f = image(rng, dtype), filters(rng)
        up, down = rng.choice(FACTORS)
        numbers = (up, down, [rng.randint(-3, 5) for _ in range(4)], rng.random() < 0.5, rng.choice([1.0, -2.5]))
        if min(output_size(x.shape, f, *numbers[:3])) < 1:
            continue
        done += 1
        what = (x.shape, x.stride(), None if f is None else f.shape, numbers)
        wanted = reference(x, f, *numbers)
        assert_same(kernels.upfirdn2d(x, f, *numbers), wanted, ROUNDING[dtype], what)


def check_four_taps(kernels: Any, dtype: torch.dtype, count: int) -> None:
    """upfirdn2d of the filters and factors of StyleGAN's layers."""
    rng = random.Random(7)
    done = 0
    while done < count:
        x, f = image(rng, dtype), four_taps(rng)
        up, down = rng.choice(FACTORS[:3])
        numbers = (up, down, [rng.randint(-3, 5) for _ in range(4)], rng.random() < 0.5, rng.choice([1.0, -2.5]))
        if min(output_size(x.shape, f, *numbers[:3])) < 1:
            continue
        done += 1
        assert_same(kernels.upfirdn2d(x, f, *numbers), reference(x, f, *numbers), ROUNDING[dtype], (x.shape, numbers))


def check_styled_epilogue(
    kernels: Any, dtype: torch.dtype, count: int, phased: bool = True, draw: Callable[..., Any] = filters
) -> None:
    """phased: whether the kernels take y as its phases too. draw: gives a filter."""
    rng = random.Random(3)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    done = 0
    while done < count:
        y, f = image(rng, dtype), draw(rng)
        padding = [rng.randint(-1, 3) if rng.random() < 0.9 else 40 for _ in range(4)]
        out = y.shape[2:] if f is None else output_size(y.shape, f, (1, 1), (1, 1), padding)
        kept = [y.shape[3 - i] + min(padding[2 * i], 0) + min(padding[2 * i + 1], 0) for i in (0, 1)]
        if min(*out, *kept) < 1:
            continue
        n, c = y.shape[:2]
        noise = option(rng, torch.randn(rng.choice([1, n]), 1, *out, dtype=wide))
        tensors = (
            f,
            option(rng, torch.randn(n, c, dtype=wide)),
            noise,
            None if noise is None else option(rng, torch.randn((), dtype=wide)),
            option(rng, torch.randn(c, dtype=wide)),
            option(rng, torch.randn(n, c, dtype=wide).relu()),  # zeros too, which hide the sign of z
        )
        clamp = rng.choice([None, 0.75])
        numbers = (padding, 1.5, rng.choice([1.0, 0.0, 0.2]), rng.choice([1.4, -0.7]), clamp)
        what = (y.shape, y.stride(), [None if t is None else t.shape for t in tensors], numbers)
        parts = styled_epilogue.phases(y, 4 if phased and min(y.shape[2:]) > 1 and rng.random() < 0.4 else 1)
        # Computed again in the backward pass, a value within rounding of a kink may fall on its other side.
        exact = [None if t is None else t.double() for t in (y, *tensors[1:5])]
        epilogue = styled_epilogue.Epilogue(f, *exact[1:], None, *numbers[:4])
        v = styled_epilogue.pre_activation(styled_epilogue.filtered(exact[0], epilogue), epilogue)
        sides = (v, styled_epilogue.activation(v, epilogue).abs() - (clamp or 0))
        if tensors[5] is not None and v.numel() and min(side.abs().min() for side in sides) < 3e-6:
            continue
        done += 1
        z = styled_epilogue.forward_reference(parts, *tensors, *numbers)
        assert_same(kernels.styled_epilogue_fwd(parts, *tensors, *numbers), z, 2 * ROUNDING[dtype], what)
        want = [int(t is not None and rng.random() < 0.8) for t in tensors[1:]]
        dout = torch.randn_like(z)
        got = kernels.styled_epilogue_bwd(dout, parts, z, *tensors, *numbers, want)
        wanted = styled_epilogue.backward_reference(dout, parts, z, *tensors, *numbers, want)
        for a, b in zip(got[0], wanted[0], strict=True):
            assert_same(a, b, 2 * ROUNDING[dtype], what)
        # From float64, since a sum that cancels is no nearer to it in plain torch.
        exact = [None if t is None else t.double() for t in tensors[1:]]
        whole = [part.double() for part in parts]
        sums = styled_epilogue.backward_reference(dout.double(), whole, z.double(), f, *exact, *numbers, want)
        for a, b in zip(got[1:], sums[1:], strict=True):
            assert_same(a, b.to(wide), SUMS.get(dtype, 2e-5), what)


def check_filtered_lrelu(kernels: Any, dtype: torch.dtype, count: int) -> None:
    rng = random.Random(4)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    done = 0
    while done < count:
        x, fu, fd = image(rng, dtype), filters(rng), filters(rng)
        up, down = ([rng.choice([1, 2, 2, 3, 4]) for _ in range(2)] for _ in range(2))
        padding = [rng.randint(-3, 8) if rng.random() < 0.9 else 30 for _ in range(4)]
        middle = output_size(x.shape, fu, up, (1, 1), padding)
        if min(middle) < 1 or min(output_size((*x.shape[:2], *middle), fd, (1, 1), down, [0] * 4)) < 1:
            continue
        b = option(rng, torch.randn(x.shape[1], dtype=wide))
        gain, slope, clamp = rng.choice([1.4, -0.7]), rng.choice([0.2, 1.0, 0.0, -0.3]), rng.choice([None, 0.75])
        flip, want = rng.random() < 0.5, rng.random() < 0.8
        # The codes of values within rounding of a kink may differ.
        v = x.double() + (0 if b is None else b.double()[:, None, None])
        u = reference(v, fu, up, (1, 1), padding, flip, up[0] * up[1])
        z = bias_lrelu.lrelu(u, slope) * gain
        if u.numel():
            near = (u.abs() < 2e-6 * u.abs().max()) & (u != 0)
            if clamp is not None:
                near |= (z.abs() - clamp).abs() < 2e-6 * max(clamp, z.abs().max().item())
            if near.any():
                continue
        done += 1
        numbers = (up, down, padding, gain, slope, clamp, flip)
        what = (x.shape, x.stride(), [None if t is None else t.shape for t in (b, fu, fd)], numbers)
        y, codes = filtered_lrelu._forward_reference(x, b, fu, fd, *numbers, want)
        got, got_codes = kernels.filtered_lrelu_fwd(x, b, fu, fd, *numbers, want)
        assert_same(got, y, 2 * ROUNDING[dtype], what)
        assert got_codes.stride() == codes.stride(), what
        assert torch.equal(got_codes, codes), what
        if not want:
            continue
        down_padding = [rng.randint(0, 4) for _ in range(4)]
        numbers = (middle, fu, fd, up, down, padding, down_padding, gain, slope, flip)
        wanted = filtered_lrelu._linear_reference(x, codes, *numbers)
        assert_same(kernels.filtered_lrelu_linear(x, codes, *numbers), wanted, 2 * ROUNDING[dtype], what)

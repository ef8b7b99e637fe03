"""The compiled CPU kernels against their plain twins, on every instruction set that this processor has."""

import importlib
import os
import random
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import setuptools
import torch
from torch import Tensor

from idgan_fast.ops import _dispatch, bias_lrelu, styled_epilogue
from idgan_fast.ops.bias_act import LOW_LEVEL as BIAS_ACT
from idgan_fast.ops.bias_act import activation_funcs
from idgan_fast.ops.upfirdn2d import output_size, reference

filtered_lrelu = importlib.import_module("idgan_fast.ops.filtered_lrelu")  # the module, not the function
NATIVE = torch.ops.idgan_fast
ROOT = Path(__file__).parents[2]
ACTIVATIONS = Path(__file__).with_name("test_activations.py")
SET = os.environ.get("IDGAN_FAST_CPU")
pytestmark = pytest.mark.skipif(_dispatch._no_cpu_library is not None, reason=str(_dispatch._no_cpu_library))

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Of a result that is rounded once, relative to the largest value, and of sums in float32.
ROUNDING = {torch.float32: 4e-6, torch.float64: 1e-13, torch.bfloat16: 8e-3, torch.float16: 1e-3}
SUMS = {torch.float64: 1e-12}
FACTORS = [((1, 1), (1, 1)), ((2, 2), (1, 1)), ((1, 1), (2, 2)), ((3, 2), (2, 1)), ((1, 2), (3, 3)), ((4, 4), (1, 1))]


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan() -> Iterator[None]:
    """torch fills new tensors with NaN, so that an element that a kernel leaves out is seen."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_bias_lrelu(dtype: torch.dtype) -> None:
    rng = random.Random(1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for _ in range(150):
        x = some_axes(image(rng, dtype), rng)
        dim = rng.randrange(x.ndim)
        b = option(rng, torch.randn(x.shape[dim], dtype=wide))
        clamp = rng.choice([None, 0.75])
        numbers = (dim, rng.choice([0.2, 1.0, 0.0]), rng.choice([1.4, -0.7]), clamp)
        what = (x.shape, x.stride(), numbers)
        y = bias_lrelu._forward_reference(x, b, *numbers)
        assert_same(NATIVE.bias_lrelu_fwd(x, b, *numbers), y, ROUNDING[dtype], what)
        dy, want_db = torch.randn_like(y), rng.random() < 0.7
        got = NATIVE.bias_lrelu_bwd(dy, y, *numbers, want_db)
        wanted = bias_lrelu._backward_reference(dy, y, *numbers, want_db)
        assert_same(got[0], wanted[0], ROUNDING[dtype], what)
        assert_same(got[1], wanted[1], SUMS.get(dtype, 2e-5), what)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", activation_funcs)
def test_kernels_bias_act(act: str, dtype: torch.dtype) -> None:
    rng = random.Random(4)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for _ in range(60):
        x = some_axes(image(rng, dtype), rng)
        dim = rng.randrange(x.ndim)
        b = option(rng, torch.randn(x.shape[dim], dtype=wide))
        numbers = (dim, act, rng.choice([0.2, -0.5, 0.0]), rng.choice([1.4, -0.7, 0.0]), rng.choice([None, 0.75]))
        what = (x.shape, x.stride(), numbers)
        y = BIAS_ACT[0].reference(x, b, *numbers)
        assert_same(NATIVE.bias_act_fwd(x, b, *numbers), y, ROUNDING[dtype], what)
        dy, want_db = torch.randn(x.shape).to(dtype), rng.random() < 0.7
        got = NATIVE.bias_act_bwd(dy, x, b, *numbers, want_db)
        wanted = BIAS_ACT[1].reference(dy, x, b, *numbers, want_db)
        assert_same(got[0], wanted[0], ROUNDING[dtype], what)
        assert_same(got[1], wanted[1], SUMS.get(dtype, 2e-5), what)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_kernel_energy(dtype: torch.dtype) -> None:
    rng = random.Random(5)
    for _ in range(60):
        o, i = rng.choice([0, 1, 3, 16, 37]), rng.choice([1, 2, 17, 40, 1030])
        weight = torch.randn(o, i, rng.choice([1, 3, 5]), rng.choice([1, 3, 4, 7])).to(dtype)
        layout = rng.randrange(3)
        if layout > 0:
            weight = weight.contiguous(memory_format=torch.channels_last) if layout == 1 else weight.transpose(0, 1)
        wanted = weight.double().square().sum((2, 3)).to(torch.promote_types(dtype, torch.float32))
        tolerance = 1e-13 if dtype == torch.float64 else 1e-6
        assert_same(NATIVE.kernel_energy(weight), wanted.contiguous(), tolerance, (weight.shape, weight.stride()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_upfirdn2d(dtype: torch.dtype) -> None:
    rng = random.Random(2)
    done = 0
    while done < 250:
        x, f = image(rng, dtype), filters(rng)
        up, down = rng.choice(FACTORS)
        numbers = (up, down, [rng.randint(-3, 5) for _ in range(4)], rng.random() < 0.5, rng.choice([1.0, -2.5]))
        if min(output_size(x.shape, f, *numbers[:3])) < 1:
            continue
        done += 1
        what = (x.shape, x.stride(), None if f is None else f.shape, numbers)
        wanted = reference(x, f, *numbers)
        assert_same(NATIVE.upfirdn2d(x, f, *numbers), wanted, ROUNDING[dtype], what)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_styled_epilogue(dtype: torch.dtype) -> None:
    rng = random.Random(3)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    done = 0
    while done < 200:
        y, f = image(rng, dtype), filters(rng)
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
        parts = styled_epilogue.phases(y, 4 if min(y.shape[2:]) > 1 and rng.random() < 0.4 else 1)
        # Computed again in the backward pass, a value within rounding of a kink may fall on its other side.
        exact = [None if t is None else t.double() for t in (y, *tensors[1:5])]
        u = styled_epilogue._filtered(exact[0], f, padding, False, 1.5)
        v = styled_epilogue._pre_activation(u, *exact[1:])
        sides = (v, styled_epilogue._activated(v, *numbers[2:4], None).abs() - (clamp or 0))
        if tensors[5] is not None and v.numel() and min(side.abs().min() for side in sides) < 3e-6:
            continue
        done += 1
        z = styled_epilogue._forward_reference(parts, *tensors, *numbers)
        assert_same(NATIVE.styled_epilogue_fwd(parts, *tensors, *numbers), z, 2 * ROUNDING[dtype], what)
        want = [int(t is not None and rng.random() < 0.8) for t in tensors[1:]]
        dout = torch.randn_like(z)
        got = NATIVE.styled_epilogue_bwd(dout, parts, z, *tensors, *numbers, want)
        wanted = styled_epilogue._backward_reference(dout, parts, z, *tensors, *numbers, want)
        for a, b in zip(got[0], wanted[0], strict=True):
            assert_same(a, b, 2 * ROUNDING[dtype], what)
        # From float64, since a sum that cancels is no nearer to it in plain torch.
        exact = [None if t is None else t.double() for t in tensors[1:]]
        whole = [part.double() for part in parts]
        sums = styled_epilogue._backward_reference(dout.double(), whole, z.double(), f, *exact, *numbers, want)
        for a, b in zip(got[1:], sums[1:], strict=True):
            assert_same(a, b.to(wide), SUMS.get(dtype, 2e-5), what)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_filtered_lrelu(dtype: torch.dtype) -> None:
    rng = random.Random(4)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    done = 0
    while done < 150:
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
        got, got_codes = NATIVE.filtered_lrelu_fwd(x, b, fu, fd, *numbers, want)
        assert_same(got, y, 2 * ROUNDING[dtype], what)
        assert got_codes.stride() == codes.stride(), what
        assert torch.equal(got_codes, codes), what
        if not want:
            continue
        down_padding = [rng.randint(0, 4) for _ in range(4)]
        numbers = (middle, fu, fd, up, down, padding, down_padding, gain, slope, flip)
        wanted = filtered_lrelu._linear_reference(x, codes, *numbers)
        assert_same(NATIVE.filtered_lrelu_linear(x, codes, *numbers), wanted, 2 * ROUNDING[dtype], what)


def test_kernels_keep_infinities_to_their_pixels() -> None:
    """Lanes without a pixel and rows that no tap meets must not multiply an infinity by zero."""
    numbers = ([0, 0, 0, 0], 1.0, 0.2, 1.0, 256.0)
    for shape in ((1, 1, 3, 3), (2, 3, 5, 7)):
        y = torch.rand(shape) + 1
        ones, inf = torch.ones(shape[:2]), torch.full(shape[:2], torch.inf)
        noise = torch.rand(1, 1, *shape[2:])
        for tensors in (
            (None, inf, None, None, None, ones),
            (None, None, noise, torch.tensor(torch.inf), None, ones),
            (None, None, None, None, inf[0], ones),
        ):
            z = styled_epilogue._forward_reference([y], *tensors, *numbers)
            want = [int(t is not None) for t in tensors[1:]]
            for layout in (torch.contiguous_format, torch.channels_last):
                images = [t.contiguous(memory_format=layout) for t in (y, z)]
                arguments = (torch.ones_like(images[1]), images[:1], images[1], *tensors, *numbers, want)
                got, wanted = NATIVE.styled_epilogue_bwd(*arguments), styled_epilogue._backward_reference(*arguments)
                for a, b in zip((*got[0], *got[1:]), (*wanted[0], *wanted[1:]), strict=True):
                    assert torch.allclose(a, b, equal_nan=True), (shape, tensors)
    x, f = torch.rand(1, 2, 6, 5), torch.rand(4)
    numbers = ([1, 1], [1, 1], [8, 8, 8, 8], 1.0, 0.2, 256.0, False)
    b = torch.tensor([torch.inf, 1.0])
    got, wanted = (
        filtered(x, b, f, f, *numbers, False)[0]
        for filtered in (NATIVE.filtered_lrelu_fwd, filtered_lrelu._forward_reference)
    )
    rows = [0, 1, -2, -1]  # only zeros from beside the image meet in these
    assert torch.equal(got[:, :, rows], wanted[:, :, rows])
    assert got[:, :, rows].eq(0).all()


def test_the_number_of_threads_changes_nothing() -> None:
    x = torch.randn(3, 40, 37, 41)
    noise, scale, b = torch.randn(1, 1, 37, 41), torch.randn(3, 40), torch.randn(40)
    f = torch.rand(4)
    tensors = (f, scale, noise, torch.randn(()), b, scale)
    numbers = ([2, 1, 2, 1], 1.0, 0.2, 1.4, 1.0)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = x.contiguous(memory_format=layout)
        outcomes = []
        threads = torch.get_num_threads()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y = NATIVE.bias_lrelu_fwd(x, b, 1, 0.2, 1.4, 1.0)
            z = NATIVE.styled_epilogue_fwd([x], *tensors, *numbers)
            dy, *others = NATIVE.styled_epilogue_bwd(z, [x], z, *tensors, *numbers, [1] * 5)
            outcomes.append(
                [
                    y,
                    *NATIVE.bias_lrelu_bwd(x, y, 1, 0.2, 1.4, 1.0, True),
                    NATIVE.bias_act_fwd(x, b, 1, "swish", 0.0, 1.4, 1.0),
                    *NATIVE.bias_act_bwd(y, x, b, 1, "swish", 0.0, 1.4, 1.0, True),
                    NATIVE.upfirdn2d(x, tensors[0], [2, 2], [1, 1], [2, 1, 2, 1], False, 4.0),
                    z,
                    *dy,
                    *others,
                    *NATIVE.filtered_lrelu_fwd(x, b, f, f, [2, 2], [2, 2], [3] * 4, 1.4, 0.2, 1.0, False, True),
                ]
            )
        torch.set_num_threads(threads)
        for other in outcomes[1:]:
            assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other, strict=True))


@pytest.mark.skipif(SET is not None, reason="runs the others")
@pytest.mark.parametrize("name", ["plain", "avx2", "avx512"])
def test_every_instruction_set(name: str) -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    if name != "plain" and not (capability == "AVX512" or (capability == "AVX2" and name == "avx2")):
        pytest.skip(f"this processor has {capability}")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "test_kernels", __file__, ACTIVATIONS],
        env={**os.environ, "IDGAN_FAST_CPU": name}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]
    assert "65 passed" in run.stdout


def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    code = "import torch; from idgan_fast import ops; ops.bias_act(torch.ones(1, 1), act='lrelu', impl='native')"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "IDGAN_FAST_CPU": "sse9"}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode != 0
    assert "IDGAN_FAST_CPU" in run.stderr


@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("nm") is None, reason="needs g++ and nm")
@pytest.mark.parametrize("name", ["plain", "avx2", "avx512"])
def test_no_symbol_of_an_instruction_set_can_replace_another(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weak symbols of a file built for AVX would be linked in for every processor."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    build = runpy.run_path(str(ROOT / "setup.py"))
    out = tmp_path / "isa.o"
    flags = [*build["COMMON"], f"-DIDGAN_SET={name}", "-fno-exceptions", *build["SETS"][name]]
    subprocess.run(["g++", *flags, "-c", ROOT / "csrc/cpu/isa.cpp", "-o", out], check=True)
    listing = subprocess.run(["nm", out], check=True, capture_output=True, text=True).stdout
    kinds = [line.split()[-2] for line in listing.splitlines()]
    assert kinds.count("D") == 1, "the table of kernels"
    assert not set(kinds) & {"W", "V", "w", "v", "u", "T", "B"}, listing

"""What every operator is held to. A check takes an operator, or a case of it, and raises where it does not hold."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from idgan_fast import ops
from idgan_fast.ops import _dispatch
from idgan_fast.ops._registry import OPERATORS, Case
from idgan_fast.ops.validation import numerics
from tests.ops import fuzz
from tests.ops.formulas import Array

F64 = torch.float64
NATIVE = torch.ops.idgan_fast
# The largest error, over the largest absolute value of the output.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

# Filters that no flip, transposition or exchange of axes leaves as they are.
LOPSIDED = (torch.tensor([0.2, 1.0, -0.5]), torch.tensor([[1.0, 0.3, -0.2, 0.7, 0.1], [0.4, -0.6, 0.9, 0.2, 0.5]]))

every_backend = pytest.mark.usefixtures("backend")


# Tensors


def normal(seed: int, *shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64, requires_grad=True)


def array(x: Tensor | None) -> Any:
    return None if x is None else x.detach().double().numpy()


def arranged(x: Tensor, layout: str) -> Tensor:
    """The same values with other strides."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 1), 7.0)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    return x.mT.contiguous().mT if layout == "transposed" else x.contiguous()


def meta_image(n: int, c: int) -> Tensor:
    """[n, c, 1024, 1024] without memory: more than 2^31 elements."""
    x = torch.empty(n, c, 1024, 1024, dtype=torch.bfloat16, device="meta")
    assert x.numel() > 2**31
    return x


# Values


def low_precision(test: Callable[..., None]) -> Callable[..., None]:
    """Parameters of a test: dtype and layout, all pairs."""
    test = pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "transposed"])(test)
    return pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)(test)


LOW_PRECISION_FILTERS = [None, ops.setup_filter([1, 3, 4, 1]), ops.setup_filter(range(1, 10), flip_filter=True)]


def matches_formula(out: Tensor, expected: Array, x: Tensor) -> None:
    """Shape, dtype and values are those of the formula, and channels_last is kept; x is the input."""
    assert tuple(out.shape) == expected.shape
    assert out.dtype == x.dtype
    scale = np.abs(expected).max(initial=1e-3)
    np.testing.assert_allclose(array(out), expected, rtol=0, atol=TOLERANCES[x.dtype] * scale)
    last = torch.channels_last
    has_layout = x.ndim == 4 and len(x) > 0 and x.shape[1] > 1 and x.shape[2] * x.shape[3] > 1
    if has_layout and x.is_contiguous(memory_format=last):
        assert out.is_contiguous(memory_format=last)


def numerics_of(*operators: str) -> Callable[..., Any]:
    """Parameters of a test: name (a case of these operators), dtype and layout."""

    def parametrized(test: Callable[..., None]) -> Callable[..., None]:
        test = pytest.mark.parametrize("layout", numerics.LAYOUTS)(test)
        test = pytest.mark.parametrize("dtype", numerics.DTYPES, ids=str)(test)
        return cases_of(*operators)(test)

    return parametrized


def within_the_contract(name: str, dtype: torch.dtype, layout: str) -> None:
    """Outputs and gradients of two orders are as near to float64 as docs/numerics.md demands, in every backend."""
    one = case(name)
    backends = [backend for backend in numerics.backends() if numerics.runs(one, backend)]
    rows = numerics.measure(one, dtype, layout, backends)
    assert {row.backend for row in rows if row.order == "output"} == set(backends)
    for row in rows:
        assert row.passed, row


def cases_of(*operators: str) -> Any:
    """Parameter of a test: name, of every registered case of these operators."""
    cases = [OPERATORS[operator].cases for operator in operators]
    return pytest.mark.parametrize("name", [one.name for of in cases if of is not None for one in of("cpu", 32, 16)])


def case(name: str, size: int = 16, channels: int = 32) -> Case:
    return next(case for case in numerics.cases(size=size, channels=channels) if case.name == name)


# Gradients


def gradients(function: Callable[..., Tensor], *tensors: Tensor, whole: bool) -> None:
    """Both orders equal finite differences; of second order the whole Jacobian or products with random vectors."""
    assert gradcheck(function, tensors)
    assert gradgradcheck(function, tensors, fast_mode=not whole)


def checkpointing(name: str) -> None:
    """A case has the same gradients where its saved tensors, which it may ask for once, are computed again."""
    one = case(name, size=4, channels=3)
    tensors = [t.requires_grad_() for t in numerics.sample(one, F64, "NCHW")]
    expected = torch.autograd.grad(one.ours(*tensors).square().sum(), tensors)
    y = checkpoint(one.ours, *tensors, use_reentrant=False)
    for got, wanted in zip(torch.autograd.grad(y.square().sum(), tensors), expected, strict=True):
        torch.testing.assert_close(got, wanted)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every other column": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda x: x[:1].expand_as(x),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def layouts_agree(operator: Callable[[Tensor], Tensor], layout: str) -> None:
    """Output and gradients of two orders are those of the contiguous image. operator: of x [2, 3, 4, 5]."""
    x = LAYOUTS[layout](torch.randn(2, 3, 4, 5, dtype=F64))
    outcomes = []
    for value in (x, x.contiguous()):
        value = value.detach().requires_grad_()
        y = operator(value)
        (gradient,) = torch.autograd.grad(y.square().sum(), value, create_graph=True)
        outcomes.append((y, gradient, torch.autograd.grad(gradient.square().sum(), value)[0]))
    for got, wanted in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, wanted, check_stride=False)


few_pixels = pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 3, 1, 1), (2, 0, 3, 3)], ids=str)


def empty_or_single_pixel(operator: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    """An image without elements, or of one pixel, has an output and a gradient."""
    x = leaf(*shape)
    y = operator(x)
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert gradient.shape == x.shape
    assert y.shape[0] == x.shape[0]


unrepresentable_clamps = pytest.mark.parametrize(
    ("dtype", "clamp"), [(torch.bfloat16, 0.7), (torch.float16, 0.1), (torch.float32, 0.1)], ids=str
)


def clamp_stops_gradients(operator: Callable[..., Tensor], dtype: torch.dtype, clamp: float) -> None:
    """Also a clamp that the dtype rounds. operator: (x [1, 1, 1, 3], clamp) -> y."""
    x = torch.tensor([-1000.0, 0.01, 1000.0]).to(dtype).reshape(1, 1, 1, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(operator(x, clamp=clamp).sum(), x)
    assert [g != 0 for g in gradient.flatten().tolist()] == [False, True, False]


float16_ranges = pytest.mark.parametrize(
    ("weight", "styles"),
    [(30.0, 200.0), (1.0, 1e5), (1e4, 1.0), (1e-3, 1e-3)],
    ids=["both", "style", "weight", "small"],
)


def demodulates_in_float16(operator: Callable[[Tensor, Tensor, Tensor], Tensor], weight: float, styles: float) -> None:
    """Nothing overflows: all is positive, so that sums do not average out, over a fan-in of 4608."""
    x, w, s = torch.rand(1, 512, 4, 4), torch.rand(8, 512, 3, 3) * weight, torch.rand(1, 512) * styles
    wanted, got = operator(x, w, s), operator(x.half(), w, s)
    assert got.dtype == torch.float16
    assert (got.float() - wanted).abs().max() < 5e-3 * wanted.abs().max()


# torch.compile and registration


def compiles_with_a_penalty(name: str) -> None:
    """A case and the square of its gradient are one graph, by torch.autograd and torch.func, and equal eager."""
    one = case(name, size=4, channels=3)
    x, *rest = (t.requires_grad_() for t in numerics.sample(one, F64, "NCHW"))

    def penalty(x: Tensor, *rest: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(one.ours(x, *rest).tanh().sum(), x, create_graph=True)
        return gradient.square().sum()

    def by_func(x: Tensor, *rest: Tensor) -> Tensor:
        return torch.func.grad(lambda x: one.ours(x, *rest).tanh().sum())(x).square().sum()

    expected = torch.autograd.grad(penalty(x, *rest), [x, *rest])
    for function in (penalty, by_func):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        for got, wanted in zip(torch.autograd.grad(compiled(x, *rest), [x, *rest]), expected, strict=True):
            torch.testing.assert_close(got, wanted)


# Each layout and each dtype once; `make test-all` has all pairs.
memory_formats_and_dtypes = pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        (torch.channels_last, torch.bfloat16),
        pytest.param(torch.contiguous_format, torch.float32, marks=pytest.mark.slow),
        pytest.param(torch.contiguous_format, torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(torch.channels_last, torch.float32, marks=pytest.mark.slow),
    ],
    ids=str,
)


def small_image(layout: torch.memory_format, dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 3, 5, 4).to(dtype).contiguous(memory_format=layout)


def opcheck(name: str, *arguments: Any) -> None:
    """Schema, fake kernel, autograd registration and tracing of a custom op; tests/ops/test_checks.py counts these."""
    torch.library.opcheck(getattr(NATIVE, name).default, arguments)


class Called(TorchDispatchMode):
    """The names of our custom ops that run in the block."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "idgan_fast":
            self.names.append(function._opname)
        return function(*args, **kwargs or {})


# Kernels


def compiled(test: Callable[..., None]) -> Callable[..., None]:
    """Of tests named test_kernels..., which `make test-all` also runs on every instruction set and with sanitizers."""
    reason = _dispatch._no_cpu_library
    skip = pytest.mark.skipif(reason is not None, reason=str(reason))
    return pytest.mark.usefixtures("nan_filled")(skip(test))


every_dtype = pytest.mark.parametrize("dtype", fuzz.DTYPES, ids=str)


def passed(output: str) -> int:
    """How many tests a run of pytest passed."""
    (count,) = re.findall(r"(\d+) passed", output)
    return int(count)


def kernel_tests() -> list[str]:
    """The files that hold tests of compiled kernels."""
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    return [str(path) for path in files if "\n@checks.compiled\n" in path.read_text()]

"""How far each operator is from float64, beside the plain torch composition in the same dtype.

`python -m idgan_fast.ops.validation.numerics` prints docs/numerics.md. The bound that a test holds every row to:
`LIMIT` times the larger of torch's own error and that of the exact result rounded to the dtype.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from statistics import median

import torch
from torch import Tensor

from idgan_fast import ops
from idgan_fast.ops._dispatch import why_not
from idgan_fast.ops._registry import OPERATORS, Case

LIMIT = 1.5
SEEDS = 8
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
ORDERS = ("output", "gradient", "2nd order")
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}

HEAD = """# Numerics

Written by `python -m idgan_fast.ops.validation.numerics`. Errors against float64, relative to the RMS of the exact
values, as maximum / RMS: ours, the plain torch composition in the same dtype (in the operators' files), and the exact
values rounded to the dtype. Of modulated convolutions StyleGAN code has two compositions, a weight for each sample and
one weight for all, and the larger error counts: with torch's own convolution, the second gives 1.4 times the error in
the gradient by the weight, since it sums over all samples at once. A test fails where ours exceeds {limit} times the
larger of the other two.

Measured with torch {torch} on a CPU; inputs [2, 32, 16, 16], medians of {seeds} draws.
"""


def cases(device: str = "cpu", size: int = 16, channels: int = 32) -> list[Case]:
    """Those of every operator; images [2, channels, size, size]."""
    return [case for op in OPERATORS.values() if op.cases is not None for case in op.cases(device, channels, size)]


def sample(case: Case, dtype: torch.dtype, layout: str, device: str = "cpu", seed: int = 0) -> list[Tensor]:
    """Random tensors of a case, exact in `dtype`."""
    rng = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=rng).to(device, dtype) for shape in case.shapes]
    return [t.contiguous(memory_format=LAYOUTS[layout]) if t.ndim == 4 else t for t in tensors]


def orders(function: Callable[..., Tensor], tensors: Sequence[Tensor], highest: int = 2) -> list[list[Tensor]]:
    """The output, the gradients of <y, v>, and those of <gradients, u>, for fixed v and u that do not vanish."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = function(*leaves)
    results = [[y.detach()]]
    if highest >= 1:
        first = torch.autograd.grad(_weighted([y]), leaves, create_graph=highest >= 2)
        results.append([g.detach() for g in first])
    if highest >= 2:
        curved = [g for g in first if g.requires_grad]
        second = torch.autograd.grad(_weighted(curved), leaves, allow_unused=True) if curved else [None] * len(leaves)
        results.append([torch.zeros_like(t) if g is None else g for t, g in zip(leaves, second, strict=True)])
    return results


def _weighted(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0].new_zeros(())
    for t in tensors:
        n = max(t.numel(), 1)
        v = (torch.linspace(0.5, 1.5, n, device=t.device) / n**0.5).to(t.dtype)  # float16 must not overflow
        total = total + (t * v.reshape(t.shape)).sum()
    return total


def error(got: Sequence[Tensor], exact: Sequence[Tensor]) -> tuple[float, float]:
    """(maximum, RMS) over the tensors, relative to the RMS of the exact one."""
    worst, rms = 0.0, 0.0
    for g, e in zip(got, exact, strict=True):
        scale = e.square().mean().sqrt().clamp_min(1e-300)
        delta = (g.double() - e).abs() / scale
        of_this = delta.max().item(), delta.square().mean().sqrt().item()
        if isnan(of_this[0]):
            return float("inf"), float("inf")
        worst, rms = max(worst, of_this[0]), max(rms, of_this[1])
    return worst, rms


@dataclass(frozen=True)
class Row:
    """Errors of one operator, dtype, layout, order and backend; each is (maximum, RMS)."""

    name: str
    dtype: str
    layout: str
    order: str
    backend: str
    ours: tuple[float, float]
    torch: tuple[float, float]
    rounding: tuple[float, float]

    @property
    def ratios(self) -> tuple[float, float]:
        """Ours to the larger of torch's and of rounding alone; (maximum, RMS)."""
        bound = [max(t, r) for t, r in zip(self.torch, self.rounding, strict=True)]
        return tuple(o / b if b else float(o > 0) for o, b in zip(self.ours, bound, strict=True))  # type: ignore[return-value]

    @property
    def passed(self) -> bool:
        return max(self.ratios) <= LIMIT


def backends(device: str = "cpu") -> list[str]:
    """Those that have at least one kernel for the device; `runs` tells which operators they run."""
    return [
        b
        for b in ops.BACKENDS
        if any(op.custom_ops and why_not(b, op.names, device) is None for op in OPERATORS.values())
    ]


def runs(case: Case, backend: str, device: str = "cpu") -> bool:
    """Whether the backend has all kernels that the case needs."""
    with ops.backend(backend):
        try:
            case.ours(*sample(case, torch.float32, "NCHW", device))
        except ops.BackendError:
            return False
    return True


def measure(case: Case, dtype: torch.dtype, layout: str, backends: Sequence[str], device: str = "cpu") -> list[Row]:
    """One row for each backend and order of gradient, medians over SEEDS draws: where rounding moves a value across a
    kink, its derivative jumps, and one such draw says nothing about the operator. The backends must run the case."""
    errors: dict[tuple[str, str], list[list[tuple[float, float]]]] = {}
    for seed in range(SEEDS):
        tensors = sample(case, dtype, layout, device, seed)
        exact = orders(case.plain[0], [t.double() for t in tensors])
        theirs = [orders(form, tensors) for form in case.plain]
        for backend in backends:
            with ops.backend(backend):
                ours = orders(case.ours, tensors)
            for i, (order, truth) in enumerate(zip(ORDERS, exact, strict=True)):
                if any(t.count_nonzero() for t in (*truth, *ours[i])):
                    other = [error(form[i], truth) for form in theirs]
                    worst = max(e[0] for e in other), max(e[1] for e in other)
                    rounded = [t.to(dtype) for t in truth]
                    one_draw = [error(ours[i], truth), worst, error(rounded, truth)]
                    errors.setdefault((backend, order), []).append(one_draw)
    rows = []
    for (backend, order), draws in errors.items():
        ours_theirs_rounding = [
            (median(e[0] for e in one), median(e[1] for e in one)) for one in zip(*draws, strict=True)
        ]
        rows.append(Row(case.name, str(dtype).removeprefix("torch."), layout, order, backend, *ours_theirs_rounding))
    return rows


def rows(device: str = "cpu") -> Iterator[Row]:
    for case in cases(device):
        running = [backend for backend in backends(device) if runs(case, backend, device)]
        for dtype in DTYPES:
            for layout in LAYOUTS:
                yield from measure(case, dtype, layout, running, device)


def main() -> None:
    print(HEAD.format(limit=LIMIT, torch=torch.__version__.split("+")[0], seeds=SEEDS))
    print("| operator | dtype | layout | order | backend | ours | torch | rounding | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows():
        cells = [f"{a:.1e} / {b:.1e}" for a, b in (row.ours, row.torch, row.rounding)]
        ratio = " / ".join(f"{r:.2f}" for r in row.ratios)
        print("|", " | ".join([row.name, row.dtype, row.layout, row.order, row.backend, *cells, ratio]), "|")


if __name__ == "__main__":
    main()

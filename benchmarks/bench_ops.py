"""The operators: every backend that runs here, torch.compile of the reference, and plain torch as StyleGAN code has it.

Three modes: forward; forward + backward; double backward, the gradient of a sum over all first gradients, as R1 and
path length take it, by the inputs and by dy, forward pass included. Before it is timed each row must agree with plain
torch in float64. Inputs
rotate through sets that together exceed the cache. Bytes are the compulsory ones: what must come in and go out once if
the whole mode were one pass. Flops are those of the reference's convolutions and products.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import cycle
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import measuring
from benchmarks.measuring import CLOCK, DEVICE
from idgan_fast import ops
from idgan_fast.ops.validation import numerics

SIZE, CHANNELS = (256, 64) if DEVICE == "cuda" else (64, 64)
CASES = {case.name: case for case in numerics.cases(DEVICE, SIZE, CHANNELS)}
MODES = ("forward", "forward + backward", "double backward")
HALF = torch.float16 if DEVICE == "cuda" else torch.bfloat16
DTYPES = (torch.float32, HALF)
# RMS errors: of outputs, and of gradients, where a value that rounding moves across a kink counts fully. Where plain
# torch's own error is large, as of sums that cancel, three times that is allowed.
TOLERANCE = {torch.float32: (1e-5, 5e-3), torch.float16: (5e-3, 0.1), torch.bfloat16: (4e-2, 0.2)}
ROUNDS = 21


@cache
def variants(name: str) -> list[str]:
    plain = ["plain"] if len(CASES[name].plain) == 1 else ["plain, weight a sample", "plain, shared weight"]
    return [
        *[b for b in numerics.backends(DEVICE) if numerics.runs(CASES[name], b, DEVICE)],
        "reference, compiled",
        *plain,
    ]


def run(call: Callable[..., Tensor], mode: str, leaves: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """All results of a mode from the operator's tensors and the cotangents: of y, then of every first gradient."""
    y = call(*leaves)
    if mode == "forward":
        return [y]
    first = torch.autograd.grad(y, leaves, others[0], create_graph=mode == "double backward")
    if mode == "forward + backward":
        return [y.detach(), *first]
    total = torch.stack([(g * u).sum() for g, u in zip(first, others[1:], strict=True)]).sum()
    by = [*leaves, others[0]]
    second = torch.autograd.grad(total, by, materialize_grads=True, allow_unused=True)
    return [t.detach() for t in (y, *first, *second)]


def whole(name: str, variant: str, mode: str) -> Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]:
    case = CASES[name]
    if variant.startswith("plain"):
        form = case.plain[1 if "shared" in variant else 0]
        return lambda leaves, others: run(form, mode, leaves, others)
    call: Callable[..., list[Tensor]] = lambda *t: run(case.ours, mode, t[: len(t) // 2], t[len(t) // 2 :])  # noqa: E731
    if variant.endswith("compiled"):
        torch._dynamo.reset()
        call = torch.compile(call, fullgraph=True)

    def on_backend(leaves: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
        with ops.backend(variant.removesuffix(", compiled")):
            return call(*leaves, *others)

    return on_backend


def tensors(name: str, dtype: torch.dtype, mode: str, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """What the operator takes, and as many cotangents: of the first as y has, of the others as the rest has."""
    case = CASES[name]
    leaves = numerics.sample(case, dtype, "NCHW", DEVICE, seed)
    y = case.ours(*leaves)
    rng = torch.Generator(DEVICE).manual_seed(seed)
    others = [torch.randn(t.shape, generator=rng, device=DEVICE).to(dtype) for t in (y, *leaves)]
    others[0].requires_grad_(mode == "double backward")
    return [t.requires_grad_(mode != "forward") for t in leaves], others


def again(ts: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().clone().requires_grad_(t.requires_grad) for t in ts]


def in_turn(call: Callable[..., Any], sets: Iterator[tuple]) -> Callable[[], Any]:
    return lambda: call(*next(sets))


def compulsory_bytes(mode: str, leaves: Sequence[Tensor], others: Sequence[Tensor]) -> int:
    inputs, output = sum(t.nbytes for t in leaves), others[0].nbytes
    if mode == "forward":
        return inputs + output
    return 2 * inputs + 2 * output if mode == "forward + backward" else 4 * inputs + 3 * output


@cache
def timed(name: str, mode: str, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """Every row of a group: checked, then timed in turns."""
    leaves, others = tensors(name, dtype, mode, 0)
    copies = min(64, 1 + 2 * measuring.cache_bytes() // sum(t.nbytes for t in leaves))
    sets = [(leaves, others)]
    sets += [(again(leaves), again(others)) for _ in range(copies - 1)]
    turns = cycle(sets)  # one for all rows, so that none meets inputs that another has just brought into the cache

    def double(ts: Sequence[Tensor]) -> list[Tensor]:
        return [t.detach().double().requires_grad_(t.requires_grad) for t in ts]

    exact = run(CASES[name].plain[0], mode, double(leaves), double(others))
    of_plain = [numerics.error(run(form, mode, leaves, others), exact)[1] for form in CASES[name].plain]
    bound = max(TOLERANCE[dtype][mode != "forward"], 3 * max(of_plain))
    calls: dict[str, Callable[[], Any]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for variant in variants(name):
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            call = whole(name, variant, mode)
            got = call(leaves, others)
        wrong = numerics.error(got, exact)[1]
        assert wrong <= bound, f"{name}, {mode}, {dtype}, {variant}: RMS error {wrong:.1e}, above {bound:.1e}"
        calls[variant] = in_turn(call, turns)
        rows[variant] = {"peak_mib": round(measuring.peak_bytes(calls[variant]) / 2**20, 2)}
    with measuring.Flops() as flops:
        whole(name, "reference", mode)(leaves, others)
    moved = compulsory_bytes(mode, leaves, others)
    times = measuring.alternating(calls, ROUNDS)
    fastest_plain = min(median(times[v]) for v in times if v.startswith("plain"))
    for variant, row in rows.items():
        taken = median(times[variant])
        row |= {
            "times": times[variant],
            "us": round(taken * 1e6, 1),
            "ratio_to_plain": round(fastest_plain / taken, 2),
            "bytes": moved,
            "gb_per_s": round(moved / taken / 1e9, 2),
            "of_copy_bandwidth": round(moved / taken / 1e9 / measuring.copy_gb_per_s(), 3),
            "flops": flops.total,
            "gflop_per_s": round(flops.total / taken / 1e9, 1),
        }
    return rows


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize(("name", "variant"), [(name, variant) for name in CASES for variant in variants(name)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operator(name: str, variant: str, mode: str, dtype: torch.dtype, benchmark: Any) -> None:
    benchmark.group = f"{name} | {mode} | [2, {CHANNELS}, {SIZE}, {SIZE}] {str(dtype).removeprefix('torch.')}"
    benchmark.name = variant
    row = dict(timed(name, mode, dtype)[variant])
    measuring.show(benchmark, row.pop("times"))
    benchmark.extra_info.update(row)

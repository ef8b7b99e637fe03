"""Every shipped configuration of the Triton kernels, compiled for GPUs that are not here.

`python -m benchmarks.triton_report` writes docs/triton-report.md. The launchers run on tensors without data, what they
would launch is recorded, and each kernel is compiled as they configured it; triton_code.py says what a fault is.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor

from benchmarks.triton_code import TARGETS, Compiled, Launch, compiled, recorded
from idgan_fast.kernels import (
    _common,
    bias_act,
    filtered_lrelu,
    styled_epilogue,
    styled_layer_conv,
    styled_layer_weight_grad,
    upfirdn2d,
    weight_square_sum,
)
from idgan_fast.ops._resampling import NO_PADDING, ONE, output_size
from idgan_fast.ops.layer.epilogue import Epilogue

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
ROOT = Path(__file__).parents[1]
LRELU = (0.2, 1.4, 256.0)
# A name, the arguments that must be accessed 16 bytes wide, and what launches the kernels.
Case = tuple[str, str, Callable[[], Any]]


def image(dtype: torch.dtype, layout: str, *, c: int = 256, size: int = 64) -> Tensor:
    return empty(8, c, size, size, dtype=dtype).contiguous(memory_format=LAYOUTS[layout])


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def pointwise(name: str, dtype: torch.dtype, layout: str) -> Iterator[Case]:
    x, b = image(dtype, layout), empty(256)
    yield f"bias_lrelu_fwd {name}", "x y", partial(bias_act.bias_lrelu_fwd, x, b, 1, *LRELU)
    yield f"bias_lrelu_bwd {name}", "dy saved dx", partial(bias_act.bias_lrelu_bwd, x, x, 1, *LRELU, True)
    acts: list[tuple[str, float, float | None]] = [("swish", 1.4, None)]
    if name == "fp32 NHWC":
        acts += [(act, 1.0, 256.0) for act in ("tanh", "sigmoid", "elu", "selu", "softplus")]
    for act, gain, clamp in acts:
        numbers = (1, act, 0.0, gain, clamp)
        yield f"bias_act_fwd {act} {name}", "x y", partial(bias_act.bias_act_fwd, x, b, *numbers)
        yield f"bias_act_bwd {act} {name}", "dy saved dx", partial(bias_act.bias_act_bwd, x, x, b, *numbers, True)
        second = partial(bias_act.bias_act_bwd2, x, b, x, x, b, *numbers, True)
        yield f"bias_act_bwd2 {act} {name}", "ddx dy saved to_dy dx", second


def filters(name: str, dtype: torch.dtype, layout: str) -> Iterator[Case]:
    """upfirdn2d and the epilogue of a layer; of NCHW images strips load single elements."""
    x, f, last = image(dtype, layout), empty(4, 4), layout == "NHWC"
    for resampling, up, down, padding in (
        ("up=2", (2, 2), ONE, (2, 1, 2, 1)),
        ("down=2", ONE, (2, 2), (1, 1, 1, 1)),
        ("blur", ONE, ONE, (2, 1, 2, 1)),
    ):
        call = partial(upfirdn2d.upfirdn2d, x, f, up, down, padding, False, 1.0)
        yield f"upfirdn2d {resampling} {name}", "x y out" if last else "", call
    epilogue = (empty(8, 256), empty(8, 1, 64, 64), empty(), empty(256), None, NO_PADDING, 4.0, *LRELU)
    for kind, y, taps in (("filter", image(dtype, layout, size=67), f), ("no filter", x, None)):
        forward = partial(styled_epilogue.styled_epilogue_fwd, [y], taps, *epilogue)
        yield f"styled_epilogue_fwd {kind} {name}", "y out" if last else "", forward
        backward = partial(styled_epilogue.styled_epilogue_bwd, x, [y], x, taps, *epilogue, [1, 0, 1, 1, 0])
        yield f"styled_epilogue_bwd {kind} {name}", "dout z dy" if last else "", backward


# Of a layer: form, channels in and out, size of the input, kernel; the wide ones, then what has narrow or few tiles.
LAYERS = {
    "same": ("same", 256, 256, 64, 3),
    "composite": ("composite", 64, 32, 64, 3),
    "transposed": ("transposed", 256, 256, 64, 3),
    "same 32": ("same", 32, 32, 256, 3),
    "same 512 of 8x8": ("same", 512, 512, 8, 3),
    "to RGB": ("same", 256, 3, 64, 1),
}


def products(name: str, dtype: torch.dtype) -> Iterator[Case]:
    """The convolutions of LAYERS, forward and backward."""
    for layer, (form, c_in, c_out, size, k) in LAYERS.items():
        narrow, out = c_out <= 3, size if form == "same" else 2 * size + int(form == "transposed")
        x, dy = image(dtype, "NHWC", c=c_in, size=size), image(dtype, "NHWC", c=c_out, size=out)
        weight, styles = empty(4 * c_out if form == "composite" else c_out, c_in, k, k, dtype=dtype), empty(8, c_in)
        vectors = (empty(8, c_out), empty(8, 1, out, out), empty(), empty(c_out), None)
        epilogue = Epilogue(None, *vectors, NO_PADDING, 1.0, *LRELU)
        epilogue = Epilogue() if form == "transposed" else epilogue
        for style in (styles, None) if (c_in, c_out) == (256, 256) else (styles,):
            forward = partial(styled_layer_conv.conv_forward, x, weight, style, epilogue, form=form)
            styled = "" if style is None else " style"
            yield f"styled_layer_conv {layer}{styled} {name}", "x" if narrow else "x weight out", forward
        if form == "composite":  # its gradients are the transposed form's
            continue
        streams = "factor out" if narrow else "x weight factor out"
        backward = partial(styled_layer_conv.conv_input_grad, dy, weight, styles, x, form=form, want_styles=True)
        yield f"styled_layer_input_grad {layer} {name}", streams, backward
        if dtype != torch.float32:
            backward = partial(styled_layer_weight_grad.conv_weight_grad, dy, x, styles, k=k, form=form)
            yield f"styled_layer_weight_grad {layer} {name}", "b" if narrow else "a b", backward


# Of filtered_lrelu: up, down, taps of both filters; an adjoint has them exchanged, a filter of two axes is composed.
FILTERED: dict[str, tuple[int, int, int, Any]] = {
    "up=2 down=2": (2, 2, 12, 12),
    "up=4 down=2": (4, 2, 24, 12),
    "up=2 down=4": (2, 4, 12, 24),
    "composed": (2, 2, 12, (12, 12)),
}


def filtered(name: str, dtype: torch.dtype) -> Iterator[Case]:
    x = image(dtype, "NCHW")
    for case, (up, down, up_taps, down_taps) in FILTERED.items():
        fu, fd = empty(up_taps), torch.empty(down_taps, device="meta")
        factors = ([up] * 2, [down] * 2, [up_taps] * 4)
        forward = partial(filtered_lrelu.filtered_lrelu_fwd, x, empty(256), fu, fd, *factors, 1.4, 0.2, 256.0)
        yield f"filtered_lrelu_fwd {case} {name}", "", partial(forward, False, True)
        middle = output_size(x.shape, fu, factors[0], ONE, factors[2])
        mask = empty(*x.shape[:2], middle[0], (middle[1] + 3) // 4, dtype=torch.uint8)
        backward = partial(filtered_lrelu.filtered_lrelu_linear, x, mask, middle, fu, fd, *factors, [3] * 4)
        yield f"filtered_lrelu_linear {case} {name}", "", partial(backward, 1.4, 0.2, False)


def cases() -> Iterator[Case]:
    """All of them; each must run before the next one is asked for, since torch's switch for TF32 is part of some."""
    huge = empty(2**31 + 4096, dtype=torch.float16)
    yield "bias_lrelu_fwd fp16 of 2^31 + 4096", "x y", partial(bias_act.bias_lrelu_fwd, huge, None, 0, *LRELU)
    for dtype_name, dtype in DTYPES.items():
        for layout in LAYOUTS:
            name, last = f"{dtype_name} {layout}", layout == "NHWC"
            yield from pointwise(name, dtype, layout)
            yield from filters(name, dtype, layout)
            for tf32 in (True, False) if dtype == torch.float32 else (True,):
                with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
                    if last:
                        yield from products(name if tf32 else f"{name} three TF32", dtype)
            weight = image(dtype, layout, size=3)
            streams = "weight" if last else ""
            yield f"weight_square_sum {name}", streams, partial(weight_square_sum.weight_square_sum, weight)
            if not last:
                yield from filtered(name, dtype)


@cache
def launches(target: str = "sm_90") -> list[Launch]:
    """All shipped configurations for an architecture; in the same order for all of them."""
    with mock.patch.object(_common, "architecture", return_value=target):
        return [launch for case in cases() for launch in recorded(*case)]


@cache
def shipped() -> dict[int, Launch]:
    """One launch for each configuration of each kernel, by its index in `launches`."""
    seen: dict[tuple, int] = {}
    for i, launch in enumerate(launches()):
        key = (launch.kernel.fn.__name__, str([describe(a) for a in launch.args]), str(sorted(launch.options.items())))
        seen.setdefault(key, i)
    return {i: launches()[i] for i in seen.values()}


def describe(value: Any) -> Any:
    """What Triton specialises on."""
    if isinstance(value, Tensor):
        return str(value.dtype)
    return (value % 16 == 0, value == 1) if isinstance(value, int) else type(value)


def _one(job: tuple[int, str]) -> Compiled:
    index, target = job
    return compiled(launches(target)[index], target)


def report(jobs: list[tuple[int, str]], workers: int = 2) -> list[Compiled]:
    """jobs: (index of a launch, target)."""
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(_one, jobs, chunksize=4))


def main() -> int:
    count = len(shipped())
    results = report([(index, target) for index in shipped() for target in TARGETS])
    lines = [
        "# Triton kernels, compiled for GPUs that are not here\n",
        "Written by `make triton-report`: every shipped configuration, compiled by Triton "
        f"{triton.__version__} for {', '.join(TARGETS)}.",
        "Compiled here, not run. Registers of a thread and bytes of shared memory of a block; the narrowest access to",
        "each argument in bytes (NVIDIA).\n",
        "| case | kernel | " + " | ".join(TARGETS) + " | widths on sm_90 | faults |",
        "|---|---|" + "---|" * (len(TARGETS) + 2),
    ]
    for i in range(count):
        row = results[i * len(TARGETS) : (i + 1) * len(TARGETS)]
        cells = [f"{r.registers}, {r.shared}" for r in row]
        on_90 = ", ".join(f"{n} {w}" for n, w in row[1].widths.items())
        faults = "; ".join(f"{r.target}: {fault}" for r in row for fault in r.faults)
        lines.append("| " + " | ".join([row[0].case, row[0].kernel, *cells, on_90, faults or "none"]) + " |")
    (ROOT / "docs/triton-report.md").write_text("\n".join(lines) + "\n")
    faulty = [r for r in results if r.faults]
    for r in faulty:
        print(f"{r.case}, {r.kernel}, {r.target}: {'; '.join(r.faults)}")
    print(f"{len(results)} compiled, {len(faulty)} with faults")
    return int(bool(faulty))


if __name__ == "__main__":
    sys.exit(main())

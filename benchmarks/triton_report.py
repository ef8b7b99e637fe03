"""Compiles the Triton kernels in their shipped configurations for GPUs that are not here, and reads the machine code.

`python -m benchmarks.triton_report` writes docs/triton-report.md. The launchers run on tensors without data, what they
would launch is recorded, and each kernel is compiled as they configured it. A fault is a spill, a trap, a kernel that
writes nothing, more shared memory than the GPU has, an access to a large tensor narrower than 16 bytes where its
alignment allows that, and a matrix product without the instructions of the GPU's matrix units.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from idgan_fast.kernels import (
    _common,
    bias_act,
    filtered_lrelu,
    filtered_lrelu_sign_mask,
    styled_epilogue,
    styled_layer_conv,
    styled_layer_weight_grad,
    upfirdn2d,
    weight_square_sum,
)

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Bytes that one block may use: CUDA C++ Programming Guide, table of compute capabilities; CDNA 3 ISA, LDS.
SHARED_LIMIT = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "sm_120": 101376, "gfx942": 65536}
# Instructions of the matrix units; on the B200 also no more than 512 columns of tensor memory.
MATRIX = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTC.?MMA", "sm_120": "HMMA", "gfx942": "v_mfma"}
TENSOR_MEMORY = 512
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
ROOT = Path(__file__).parents[1]


@dataclass
class Launch:
    """A kernel as a launcher configured it. streams: the arguments that must be accessed 16 bytes wide."""

    case: str
    kernel: Any
    args: tuple
    options: dict[str, Any]
    streams: frozenset[str] = frozenset()


@dataclass
class Compiled:
    case: str
    kernel: str
    target: str
    registers: int
    shared: int
    widths: dict[str, int] = field(default_factory=dict)  # bytes of the narrowest access to each argument
    faults: list[str] = field(default_factory=list)


@contextmanager
def recording(case: str, streams: frozenset[str], found: list[Launch]) -> Iterator[None]:
    """What is launched in this block is appended to `found`, and not run."""
    run = JITFunction.run

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        found.append(Launch(case, self, args, options, streams))

    JITFunction.run = record
    try:
        yield
    finally:
        JITFunction.run = run


def image(dtype: torch.dtype, layout: str, c: int = 256, size: int = 64, width: int | None = None) -> Tensor:
    x = torch.empty(8, c, size, width or size, dtype=dtype, device="meta")
    return x.contiguous(memory_format=LAYOUTS[layout])


def small(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


# Of a layer: form, channels in and out, size of the input, kernel; the wide ones, then what has narrow or few tiles.
LAYERS = {
    "same": ("same", 256, 256, 64, 3),
    "composite": ("composite", 64, 32, 64, 3),
    "transposed": ("transposed", 256, 256, 64, 3),
    "same 32": ("same", 32, 32, 256, 3),
    "same 512 of 8x8": ("same", 512, 512, 8, 3),
    "to RGB": ("same", 256, 3, 64, 1),
}


def convolution(dtype: torch.dtype, form: str, c_in: int, c_out: int, size: int, k: int, prologue: bool) -> None:
    out = size if form == "same" else 2 * size + int(form == "transposed")
    weight = small(4 * c_out if form == "composite" else c_out, c_in, k, k, dtype=dtype)
    scale, noise, b = small(8, c_out), small(8, 1, out, out), small(c_out)
    after = styled_layer_conv.Epilogue(scale, noise, small(), b, None, 0.2, 1.4, 256.0)
    if form == "transposed":
        after = styled_layer_conv.Epilogue()
    styles = small(8, c_in) if prologue else None
    styled_layer_conv.conv_forward(image(dtype, "NHWC", c_in, size), weight, styles, after, form)


def gradients(dtype: torch.dtype, form: str, c_in: int, c_out: int, size: int, k: int, by_weight: bool) -> None:
    x, dy = (image(dtype, "NHWC", c, s) for c, s in ((c_in, size), (c_out, size if form == "same" else 2 * size + 1)))
    if by_weight:
        styled_layer_weight_grad.conv_weight_grad(dy, x, small(8, c_in), k, form)
    else:
        styled_layer_conv.conv_input_grad(dy, small(c_out, c_in, k, k, dtype=dtype), small(8, c_in), x, form, True)


# Of filtered_lrelu: up, down, taps of both filters; an adjoint has them exchanged.
FILTERED = {"up=2 down=2": (2, 2, 12, 12), "up=4 down=2": (4, 2, 24, 12), "up=2 down=4": (2, 4, 12, 24)}
COMPOSED = (2, 2, 12, (12, 12))  # a filter of two axes


def filtered(dtype: torch.dtype, up: int, down: int, up_taps: int, down_taps: Any, linear: bool) -> None:
    x, fu, fd, activation = image(dtype, "NCHW"), small(up_taps), torch.empty(down_taps, device="meta"), (1.4, 0.2)
    factors = ([up] * 2, [down] * 2, [up_taps] * 4)
    if linear:
        middle = filtered_lrelu_sign_mask.size_of(x.shape[2:], fu, factors[0], (1, 1), factors[2])
        codes = small(*x.shape[:2], middle[0], (middle[1] + 3) // 4, dtype=torch.uint8)
        filtered_lrelu.filtered_lrelu_linear(x, codes, middle, fu, fd, *factors, [3] * 4, *activation, False)
    else:
        filtered_lrelu.filtered_lrelu_fwd(x, small(256), fu, fd, *factors, *activation, 256.0, False, True)


def products(case: Callable[..., Any], name: str, dtype: torch.dtype) -> None:
    """The convolutions of LAYERS, forward and backward."""
    for layer, sizes in LAYERS.items():
        narrow = sizes[2] <= 3
        for prologue in (True, False) if sizes[1:3] == (256, 256) else (True,):
            case(
                f"styled_layer_conv {layer}{' style' if prologue else ''} {name}",
                "x" if narrow else "x weight out",
                lambda a=(*sizes, prologue): convolution(dtype, *a),
            )
        if layer != "composite":
            case(
                f"styled_layer_input_grad {layer} {name}",
                "factor out" if narrow else "x weight factor out",
                lambda a=(*sizes, False): gradients(dtype, *a),
            )
        if layer != "composite" and dtype != torch.float32:
            case(
                f"styled_layer_weight_grad {layer} {name}",
                "b" if narrow else "a b",
                lambda a=(*sizes, True): gradients(dtype, *a),
            )


@cache
def launches(target: str = "sm_90") -> list[Launch]:
    """All shipped configurations for an architecture; in the same order for all of them."""
    architecture = _common.architecture
    _common.architecture = lambda _: target
    try:
        return _launches()
    finally:
        _common.architecture = architecture


def _launches() -> list[Launch]:
    found: list[Launch] = []

    def case(name: str, streams: str, call: Callable[..., Any]) -> None:
        with recording(name, frozenset(streams.split()), found):
            call()

    f, lrelu = small(4, 4), (0.2, 1.4, 256.0)
    styles, b, noise, strength = small(8, 256), small(256), small(8, 1, 64, 64), small()
    huge = small(2**31 + 4096, dtype=torch.float16)
    case("bias_lrelu_fwd fp16 of 2^31 + 4096", "x y", lambda: bias_act.bias_lrelu_fwd(huge, None, 0, *lrelu))
    for dtype_name, dtype in DTYPES.items():
        for layout in LAYOUTS:
            x, wide, weight = (image(dtype, layout, size=size) for size in (64, 67, 3))
            name = f"{dtype_name} {layout}"
            last = layout == "NHWC"
            case(f"bias_lrelu_fwd {name}", "x y", lambda x=x: bias_act.bias_lrelu_fwd(x, b, 1, *lrelu))
            case(f"bias_lrelu_bwd {name}", "dy saved dx", lambda x=x: bias_act.bias_lrelu_bwd(x, x, 1, *lrelu, True))
            swish = (1, "swish", 0.0, 1.4, None)
            case(f"bias_act_fwd swish {name}", "x y", lambda x=x, s=swish: bias_act.bias_act_fwd(x, b, *s))
            case(
                f"bias_act_bwd swish {name}",
                "dy saved dx",
                lambda x=x, s=swish: bias_act.bias_act_bwd(x, x, b, *s, True),
            )
            second = "ddx dy x to_dy to_x"
            case(
                f"bias_act_bwd2 swish {name}",
                second,
                lambda x=x, s=swish: bias_act.bias_act_bwd2(x, b, x, x, b, *s, True),
            )
            for act in (
                ("tanh", "sigmoid", "elu", "selu", "softplus") if (dtype_name, layout) == ("fp32", "NHWC") else ()
            ):
                case(
                    f"bias_act_fwd {act} {name}",
                    "x y",
                    lambda x=x, a=act: bias_act.bias_act_fwd(x, b, 1, a, 0.0, 1.0, None),
                )
                case(
                    f"bias_act_bwd {act} {name}",
                    "dy saved dx",
                    lambda x=x, a=act: bias_act.bias_act_bwd(x, x, b, 1, a, 0.0, 1.0, 256.0, True),
                )
                case(
                    f"bias_act_bwd2 {act} {name}",
                    second,
                    lambda x=x, a=act: bias_act.bias_act_bwd2(x, b, x, x, b, 1, a, 0.0, 1.0, 256.0, True),
                )
            for resampling, up, down, padding in (
                ("up=2", (2, 2), (1, 1), (2, 1, 2, 1)),
                ("down=2", (1, 1), (2, 2), (1, 1, 1, 1)),
                ("blur", (1, 1), (1, 1), (2, 1, 2, 1)),
            ):
                case(
                    f"upfirdn2d {resampling} {name}",
                    "x y out" if last else "",
                    lambda x=x, a=(up, down, padding): upfirdn2d.upfirdn2d(x, f, *a, False, 1.0),
                )
            tensors = (styles, noise, strength, b, None)
            for of, y, taps, padding in (("filter", wide, f, (0, 0, 0, 0)), ("no filter", x, None, (0, 0, 0, 0))):
                case(
                    f"styled_epilogue_fwd {of} {name}",
                    "y out" if last else "",
                    lambda y=y, t=taps, p=padding, e=tensors: styled_epilogue.styled_epilogue_fwd(
                        [y], t, *e, p, 4.0, *lrelu
                    ),
                )
                case(
                    f"styled_epilogue_bwd {of} {name}",
                    "dout z dy" if last else "",
                    lambda y=y, x=x, t=taps, p=padding, e=tensors: styled_epilogue.styled_epilogue_bwd(
                        x, [y], x, t, *e, p, 4.0, *lrelu, [1, 0, 1, 1, 0]
                    ),
                )
            for tf32 in (True, False) if dtype == torch.float32 else (True,):
                with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
                    if last:
                        products(case, name if tf32 else f"{name} three TF32", dtype)
            case(
                f"weight_square_sum {name}",
                "weight" if last else "",
                lambda w=weight: weight_square_sum.weight_square_sum(w),
            )
            for factors, given in {**FILTERED, "composed": COMPOSED}.items() if not last else ():
                for linear in (False, True):
                    case(
                        f"filtered_lrelu_{'linear' if linear else 'fwd'} {factors} {name}",
                        "",
                        lambda d=dtype, a=(*given, linear): filtered(d, *a),
                    )
    return found


def compiled(launch: Launch, target_name: str) -> Compiled:
    target = TARGETS[target_name]
    kernel, backend = launch.kernel, make_backend(target)
    given = launch.options
    bound, specialization, options = create_function_from_signature(kernel.signature, kernel.params, backend)(
        *launch.args, **given
    )
    parsed, signature, constexprs, attrs = kernel._pack_args(backend, given, bound, specialization, options)
    got = triton.compile(ASTSource(kernel, signature, constexprs, attrs), target=target, options=parsed.__dict__)
    result = Compiled(launch.case, kernel.fn.__name__, target_name, 0, got.metadata.shared)
    multiplies = "tt.dot" in got.asm["ttir"]
    if target.backend == "hip":
        code = got.asm["amdgcn"]
        read_amd(code, result)
    else:
        arguments = [(name, kind) for name, kind in signature.items() if kind != "constexpr"]
        pointers = {i: name for i, (name, kind) in enumerate(arguments) if kind.startswith("*")}
        result.widths = widths(got.asm["ptx"], pointers)
        code = read_nvidia(got.asm["ptx"], got.asm["cubin"], result)
        for name in sorted(launch.streams & set(pointers.values())):
            if result.widths.get(name, 0) < 16:
                result.faults.append(f"{name} is accessed {result.widths.get(name)} bytes wide")
    if multiplies and not re.search(MATRIX[target_name], code):
        result.faults.append(f"multiplies matrices without {MATRIX[target_name]}")
    if getattr(got.metadata, "tmem_size", 0) > TENSOR_MEMORY:
        result.faults.append(f"{got.metadata.tmem_size} columns of tensor memory, {TENSOR_MEMORY} are there")
    if result.shared > SHARED_LIMIT[target_name]:
        result.faults.append(f"{result.shared} bytes of shared memory, {SHARED_LIMIT[target_name]} are there")
    return result


def read_amd(asm: str, result: Compiled) -> None:
    def number(name: str) -> int:
        return int(re.findall(rf"\.{name}:\s*(\d+)", asm)[-1])

    result.registers = number("vgpr_count")
    for name in ("vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size"):
        if number(name):
            result.faults.append(f"{name} is {number(name)}")
    if not re.search(r"(global|buffer)_store", asm):
        result.faults.append("writes nothing")


def read_nvidia(ptx: str, cubin: bytes, result: Compiled) -> str:
    """Notes what is wrong; returns the machine code."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = output("cuobjdump", "--dump-resource-usage", str(path))
        code = output("nvdisasm", "--print-code", str(path))
    result.registers = int(re.findall(r"REG:(\d+)", usage)[0])
    stack = int(re.findall(r"STACK:(\d+)", usage)[0])
    if stack or re.search(r"\b(LDL|STL)\b", code):
        result.faults.append(f"spills: a stack of {stack} bytes")
    if re.search(r"^\s*trap;", ptx, re.MULTILINE):
        result.faults.append("traps")
    if "st.global" not in ptx:
        result.faults.append("writes nothing")
    return code


def output(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], check=True, capture_output=True, text=True).stdout


def widths(ptx: str, pointers: dict[int, str]) -> dict[str, int]:
    """Bytes of the narrowest access to global memory through each pointer; pointers: {parameter's index: name}."""
    sources: dict[str, set[str]] = {}
    accesses: list[tuple[str, int]] = []
    for line in ptx.splitlines():
        if access := re.search(r"\b(?:ld|st)\.global[\w.:]*?(?:\.v(\d))?\.[a-z](\d+)\s.*?\[ ?(%rd\d+)", line):
            accesses.append((access[3], int(access[1] or 1) * int(access[2]) // 8))
        if copy := re.search(
            r"cp\.async\.c[ag]\.shared\.global \[.*?\], \[ ?(%rd\d+)[^\]]*\], (0x[0-9a-f]+|\d+)", line
        ):
            accesses.append((copy[1], int(copy[2], 0)))
        elif load := re.search(r"ld\.param\.[bu]64 \s*(%rd\d+), \[\w+_param_(\d+)\]", line):
            sources.setdefault(load[1], set()).add(load[2])
        elif move := re.search(r"^\s*(?:@\S+ )?(?:add|mov|cvta|mad|selp|sub)\S* \s*(%rd\d+), (.*);", line):
            sources.setdefault(move[1], set()).update(re.findall(r"%rd\d+", move[2]))
    found: dict[str, int] = {}
    for register, width in accesses:
        reached, todo = set(), [register]
        while todo:
            one = todo.pop()
            if one not in reached:
                reached.add(one)
                todo += sources.get(one, ())
        for name in {pointers[int(one)] for one in reached if one.isdigit() and int(one) in pointers}:
            found[name] = min(width, found.get(name, 16))
    return found


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

"""Records what Triton's launchers would launch, compiles it for GPUs that are not here, and reads the machine code.

A fault is a spill, a trap, a kernel that writes nothing, more shared memory than the GPU has, an access to a large
tensor narrower than 16 bytes where its alignment allows that, and a matrix product without the instructions of the
GPU's matrix units.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from benchmarks.cuda_code import output

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


def recorded(case: str, streams: str, call: Callable[[], Any]) -> list[Launch]:
    """What `call` launches, without running it; its tensors may be on the device meta."""
    launches: list[Launch] = []

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append(Launch(case, self, args, options, frozenset(streams.split())))

    with mock.patch.object(JITFunction, "run", record):
        call()
    return launches


def compiled(launch: Launch, target_name: str) -> Compiled:
    target = TARGETS[target_name]
    kernel, backend = launch.kernel, make_backend(target)
    bound, specialization, options = create_function_from_signature(kernel.signature, kernel.params, backend)(
        *launch.args, **launch.options
    )
    parsed, signature, constexprs, attrs = kernel._pack_args(backend, launch.options, bound, specialization, options)
    binary = triton.compile(ASTSource(kernel, signature, constexprs, attrs), target=target, options=parsed.__dict__)
    result = Compiled(launch.case, kernel.fn.__name__, target_name, 0, binary.metadata.shared)
    multiplies = "tt.dot" in binary.asm["ttir"]
    if target.backend == "hip":
        code = binary.asm["amdgcn"]
        read_amd(code, result)
    else:
        arguments = [(name, kind) for name, kind in signature.items() if kind != "constexpr"]
        pointers = {i: name for i, (name, kind) in enumerate(arguments) if kind.startswith("*")}
        result.widths = widths(binary.asm["ptx"], pointers)
        code = read_nvidia(binary.asm["ptx"], binary.asm["cubin"], result)
        for name in sorted(launch.streams & set(pointers.values())):
            if result.widths.get(name, 0) < 16:
                result.faults.append(f"{name} is accessed {result.widths.get(name)} bytes wide")
    if multiplies and not re.search(MATRIX[target_name], code):
        result.faults.append(f"multiplies matrices without {MATRIX[target_name]}")
    if getattr(binary.metadata, "tmem_size", 0) > TENSOR_MEMORY:
        result.faults.append(f"{binary.metadata.tmem_size} columns of tensor memory, {TENSOR_MEMORY} are there")
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
    narrowest: dict[str, int] = {}
    for register, width in accesses:
        reached, todo = set(), [register]
        while todo:
            one = todo.pop()
            if one not in reached:
                reached.add(one)
                todo += sources.get(one, ())
        for name in {pointers[int(one)] for one in reached if one.isdigit() and int(one) in pointers}:
            narrowest[name] = min(width, narrowest.get(name, 16))
    return narrowest

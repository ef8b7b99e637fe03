"""Compiles a CUDA source for an architecture and reads what its kernels became; no GPU is needed.

A kernel states its threads and blocks by `__launch_bounds__(threads, blocks of a multiprocessor)`, and the most of its
dynamic shared memory in a line of the source:

    constexpr int kMost = 2 * 4096;  // dynamic shared memory of <kernel>

Compiled files are kept in build/cuda_report, by their text and the flags.
"""

import hashlib
import math
import os
import re
import runpy
import shutil
import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
CUDA = ROOT / "csrc/cuda"
BUILD = ROOT / "build/cuda_report"
FLAGS = [*runpy.run_path(str(CUDA.parent / "cuda_build.py"))["KERNELS"], f"-I{CUDA}"]
# Bytes of shared memory of a multiprocessor: CUDA C++ Programming Guide, table of compute capabilities.
TARGETS = {"sm_80": 164 << 10, "sm_90": 228 << 10}
REGISTERS, MAX_THREADS, MAX_BLOCKS = 65536, 2048, 32  # of a multiprocessor, of both
RESERVED = 1 << 10  # bytes of shared memory that each block costs besides its own

JUMPS = ("BRA", "BRX", "BSYNC", "CALL", "EXIT", "RET")
INSTRUCTION = re.compile(
    rf"\*/\s+(@\S+ )?(LDGSTS|LDG|STG|LDS|STS|LDL|STL|LD|ST|{'|'.join(JUMPS)})((?:\.\w+)*)(?: ([^;]*))?;"
)
KINDS = {"LDS": "shared loads", "STS": "shared stores", "LDL": "local", "STL": "local", "STG": "stores", "ST": "stores"}
BITS = {"128": 128, "64": 64, "U16": 16, "S16": 16, "U8": 8, "S8": 8}


@dataclass
class Instance:
    """A kernel with its template arguments, compiled for one architecture."""

    name: str
    source: str
    target: str
    threads: int  # of a block; 0 where the kernel does not state them
    stated: int  # blocks of a multiprocessor, likewise
    registers: int
    shared: int  # bytes
    dynamic: int | None  # bytes of dynamic shared memory at most; None: it has some, and the source does not say
    stack: int  # bytes
    spilled: int  # bytes of its stores and loads
    accesses: dict[str, Counter[int]]  # kind: {bits: how many}
    pieces: int  # 16 bytes side by side in global memory that narrower stores write

    @property
    def blocks(self) -> int:
        """How many a multiprocessor holds at once. Each of its four parts gives a warp registers in units of 256."""
        if not self.threads:
            return 0
        warps = -(-self.threads // 32)
        by_registers = 4 * (REGISTERS // 4 // _round_up(32 * self.registers, 256)) // warps
        by_shared = TARGETS[self.target] // _round_up(self.shared + (self.dynamic or 0) + RESERVED, 128)
        return min(MAX_BLOCKS, MAX_THREADS // (32 * warps), by_registers, by_shared)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def tool(name: str) -> str | None:
    """Of the CUDA toolkit, of NVIDIA's packages, or of what Triton brings."""
    folders = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"]
    triton = find_spec("triton")
    if triton and triton.origin:
        package = Path(triton.origin).parent
        folders += [*package.parent.glob("nvidia/cu*/bin"), package / "backends/nvidia/bin"]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))


def missing() -> str | None:
    names = [name for name in ("nvcc", "nvdisasm", "c++filt", "g++") if tool(name) is None]
    return f"needs {', '.join(names)}" if names else None


def output(name: str, *arguments: str, stdin: str | None = None) -> str:
    path = tool(name)
    if path is None:
        raise RuntimeError(f"the report needs {name}")
    command = [path, *arguments]
    run = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{(run.stderr or run.stdout)[:4000]}")
    return run.stdout + run.stderr


@cache
def version() -> str:
    return re.findall(r"V([\d.]+)", output("nvcc", "--version"))[-1]


def with_includes(source: Path) -> list[Path]:
    """A source and the files of ours that it includes."""
    paths = [source]
    for path in paths:
        for name in re.findall(r'#include "(.*)"', path.read_text()):
            included = next((p for p in (path.parent / name, CUDA / name) if p.exists()), None)
            if included and included not in paths:
                paths.append(included)
    return paths


def cubin_of(source: Path, target: str) -> Path:
    """The cubin; beside it the PTX of which it is made (.ptx), and what the assembler says (.log)."""
    text = hashlib.sha256(" ".join([version(), *FLAGS]).encode())
    for path in with_includes(source):
        text.update(path.read_bytes())
    cubin = BUILD / f"{source.stem}-{target}-{text.hexdigest()[:16]}.cubin"
    if not cubin.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        for old in BUILD.glob(f"{source.stem}-{target}-*.*"):
            old.unlink(missing_ok=True)
        ptx, partial = cubin.with_suffix(".ptx"), cubin.with_suffix(f".{os.getpid()}")
        output("nvcc", *FLAGS, "-ptx", f"-arch={target.replace('sm', 'compute')}", str(source), "-o", str(ptx))
        log = output("nvcc", f"-arch={target}", "-cubin", "-Xptxas", "-v", str(ptx), "-o", str(partial))
        cubin.with_suffix(".log").write_text(log)
        partial.rename(cubin)
    return cubin


def readable(demangled: str, text: str) -> str:
    """Without parameters and namespaces, with the names of enumerations; text: the sources."""
    name = demangled.replace("(anonymous namespace)::", "").removeprefix("void ")
    depth = 0
    for at, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            name = name[:at]
            break
    for old, new in (("idgan::", ""), ("__half", "half"), ("__nv_bfloat16", "bfloat16"), ("> >", ">>")):
        name = name.replace(old, new)
    for kind, names in re.findall(r"enum class (\w+)[^{;]*\{([^}=]*)\}", text):
        members = [one.strip() for one in names.split(",")]
        for i, member in enumerate(members):
            name = re.sub(rf"\({kind}\){i}\b", member, name)
    for smooth, word in (("true", "smooth"), ("false", "linear")):
        name = re.sub(rf"\b(Forward|Backward|Second)<{smooth}>", rf"\1<{word}>", name)
    return name


def read(code: str) -> tuple[dict[str, Counter[int]], int]:
    """The accesses by kind and bits; how often narrower stores write 16 bytes side by side, one after the other."""
    accesses: dict[str, Counter[int]] = {
        kind: Counter() for kind in ("loads", "stores", "shared loads", "shared stores", "local")
    }
    pieces = 0
    for block in code.split("\n.L_x_"):
        offsets: dict[tuple, set[int]] = defaultdict(set)  # of narrower stores, by condition, width and register
        for condition, instruction, suffixes, operands in [*INSTRUCTION.findall(block), ("", "BRA", "", "")]:
            if instruction in JUMPS:
                for (_, width, _), left in offsets.items():
                    for first in sorted(left):
                        run = {first + i for i in range(0, 16, width)}
                        if run <= left:
                            left -= run
                            pieces += 1
                offsets.clear()
                continue
            bits = next((BITS[one] for one in suffixes.split(".") if one in BITS), 32)
            accesses[KINDS.get(instruction, "loads")][bits] += 1
            address = re.search(r"\[(R\d+)(?:\.64)?(?:\+(-?0x[0-9a-f]+))?\]", operands)
            if instruction == "STG" and address and bits < 128:
                offsets[condition, bits // 8, address[1]].add(int(address[2] or "0", 16))
    return accesses, pieces


def number(pattern: str, text: str) -> int:
    """The number that a pattern captures; 0 where it does not match."""
    match = re.search(pattern, text)
    return int(match[1]) if match else 0


def instances(source: Path, target: str) -> list[Instance]:
    """The instances of a source's kernels, in the order of their names."""
    cubin = cubin_of(source, target)
    ptx, log = (cubin.with_suffix(suffix).read_text() for suffix in (".ptx", ".log"))
    text = "\n".join(path.read_text() for path in with_includes(source))
    most_dynamic = {
        kernel: math.prod(int(factor) for factor in size.split("*"))
        for size, kernel in re.findall(r"constexpr \w+ \w+ = ([\d* ]+);\s*// dynamic shared memory of (\w+)", text)
    }
    dynamic_arrays = re.findall(r"\.extern \.shared [^;]*?(\w+)\[\];", ptx)
    sections = re.split(r"\s\.section\s+\.text\.([\w$]+)", output("nvdisasm", "--print-code", str(cubin)))
    code = dict(zip(sections[1::2], sections[2::2], strict=True))
    parts = re.split(r"\.entry ([\w$]+)\(", ptx)
    entries = list(zip(parts[1::2], parts[2::2], strict=True))
    demangled = output("c++filt", stdin="\n".join(name for name, _ in entries)).splitlines()
    result = []
    for (mangled, body), long_name in zip(entries, demangled, strict=True):
        usage = log[log.index(f"'{mangled}'") :].partition("Compiling entry")[0]
        name, directives = readable(long_name, text), body.partition("{")[0]
        accesses, pieces = read(code[mangled])
        is_dynamic = any(re.search(rf"\b{re.escape(array)}\b", body) for array in dynamic_arrays)
        result.append(
            Instance(
                name,
                source.name,
                target,
                threads=number(r"\.(?:max|req)ntid\s+(\d+)", directives),
                stated=number(r"\.minnctapersm\s+(\d+)", directives),
                registers=number(r"Used (\d+) registers", usage),
                shared=number(r"(\d+) bytes smem", usage),
                dynamic=most_dynamic.get(name.partition("<")[0]) if is_dynamic else 0,
                stack=number(r"(\d+) bytes stack frame", usage),
                spilled=number(r"(\d+) bytes spill stores", usage) + number(r"(\d+) bytes spill loads", usage),
                accesses=accesses,
                pieces=pieces,
            )
        )
    return sorted(result, key=lambda one: one.name)

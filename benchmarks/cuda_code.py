"""Compiles a CUDA source for an architecture and reads what its kernels became; no GPU is needed.

A kernel states its threads and blocks by `__launch_bounds__(threads, blocks of a multiprocessor)`, and the most of its
dynamic shared memory in a line of the source:

    constexpr int kMost = 2 * 4096;  // dynamic shared memory of <kernel>

Compiled files are kept in build/cuda_report, by their text and the flags.
"""

import ctypes
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
        """That a multiprocessor holds at once."""
        major, minor = divmod(int(self.target.removeprefix("sm_")), 10)
        sizes = (TARGETS[self.target], self.threads, self.registers, self.shared, self.dynamic or 0)
        return calculator().blocks_of_processor(major, minor, *sizes) if self.threads else 0


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


def output(name: str, *arguments: str, given: str | None = None) -> str:
    path = tool(name)
    if path is None:
        raise RuntimeError(f"cuda-report needs {name}")
    command = [path, *arguments]
    run = subprocess.run(command, input=given, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{(run.stderr or run.stdout)[:4000]}")
    return run.stdout + run.stderr


@cache
def version() -> str:
    return re.findall(r"V([\d.]+)", output("nvcc", "--version"))[-1]


def with_includes(source: Path) -> list[Path]:
    """A source and the files of ours that it includes."""
    found = [source]
    for path in found:
        for name in re.findall(r'#include "(.*)"', path.read_text()):
            named = next((p for p in (path.parent / name, CUDA / name) if p.exists()), None)
            if named and named not in found:
                found.append(named)
    return found


def kept(source: Path, suffix: str, flags: list[str]) -> tuple[Path, bool]:
    """Where a compiled file is kept, and whether it is there; older ones are removed."""
    text = hashlib.sha256(" ".join([version(), *flags]).encode())
    for path in with_includes(source):
        text.update(path.read_bytes())
    stem, _, end = suffix.rpartition(".")
    target = BUILD / f"{source.stem}{stem}-{text.hexdigest()[:16]}.{end}"
    if not target.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        for old in BUILD.glob(f"{source.stem}{stem}-*.*"):
            old.unlink(missing_ok=True)
    return target, target.exists()


def compiled(source: Path, target: str) -> Path:
    """The cubin; beside it the PTX of which it is made (.ptx), and what the assembler says (.log)."""
    cubin, there = kept(source, f"-{target}.cubin", FLAGS)
    if not there:
        ptx, partial = cubin.with_suffix(".ptx"), cubin.with_suffix(f".{os.getpid()}")
        output("nvcc", *FLAGS, "-ptx", f"-arch={target.replace('sm', 'compute')}", str(source), "-o", str(ptx))
        log = output("nvcc", f"-arch={target}", "-cubin", "-Xptxas", "-v", str(ptx), "-o", str(partial))
        cubin.with_suffix(".log").write_text(log)
        partial.rename(cubin)
    return cubin


@cache
def calculator() -> ctypes.CDLL:
    source, flags = Path(__file__).with_name("occupancy.cpp"), ["-shared", "-Xcompiler", "-fPIC", "-cudart", "none"]
    library, there = kept(source, ".so", flags)
    if not there:
        partial = library.with_suffix(f".{os.getpid()}")
        output("nvcc", *flags, str(source), "-o", str(partial))
        partial.rename(library)
    return ctypes.CDLL(str(library))


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


def measured(source: Path, target: str) -> list[Instance]:
    """The instances of a source's kernels, in the order of their names."""
    cubin = compiled(source, target)
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
    demangled = output("c++filt", given="\n".join(name for name, _ in entries)).splitlines()
    found = []
    for (mangled, body), long_name in zip(entries, demangled, strict=True):
        said = log[log.index(f"'{mangled}'") :]
        said = said[: said.find("Compiling entry")] if "Compiling entry" in said else said

        def number(pattern: str, where: str) -> int:
            match = re.search(pattern, where)
            return int(match[1]) if match else 0

        name, directives = readable(long_name, text), body.partition("{")[0]
        accesses, pieces = read(code[mangled])
        is_dynamic = any(re.search(rf"\b{re.escape(array)}\b", body) for array in dynamic_arrays)
        found.append(
            Instance(
                name,
                source.name,
                target,
                threads=number(r"\.(?:max|req)ntid\s+(\d+)", directives),
                stated=number(r"\.minnctapersm\s+(\d+)", directives),
                registers=number(r"Used (\d+) registers", said),
                shared=number(r"(\d+) bytes smem", said),
                dynamic=most_dynamic.get(name.partition("<")[0]) if is_dynamic else 0,
                stack=number(r"(\d+) bytes stack frame", said),
                spilled=number(r"(\d+) bytes spill stores", said) + number(r"(\d+) bytes spill loads", said),
                accesses=accesses,
                pieces=pieces,
            )
        )
    return sorted(found, key=lambda one: one.name)

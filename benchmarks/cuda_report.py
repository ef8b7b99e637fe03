"""Reports what the CUDA kernels of csrc/cuda become, compiled for GPUs that are not here.

`python -m benchmarks.cuda_report` writes docs/cuda-report.md: every instance of every kernel. A fault is a stack or a
spill; a kernel that does not state its threads, its blocks or its dynamic shared memory (cuda_code.py says how); fewer
blocks of a multiprocessor than stated; no 16-byte loads or stores, or stores that the compiler took apart.
"""

import re
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.cuda_code import CUDA, ROOT, TARGETS, Instance, instances, missing, version

# The beginnings of instances' names, faults that they may have, and why. Narrow accesses are allowed too where the last
# template argument is 1: numbers at once, of arrays that are not aligned.
ALLOWED = [
    ("add_rows_kernel", ("narrow loads", "narrow stores"), "small tables"),
    ("noise_bwd_kernel", ("narrow loads", "narrow stores"), "sums over channels, for noise that is learned"),
    ("square_sum_of_taps_kernel", ("narrow stores",), "a sum for each kernel of a weight"),
    ("fir_any_kernel", ("narrow loads", "narrow stores"), "sizes and strides for which no other kernel is made"),
    (
        r"columns_kernel|fir_bwd_channels_last_kernel|epilogue_bwd_kernel<.*, true, \d>",
        ("stores in pieces",),
        "sums of a block, into a table",
    ),
]


def faults_of(one: Instance) -> list[str]:
    allowed = {kind for pattern, kinds, _ in ALLOWED if re.match(pattern, one.name) for kind in kinds}
    if one.name.endswith(", 1>"):
        allowed |= {"narrow loads", "narrow stores"}
    faults = []
    local = sum(one.accesses["local"].values())
    if one.stack or one.spilled or local:
        faults.append(f"a stack of {one.stack} bytes, {one.spilled} bytes of spills, {local} local accesses")
    if one.dynamic is None:
        faults.append("does not state the most of its dynamic shared memory")
    if not one.threads or not one.stated:
        faults.append("does not state its threads and blocks")
    elif one.blocks < one.stated:
        faults.append(f"{one.blocks} blocks of a multiprocessor, {one.stated} stated")
    for kind in ("loads", "stores"):
        if not one.accesses[kind][128] and f"narrow {kind}" not in allowed:
            faults.append(f"no {kind} of 128 bits")
    if one.pieces and not {"narrow stores", "stores in pieces"} & allowed:
        faults.append(f"16 bytes stored in pieces, in {one.pieces} places")
    return faults


def report(sources: Iterable[Path], targets: Iterable[str] = TARGETS) -> list[Instance]:
    """Two at a time."""
    jobs = [(source, target) for source in sources for target in targets]
    with ThreadPoolExecutor(2) as pool:
        return [one for of_source in pool.map(lambda job: instances(*job), jobs) for one in of_source]


def faults(kernels: Iterable[Instance]) -> list[str]:
    return [f"{one.name}, {one.target}: {fault}" for one in kernels for fault in faults_of(one)]


def row(of_targets: dict[str, Instance]) -> str:
    """Of the table: an instance for all architectures."""
    cells = []
    for target in TARGETS:
        one = of_targets[target]
        widths = {kind: ", ".join(f"{b}: {n}" for b, n in sorted(a.items())[::-1]) for kind, a in one.accesses.items()}
        cells.append(f"{one.registers}, {one.shared + (one.dynamic or 0)}, {one.stack + one.spilled}, {one.blocks}")
        cells += [
            widths["loads"],
            widths["stores"],
            f"{widths['shared loads']} / {widths['shared stores']}".strip(" /"),
        ]
    wrong = "; ".join(f"{target}: {fault}" for target, one in of_targets.items() for fault in faults_of(one))
    one = next(iter(of_targets.values()))
    return "| " + " | ".join([one.name, f"{one.threads}, {one.stated}", *cells, wrong or "none"]) + " |"


def main() -> int:
    if reason := missing():
        print(f"cuda-report {reason}")
        return 1
    sources = sorted(CUDA.glob("*.cu"))
    rows: dict[tuple[str, str], dict[str, Instance]] = {}
    for one in report(sources):
        rows.setdefault((one.source, one.name), {})[one.target] = one
    columns = [cell for target in TARGETS for cell in (target, "loads", "stores", "shared")]
    lines = [
        "# CUDA kernels, compiled for GPUs that are not here\n",
        f"Written by `make cuda-report`: every instance of every kernel, compiled by nvcc {version()} for "
        f"{' and '.join(TARGETS)}.",
        "Stated: threads of a block and blocks of a multiprocessor. Of an architecture: registers of a thread; bytes",
        "of shared memory of a block, dynamic included; bytes of stack and spills; blocks that a multiprocessor holds",
        "at once. Then the accesses to global memory, and the loads / stores of shared memory, in the machine code:",
        "bits of an access, and how many. Smooth and linear: the activation (linear: piecewise).",
    ]
    for source in sources:
        lines += [f"\n## {source.name}\n", "| kernel | stated | " + " | ".join([*columns, "faults"]) + " |"]
        lines.append("|---|---|" + "---|" * (len(columns) + 1))
        lines += [row(of_targets) for (name, _), of_targets in rows.items() if name == source.name]
    (ROOT / "docs/cuda-report.md").write_text("\n".join(lines) + "\n")
    wrong = [faults(of_targets.values()) for of_targets in rows.values()]
    print(*(fault for of_row in wrong for fault in of_row), sep="\n", end="\n" if any(wrong) else "")
    print(f"{len(rows)} instances for {' and '.join(TARGETS)}, {sum(map(bool, wrong))} with faults")
    return int(any(wrong) or not rows)


if __name__ == "__main__":
    sys.exit(main())

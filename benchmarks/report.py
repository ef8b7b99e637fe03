"""pytest-benchmark's JSON -> benchmarks/results/<device>/: a Markdown table and a plot of every benchmark.

python -m benchmarks.report FILE [OUT]
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
Rows = dict[str, dict[str, Any]]  # variant -> what was measured


def main(source: str, out: str | None = None) -> None:
    report = json.loads(Path(source).read_text())
    machine = report["machine_info"]["idgan"]
    name = machine["device"] + ("" if machine["cuda"] else f" {machine['threads']} threads")
    folder = Path(out) if out else RESULTS / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    operators: dict[str, dict[str, Rows]] = defaultdict(lambda: defaultdict(dict))
    kernels: dict[str, Rows] = defaultdict(dict)
    others: dict[str, Rows] = defaultdict(dict)
    for row in report["benchmarks"]:
        operator, *rest = row["group"].split(" | ")
        info = {"median": row["stats"]["median"], **row["extra_info"]}
        if operator == "CPU kernels":
            kernels[", ".join(rest)][row["name"]] = info
        elif rest:
            operators[", ".join(rest)][operator][row["name"]] = info
        else:
            others[operator][row["name"]] = info
    text = [head(report, machine)]
    text += [group_table(group, rows) for group, rows in others.items()]
    text += [operator_table(group, rows) for group, rows in operators.items()]
    if kernels:
        text.append(kernel_table(kernels))
    if operators:
        plot(operators, folder / "operators.svg", machine)
        text.insert(1, "![Speed of the operators](operators.svg)\n")
    (folder / "README.md").write_text("\n".join(text))
    print(folder)


def head(report: dict[str, Any], machine: dict[str, Any]) -> str:
    commit = report["commit_info"].get("id", "unknown")[:10]
    dirty = " with changes" if report["commit_info"].get("dirty") else ""
    what = f"torch {machine['torch']}" + (f", CUDA {machine['cuda']}" if machine["cuda"] else "")
    return (
        f"# {machine['device']}\n\n"
        f"{what}, {machine['threads']} CPU threads, commit {commit}{dirty}, {report['datetime'][:10]}. "
        "Written by `make bench`.\n\n"
        "Times in µs: medians, taken in turns in one process; in brackets the speed relative to the fastest plain "
        "torch composition. Bandwidth, for the fastest row that is not plain torch: compulsory bytes (what must come "
        "in and go out once if the whole were one pass) by time, as a share of a copy's in the same run; above 1, data "
        "came from the caches. Peak: the memory that a call adds, in MiB, of the reference and of the leanest plain "
        "composition.\n"
    )


def group_table(group: str, rows: Rows) -> str:
    keys = [key for key in next(iter(rows.values())) if key != "median"]
    lines = [f"## {group}\n", "| | ms | " + " | ".join(keys) + " |", "|---" * (len(keys) + 2) + "|"]
    for variant, info in rows.items():
        cells = [f"{info['median'] * 1e3:.1f}", *[str(info[key]) for key in keys]]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def kernel_table(kernels: dict[str, Rows]) -> str:
    variants = list(next(iter(kernels.values())))
    lines = ["## CPU kernels at the sizes of layers\n", "ms; in brackets how often the native kernel fits into it.\n"]
    lines += ["| case | " + " | ".join(variants) + " |", "|---" * (len(variants) + 1) + "|"]
    for case, rows in kernels.items():
        cells = [f"{rows[v]['median'] * 1e3:.2f} ({rows[v]['native_faster_by']:.2f})" for v in variants]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def operator_table(group: str, operators: dict[str, Rows]) -> str:
    ours = list(dict.fromkeys(v for rows in operators.values() for v in rows if not v.startswith("plain")))
    columns = ["operator", "plain", *ours, "MB", "bandwidth", "Mflop", "peak", "plain's peak"]
    lines = [f"## {group}\n", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for operator, rows in operators.items():
        plain = [rows[v] for v in rows if v.startswith("plain")]
        fastest = max((rows[v] for v in ours if v in rows), key=lambda info: info["ratio_to_plain"])
        cells = [
            operator,
            f"{min(info['us'] for info in plain):.0f}",
            *[f"{rows[v]['us']:.0f} ({rows[v]['ratio_to_plain']:.2f})" if v in rows else "" for v in ours],
            f"{fastest['bytes'] / 1e6:.1f}",
            f"{fastest['of_copy_bandwidth']:.2f}",
            f"{fastest['flops'] / 1e6:.0f}",
            f"{rows['reference']['peak_mib']:.1f}",
            f"{min(info['peak_mib'] for info in plain):.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(operators: dict[str, dict[str, Rows]], path: Path, machine: dict[str, Any]) -> None:
    """A panel for each mode and dtype: speed relative to plain torch, a mark for each of our rows."""
    names = list(next(iter(operators.values())))
    figure, axes = plt.subplots(
        1, len(operators), figsize=(3.2 * len(operators), 0.3 * len(names) + 1.6), sharey=True, squeeze=False
    )
    for axis, (group, of_group) in zip(axes[0], operators.items(), strict=True):
        ours = list(dict.fromkeys(v for rows in of_group.values() for v in rows if not v.startswith("plain")))
        for variant in ours:
            run = [name for name in names if variant in of_group[name]]
            axis.plot([of_group[name][variant]["ratio_to_plain"] for name in run], run, "o", label=variant)
        axis.axvline(1, color="0.6", linewidth=1)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_title(group.replace(", [", "\n["), fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    axes[0][0].invert_yaxis()
    axes[0][0].legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1.12))
    figure.supxlabel(f"speed relative to plain torch, {machine['device']}", fontsize=9)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])

"""pytest-benchmark's JSON -> benchmarks/results/<device>/README.md, the tables that the run has shown.

python -m benchmarks.report FILE [FOLDER]
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LEGEND = "ms, medians of calls in turns; in brackets the speed relative to plain torch, and the MiB that a call adds"
Cells = dict[str, dict[str, float]]  # by variant: ms, ratio, peak_mib
CELL = 22


class Table:
    """Markdown, wide enough to be read in a terminal. It is built line by line, while the benchmarks run."""

    def __init__(self, title: str, lines: Mapping[str, Iterable[str]]) -> None:
        """lines: row -> its variants."""
        self.title, self.width = title, max(map(len, lines))
        variants = dict.fromkeys(variant for variants in lines.values() for variant in variants)
        self.variants = sorted(variants, key=lambda name: name == "floor")
        self.begun = False

    def line(self, row: str, cells: Cells) -> str:
        """A row by variant; the first brings the heading."""
        text = self._joined(row, [_cell(cells[name]) if name in cells else "" for name in self.variants])
        if not self.begun:
            self.begun = True
            rule = "|---" * (len(self.variants) + 1) + "|"
            text = "\n".join(["", f"## {self.title}", "", self._joined("", self.variants), rule, text])
        return text

    def _joined(self, row: str, cells: Iterable[str]) -> str:
        return "| " + " | ".join([row.ljust(self.width), *[cell.ljust(CELL) for cell in cells]]) + " |"


def _cell(info: Mapping[str, float]) -> str:
    ms, ratio = (f"{value:.2f}" if value < 100 else f"{value:.0f}" for value in (info["ms"], info["ratio"]))
    peak = f"; {info['peak_mib']:.0f}" if "peak_mib" in info else ""
    return f"{ms} ({ratio}{peak})"


def main(source: str, out: str | None = None) -> None:
    report = json.loads(Path(source).read_text())
    machine = report["machine_info"]["idgan"]
    name = machine["device"] + ("" if machine["cuda"] else f" {machine['threads']} threads")
    folder = Path(out) if out else RESULTS / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n".join([head(report, machine), *tables(report["benchmarks"])]) + "\n")
    print(folder)


def head(report: dict[str, Any], machine: dict[str, Any]) -> str:
    commit = report["commit_info"].get("id", "unknown")[:10]
    dirty = " with changes" if report["commit_info"].get("dirty") else ""
    what = f"torch {machine['torch']}" + (f", CUDA {machine['cuda']}" if machine["cuda"] else "")
    return (
        f"# {machine['device']}\n\n"
        f"{what}, {machine['threads']} CPU threads, commit {commit}{dirty}, {report['datetime'][:10]}. "
        f"Written by `make bench`.\n\n{LEGEND}."
    )


def tables(benchmarks: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The lines of all tables."""
    rows_by_title: dict[str, dict[str, Cells]] = {}
    for benchmark in benchmarks:
        title, row = benchmark["group"].split(" | ")
        rows_by_title.setdefault(title, {}).setdefault(row, {})[benchmark["name"]] = benchmark["extra_info"]
    for title, rows in rows_by_title.items():
        table = Table(title, rows)
        yield from (table.line(row, cells) for row, cells in rows.items())


if __name__ == "__main__":
    main(*sys.argv[1:])

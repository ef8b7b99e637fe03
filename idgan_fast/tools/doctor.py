"""`idgan-fast doctor`: what is installed and usable, and whether every backend that runs agrees with float64 here."""

import json
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from idgan_fast import __version__, ops, startup
from idgan_fast.data import dali
from idgan_fast.errors import UserError, print_error
from idgan_fast.ops import _host
from idgan_fast.ops._dispatch import libraries
from idgan_fast.ops._registry import Case
from idgan_fast.ops.validation import numerics
from idgan_fast.ops.validation.numerics import cases, sample
from idgan_fast.tools.options import Parser

PACKAGES = ("torch", "triton", "numpy", "ninja", "pybind11", "nvidia-dali-cuda130")


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    parser = Parser(prog, __doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for a bug report")
    try:
        options = parser.parse(argv)
    except UserError as error:
        print_error(str(error))
        return 2
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    report: dict[str, Any] = {
        "system": system(devices),
        "available": {device: ops.available(device) for device in devices},
        "checks": [check for device in devices for check in checks(device)],
    }
    passed = all(check["passed"] for check in report["checks"])
    report["passed"] = passed
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 0 if passed else 1


def system(devices: Sequence[str]) -> dict[str, Any]:
    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {
        "idgan-fast": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "OpenMP": startup.threads(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        **{f"{device} library": reason or "loaded" for device, reason in libraries().items()},
        "host library": _host.missing or f"loaded, of torch {torch.__version__.split('+')[0]}",
        **{f"DALI on {device}": dali.why_not(torch.device(device)) or "usable" for device in devices},
        "IDGAN_FAST_BACKEND": os.environ.get("IDGAN_FAST_BACKEND"),
        **{name: installed(name) for name in PACKAGES},
    }


SHORT = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}
# (size, channels, layout, dtypes): even and odd, channels side by side and apart.
SHAPES = ((16, 32, "NHWC", numerics.DTYPES), (31, 5, "NCHW", (torch.float32,)))


def checks(device: str) -> list[dict[str, Any]]:
    """Every backend, operator, dtype and order of gradient on a few shapes: the errors' ratios, and a time."""
    results = []
    for size, channels, layout, dtypes in SHAPES:
        for case, dtype, backend in product(cases(device, size, channels), dtypes, numerics.backends(device)):
            if not numerics.runs(case, backend, device):
                continue
            taken = round(forward_us(case, dtype, layout, backend, device), 1)
            for row in numerics.measure(case, dtype, layout, (backend,), device):
                results.append(
                    {
                        "device": device,
                        "backend": backend,
                        "operator": row.name,
                        "shape": [2, channels, size, size],
                        "dtype": row.dtype,
                        "order": row.order,
                        "maximum_error": row.ours[0],
                        "ratio": round(max(row.ratios), 3),
                        "limit": numerics.LIMIT,
                        "forward_us": taken,
                        "passed": row.passed,
                    }
                )
    return results


def forward_us(case: Case, dtype: torch.dtype, layout: str, backend: str, device: str) -> float:
    """The best of a few forward passes, in microseconds."""
    tensors = sample(case, dtype, layout, device)
    best = float("inf")
    with ops.backend(backend), torch.no_grad():
        for _ in range(5):
            began = time.perf_counter()
            case.ours(*tensors)
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - began)
    return best * 1e6


def show(report: dict[str, Any]) -> None:
    console = Console(markup=False, emoji=False)  # else rich takes `[dali]` in a text for markup
    for name, value in report["system"].items():
        console.print(f"{name:20} {'not there' if value is None else value}", highlight=False, soft_wrap=True)
    console.print()
    for device, operators in report["available"].items():
        for operator, backends in operators.items():
            for backend, reason in backends.items():
                why = reason or "usable"
                console.print(f"{device:5} {operator:16} {backend:10} {why}", highlight=False, soft_wrap=True)
    console.print("\nforward time in µs; for each order the maximum error and its share of the limit")
    tables: dict[str, Table] = {}
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for check in report["checks"]:
        where = f"{check['backend']} on {check['device']}, {check['shape']}"
        key = (where, check["operator"], check["dtype"])
        lines.setdefault(key, {"forward": check["forward_us"]})[check["order"]] = (
            f"{check['maximum_error']:.0e} {check['ratio'] / check['limit']:.2f}" + ("" if check["passed"] else " FAIL")
        )
    for (where, operator, dtype), line in lines.items():
        if where not in tables:
            tables[where] = Table(box=None, title=where, title_justify="left")
            for column in ("operator", "dtype", "µs", *numerics.ORDERS):
                tables[where].add_column(column, no_wrap=True)
        cells = [line.get(order, "0") for order in numerics.ORDERS]
        tables[where].add_row(operator, SHORT[dtype], f"{line['forward']:.0f}", *cells)
    for table in tables.values():
        console.print(table)
    failed = sum(not check["passed"] for check in report["checks"])
    total = len(report["checks"])
    console.print(f"{'pass' if not failed else 'FAIL'}: {total - failed} of {total} checks", highlight=False)

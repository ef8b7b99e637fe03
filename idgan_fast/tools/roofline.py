"""`idgan-fast roofline`: the least time of every layer on a GPU, and that of our kernels and of public ones, predicted.

A model from shapes and datasheets, written down before any GPU ran the kernels, so that measurements can refute it.

    floor     max(flops / dense peak, compulsory bytes / bandwidth); compulsory: each input, weight, output once
    ours      the sum over the kernels of our form of max(flops / peak, bytes / bandwidth)
    unfused   the same for the public operators (stylegan2-ada's; for the ResNet family plain torch)

No kernel whose data comes from memory may beat the floor. The model knows no launches (some microseconds a kernel), no
partly filled waves and nothing that stays in a cache from one kernel to the next. flops are those of convolutions and
matrix products; filters and pointwise work are hidden behind their bytes.

How our kernels move memory (I, A: input and output activations; W: weight)

    styled conv        one implicit GEMM with the style in its prologue and demodulation, noise, bias, leaky ReLU and
                       clamp in its epilogue: I + W + noise + A; before it the coefficients: W and its sums of squares
    styled conv up=2   the faster of two forms (ops/layer/up2_plan.py): composite, I + 4W + noise + A at 4 times the
                       arithmetic, after making 4W; or two kernels, I + W + M, then M + noise + A with M = (2H + 1)^2
    to-RGB             1x1 modulated convolution with bias, one kernel: I + W + A
    skip up=2          upsampling and addition in one kernel: a quarter and this level's image read, the sum written
    D: conv            torch's convolution, then bias and leaky ReLU in one pass in place: I + W + A, then 2A
    D: conv down=2     blur, I + M; convolution of stride 2, M + W + A; bias and leaky ReLU, 2A
    D: shortcut        downsampling, I + I/4; 1x1 convolution, I/4 + W + A; addition, 3A
    ResNet             plain torch, as the project runs it: each operator reads and writes

So in the discriminator and in the ResNet family ours is the public form but for one pass, and no gain is predicted.
The passes of the unfused form are listed in idgan_fast.tools.costs.stylegan2. Everything is in the one type of --dtype.
"""

import argparse
import csv
import io
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from idgan_fast.config.presets import PRESETS
from idgan_fast.config.settings import MOST_IMAGES
from idgan_fast.errors import UserError, nearest, print_error, shown
from idgan_fast.ops.layer.devices import DEVICES
from idgan_fast.ops.layer.up2_plan import composite_is_faster, seconds
from idgan_fast.tools.costs.layer import Layer
from idgan_fast.tools.costs.resnet import resnet_layers
from idgan_fast.tools.costs.stylegan2 import stylegan2_layers
from idgan_fast.tools.options import Parser, whole_number

ELEMENT = {"fp16": 2, "bf16": 2, "tf32": 4, "fp32": 4}  # bytes of a number
MODELED = [name for model in ("stylegan2", "resnet") for name, config in PRESETS.items() if config.gan.model == model]

Row = dict[str, str | int | float]


def layers_of(preset: str, n: int, dtype: str) -> list[Layer]:
    """The layers of a preset's G and D at batch n. Raises UserError for an unknown preset."""
    if preset not in MODELED:
        raise UserError(f"--preset: no model of {shown(preset)}; {nearest(preset, MODELED)}")
    config = PRESETS[preset]
    if config.gan.model == "stylegan2":
        return stylegan2_layers(config.images.size, config.gan.stylegan2.channel_base, n, ELEMENT[dtype])
    return resnet_layers(config, n, ELEMENT[dtype])


def default_batch(preset: str) -> int:
    return 4 if preset in PRESETS and PRESETS[preset].images.size >= 1024 else 8


def row_of(layer: Layer, dtype: str) -> Row:
    """A line of the CSV: shapes, flops, bytes, and for every device the bound and the predicted microseconds."""
    row: Row = {
        "network": layer.network,
        "layer": layer.name,
        "kind": layer.kind,
        "n": layer.n,
        "c_in": layer.c_in,
        "c_out": layer.c_out,
        "size_in": layer.size_in,
        "size_out": layer.size_out,
        "flops": layer.flops,
        "compulsory_bytes": layer.compulsory,
        "unfused_bytes": sum(kernel.bytes for kernel in layer.unfused),
    }
    for key, device in DEVICES.items():
        peak, bandwidth = device.rates(dtype)
        arithmetic, memory = layer.flops / peak, layer.compulsory / bandwidth
        kernels, plan = layer.ours, ""
        if layer.composite is not None:
            shape = (layer.n, layer.c_in, layer.c_out, layer.size_in, layer.size_in)
            plan = "two kernels"
            if composite_is_faster(*shape, ELEMENT[dtype], peak=peak, bandwidth=bandwidth):
                kernels, plan = layer.composite, "composite"
        row |= {
            f"{key}_bound": "compute" if arithmetic > memory else "memory",
            f"{key}_floor_predicted_us": _us(max(arithmetic, memory)),
            f"{key}_plan": plan,
            f"{key}_ours_bytes": sum(kernel.bytes for kernel in kernels),
            f"{key}_ours_predicted_us": _us(seconds(kernels, peak, bandwidth)),
            f"{key}_unfused_predicted_us": _us(seconds(layer.unfused, peak, bandwidth)),
        }
    return row


def _us(value: float) -> float:
    return round(value * 1e6, 3)


def rows_of(layers: Sequence[Layer], dtype: str) -> list[Row]:
    """A row for every layer, and after those of a network its totals: flops, bytes and microseconds added up."""
    rows: list[Row] = []
    for network in dict.fromkeys(layer.network for layer in layers):
        mine = [row_of(layer, dtype) for layer in layers if layer.network == network]
        total: Row = dict.fromkeys(mine[0], "")
        total |= {"network": network, "layer": "total", "n": mine[0]["n"]}
        for column in mine[0]:
            if column == "flops" or column.endswith(("_bytes", "_us")):
                total[column] = round(sum(float(row[column]) for row in mine), 3 if column.endswith("_us") else None)
        rows += [*mine, total]
    return rows


def to_csv(rows: Sequence[Row]) -> str:
    """Text with a head line; microseconds with three places."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([f"{value:.3f}" if isinstance(value, float) else value for value in row.values()])
    return text.getvalue()


def show(rows: Sequence[Row], title: str) -> None:
    """Print a table for each network, and what its columns are."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for network in dict.fromkeys(row["network"] for row in rows):
        table = Table(box=None, title=f"{network} of {title}, forward, predicted", title_justify="left")
        for name in ("layer", "kind", "N x C, size"):
            table.add_column(name, no_wrap=True)
        times = [name for key in DEVICES for name in (f"{key.upper()} floor", "ours")]
        for name in ("GFLOP", "MB least", "ours", "unfused", *times):
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            if row["network"] == network:
                table.add_row(*_cells(row), style="bold" if row["layer"] == "total" else None)
        console.print(table)
        console.print()
    console.print(
        "MB: least (compulsory), of our kernels (in the order of the devices where they differ), of public operators."
    )
    console.print("µs: floor, c bound by compute, m by memory; ours, * composite form. Predicted: no GPU has run this.")


def _cells(row: Row) -> list[str]:
    shape = f"{row['n']}x{row['c_in']}→{row['c_out']}, {row['size_in']}→{row['size_out']}"
    ours = [f"{float(row[f'{key}_ours_bytes']) / 1e6:.1f}" for key in DEVICES]
    cells = [
        str(row["layer"]),
        str(row["kind"]),
        "" if row["layer"] == "total" else shape,
        f"{float(row['flops']) / 1e9:.2f}",
        f"{float(row['compulsory_bytes']) / 1e6:.1f}",
        " / ".join(dict.fromkeys(ours)),
        f"{float(row['unfused_bytes']) / 1e6:.1f}",
    ]
    for key in DEVICES:
        star = "*" if row[f"{key}_plan"] == "composite" else ""
        cells.append(f"{float(row[f'{key}_floor_predicted_us']):.1f} {str(row[f'{key}_bound'])[:1]:1}")
        cells.append(f"{star}{float(row[f'{key}_ours_predicted_us']):.1f}")
    return cells


def parse(options: argparse.Namespace, dtypes: Collection[str]) -> tuple[str, str, int]:
    """Preset, type and batch size of a command line. Raises UserError for a type that is not among `dtypes`."""
    preset, dtype, n = options.preset, options.dtype, options.batch
    if dtype not in dtypes:
        raise UserError(f"--dtype: no type {shown(dtype)}; known: {', '.join(dtypes)}")
    return preset, dtype, default_batch(preset) if n is None else n


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; the exit status. What the user can mend is one line on standard error."""
    parser = Parser(prog, __doc__)
    parser.add_argument("--preset", required=True, metavar="NAME", help=", ".join(MODELED))
    parser.add_argument("--dtype", default="fp16", metavar="TYPE", help="fp16 (default), bf16, tf32, fp32")
    parser.add_argument("--batch", type=whole_number(1, MOST_IMAGES), metavar="N", help="by default 8, at 1024x1024 4")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every column there")
    try:
        options = parser.parse(argv)
        preset, dtype, n = parse(options, ELEMENT)
        rows = rows_of(layers_of(preset, n, dtype), dtype)
        if options.csv is not None:
            try:
                options.csv.parent.mkdir(parents=True, exist_ok=True)
                options.csv.write_text(to_csv(rows), encoding="utf-8")
            except OSError as error:
                raise UserError(f"--csv: cannot write {options.csv}: {error.strerror}") from error
    except UserError as error:
        print_error(str(error))
        return 2
    show(rows, f"{preset}, {dtype}, batch {n}")
    return 0

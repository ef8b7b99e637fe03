"""`idgan-fast roofline`: bounds by hand, totals, the CSV files of the repository, errors."""

import csv
from pathlib import Path

import pytest

from idgan_fast.__main__ import main
from idgan_fast.ops.layer.devices import DEVICES
from idgan_fast.tools import roofline
from idgan_fast.tools.roofline import ELEMENT, Row, layers_of, rows_of, to_csv

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "roofline"
COMMITTED = ["stylegan2-256", "stylegan2-1024", "celeba-64", "celeba-256", "celebahq-1024"]


def rows(preset: str = "stylegan2-256", n: int = 8, dtype: str = "fp16") -> list[Row]:
    return rows_of(layers_of(preset, n, dtype), dtype)


def find(table: list[Row], network: str, layer: str) -> Row:
    (row,) = (row for row in table if (row["network"], row["layer"]) == (network, layer))
    return row


def test_floor_and_bound_by_hand() -> None:
    row = find(rows(), "G", "b64.conv1")  # 256 channels: 8 * 64^2 pixels
    flops = 2 * 9 * 256 * 256 * 8 * 64**2
    assert row["flops"] == flops
    assert row["a100_bound"] == "compute"
    assert row["a100_floor_predicted_us"] == round(flops / 312e6, 3)
    row = find(rows(), "G", "b256.torgb")
    moved = 2 * (8 * 64 * 256**2 + 64 * 3 + 8 * 64 + 3 + 8 * 3 * 256**2)
    assert row["h200_bound"] == "memory"
    assert row["h200_floor_predicted_us"] == round(moved / 4800e3, 3)


def test_datasheets() -> None:
    """TFLOP/s of fp16, tf32 and fp32, dense, and GB/s."""
    assert {key: device[1:] for key, device in DEVICES.items()} == {
        "a100": (312, 156, 19.5, 2039),
        "h100": (989, 495, 67, 3350),
        "h200": (989, 495, 67, 4800),
    }
    assert DEVICES["h100"].rates("bf16") == (989e12, 3350e9)
    assert DEVICES["h100"].rates("tf32") == (495e12, 3350e9)
    assert DEVICES["a100"].rates("fp32") == (19.5e12, 2039e9)


@pytest.mark.parametrize("dtype", ELEMENT)
@pytest.mark.parametrize("preset", ["stylegan2-1024", "celeba-64"])
def test_floor_ours_unfused_are_in_order(preset: str, dtype: str) -> None:
    for row in rows(preset, 4, dtype):
        for key in DEVICES:
            floor, ours, unfused = (float(row[f"{key}_{form}_predicted_us"]) for form in ("floor", "ours", "unfused"))
            assert floor <= ours <= unfused, row
            assert float(row["compulsory_bytes"]) <= float(row[f"{key}_ours_bytes"]) <= float(row["unfused_bytes"])


def test_the_form_of_a_layer_with_up2_is_the_faster_one() -> None:
    last = find(rows("stylegan2-1024", 4), "G", "b1024.conv0")
    assert (last["a100_plan"], last["h100_plan"]) == ("two kernels", "composite")
    assert float(last["h100_ours_bytes"]) < float(last["a100_ours_bytes"])
    assert find(rows(), "G", "b64.conv1")["a100_plan"] == ""


def test_totals_add_up() -> None:
    table = rows("celeba-64")
    for network in "GD":
        *mine, total = (row for row in table if row["network"] == network)
        assert total["layer"] == "total"
        for column in ("flops", "unfused_bytes", "a100_ours_bytes", "h200_floor_predicted_us"):
            assert total[column] == pytest.approx(sum(float(row[column]) for row in mine))


def test_bytes_double_with_the_type_and_flops_stay() -> None:
    half, single = (find(rows(dtype=dtype), "D", "total") for dtype in ("bf16", "tf32"))
    assert single["compulsory_bytes"] == 2 * int(half["compulsory_bytes"])
    assert single["flops"] == half["flops"]


@pytest.mark.parametrize("preset", COMMITTED)
def test_the_files_of_the_repository_are_what_the_command_writes(preset: str, tmp_path: Path) -> None:
    assert main(["roofline", "--preset", preset, "--csv", str(tmp_path / "new" / "a.csv")]) == 0
    assert (tmp_path / "new" / "a.csv").read_text() == (RESULTS / f"{preset}.csv").read_text()


def test_no_other_files() -> None:
    assert {path.name for path in RESULTS.iterdir()} == {f"{preset}.csv" for preset in COMMITTED}


def test_the_totals_in_the_documentation_are_those_of_the_files() -> None:
    text = (RESULTS.parents[2] / "docs" / "roofline.md").read_text()
    for preset in COMMITTED:
        for row in csv.DictReader((RESULTS / f"{preset}.csv").read_text().splitlines()):
            if row["layer"] == "total":
                times = [row[f"{key}_{form}_predicted_us"] for key in DEVICES for form in ("floor", "ours", "unfused")]
                cells = [f"{preset} {row['network']}, batch {row['n']}", f"{int(row['flops']) / 1e9:.0f}"]
                assert f"| {' | '.join(cells + [f'{float(time):.0f}' for time in times])} |" in text


def test_csv_reads_back() -> None:
    table = rows("celeba-64")
    read = list(csv.DictReader(to_csv(table).splitlines()))
    assert len(read) == len(table)
    assert read[0]["layer"] == "fc"
    assert int(read[-1]["flops"]) == table[-1]["flops"]


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["roofline", "--preset", "stylegan2-256", "--dtype", "bf16", "--batch", "3"]) == 0
    text = capsys.readouterr().out
    assert "G of stylegan2-256, bf16, batch 3, forward, predicted" in text
    assert "3x128→64, 128→256" in text
    assert text.count(" total ") == 2
    assert "Predicted: no GPU has run this." in text


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--preset", "stylegan2-25"], "--preset: no model of 'stylegan2-25'; did you mean stylegan2-256?"),
        (["--preset", "dsprites"], "--preset: no model of 'dsprites'; "),
        (["--preset", "celeba-64", "--dtype", "fp8"], "--dtype: no type 'fp8'; known: fp16, bf16, tf32, fp32"),
        (
            ["--preset", "celeba-64", "--batch", "0"],
            "argument --batch: must be a whole number from 1 to 1048576, got '0'",
        ),
        (
            ["--preset", "celeba-64", "--batch", "many"],
            "argument --batch: must be a whole number from 1 to 1048576, got 'many'",
        ),
        (["--preset", "celeba-64", "--csv", "/dev/null/a.csv"], "--csv: cannot write /dev/null/a.csv: "),
    ],
)
def test_errors_are_one_line(flags: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert roofline.main(flags) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1

"""The benchmarks' tables, and calls that are timed in turns."""

from benchmarks import measuring, report
from benchmarks.comparison import Comparison, measure


def test_a_line_has_each_variant_under_its_heading() -> None:
    table = report.Table("Operators", {"fma": ("floor", "plain"), "bias_act": ("native", "floor")})
    first = table.line("fma", {"plain": {"ms": 123.4, "ratio": 1.0, "peak_mib": 4.2}}).splitlines()
    assert first[1] == "## Operators"
    assert [cell.strip() for cell in first[3].split("|")] == ["", "", "plain", "native", "floor", ""]
    assert [cell.strip() for cell in first[5].split("|")] == ["", "fma", "123 (1.00; 4)", "", "", ""]
    second = table.line("bias_act", {"native": {"ms": 0.5, "ratio": 2.0}}).splitlines()
    assert [cell.strip() for cell in second[0].split("|")] == ["", "bias_act", "", "0.50 (2.00)", "", ""]


def test_tables_of_a_report() -> None:
    info = {"ms": 1.0, "ratio": 1.0}
    rows = [{"group": f"{title} | row", "name": "plain", "extra_info": info} for title in ("A", "B")]
    assert [line for text in report.tables(rows) for line in text.splitlines() if "##" in line] == ["## A", "## B"]


def test_variants_are_compared_with_the_fastest_of_the_baselines() -> None:
    seconds = {"ours": 1.0, "plain, one": 4.0, "plain, other": 2.0}
    found = measure(Comparison("title", "row", tuple(seconds), lambda: seconds, images=8), 1.0)
    assert {name: info["ratio"] for name, (_, info) in found.items()} == {
        "ours": 2.0,
        "plain, one": 0.5,
        "plain, other": 1.0,
    }
    assert found["ours"][1]["images_per_second"] == 8.0


def test_slow_calls_take_few_turns_and_fast_ones_many() -> None:
    calls = {name: lambda: None for name in "ab"}
    for max_seconds, turns in ((0.0, measuring.MIN_ROUNDS), (60.0, measuring.MAX_ROUNDS)):
        times = measuring.alternating(calls, max_seconds=max_seconds)
        assert {name: len(values) for name, values in times.items()} == dict.fromkeys("ab", turns)

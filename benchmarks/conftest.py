"""The option --full, and a table that grows as the benchmarks run: pytest-benchmark shows its own only at the end."""

import os
from typing import Any, cast

import pytest

from idgan_fast import startup

startup.prepare()  # before torch is imported

import torch  # noqa: E402

from benchmarks.comparison import Comparison  # noqa: E402
from benchmarks.report import LEGEND, Cells, Table  # noqa: E402

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler that measures memory tells of its start and stop
TABLES = pytest.StashKey[dict[str, Table]]()  # by title
CELLS = pytest.StashKey[Cells]()  # of the line that is being measured


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="benchmarks: every backend, type, layout and size")


def pytest_configure(config: pytest.Config) -> None:
    """pytest-benchmark's tables, a line for every variant, come at the end with --benchmark-verbose only."""
    config.option.benchmark_quiet = True


def pytest_report_header() -> str:
    return LEGEND


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each variant of each of the module's `comparisons(full)`."""
    comparisons = metafunc.module.comparisons(metafunc.config.getoption("full", False))
    rows = [(comparison, variant) for comparison in comparisons for variant in comparison.variants]
    metafunc.parametrize(("comparison", "variant"), rows, ids=[f"{c.title}, {c.row}, {v}" for c, v in rows])


@pytest.fixture
def max_seconds(request: pytest.FixtureRequest) -> float:
    """For the calls of one variant: --benchmark-max-time, 1 s by default."""
    return float(request.config.getoption("benchmark_max_time"))


def comparison_of(item: pytest.Item | None) -> Comparison | None:
    """None too for a module that has no comparisons here."""
    comparison = item.callspec.params["comparison"] if isinstance(item, pytest.Function) else None
    return comparison if isinstance(comparison, Comparison) else None


def pytest_collection_finish(session: pytest.Session) -> None:
    lines: dict[str, dict[str, tuple[str, ...]]] = {}
    for comparison in filter(None, map(comparison_of, session.items)):
        lines.setdefault(comparison.title, {})[comparison.row] = comparison.variants
    session.config.stash[TABLES] = {title: Table(title, rows) for title, rows in lines.items()}
    session.config.stash[CELLS] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Function, nextitem: pytest.Item | None) -> Any:
    """Prints a line of a table when its last variant is done."""
    config, comparison, used = item.config, comparison_of(item), dict[str, Any](item.funcargs)
    cells, plugin = config.stash[CELLS], config.pluginmanager.get_plugin
    if comparison and used["benchmark"].extra_info:
        cells[used["variant"]] = dict(used["benchmark"].extra_info)
    if comparison and cells and comparison_of(nextitem) is not comparison:
        terminal, capture = cast(Any, plugin("terminalreporter")), cast(Any, plugin("capturemanager"))
        with capture.global_and_fixture_disabled():
            terminal.write("\n" + config.stash[TABLES][comparison.title].line(comparison.row, cells), flush=True)
        cells.clear()
    return (yield)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """No dots between the lines of the tables."""
    return ("passed", "", "") if report.passed and report.when == "call" else None


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    gpu = torch.cuda.is_available()
    machine_info["idgan"] = {
        "device": torch.cuda.get_device_name() if gpu else machine_info["cpu"]["brand_raw"],
        "torch": torch.__version__.split("+")[0],
        "cuda": torch.version.cuda if gpu else None,
        "threads": torch.get_num_threads(),
    }

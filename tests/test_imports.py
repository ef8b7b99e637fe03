"""Imports go one way; the table says what each part may import from the project."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "idgan_fast"

BASE = {"errors"}
CONFIG = BASE | {"config"}
COMPUTE = {"losses", "piecewise_linear", "models"}
ALLOWED = {
    "errors": set(),
    "config": BASE,
    "presets": CONFIG,
    "arguments": CONFIG | {"presets"},
    "losses": set(),
    "piecewise_linear": {"losses"},
    "ops": BASE | {"ops", "kernels"},
    "models": BASE | {"models", "ops"},
    "choices": CONFIG | {"graphs", "precision"},
    "optim": set(),
    "graphs": set(),
    "augment": {"ops"},
    "metrics": set(),
    "precision": CONFIG,
    "signals": set(),
    "console": set(),
    "files": set(),
    "data": CONFIG | {"data", "files"},
    "stages": COMPUTE | {"augment", "config", "data", "graphs", "optim", "precision", "stages"},
    "checkpoint": BASE | {"files", "models"},
    "run_folder": CONFIG | {"checkpoint"},
    "resume": CONFIG | {"checkpoint", "run_folder"},
    "evaluate": COMPUTE | {"data", "metrics", "stages"},
    "pictures": {"data", "evaluate", "stages"},
    "doctor": {"data", "ops"},
    "costs": CONFIG | {"costs", "ops", "stages"},
    "pack": BASE | {"console", "data", "files", "signals"},
    "memory": CONFIG | {"arguments", "graphs", "models", "precision", "stages"},
    "roofline": CONFIG | {"costs", "ops", "presets"},
    "tune": BASE | {"costs", "kernels", "ops", "roofline"},
    "report": None,
    "train": None,
    "__main__": {"errors"},
    "__init__": set(),
}


def imported(path: Path) -> set[str]:
    """The parts of the project that a file imports: the name after `idgan_fast.`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "idgan_fast":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("idgan_fast."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("idgan_fast.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = ALLOWED[part]
    if allowed is None:
        assert "train" not in imported(path)
    else:
        assert imported(path) <= allowed | {part}


def test_every_part_is_in_the_table() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert parts == set(ALLOWED)


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").rglob("*.py")), ids=lambda p: p.name)
def test_kernels_import_torch_and_triton_alone(path: Path) -> None:
    assert imported(path) <= {"kernels"}

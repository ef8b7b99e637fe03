"""Imports go one way: a folder imports those in the rows above its own, and no files form a circle of imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROWS = (
    {"errors", "startup"},
    {"files"},
    {"config"},
    {"ops", "kernels"},
    {"models", "data"},
    {"training"},
    {"evaluation"},
    {"run"},
    {"tools"},
    {"train", "checkpoint", "__main__", "__init__"},
)


def module_files(root: Path) -> dict[str, Path]:
    """Every module of the project by its name; a package's is its __init__."""
    found = {}
    for folder, package in (("idgan_fast", "idgan_fast"), ("kernels", "idgan_fast.kernels")):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def imports(path: Path, modules: set[str]) -> Iterator[str]:
    """The project's modules that a file imports, also within functions and by `import_module("literal")`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called == "import_module" and isinstance(node.args[0].value, str):
                yield node.args[0].value


def import_graph(root: Path) -> dict[str, set[str]]:
    files = module_files(root)
    return {name: {to for to in imports(path, set(files)) if to in files} - {name} for name, path in files.items()}


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """Modules that import each other in a circle, in order; None where there is none."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str] | None:
        if name in trail:
            return trail[trail.index(name) :]
        if name not in done:
            for to in sorted(graph[name]):
                found = visit(to, [*trail, name])
                if found:
                    return found
            done.add(name)
        return None

    return next(filter(None, (visit(name, []) for name in graph)), None)


GRAPH = import_graph(ROOT)


def part(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def row(module: str) -> int:
    return next(index for index, names in enumerate(ROWS) if part(module) in names)


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_go_one_way(module: str) -> None:
    others = {to for to in GRAPH[module] if part(to) != part(module) and to != "idgan_fast"}
    wrong = {to for to in others if row(to) >= row(module) and {part(to), part(module)} != {"ops", "kernels"}}
    assert not wrong


def test_every_part_has_a_row() -> None:
    assert {part(module) for module in GRAPH} == set().union(*ROWS)


def test_no_circle_between_files() -> None:
    assert circle(GRAPH) is None


def test_a_circle_is_found_through_functions_and_literal_names(tmp_path: Path) -> None:
    for folder in ("idgan_fast/a", "kernels"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "idgan_fast/a/__init__.py").write_text("from idgan_fast.a.x import f\n")
    (tmp_path / "idgan_fast/a/x.py").write_text("def f():\n    from idgan_fast.a import y\n")
    (tmp_path / "idgan_fast/a/y.py").write_text("from importlib import import_module\n")
    assert circle(import_graph(tmp_path)) is None
    (tmp_path / "idgan_fast/a/y.py").write_text(
        "from importlib import import_module\nimport_module('idgan_fast.a.x')\n"
    )
    assert circle(import_graph(tmp_path)) == ["idgan_fast.a.x", "idgan_fast.a.y"]


@pytest.mark.parametrize("module", sorted(name for name in GRAPH if part(name) == "kernels"))
def test_kernels_import_helpers_alone(module: str) -> None:
    """Triton kernels know no dispatcher: of ops they import files that import nothing but errors, files, helpers."""
    reached, todo = set(), {module}
    while todo:
        name = todo.pop()
        reached.add(name)
        todo |= GRAPH[name] - reached
    assert not {name for name in reached if name.startswith("idgan_fast.ops._dispatch")}
    assert {part(name) for name in reached} <= {"kernels", "ops", "errors", "files"}

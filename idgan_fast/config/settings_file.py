"""A file of settings: plain nested YAML, as a run's config.yaml, and nothing that such a file does not need."""

from pathlib import Path
from typing import Any

import yaml

from idgan_fast.errors import UserError

MOST_BYTES, MOST_LEVELS = 2**16, 20  # the record of a run has under 4 KiB, in three levels


class _Loader(yaml.SafeLoader):
    """The safe loader without aliases, which can stand for more than fits in memory, merges, and keys given twice."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self._refuse("an alias")
        self._level += 1
        if self._level > MOST_LEVELS:
            self._refuse(f"more than {MOST_LEVELS} levels")
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        there = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem="a merge of mappings", problem_mark=key.start_mark)
            if (key.tag, key.value) in there:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is there twice", problem_mark=key.start_mark)
            there.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def _refuse(self, problem: str) -> None:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)


def read_settings(path: Path) -> dict[str, Any]:
    """Read the nested mapping of a file of settings. Raises UserError where the file is something else."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"--config: cannot read {path}: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise UserError(f"--config: {path} is no file of settings: wanted {MOST_BYTES // 2**10} KiB at most")
    try:
        values = yaml.load(content, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"--config: {path} is not YAML: {' '.join(str(error).split())}") from error
    except Exception as error:  # of the constructors of int, float, date, ..., which say nothing of what they raise
        raise UserError(f"--config: {path} has a value that is not of its type: {error}; mend it") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"--config: {path} must hold a mapping of settings, got {type(values).__name__}")
    return values

"""Files of what was found out about this machine's GPUs, in the user's cache folder."""

import json
import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any


def cache_file(name: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "idgan_fast" / name


def read(path: Path) -> dict[str, Any]:
    """Empty where there is none or it is not what `write` wrote."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(path: Path, known: dict[str, Any]) -> None:
    """In one step, since several processes may start at once. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(known, file, indent=1)
    os.replace(file.name, path)

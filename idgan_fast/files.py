"""Files that are there whole or not at all, and those of what was found out about this machine."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which gets its name once the block has ended without an error. OSErrors name `path`."""
    partial = path.with_name(path.name + ".part")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        if os.name == "posix":  # the rename itself
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        raise


def cache_file(name: str) -> Path:
    """Of what was found out about this machine, in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "idgan_fast" / name


def read_json(path: Path) -> dict[str, Any]:
    """Empty where there is no file, or one that holds no JSON object."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """In one step, since several processes may start at once; makes the folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(value, file, indent=1)
    os.replace(file.name, path)


def digest(paths: Iterable[Path]) -> str:
    """16 hexadecimal digits that tell these files' contents from others."""
    text = hashlib.sha256()
    for path in sorted(paths):
        text.update(path.read_bytes())
    return text.hexdigest()[:16]

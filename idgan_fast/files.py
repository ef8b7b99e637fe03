"""Files that are there whole or not at all, and what is kept in the user's cache folder."""

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from idgan_fast.errors import UserError, disk_full

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def atomically(path: Path, *, partial: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a file to write, which gets its name once the block has ended without an error. OSErrors name `path`.

    partial: where the bytes are meanwhile, in the same folder; by default PATH.part, which one process at a time may
    write.
    """
    if partial is None:
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


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` so that the file holds all of it or what it held before. Raises UserError on a full disk."""
    try:
        with atomically(path) as file:
            file.write(data)
    except OSError as error:
        if disk_full(error):
            need = len(data) / 2**20
            raise UserError(f"disk full: {path} needs {need:.0f} MiB; free some space and start again") from error
        raise


class Locked(Exception):
    """Another process holds a lock; the text names it."""


def lock(path: Path) -> IO[str]:
    """Open a file and lock it for this process until it is closed; on Windows nothing is locked.

    The lock stays with the file when its folder is renamed. Raises Locked where another process has it.
    """
    while True:
        file = open(path, "a+")  # noqa: SIM115 (the caller closes it)
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            with file:
                file.seek(0)
                raise Locked(file.read(200) or "another process") from error
        except OSError:
            file.close()
            raise
        if _is_at(file, path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            return file
        file.close()  # its folder was renamed between the two calls


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def remove_partial(folder: Path) -> None:
    """Remove what `atomically` left in a folder, and in the folders within it, when its process was killed."""
    for path in folder.rglob("*.part"):
        path.unlink(missing_ok=True)


def cache_file(name: str) -> Path:
    """Return the path of a file in the user's cache folder, for what was found out about this machine."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "idgan_fast" / name


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote; empty where there is no file or it holds something else."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a mapping as JSON, making its folder; several processes may do so at once. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomically(path, partial=path.with_name(f"{path.name}.{uuid4().hex}.part")) as file:
        file.write(json.dumps(value, indent=1).encode())


def digest(paths: Iterable[Path]) -> str:
    """Return 16 hexadecimal digits that tell the contents of these files from others."""
    text = hashlib.sha256()
    for path in sorted(paths):
        text.update(path.read_bytes())
    return text.hexdigest()[:16]

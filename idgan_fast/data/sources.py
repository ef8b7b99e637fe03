"""Where encoded pictures lie: a folder (nested ones too), a zip, or the tar shards of a WebDataset.

A zip that StyleGAN2-ADA's tool has written brings a dataset.json, whose labels are kept beside the pictures' names.
"""

import hashlib
import json
import os
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Any

from idgan_fast.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class Source:
    """`names`, sorted, and `read(name) -> bytes`. Travels to worker processes; threads may share it.

    Raises UserError where there is no folder or archive, or no picture in it. What `read` raises is the archive's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own: tuple[int, Any] | None = None  # what a process has opened
        self._lock = threading.Lock()
        self._tars: list[Path] = []
        self._members: dict[str, tuple[int, int, int]] = {}  # of tars: which, offset, bytes
        try:
            self.names = sorted(name for name in self._list() if _is_picture(name))
        except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            wanted = "a folder or a zip of pictures, or tar shards"
            raise UserError(f"data: --data wants {wanted}, got {path} ({reason})") from error
        if not self.names:
            raise UserError(f"data: no pictures in {path}; wanted files ending in {' '.join(SUFFIXES)}")

    @property
    def fingerprint(self) -> str:
        """Tells whether two sources have the same names, wherever they lie."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:16]

    def labels(self) -> dict[str, int | list[float]] | None:
        """{name: label} of a dataset.json beside the pictures, as StyleGAN2-ADA's tool writes it; None without one."""
        if self._tars:
            return None
        try:
            found = json.loads(self.read("dataset.json")).get("labels")
        except (OSError, KeyError):
            return None
        except (ValueError, AttributeError) as error:
            raise UserError(f"data: dataset.json in {self.path} is not what StyleGAN2-ADA writes ({error})") from error
        return dict(found) if found else None

    def read(self, name: str) -> bytes:
        if self._tars:
            which, offset, size = self._members[name]
            data = os.pread(self._opened()[which], size, offset)
            if len(data) < size:
                raise tarfile.ReadError(f"{self._tars[which]} ends within {name}")
            return data
        return (self.path / name).read_bytes() if self.path.is_dir() else self._opened().read(name)

    def __getstate__(self) -> dict:
        state = {name: value for name, value in self.__dict__.items() if name != "_lock"}
        return {**state, "_own": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def _opened(self) -> Any:
        """The archive, or the descriptors of the shards: opened once in a process."""
        with self._lock:
            if self._own is None or self._own[0] != os.getpid():
                opened: Any = _Descriptors(self._tars) if self._tars else zipfile.ZipFile(self.path)
                self._own = (os.getpid(), opened)
            return self._own[1]

    def _list(self) -> list[str]:
        if self.path.is_dir():
            names = [p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()]
            tars = [self.path / name for name in sorted(names) if name.lower().endswith(".tar")]
            if not tars or any(map(_is_picture, names)):
                return names
            self._tars = tars
            return self._list_tars()
        if tarfile.is_tarfile(self.path):
            self._tars = [self.path]
            return self._list_tars()
        with zipfile.ZipFile(self.path) as archive:
            return archive.namelist()

    def _list_tars(self) -> list[str]:
        for which, path in enumerate(self._tars):
            shard_name = path.name if path == self.path else path.relative_to(self.path).as_posix()
            with tarfile.open(path, "r:") as shard:
                for member in shard:
                    if member.isfile():
                        name = f"{shard_name}/{member.name}"
                        self._members[name] = (which, member.offset_data, member.size)
        return list(self._members)


class _Descriptors(list[int]):
    """Of files, closed with it."""

    def __init__(self, paths: list[Path]) -> None:
        super().__init__(os.open(path, os.O_RDONLY) for path in paths)

    def __del__(self) -> None:
        for descriptor in self:
            os.close(descriptor)


def _is_picture(name: str) -> bool:
    """What macOS leaves beside pictures is passed over."""
    hidden = "__MACOSX" in name or name.split("/")[-1].startswith("._")
    return name.lower().endswith(SUFFIXES) and not hidden

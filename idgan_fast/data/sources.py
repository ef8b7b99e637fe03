"""Encoded images in a folder (nested ones too), a zip, or the tar shards of a WebDataset.

A zip that StyleGAN2-ADA's tool has written brings a dataset.json, whose labels are kept beside the images' names.
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
    """The `names` of the images, sorted, and `read(name) -> bytes`. It travels to processes, and threads may share it.

    Raises UserError where there is no folder or archive, or no image in it. What `read` raises is the archive's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: tuple[int, zipfile.ZipFile] | None = None  # the process that opened it, and the file
        self._lock = threading.Lock()
        self._folder = str(path) if path.is_dir() else None
        self._tars: list[Path] = []
        self._members: dict[str, tuple[Path, int, int]] = {}  # an image's tar, its offset there and its bytes
        try:
            self.names = sorted(name for name in self._list() if _is_image(name))
        except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            wanted = "a folder or a zip of pictures, or tar shards"
            raise UserError(f"data: --data wants {wanted}, got {path} ({reason})") from error
        if not self.names:
            raise UserError(f"data: no pictures in {path}; wanted files ending in {' '.join(SUFFIXES)}")

    @property
    def fingerprint(self) -> str:
        """Tells whether two sources have the same names, wherever they lie."""
        return hashlib.sha256("\n".join(self.names).encode(errors="surrogateescape")).hexdigest()[:16]

    def labels(self) -> dict[str, int | list[float]] | None:
        """{name: label} of a dataset.json beside the images, as StyleGAN2-ADA's tool writes it; None without one.

        Raises UserError where the file is something else.
        """
        if self._tars:
            return None
        try:
            content = json.loads(self.read("dataset.json"))
        except (FileNotFoundError, KeyError):
            return None
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"data: dataset.json in {self.path} cannot be read ({error}); mend or delete it") from error
        try:
            if not isinstance(content, dict):
                raise TypeError(f"it holds a {type(content).__name__}")
            labels = content.get("labels")
            return None if labels is None else {_name(name): _label(label) for name, label in labels}
        except (TypeError, ValueError) as error:
            reason = f'{error}; wanted {{"labels": [[name, label], ...]}}'
            raise UserError(f"data: dataset.json in {self.path} is not StyleGAN2-ADA's: {reason}") from error

    def read(self, name: str) -> bytes:
        if self._tars:
            path, offset, size = self._members[name]
            with path.open("rb", buffering=0) as shard:
                shard.seek(offset)
                data = shard.read(size)
            if len(data) < size:
                raise tarfile.ReadError(f"{path} ends within {name}")
            return data
        if self._folder is None:
            return self._open_zip().read(name)
        with open(os.path.join(self._folder, name), "rb", buffering=0) as file:
            return file.read()

    def __getstate__(self) -> dict:
        state = {name: value for name, value in self.__dict__.items() if name != "_lock"}
        return {**state, "_zip": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def _open_zip(self) -> zipfile.ZipFile:
        """The zip, opened once in a process."""
        with self._lock:
            if self._zip is None or self._zip[0] != os.getpid():
                self._zip = (os.getpid(), zipfile.ZipFile(self.path))
            return self._zip[1]

    def _list(self) -> list[str]:
        if self._folder is not None:
            names = [p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()]
            tars = [self.path / n for n in sorted(names) if n.lower().endswith(".tar") and not _left_by_macos(n)]
            if not tars or any(map(_is_image, names)):
                return names
            self._tars = tars
            return self._list_tars()
        if tarfile.is_tarfile(self.path):
            self._tars = [self.path]
            return self._list_tars()
        with zipfile.ZipFile(self.path) as archive:
            return archive.namelist()

    def _list_tars(self) -> list[str]:
        for path in self._tars:
            shard_name = path.name if path == self.path else path.relative_to(self.path).as_posix()
            with tarfile.open(path, "r:") as shard:
                try:
                    for member in shard:
                        if member.isfile():
                            self._members[f"{shard_name}/{member.name}"] = (path, member.offset_data, member.size)
                except tarfile.ReadError:
                    continue  # it ends within its last member, which `read` finds out
        return list(self._members)


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a picture's name must be a string, got {name!r}")
    return name


def _label(label: Any) -> int | list[float]:
    numbers = label if isinstance(label, list) else [label]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers) or isinstance(label, float):
        raise TypeError(f"a label must be an integer or a list of numbers, got {label!r}")
    return label


def _left_by_macos(name: str) -> bool:
    return "__MACOSX" in name or name.split("/")[-1].startswith("._")


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not _left_by_macos(name)

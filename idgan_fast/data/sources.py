"""Encoded images in a folder (nested ones too), a zip, or the tar shards of a WebDataset.

A zip that StyleGAN2-ADA's tool has written brings a dataset.json, and shards may have labels beside their images.
"""

import errno
import math
import os
import stat
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from idgan_fast.data.folders import files_below
from idgan_fast.data.labels import Label, class_label, listed_labels, match, sample_key, vector_label
from idgan_fast.data.limits import require_bytes, unpack
from idgan_fast.data.passed_over import SUFFIXES, PassedOver, is_image, left_by_macos
from idgan_fast.data.tars import is_tar, read_members
from idgan_fast.errors import UserError

LISTING = "dataset.json"
LABEL_SUFFIXES = (".cls", ".json")  # beside an image of a shard; the first counts where there are both
LARGEST_LABEL = 2**20  # bytes
NAMED = 3  # damaged shards


class Source:
    """The `names` of the images, sorted, and `read(name) -> bytes`. It travels to processes, and threads may share it.

    remarks: lines on what was passed over and what is damaged.
    Raises UserError where there is no folder or archive, or no image in it. What `read` raises is the archive's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: tuple[int, zipfile.ZipFile] | None = None  # the process that opened it, and the file
        self._lock = threading.Lock()
        self._folder = str(path) if path.is_dir() else None
        self._tars: list[Path] = []
        self._members: dict[str, tuple[Path, int, int]] = {}  # an image's tar, its offset there and its bytes
        self._listed: tuple[int, int] | None = None  # the state of a zip whose names were read
        self._listings: list[str] = []  # the names of files dataset.json
        passed_over, damage = PassedOver(), dict[str, list[str]]()
        try:
            self.names = sorted(self._list(passed_over, damage))
        except Exception as error:  # zipfile raises nearly anything on a damaged directory
            reason = error.strerror if isinstance(error, OSError) else error
            wanted = "a folder or a zip of pictures, or tar shards"
            raise UserError(f"data: --data wants {wanted}, got {path} ({reason})") from error
        self.remarks = [line for line in (passed_over.text(), _damage_text(damage)) if line]
        if not self.names:
            more = "".join(f"; {line}" for line in self.remarks)
            raise UserError(f"data: no pictures in {path}; wanted files ending in {' '.join(SUFFIXES)}{more}")

    def labels(self) -> tuple[dict[str, Label], list[str]]:
        """{name: label} for the images that have one, and lines on labels that are no image's or no labels.

        They are those of a dataset.json, as StyleGAN2-ADA's tool writes it, for the images in its folder and below; in
        shards those of .cls (an integer) and .json (a list of numbers) too. Raises UserError where a dataset.json that
        lies at the top is something else.
        """
        labels, remarks = self._labels_of_samples() if self._tars else ({}, [])
        for listing in self._listings:
            front = listing.removesuffix(LISTING)
            try:
                listed = listed_labels(self.read(listing))
            except Exception as error:  # zipfile and json raise nearly anything on a damaged file
                line = f"{listing} in {self.path} cannot be read as StyleGAN2-ADA's ({error})"
                if not front:
                    wanted = 'wanted {"labels": [[name, label], ...]}'
                    raise UserError(f"data: {line}; {wanted}; mend or delete it") from error
                remarks.append(f"labels: {line}")
                continue
            inside = [name.removeprefix(front) for name in self.names if name.startswith(front)]
            found, text = match(listed, inside)
            labels |= {front + name: label for name, label in found.items()}
            if text:
                remarks.append(f"labels: {listing}: {text}")
        return labels, remarks

    def _labels_of_samples(self) -> tuple[dict[str, Label], list[str]]:
        """`labels` of the members beside the images of shards."""
        by_key: dict[str, Label] = {}
        wrong: list[str] = []
        for path in self._tars:
            front = self._shard_name(path)
            with path.open("rb") as shard:
                for member in read_members(path, []):
                    key, suffix = sample_key(f"{front}/{member.name}"), os.path.splitext(member.name)[1]
                    if not member.isreg() or suffix not in LABEL_SUFFIXES or member.size > LARGEST_LABEL:
                        continue
                    shard.seek(member.offset_data)
                    content = shard.read(member.size)
                    if suffix == ".cls":
                        try:
                            by_key[key] = class_label(content)
                        except ValueError:
                            wrong.append(f"{front}/{member.name}")
                    elif key not in by_key and (label := vector_label(content)) is not None:
                        by_key[key] = label
        labels = {name: by_key[key] for name in self.names if (key := sample_key(name)) in by_key}
        text = f"labels: {len(wrong):,} members hold no integer, such as {wrong[0]}" if wrong else ""
        return labels, [text] if text else []

    def read(self, name: str, most_mib: float = math.inf) -> bytes:
        """The file of an image. Raises Unusable where it takes more MiB, unpacked from an archive."""
        if self._tars:
            path, offset, size = self._members[name]
            require_bytes(size, most_mib)
            with path.open("rb", buffering=0) as shard:
                shard.seek(offset)
                data = shard.read(size)
            if len(data) < size:
                raise tarfile.ReadError(f"{path} ends within {name}")
            return data
        if self._folder is None:
            return unpack(self._open_zip(), name, most_mib)
        with open(os.path.join(self._folder, name), "rb", buffering=0) as file:
            require_bytes(os.fstat(file.fileno()).st_size, most_mib)
            return file.read()

    def size(self, name: str) -> int:
        """The bytes of an image's file; raises OSError or KeyError where it is gone."""
        if self._tars:
            return self._members[name][2]
        if self._folder is None:
            return self._open_zip().getinfo(name).file_size
        return os.stat(os.path.join(self._folder, name)).st_size

    def archive_states(self) -> list[tuple[int, int] | None]:
        """What tells of each archive whether it was replaced, None where it is gone; nothing for a folder's files."""
        archives = self._tars if self._tars or self._folder else [self.path]
        return [_state(path) for path in archives]

    def __getstate__(self) -> dict:
        state = {name: value for name, value in self.__dict__.items() if name != "_lock"}
        return {**state, "_zip": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def _open_zip(self) -> zipfile.ZipFile:
        """The zip, opened once in a process."""
        with self._lock:
            if self._zip is None or self._zip[0] != os.getpid():
                if self._listed is not None and _state(self.path) not in (None, self._listed):
                    raise UserError(f"data: {self.path} was replaced while it was read; bring back the one of before")
                self._zip = (os.getpid(), zipfile.ZipFile(self.path))
            return self._zip[1]

    def _list(self, passed_over: PassedOver, damage: dict[str, list[str]]) -> list[str]:
        """The images' names. damage: gets what is wrong with a tar, by its name."""
        if self._folder is not None:
            names = files_below(self.path, passed_over)
            tars = {name for name in names if name.lower().endswith(".tar") and not left_by_macos(name)}
            if not tars or any(map(is_image, names)):
                return self._sift(names, passed_over)
            passed_over.images(name for name in names if name not in tars)
            self._tars = [self.path / name for name in sorted(tars)]
        elif not stat.S_ISREG(os.stat(self.path).st_mode):  # opening a pipe would wait for ever
            raise OSError(errno.EINVAL, "neither a folder nor a file")
        elif is_tar(self.path):
            self._tars = [self.path]
        else:
            self._listed = _state(self.path)
            with zipfile.ZipFile(self.path) as archive:
                return self._sift((name for name in archive.namelist() if not name.endswith("/")), passed_over)
        return [name for path in self._tars for name in self._list_tar(path, passed_over, damage)]

    def _list_tar(self, path: Path, passed_over: PassedOver, damage: dict[str, list[str]]) -> list[str]:
        places: dict[str, tuple[Path, int, int]] = {}
        names, faults, front = [], list[str](), f"{self._shard_name(path)}/"
        for member in read_members(path, faults):
            if member.isdir():
                continue
            if member.isreg() and not member.issparse():
                places[member.name] = path, member.offset_data, member.size
            elif member.islnk() and member.linkname in places:
                places[member.name] = places[member.linkname]
            else:
                passed_over.add("no plain file", member.name)
                continue
            names.append(member.name)
        if faults:
            damage[front[:-1]] = faults
        keys = {sample_key(name) for name in filter(is_image, names)}
        labels = {name for name in names if name.endswith(LABEL_SUFFIXES) and sample_key(name) in keys}
        before = len(self._listings)
        images = self._sift((name for name in names if name not in labels), passed_over, front)
        for name in (*images, *self._listings[before:]):
            self._members[name] = places[name.removeprefix(front)]
        return images

    def _shard_name(self, path: Path) -> str:
        return path.name if path == self.path else path.relative_to(self.path).as_posix()

    def _sift(self, names: Iterable[str], passed_over: PassedOver, front: str = "") -> list[str]:
        """The images among names, each once and with `front` before it. The uppermost dataset.json are kept too."""
        counts = Counter(names)
        for name in (name for name, count in counts.items() if count > 1):
            passed_over.add("of a name that comes again", name)
        listings: list[str] = []
        for name in sorted((name for name in counts if name.split("/")[-1] == LISTING), key=len):
            if not passed_over.aside(name) and not name.startswith(tuple(n.removesuffix(LISTING) for n in listings)):
                listings.append(name)
        self._listings += [front + name for name in listings]
        return [front + name for name in passed_over.images(name for name in counts if name not in listings)]


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _damage_text(damage: dict[str, list[str]]) -> str:
    """A line on damaged tars, empty where there are none."""
    if not damage:
        return ""
    texts = [f"{name} {', '.join(faults)}" for name, faults in list(damage.items())[:NAMED]]
    more = f"; and {len(damage) - NAMED:,} more" if len(damage) > NAMED else ""
    return f"{len(damage):,} damaged tar{'s' if len(damage) > 1 else ''}: {'; '.join(texts)}{more}"

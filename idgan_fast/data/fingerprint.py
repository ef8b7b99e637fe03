"""Whether images are the same as before: by their names, their sizes in bytes and the contents of some of them."""

import hashlib
from array import array
from collections.abc import Sequence
from zlib import crc32

from idgan_fast.data.faults import Unusable, try_to_read
from idgan_fast.data.sources import Source

SAMPLES = 32  # images whose contents are read, evenly spaced in the order of the names
LARGEST_SAMPLE = 256.0  # MiB
MISSING = -1  # the size of what cannot be asked for it


class Fingerprint:
    """The text NAMES-CONTENTS of a source's images, equal for equal images in equal order, wherever they lie.

    It costs a status call for each file of a folder, and reads SAMPLES images. What is changed later is found by its
    size, or in an archive by the archive's own size and time.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._sizes = _sizes(source)
        self._archives = source.archive_states()
        names = hashlib.sha256("\n".join(source.names).encode(errors="surrogateescape"))
        contents = hashlib.sha256(self._sizes.tobytes())
        step = max(len(source.names) / SAMPLES, 1)
        for index in range(min(SAMPLES, len(source.names))):
            contents.update(_sample(source, source.names[int(index * step)]))
        self.text = f"{names.hexdigest()[:16]}-{contents.hexdigest()[:16]}"

    def changed(self) -> list[str]:
        """The names of images that are not what they were when this was made."""
        if self._source.archive_states() != self._archives:
            return self._source.names
        if self._archives:
            return []
        now = _sizes(self._source)
        return [name for name, old, new in zip(self._source.names, self._sizes, now, strict=True) if old != new]


def agrees(old: str, new: str) -> bool:
    """Whether a checkpoint's fingerprint is of the images with the new one; older ones tell of the names alone."""
    return old == new or ("-" not in old and new.startswith(f"{old}-"))


def describe_change(names: Sequence[str]) -> str:
    return f"data: {len(names):,} pictures changed while the run went on, such as {names[0]}"


def _sizes(source: Source) -> "array[int]":
    return array("q", (_size(source, name) for name in source.names))


def _size(source: Source, name: str) -> int:
    try:
        return source.size(name)
    except (OSError, KeyError):
        return MISSING


def _sample(source: Source, name: str) -> bytes:
    """Raises UserError where a disk or a network fails: then nobody knows whether the image is the same."""
    try:
        content = try_to_read(lambda name: source.read(name, LARGEST_SAMPLE), name, source.path)
    except Unusable as error:  # a damaged file is left out by its own rule, and the size of a large one is known
        return type(error.__cause__ or error).__name__.encode()
    return crc32(content).to_bytes(4, "little")

"""The members of a tar that may be damaged: whatever has a header is read, and the places without one are named."""

import os
import tarfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO

BLOCK = tarfile.BLOCKSIZE
CHUNK = 2048 * BLOCK
FAULTS = 3  # that are named of a tar
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def is_tar(path: Path) -> bool:
    """Whether a file is a tar by its first header, or by its name. Raises OSError."""
    with path.open("rb") as file:
        return _is_header(file.read(BLOCK)) or path.name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.xz"))


def read_members(path: Path, faults: list[str]) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar; `faults` gets a text for each place that is damaged, the first few of them.

    Where a header is damaged or missing, reading goes on at the next block of 512 bytes that is one, as GNU tar's does.
    A member that the file ends within comes too, with a size that is beyond the file's end. Raises OSError.
    """
    count = 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start: int | None = 0
        while start is not None:
            end, cut_member = yield from _read_run(file, start, size)
            fault, start = _look_behind(file, end, size, cut_member)
            if fault is not None:
                count += 1
                if count <= FAULTS:
                    faults.append(fault)
    if count > FAULTS:
        faults.append(f"and {count - FAULTS:,} more such places")


def _read_run(file: IO[bytes], start: int, size: int) -> Generator[tarfile.TarInfo, None, tuple[int, str | None]]:
    """Yield members from a header on, as far as they follow each other.

    Returns the place of what is no header then, and the member that the file ends within, if there is one.
    """
    end = start
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            # In a damaged header a size may be negative, which would lead back.
            while (member := archive.next()) is not None and member.size >= 0 and archive.offset > end:
                end = archive.offset
                cut = member.isreg() and member.offset_data + member.size > size
                if cut:
                    member.size = size - member.offset_data + 1
                yield member
                if cut:
                    return member.offset_data, member.name
                archive.members = []  # type: ignore[attr-defined]  # where all of them stay
    except OSError:
        raise
    except Exception:  # tarfile raises nearly anything on a damaged header
        pass
    return min(end, size), None


def _look_behind(file: IO[bytes], end: int, size: int, cut_member: str | None) -> tuple[str | None, int | None]:
    """What is wrong where a header should be and none is, and where reading goes on; None where nothing is, or not."""
    file.seek(end)
    block = file.read(BLOCK)
    start, only_zeros = _next_header(file, end + (0 if cut_member else BLOCK))
    if start is not None:
        what = f"has a wrong size for {cut_member}" if cut_member else f"has no valid header at byte {end:,}"
        return f"{what}; read on from byte {start:,}", start
    if cut_member is not None:
        return f"ends at byte {size:,}, within {cut_member}", None
    for magic, name in COMPRESSED.items() if not end else ():
        if block.startswith(magic):
            return f"is compressed by {name}; unpack it first", None
    if not block:
        return f"ends at byte {size:,} without an end mark", None
    if len(block) < BLOCK:
        return f"ends at byte {size:,}, within a header", None
    if only_zeros and not any(block):
        return None, None  # the end mark
    return f"has no valid header at byte {end:,}, nor behind it", None


def _next_header(file: IO[bytes], start: int) -> tuple[int | None, bool]:
    """Where the next header is, None without one, and whether there were but zeros before it."""
    only_zeros = True
    file.seek(start)
    while chunk := file.read(CHUNK):
        if chunk.strip(b"\0"):
            only_zeros = False
            for at in range(0, len(chunk), BLOCK):
                if _is_header(chunk[at : at + BLOCK]):
                    return start + at, only_zeros
        start += len(chunk)
    return None, only_zeros


def _is_header(block: bytes) -> bool:
    if not block[148:156].strip(b" \0").isdigit():  # the checksum in octal digits: quick, and rules out nearly all
        return False
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True

"""The files below a folder, through links too, but for links to the folders that they lie in; each folder once."""

import errno
import heapq
import os
import stat
from pathlib import Path

from idgan_fast.data.passed_over import PassedOver


def files_below(root: Path, passed_over: PassedOver) -> list[str]:
    """Return the paths of all files below a folder, relative to it, with "/". What is left out is counted.

    Folders go before links to folders, so that a file that both lead to has the path without the link. Raises OSError
    where the folder itself cannot be read.
    """
    names: list[str] = []
    seen: set[tuple[int, int]] = set()  # device and inode of the folders read
    folders, links = [""], list[str]()  # relative, with "/" at the end; links is a heap
    while folders or links:
        folder = folders.pop() if folders else heapq.heappop(links)
        path = os.path.join(root, folder)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                passed_over.add("linked twice", folder)
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                for entry in entries:
                    name = folder + entry.name
                    kind = _kind(entry)
                    if kind in ("folder", "link to a folder"):
                        if passed_over.aside(f"{name}/"):
                            continue
                        if kind == "folder":
                            folders.append(f"{name}/")
                        elif _holds(os.path.join(path, entry.name), path):
                            passed_over.add("linked to a folder above", f"{name}/")
                        else:
                            heapq.heappush(links, f"{name}/")
                    elif kind == "file":
                        names.append(name)
                    else:
                        passed_over.add(kind, name)
        except OSError as error:
            if not folder:
                raise
            passed_over.add("unreadable", f"{folder}: {error.strerror}")
    return names


def _holds(link: str, folder: str) -> bool:
    """Whether the folder that a link leads to holds this one, at any depth."""
    outer, inner = (os.path.realpath(path).rstrip(os.sep) + os.sep for path in (link, folder))
    return inner.startswith(outer)


def _kind(entry: os.DirEntry[str]) -> str:
    """ "file", "folder", "link to a folder", or why it is passed over. Only links are asked for their status."""
    if not entry.is_symlink():
        if entry.is_file(follow_symlinks=False):
            return "file"
        return "folder" if entry.is_dir(follow_symlinks=False) else "no plain file"
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        to_nothing = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        return "linked to nothing" if to_nothing else "unreadable"
    if stat.S_ISREG(mode):
        return "file"
    return "link to a folder" if stat.S_ISDIR(mode) else "no plain file"

"""Faults of an image's own file, for which it is left out, and those of a disk, a network or memory, which pass."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import UnidentifiedImageError

from idgan_fast.errors import UserError, in_words

T = TypeVar("T")

WAITS = (0.05, 0.2, 0.75)  # seconds before each further try
PASSING = (
    "EIO EMFILE ENFILE ENOMEM EAGAIN EINTR EBUSY ENOBUFS ENXIO ENODEV ENOLINK ESTALE EREMOTEIO ETIMEDOUT ENOTCONN "
    "ECONNRESET ECONNABORTED ECONNREFUSED ESHUTDOWN EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ENETRESET"
)


class Unusable(Exception):
    """An image is left out; why, in words."""


def try_to_read(read: Callable[[str], T], name: str, path: Path) -> T:
    """What `read` gives for an image of the source at this path.

    Raises Unusable where the fault is the image's own. Other faults often pass: it is tried again, for a second in all.
    Where they do not, raises UserError, since no image is left out for them.
    """
    for wait in (*WAITS, 0.0):
        try:
            return read(name)
        except (Unusable, UserError):
            raise
        except Exception as error:  # archives and the decoders raise nearly anything on a damaged file
            words = _passing(error, path)
            if words is None:
                raise Unusable(_own(error)) from error
            last = error
        time.sleep(wait)
    tried = f"data: {name} in {path} was tried {len(WAITS) + 1} times within a second"
    raise UserError(f"{tried}: {words}, and start the same command again, which goes on from what is saved") from last


def _passing(error: Exception, path: Path) -> str | None:
    """The kind of fault and what to do, for one that is not the image's own; None for every other."""
    kind = errno.errorcode.get(error.errno or 0, "") if isinstance(error, OSError) else ""
    if isinstance(error, MemoryError) or kind == "ENOMEM" or str(error).startswith("out of memory"):
        return "out of memory; fewer --workers need less: take fewer, or end what else takes memory"
    if isinstance(error, OSError) and kind in PASSING.split():
        remedy = "take fewer --workers, or raise the limit on open files (ulimit -n)"
        if kind not in ("EMFILE", "ENFILE"):
            remedy = "the picture is not at fault: see to the disk or the network"
        return f"{in_words(error)} ({kind}); {remedy}"
    if isinstance(error, FileNotFoundError) and not os.path.exists(path):
        return f"{path} is gone; bring it back"
    return None


def _own(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"it is gone ({in_words(error)})"
    if isinstance(error, UnidentifiedImageError):  # it names an address in memory
        return "unreadable (UnidentifiedImageError: no kind of picture that Pillow knows)"
    return f"unreadable ({type(error).__name__}: {error})"

"""The one exception that the command line shows as a single line."""

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can mend: what was wrong, what was wanted, what came, what to do. One line."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error line for an unknown name: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def disk_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def in_words(error: OSError) -> str:
    """What went wrong, in a few words."""
    return "disk full" if disk_full(error) else error.strerror or str(error)

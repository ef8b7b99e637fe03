"""The one exception that the command line shows as a single line, and lines that show names from outside safely."""

import difflib
import errno
import io
import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

LONGEST_LINE, LONGEST_VALUE = 1900, 100  # in characters
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode's categories of what steers a terminal or a page, or is no character


class UserError(Exception):
    """Something that the user can mend: what was wrong, what was wanted, what came, what to do.

    One line, whatever is in the names and values that it quotes: what a terminal cannot show is escaped, and of a very
    long line the middle is left out.
    """

    def __init__(self, line: str) -> None:
        super().__init__(shortened(printable(line), LONGEST_LINE))


def shown(value: Any) -> str:
    """A value from outside as an error line quotes it: its repr, shortened."""
    try:
        return shortened(repr(value), LONGEST_VALUE)
    except ValueError:  # Python writes no more than 4,300 digits
        return "a number of thousands of digits"


def shortened(text: str, most: int) -> str:
    """The text, or its two ends and how much is missing between them."""
    if len(text) <= most:
        return text
    head, tail = text[: most * 2 // 3], text[-most // 4 :]
    return f"{head} [... {len(text) - len(head) - len(tail):,} characters ...] {tail}"


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


MEMORY = re.compile(
    "out of memory|can't allocate memory|not enough memory|cannot allocate memory|bad_alloc|ALLOC_FAILED|"
    "can't start new thread|could not create a memory",
    re.IGNORECASE,
)  # what torch, oneDNN, CUDA's libraries and the interpreter say


def out_of_memory(error: Exception) -> str | None:
    """What could not be allocated, on the CPU or a GPU, in a few words; None for an error of another kind."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        return in_words(error) if error.errno in (errno.ENOMEM, errno.EAGAIN) else None  # EAGAIN: of fork
    if not isinstance(error, MemoryError) and not MEMORY.search(text):
        return None
    size = re.search(r"(?:tried|unable) to allocate ([\d.]+) ?([KMGTPE]iB|bytes)", text, re.IGNORECASE)
    if size is None:
        return text[:100] or "no more of it is to be had"
    number, unit = size.groups()
    return f"{float(number) / 2**30:.2f} GiB were asked for" if unit == "bytes" else f"{number} {unit} were asked for"


def printable(text: str) -> str:
    r"""The text on one line, as it may be shown anywhere: a name from outside can hold what steers a terminal.

    Control characters, line breaks, marks that reverse the order of reading and the bytes of a name that is not UTF-8
    become \n, \x1b, \u202e or \xe4.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if unicodedata.category(character) not in UNSEEN:
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that Python could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def print_error(line: str) -> None:
    """Print what went wrong as one line on standard error."""
    print(f"error: {printable(line)}", file=sys.stderr)


def let_output_escape() -> None:
    """Let standard output and error escape what their encoding does not have, where they would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

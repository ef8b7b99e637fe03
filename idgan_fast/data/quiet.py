"""The decoders' own complaints of damaged images, kept off the terminal."""

import ctypes
import functools
import os
import subprocess

COMPLAINTS = (  # of libjpeg and libpng, at the beginning of a line
    "Corrupt JPEG data|Premature end of JPEG file|Invalid (progressive|component|SOS)|Inconsistent progression|"
    "Bogus (Huffman|marker|DHT|DQT|DAC|sampling)|(Huffman|Quantization|Arithmetic) table 0x|Unsupported marker type|"
    "Warning: unknown JFIF|Unknown Adobe color|libpng (error|warning): "
)
UNBUFFERED = 2  # C's _IONBF


@functools.cache
def drop_complaints() -> "subprocess.Popen[bytes] | None":
    """From now on, lines in which libjpeg and libpng complain of an image do not come out of this process.

    Within DALI they print to C's `stderr`, and nothing there turns it off. That stream alone goes through a filter: a
    process of its own, so that what else comes is shown even if this process dies of it. File descriptor 2 stays as it
    is, and with it Python's sys.stderr and C++'s std::cerr. The filter, which is returned, ends with this process. None
    where there can be none.
    """
    libc = ctypes.CDLL(None)
    libc.fdopen.restype = ctypes.c_void_p
    try:
        stream = ctypes.c_void_p.in_dll(libc, "stderr")  # as glibc names it, for which alone there is DALI
        process = subprocess.Popen(
            ["grep", "--line-buffered", "-aEv", f"^({COMPLAINTS})"],
            stdin=subprocess.PIPE,
            stdout=2,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,  # it outlives a Ctrl-C
        )
    except (ValueError, OSError):
        return None
    assert process.stdin is not None
    filtered = ctypes.c_void_p(libc.fdopen(os.dup(process.stdin.fileno()), b"w"))
    libc.setvbuf(filtered, None, UNBUFFERED, ctypes.c_size_t(0))
    process.stdin.close()
    stream.value = filtered.value
    return process

"""What an encoded image says of itself, without decoding it.

DALI's decoders give Pillow's pixels for the common kinds, and other ones for rare kinds: 16 bits, palettes and
transparency, CMYK, some ways to write an orientation. They also take some damaged files that Pillow refuses: where
libjpeg stops at a marker that does not belong there, another decoder goes on; and they read on behind the end that a
file states. `plain_size` tells these apart, so that Pillow alone decides what an image is.
"""

import contextlib
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

from PIL import Image

FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, Huffman-coded
DHT, EOI, SOS, DQT, DRI, COM = 0xC4, 0xD9, 0xDA, 0xDB, 0xDD, 0xFE
APP0, APP14 = 0xE0, 0xEE
WITHIN_A_SCAN = {0x00, 0xFF, *range(0xD0, 0xD8)}  # FF 00 is a byte of pixels, FF FF fills, D0 to D7 divide a scan
TABLES = {DHT, DQT, DRI, COM, *range(0xE0, 0xF0)}
READ_BY_PILLOW = {0xE1, 0xE2, 0xED}  # EXIF and XMP; color profiles and what holds several images; Photoshop's

PNG = b"\x89PNG\r\n\x1a\n"
# transparency, animation, and what may hold an orientation
NOT_PLAIN = {b"tRNS", b"acTL", b"fcTL", b"fdAT", b"eXIf"}
PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}  # and how they are turned
ORIENTATION = (b"XML:com.adobe.xmp", b"Raw profile type")


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a plain image: 8 bits, gray or RGB, in a JPEG, PNG or lossy WebP. None for every other image.

    An image that is to be turned is not plain either, nor one whose parts or checksums are damaged. Whether the coded
    pixels between them can be decoded only a decoder knows.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            return _jpeg(data)
        if data[:8] == PNG:
            return _png(data)
        if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 " and data[23:26] == b"\x9d\x01\x2a":
            return _webp(data)
    except (struct.error, IndexError):
        pass
    return None


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, from 1 to 8; a broken EXIF block counts as none, 1."""
    try:
        return image.getexif().get(0x0112, 1)
    except MemoryError:
        raise
    except Exception:  # Pillow's parser raises nearly anything on a broken block
        return 1


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at, size, components, progressive, by_pillow = 2, None, 0, False, False
    while True:
        if data[at] != 0xFF:
            return None
        while data[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = data[at + 1]
        length = struct.unpack_from(">H", data, at + 2)[0]
        at += 2
        if marker in FRAMES:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 2)
            if bits != 8 or components not in (1, 3) or not (width and height) or size is not None:
                return None
            size, progressive = (width, height), marker == 0xC2
        elif marker == SOS:
            whole = not progressive and data[at + 2] == components
            if not _ends(data, at + length, whole) or (by_pillow and not _upright(data)):
                return None
            return size
        elif marker not in TABLES:
            return None
        odd = (marker in (APP0, APP14) and length < 14) or (marker == DQT and length % 65 != 2)
        by_pillow |= odd or marker in READ_BY_PILLOW
        at += length


def _ends(data: bytes, at: int, whole: bool) -> bool:
    """Whether a JPEG's coded pixels, from `at` on, go on to its end with nothing that does not belong there.

    whole: the first scan holds the whole image, so that the end follows it.
    """
    while True:
        at = data.find(b"\xff", at) + 1
        if at == 0:
            return False
        marker = data[at]
        if marker in WITHIN_A_SCAN:
            continue
        if marker == EOI:
            return True
        if whole or (marker != SOS and marker not in TABLES):
            return False
        at += 1 + struct.unpack_from(">H", data, at + 1)[0]


def _upright(data: bytes) -> bool:
    """Whether Pillow can read what describes an image, and does not turn it."""
    try:
        with Image.open(BytesIO(data)) as image:
            return orientation(image) not in range(2, 9)
    except Exception:  # Pillow raises nearly anything on a damaged file
        return False


def _webp(data: bytes) -> tuple[int, int] | None:
    whole, coded = struct.unpack_from("<I", data, 4)[0], struct.unpack_from("<I", data, 16)[0]
    if not whole + 8 == len(data) == 20 + coded + coded % 2:  # DALI's decoder reads on behind the end of the coded part
        return None
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _png(data: bytes) -> tuple[int, int] | None:
    width, height, bits, color = struct.unpack_from(">IIBB", data, 16)
    if bits != 8 or color not in (0, 2) or not (width and height):
        return None
    view = memoryview(data)
    for kind, begin, end in _chunks(data):
        if kind in NOT_PLAIN or _may_turn(data, begin, end):
            return None
        if zlib.crc32(view[begin - 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return None
    return width, height


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a PNG up to its end: their kind, where their content begins and where it ends."""
    at, kind = len(PNG), b""
    while kind != b"IEND":
        (length,) = struct.unpack_from(">I", data, at)
        kind, begin = data[at + 4 : at + 8], at + 8
        yield kind, begin, begin + length
        at = begin + length + 4


def _may_turn(data: bytes, begin: int, end: int) -> bool:
    """Whether this chunk of a PNG is a text that may hold an orientation."""
    return data[begin : min(end, begin + 40)].startswith(ORIENTATION)


def versions(data: bytes) -> Iterator[bytes]:
    """An encoded image; of a PNG then also what is left without the chunks that say nothing of its pixels.

    Pillow refuses a PNG whose color profile or text is damaged, or unpacks to much. Of the texts, those that may hold
    an orientation are left out last.
    """
    yield data
    if not data.startswith(PNG):
        return
    for keep_orientation in (True, False):
        parts = [PNG]
        with contextlib.suppress(struct.error):
            for kind, begin, end in _chunks(data):
                if kind in PIXELS or (keep_orientation and _may_turn(data, begin, end)):
                    parts.append(data[begin - 8 : end + 4])
        shorter = b"".join(parts)
        if len(shorter) < len(data):
            yield shorter
            data = shorter

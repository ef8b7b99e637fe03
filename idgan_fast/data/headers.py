"""What the header of an encoded image says of it, without decoding it.

DALI's decoders give Pillow's pixels for the common kinds, and other ones for rare kinds: 16 bits, palettes and
transparency, CMYK, some ways to write an orientation. `plain_size` tells them apart.
"""

import struct
import zlib
from io import BytesIO

from PIL import Image

from idgan_fast.data.images import orientation

SOF = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, Huffman-coded
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
OTHER_FRAMES = set(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a plain image: 8 bits, gray or RGB, in a JPEG, PNG or lossy WebP. None for every other image.

    An image that is to be turned, or that is damaged before or after its pixels, is not plain either.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            return _jpeg(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return _png(data)
        if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 " and data[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    except (struct.error, IndexError):
        pass
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at, size, described = 2, None, False
    while True:
        if data[at] != 0xFF:
            return None
        while data[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = data[at + 1]
        at += 2
        if marker in WITHOUT_LENGTH:
            continue
        if marker == 0xDA:  # the pixels begin
            return None if described and _turned(data) else size
        if marker == 0xD9 or marker in OTHER_FRAMES:
            return None
        if marker in SOF:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 2)
            if bits != 8 or components not in (1, 3) or not (width and height) or size is not None:
                return None
            size = width, height
        described = described or marker == 0xE1  # EXIF or XMP
        at += struct.unpack_from(">H", data, at)[0]


def _turned(data: bytes) -> bool:
    try:
        with Image.open(BytesIO(data)) as image:
            return orientation(image) in range(2, 9)
    except Exception:  # Pillow raises nearly anything on a damaged file
        return True


def _png(data: bytes) -> tuple[int, int] | None:
    width, height, bits, color = struct.unpack_from(">IIBB", data, 16)
    if bits != 8 or color not in (0, 2) or not (width and height):
        return None
    at = 8
    while True:
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        keyword = data[at + 8 : min(end, at + 40)]
        # transparency, animation, and what may hold an orientation
        if kind in (b"tRNS", b"acTL", b"eXIf") or keyword.startswith((b"XML:com.adobe.xmp", b"Raw profile type")):
            return None
        if kind != b"IDAT" and zlib.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return None
        if kind == b"IEND":
            return width, height
        at = end + 4

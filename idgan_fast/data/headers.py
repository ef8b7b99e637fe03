"""What the first bytes of an encoded picture say, without decoding it.

DALI's decoders give Pillow's pixels for the common kinds, and other ones for rare kinds: 16 bits, palettes and
transparency, CMYK. `plain_size` tells them apart.
"""

import struct

SOF = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, Huffman-coded
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a picture of 8 bits, grey or RGB, as a JPEG, PNG or lossy WebP; None for every other one.

    The size is that in the file, before EXIF's orientation. A damaged header is an other one too.
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
    at = 2
    while True:
        if data[at] != 0xFF:
            return None
        while data[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = data[at + 1]
        at += 2
        if marker in SOF:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 2)
            return (width, height) if bits == 8 and components in (1, 3) and width and height else None
        if marker in WITHOUT_LENGTH:
            continue
        if marker in (0xD9, 0xDA) or (0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return None  # the end, a scan before its frame, or a kind of frame that is not plain
        at += struct.unpack_from(">H", data, at)[0]


def _png(data: bytes) -> tuple[int, int] | None:
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if bits != 8 or colour not in (0, 2) or not (width and height):
        return None
    at = 8
    while True:
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if kind in (b"tRNS", b"acTL"):
            return None
        if kind == b"IDAT":
            return width, height
        if len(kind) < 4:
            return None
        at += 12 + length

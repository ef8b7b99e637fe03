"""The bytes of an image's file, bounded before it is read."""

import zipfile

from idgan_fast.data.faults import Unusable


def require_bytes(size: int, most_mib: float) -> None:
    """Raises Unusable for a file of more MiB."""
    if size > most_mib * 2**20:
        mib = size / 2**20
        raise Unusable(f"it takes {mib:,.1f} MiB, over the {most_mib:g} of images.max-file-mib; a higher one takes it")


def unpack(archive: zipfile.ZipFile, name: str, most_mib: float) -> bytes:
    """A zip's member, as much of it as the zip says that there is: what more there may be is not unpacked.

    Raises Unusable for one of more MiB, and what zipfile raises.
    """
    member = archive.getinfo(name)
    require_bytes(member.file_size, most_mib)
    bounded = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    step = member.file_size if bounded else 4096  # the others unpack all of what they are asked to read
    with archive.open(member) as file:
        return b"".join(iter(lambda: file.read(step), b""))

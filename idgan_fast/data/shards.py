"""What `pack` writes: resized images in tar shards, each written whole or not at all, and shards joined to a zip."""

import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data.faults import Unusable, try_to_read
from idgan_fast.data.images import decode, frame
from idgan_fast.data.sources import Source
from idgan_fast.errors import UserError
from idgan_fast.files import atomically

LEVEL = 3  # of zlib: its default takes three times as long, for files a tenth smaller
FRAMING = ("size", "channels", "framing", "crop", "min_side", "max_megapixels", "max_file_mib")
GOES_ON = "the same command goes on from there"


class Stopped(Exception):
    """A signal came; the parts that are complete stay."""


@dataclass(frozen=True)
class Settings:
    """What the bytes depend on besides the images. quality: of jpg, None for png."""

    container: Literal["zip", "tar"]
    size: int = 256
    channels: Literal[1, 3] = 3
    framing: Literal["crop", "squash"] = "crop"
    crop: int | None = None
    min_side: int = 0
    max_megapixels: float = ImagesConfig.max_megapixels
    max_file_mib: float = ImagesConfig.max_file_mib
    format: Literal["png", "jpg"] = "png"
    quality: int | None = None
    shard_size: int = 1000


class Job(NamedTuple):
    """What one run of `pack` writes. labels: {name in the source: label}. folder: where the parts are written."""

    source: Source
    labels: dict[str, Any]
    settings: Settings
    folder: Path

    @property
    def parts(self) -> range:
        return range(-(-len(self.source.names) // self.settings.shard_size))

    def indices(self, part: int) -> range:
        """The indices of a part's images in `source.names`."""
        first = part * self.settings.shard_size
        return range(first, min(first + self.settings.shard_size, len(self.source.names)))

    def shard(self, part: int) -> Path:
        return self.folder / f"shard-{part:05d}.tar"

    def note(self, part: int) -> Path:
        """The file of {name: reason} for the images that the part leaves out; there is none where it has them all."""
        return self.folder / f"shard-{part:05d}.skipped.json"


def encode(source: Source, name: str, settings: Settings) -> bytes | str:
    """An image's file, framed and encoded; the reason as a string if it cannot be used."""
    images = ImagesConfig(**{name: getattr(settings, name) for name in FRAMING})

    def read(name: str) -> Any:
        return frame(decode(source.read(name, images.max_file_mib), images), settings.size, images)

    try:
        pixels = try_to_read(read, name, source.path)
    except Unusable as error:
        return " ".join(re.sub(r"images\.(min-side|max-megapixels|max-file-mib)", r"--\1", str(error)).split())
    framed = Image.fromarray(pixels[0] if settings.channels == 1 else pixels.transpose(1, 2, 0))
    buffer = BytesIO()
    if settings.format == "png":
        framed.save(buffer, "PNG", compress_level=LEVEL)
    else:
        framed.save(buffer, "JPEG", quality=settings.quality, subsampling=0)
    return buffer.getvalue()


def write_part(job: Job, part: int, tick: Callable[[int], bool]) -> None:
    """Write a part's note and shard. tick(images done) says whether to go on; where not, Stopped is raised."""
    skipped: dict[str, str] = {}
    with atomically(job.shard(part)) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as shard:

            def add(name: str, content: bytes) -> None:
                member = tarfile.TarInfo(name)  # its owner and time are 0
                member.size = len(content)
                shard.addfile(member, BytesIO(content))

            for done, index in enumerate(job.indices(part), 1):
                name = job.source.names[index]
                content = encode(job.source, name, job.settings)
                if isinstance(content, str):
                    skipped[name] = content
                else:
                    add(f"{index:08d}.{job.settings.format}", content)
                    if job.settings.container == "tar" and name in job.labels:
                        label = job.labels[name]
                        suffix = "cls" if type(label) is int else "json"
                        add(f"{index:08d}.{suffix}", json.dumps(label).encode())
                if not tick(done):
                    raise Stopped
        if skipped:
            with atomically(job.note(part)) as note:
                note.write(json.dumps(skipped, indent=1).encode())
        else:
            job.note(part).unlink(missing_ok=True)


def join(dest: Path, job: Job, skipped: dict[str, str], stop: object) -> None:
    """Write the parts' images as they are, and the labels, into a zip. Raises Stopped once `stop` is true."""

    def info(name: str) -> zipfile.ZipInfo:
        entry = zipfile.ZipInfo(name)  # of 1980
        entry.create_system, entry.external_attr = 3, 0o644 << 16  # on every system
        return entry

    def zip_name(index: int) -> str:
        return f"{index // 1000:05d}/img{index:08d}.{job.settings.format}"

    with atomically(dest) as file, zipfile.ZipFile(file, "w") as archive:
        for part in job.parts:
            if stop:
                raise Stopped
            try:
                with tarfile.open(job.shard(part), "r:") as shard:
                    for member in shard:
                        content = shard.extractfile(member)
                        assert content is not None
                        archive.writestr(info(zip_name(int(member.name.split(".")[0]))), content.read())
            except tarfile.TarError as error:
                raise UserError(f"pack: {job.shard(part)} is damaged ({error}); delete it, and {GOES_ON}") from error
        if job.labels:
            numbers = {name: index for index, name in enumerate(job.source.names) if name not in skipped}
            labels = [(zip_name(numbers[name]), label) for name, label in job.labels.items() if name in numbers]
            archive.writestr(info("dataset.json"), json.dumps({"labels": labels}))

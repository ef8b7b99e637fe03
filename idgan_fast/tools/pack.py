"""`idgan-fast pack`: pictures of any size -> resized pictures in a zip, or in the tar shards of a WebDataset.

Pictures are framed as training frames them. They keep the numbers of their places in the sorted source, whichever of
them are left out, so that the bytes written depend on the pictures and the settings alone. Work is done in parts of
--shard-size pictures, each written whole or not at all: the same command goes on after the last one.

    DEST.zip   00000/img00000000.png, ... and, where the source has labels, dataset.json, as StyleGAN2-ADA's tool
               writes them. Parts lie in DEST.zip.parts/ until all are there, so it takes twice the room for a while
    DEST/      shard-00000.tar, ... with 00000000.png, ... and a label beside it: .cls (a number) or .json (a vector)
"""

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from idgan_fast import startup
from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data.fingerprint import Fingerprint
from idgan_fast.data.shard_workers import in_processes
from idgan_fast.data.shards import GOES_ON, Job, Settings, Stopped, join, write_part
from idgan_fast.data.sources import Source
from idgan_fast.errors import UserError, in_words, print_error
from idgan_fast.files import Locked, atomically, lock
from idgan_fast.run.console import Console, format_time
from idgan_fast.run.signals import StopSignal
from idgan_fast.tools.options import Parser, positive_number, whole_number

RECORD, LOCK = "pack.json", ".lock"
LARGEST_SIDE = 2**14  # of a picture that is written, which takes 768 MiB


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder and lock it for this process.

    Raises UserError if it cannot be made, holds other files, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        inside = {path.name for path in folder.iterdir()}
        if RECORD not in inside and not inside <= {LOCK, RECORD + ".part"}:
            raise UserError(f"DEST: {folder} holds other files; give an empty folder or a new one")
        lock_file = lock(folder / LOCK)
    except Locked as error:
        raise UserError(f"DEST: {error} is packing into {folder}; wait for its end, or give another place") from error
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"DEST: cannot write into {folder} ({reason}); mend it, or give another place") from error
    with lock_file:
        yield


def require_same(job: Job) -> None:
    """Write the record of settings and images, or compare with the one there. Raises UserError where they differ."""
    names, labels = job.source.names, json.dumps(job.labels, sort_keys=True).encode()
    now = {
        **asdict(job.settings),
        "pictures": f"{len(names)} ({Fingerprint(job.source).text})",
        "labels": f"{len(job.labels)} ({hashlib.sha256(labels).hexdigest()[:16]})",
    }
    path = job.folder / RECORD
    if path.exists():
        try:
            before = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise UserError(f"pack: {path} is damaged ({error}); delete {job.folder} and start again") from error
        differ = [f"{key} {before.get(key)}, now {value}" for key, value in now.items() if before.get(key) != value]
        if differ:
            text = "; ".join(differ).replace("_", "-")
            raise UserError(
                f"pack: {job.folder} was begun with {text}: give what it was begun with, or delete it first"
            )
        return
    with atomically(path) as file:
        file.write(json.dumps(now, indent=1).encode())


def clear(folder: Path) -> None:
    """Remove what this command has written, and the folder if nothing else is in it."""
    for path in (*folder.glob("shard-*"), folder / RECORD, folder / LOCK):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def open_source(path: Path, dest: Path) -> Source:
    """The images. Raises UserError where there are none, or DEST cannot be what it should be."""
    is_zip = dest.suffix.lower() == ".zip"
    if dest.suffix.lower() == ".tar" or (not is_zip and dest.exists() and not dest.is_dir()):
        raise UserError(f"DEST: wants a name that ends in .zip, or a folder for tar shards, got {dest}; give another")
    if path.is_dir() and dest.resolve().is_relative_to(path.resolve()):
        raise UserError(f"DEST: {dest} lies in SOURCE, {path}, whose pictures it would become; give another place")
    if is_zip and dest.exists():
        raise UserError(f"DEST: {dest} exists already; delete it first, or give another name")
    try:
        return Source(path)
    except UserError as error:
        raise UserError(str(error).removeprefix("data: ").replace("--data wants", "SOURCE: wants", 1)) from error


def pack(path: Path, dest: Path, settings: Settings, workers: int, console: Console, stop: StopSignal) -> None:
    """Write the images that are not there yet. Raises UserError, OSError, and Stopped with a line to show."""
    began = time.monotonic()
    source = open_source(path, dest)
    all_labels, label_remarks = source.labels()
    labels = {name: all_labels[name] for name in source.names if name in all_labels}
    into_zip = settings.container == "zip"
    job = Job(source, labels, settings, dest.with_name(dest.name + ".parts") if into_zip else dest)
    total = len(source.names)
    with locked(job.folder):
        require_same(job)
        todo = [part for part in job.parts if not job.shard(part).exists()]
        before = total - sum(len(job.indices(part)) for part in todo)
        console.line(f"pack: {total:,} pictures in {path}; {before:,} of them are done already")
        for line in (*source.remarks, *label_remarks):
            console.line(line)
        try:
            if todo:
                _write_parts(job, todo, workers, before, console, stop)
            skipped: dict[str, str] = {}
            for note in filter(Path.exists, map(job.note, job.parts)):
                skipped |= json.loads(note.read_bytes())
            if len(skipped) == total:
                clear(job.folder)
                name, reason = next(iter(skipped.items()))
                raise UserError(f"pack: none of the {total:,} pictures in {path} can be used: {name}: {reason}")
            if into_zip:
                join(dest, job, skipped, stop)
                clear(job.folder)
        except Stopped:
            there = sum(job.shard(part).exists() for part in job.parts)
            raise Stopped(f"stopped with {there} of {len(job.parts)} parts in {job.folder}; {GOES_ON}") from None
    bare = sum(name not in labels and name not in skipped for name in source.names)
    if labels and bare:
        console.line(f"labels: {bare:,} of the pictures have none in the source, and get none")
    size = sum(file.stat().st_size for file in ([dest] if into_zip else map(job.shard, job.parts)))
    line = f"{total - len(skipped):,} pictures of {settings.size}x{settings.size}"
    if todo or into_zip:
        line = f"packed {line} into {dest} ({size / 2**20:,.1f} MiB) in {format_time(time.monotonic() - began)}"
    else:
        line = f"{dest} is complete already: {line} ({size / 2**20:,.1f} MiB)"
    console.line(line + _skipped_text(skipped))


def _write_parts(job: Job, todo: Sequence[int], workers: int, before: int, console: Console, stop: StopSignal) -> None:
    """Write the parts of `todo`, with a progress bar. before: images in the parts that are there already."""
    total, shown = len(job.source.names), before
    with console.stage("pack", start=before, total=total, batch_size=1) as progress:

        def tick(done: int) -> bool:
            nonlocal shown
            if before + done > shown:
                shown = before + done
                progress.update(shown)
            return not stop

        workers = min(workers, len(todo))
        if workers > 1:
            in_processes(job, todo, workers, tick)
            return
        earlier = 0
        for part in todo:
            write_part(job, part, lambda done, earlier=earlier: tick(earlier + done))  # type: ignore[misc]
            earlier += len(job.indices(part))


def _skipped_text(skipped: dict[str, str]) -> str:
    if not skipped:
        return ""
    names, reasons = list(skipped)[:3], dict.fromkeys(list(skipped.values())[:3])
    more = ", ..." if len(skipped) > 3 else ""
    return f"; skipped {len(skipped):,} ({', '.join(names)}{more}): {'; '.join(reasons)}"


def parse(argv: Sequence[str], prog: str | None) -> tuple[Path, Path, int, Settings]:
    """The command line: source, destination, workers, settings. Raises UserError; SystemExit after --help."""
    parser = Parser(prog, __doc__)
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a folder or a zip of pictures, or tar shards")
    parser.add_argument("dest", metavar="DEST", type=Path, help="a name that ends in .zip, or a folder for tar shards")
    positive: Any = {"type": whole_number(1), "metavar": "N"}
    processes: Any = {"type": whole_number(1, 1024), "metavar": "N"}
    add = parser.add_argument
    sides: Any = {"type": whole_number(1, LARGEST_SIDE), "metavar": "N"}
    add("--size", default=256, help="side of the pictures written, in pixels (default 256)", **sides)
    add("--channels", default=3, type=int, choices=(1, 3), help="1 for gray (default 3)")
    add("--framing", default="crop", choices=("crop", "squash"), help="a centered square (default), or all in one")
    add("--crop", help="side of the center crop before resizing, in pixels; by default the shorter side", **positive)
    add("--min-side", default=0, type=whole_number(0), metavar="N", help="leave out pictures with a side under this")
    limit: Any = {"type": positive_number, "metavar": "X"}
    add(
        "--max-megapixels",
        default=ImagesConfig.max_megapixels,
        help="leave out larger pictures (default %(default)g)",
        **limit,
    )
    add(
        "--max-file-mib",
        default=ImagesConfig.max_file_mib,
        help="and larger files, unpacked (default %(default)g)",
        **limit,
    )
    add("--format", default="png", choices=("png", "jpg"), help="png loses nothing (default)")
    add("--quality", type=whole_number(1, 100), metavar="N", help="of jpg, from 1 to 100 (default 95)")
    add("--shard-size", default=1000, help="pictures in a shard or part (default 1000)", **positive)
    add("--workers", default=startup.usable_cores(), help="processes; by default one for each core", **processes)
    options = parser.parse(argv)
    if options.format == "png" and options.quality is not None:
        raise UserError("--quality: only jpg has one, and --format is png; leave it out, or add --format jpg")
    if options.format == "jpg" and options.quality is None:
        options.quality = 95
    values = vars(options)
    source, dest, workers = (values.pop(name) for name in ("source", "dest", "workers"))
    return source, dest, workers, Settings("zip" if dest.suffix.lower() == ".zip" else "tar", **values)


def main(argv: Sequence[str] | None = None, prog: str | None = "idgan-fast pack") -> int:
    """Run the command; the exit status. What the user can mend is one line on standard error."""
    try:
        source, dest, workers, settings = parse(sys.argv[1:] if argv is None else argv, prog)
        with StopSignal() as stop:
            console = Console(on_closed=stop.output_closed)
            try:
                pack(source, dest, settings, workers, console, stop)
            except Stopped as stopped:
                assert stop.received is not None
                console.line(f"{stop.received.name}: {stopped}")
                return 128 + stop.received
        return 0
    except UserError as error:
        line, status = str(error), 2
    except MemoryError:
        line, status = f"out of memory; fewer --workers need less, and {GOES_ON}", 2
    except OSError as error:
        line, status = f"{in_words(error)}: {error.filename or dest}; mend it, and {GOES_ON}", 2
    except KeyboardInterrupt:
        line, status = f"interrupted; {GOES_ON}", 130
    print_error(line)
    return status

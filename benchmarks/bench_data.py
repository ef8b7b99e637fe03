"""The loaders: DALI on the CPU, torch's DataLoader with Pillow and, where it is installed, with torchvision's decoder.

Two threads or processes each, JPEGs of 178x218 to 64; with --full also of 1024x1024 to 256 and to 1024, and the memory
that each loader adds. Correctness first: DALI's images are Pillow's to within two levels, torchvision's to within four.
The floor is decoding alone, by DALI on the same threads. Each call begins anew: loaders work ahead, and one that is not
asked must not take the others' time.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from io import BytesIO
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.comparison import CLOCK, Comparison, record
from benchmarks.measuring import Call
from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data import IndexBatches, batches, dali
from idgan_fast.data.images import ImageFiles, square

WORKERS, WARM = 2, 3
CPU = torch.device("cpu")
LEVELS = {"DALI": 2, "torchvision": 4}  # of 255, that may differ from Pillow's
Loaders = dict[str, Callable[[], Iterator[Any]]]


class Case(NamedTuple):
    width: int
    height: int
    size: int
    files: int
    batch_size: int
    steps: int  # batches in a call


CASES = (Case(178, 218, 64, 512, 64, 16), Case(1024, 1024, 256, 32, 16, 5), Case(1024, 1024, 1024, 32, 16, 4))


def comparisons(full: bool) -> Iterator[Comparison]:
    if dali.why_not(CPU) is not None:
        return
    for case in CASES if full else CASES[:1]:
        yield Comparison(
            f"Loaders, JPEGs, {WORKERS} threads or processes",
            f"{case.batch_size * case.steps} images of {case.width}x{case.height} to {case.size}",
            ("DALI", *(["torchvision"] if find_spec("torchvision") else []), "Pillow", "floor"),
            partial(prepare, case),
            baseline="Pillow",
            images=case.batch_size * case.steps,
            seconds=partial(seconds, case.steps),
            mib=partial(added_mib, case) if full else None,
        )


@pytest.mark.benchmark(timer=CLOCK)
def test_loader(comparison: Comparison, variant: str, benchmark: Any, max_seconds: float) -> None:
    record(comparison, variant, benchmark, max_seconds)


def prepare(case: Case) -> Loaders:
    by_name = loaders(images(case, Path(temporary().name)), case.batch_size)
    wanted = list(islice(by_name["Pillow"](), 2))
    for name in by_name.keys() & LEVELS.keys():
        for got, expected in zip(islice(by_name[name](), 2), wanted, strict=True):
            worst = (got.int() - expected.int()).abs().max()
            assert worst <= LEVELS[name], (name, worst)
    return by_name


def seconds(steps: int, loader: Call) -> float:
    source = loader()
    for _ in range(WARM):
        next(source)
    began = time.perf_counter()
    for _ in range(steps):
        next(source)
    return time.perf_counter() - began


# ---- the loaders


def loaders(files: ImageFiles, batch_size: int) -> Loaders:
    by_name: Loaders = {
        "DALI": lambda: dali.batches(files, batch_size, 0, 0, WORKERS, CPU),
        "torchvision": lambda: by_torchvision(files, batch_size),
        "Pillow": lambda: batches(files, batch_size, 0, 0, WORKERS),
        "floor": lambda: decoding(files, batch_size),
    }
    return {name: loader for name, loader in by_name.items() if name != "torchvision" or find_spec("torchvision")}


class ByTorchvision:
    """Batches by index, decoded by torchvision, resized by torch."""

    def __init__(self, files: ImageFiles) -> None:
        self.files = files

    def __getitem__(self, indices: list[int]) -> Tensor:
        from torchvision.io import decode_jpeg

        batch = []
        for index in indices:
            data = torch.frombuffer(bytearray(self.files.source.read(self.files.paths[index])), dtype=torch.uint8)
            x = decode_jpeg(data)
            top, left, side = square(x.shape[1], x.shape[2], None)
            cropped = x[None, :, top : top + side, left : left + side]
            batch.append(dali.resize(cropped.permute(0, 2, 3, 1), self.files.size))
        return torch.cat(batch)


def by_torchvision(files: ImageFiles, batch_size: int) -> Iterator[Tensor]:
    order = IndexBatches(len(files), batch_size, 0)
    return iter(DataLoader(ByTorchvision(files), sampler=order, batch_size=None, num_workers=WORKERS))  # type: ignore[arg-type]


def decoding(files: ImageFiles, batch_size: int) -> Iterator[Any]:
    """What DALI decodes, and nothing else."""
    order = IndexBatches(len(files), batch_size, 0)
    loader = dali.Loader(files, order, WORKERS, CPU)
    feed = dali.Feed(files, order, set(), {})
    pipe = loader._pipeline(feed, None, lambda encoded: dali.decode(encoded, files.config, "cpu"))
    while True:
        yield pipe.run()


# ---- the images


@cache
def temporary() -> TemporaryDirectory:
    """A folder that goes when this process ends."""
    return TemporaryDirectory()


def images(case: Case, base: Path) -> ImageFiles:
    folder = base / f"{case.width}x{case.height}"
    if not folder.exists():
        folder.mkdir()
        rng = np.random.default_rng(0)
        for i in range(case.files):
            (folder / f"{i:05}.jpg").write_bytes(photo(rng, case.width, case.height))
    return ImageFiles(folder, case.size, ImagesConfig(cache_gib=0.0))


def photo(rng: np.random.Generator, width: int, height: int) -> bytes:
    """A JPEG of soft shapes with a little grain: 0.2 bytes a pixel, as the photographs of CelebA have."""
    coarse = np.uint8((rng.normal(size=(height // 8 + 1, width // 8 + 1, 3)) * 40 + 128).clip(0, 255))
    soft = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grain = np.uint8((soft + rng.normal(size=soft.shape) * 3).clip(0, 255))
    file = BytesIO()
    Image.fromarray(grain).save(file, "JPEG", quality=80)
    return file.getvalue()


# ---- memory


def added_mib(case: Case, name: str, _: Call) -> float:
    """Of a process of its own and those that it starts, pages that they share counted once, less what imports take."""
    command = [sys.executable, "-m", "benchmarks.bench_data", temporary().name, str(CASES.index(case)), name]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def resident_mib() -> float:
    """Of this process and its children: each page is shared out among those that have it."""
    children = Path("/proc/self/task").glob("*/children")
    pids = ["self", *(pid for path in children for pid in path.read_text().split())]
    text = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(line.split()[1]) for part in text for line in part.splitlines() if line.startswith("Pss:")) / 1024


def main(base: str, index: str, name: str) -> None:
    """Print what a loader adds to the memory of its process, in MiB."""
    case = CASES[int(index)]
    files = images(case, Path(base))
    before = resident_mib()
    source = loaders(files, case.batch_size)[name]()
    peak = 0.0
    for _ in range(WARM + case.steps):
        next(source)
        peak = max(peak, resident_mib())
    print(peak - before)


if __name__ == "__main__":
    main(*sys.argv[1:])

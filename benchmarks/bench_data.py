"""Images/s and memory of the loaders: DALI on the CPU, torch's DataLoader with Pillow and with torchvision's decoder.

Two threads or processes each, JPEGs of 178x218 to 64, of 1024x1024 to 256 and to 1024. Correctness first: DALI's
pictures are Pillow's to within two levels, torchvision's to within four. The bound is
decoding alone, by DALI on the same threads. Each row begins anew in every round: loaders work ahead, and one that is
not asked must not take the others' time.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from io import BytesIO
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import measuring
from benchmarks.measuring import CLOCK
from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data import IndexBatches, batches, dali
from idgan_fast.data.images import ImageFiles, square

WORKERS, ROUNDS, WARM = 2, 5, 3
CPU = torch.device("cpu")
# width, height, size -> files, batch size, batches in a round
CASES = {(178, 218, 64): (512, 64, 16), (1024, 1024, 256): (32, 16, 5), (1024, 1024, 1024): (32, 16, 4)}


def photo(rng: np.random.Generator, width: int, height: int) -> bytes:
    """A JPEG of soft shapes with a little grain: 0.2 bytes a pixel, as the photographs of CelebA have."""
    coarse = np.uint8((rng.normal(size=(height // 8 + 1, width // 8 + 1, 3)) * 40 + 128).clip(0, 255))
    soft = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grain = np.uint8((soft + rng.normal(size=soft.shape) * 3).clip(0, 255))
    file = BytesIO()
    Image.fromarray(grain).save(file, "JPEG", quality=80)
    return file.getvalue()


def folder(base: Path, width: int, height: int, count: int) -> Path:
    path = base / f"{width}x{height}"
    if not path.exists():
        path.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for i in range(count):
            (path / f"{i:05}.jpg").write_bytes(photo(rng, width, height))
    return path


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


def loaders(files: ImageFiles, batch_size: int) -> dict[str, Callable[[], Iterator[Any]]]:
    found: dict[str, Callable[[], Iterator[Any]]] = {
        "Pillow": lambda: batches(files, batch_size, 0, 0, WORKERS),
        "torchvision": lambda: by_torchvision(files, batch_size),
        "DALI": lambda: dali.batches(files, batch_size, 0, 0, WORKERS, CPU),
        "DALI, decoding alone": lambda: decoding(files, batch_size),
    }
    return found


def of_case(base: Path, case: tuple[int, int, int]) -> tuple[ImageFiles, int, int]:
    count, batch_size, steps = CASES[case]
    path = folder(base, case[0], case[1], count)
    return ImageFiles(path, case[2], ImagesConfig(cache_gib=0.0)), batch_size, steps


def assert_equal(found: dict[str, Callable[[], Iterator[Any]]]) -> None:
    wanted = list(islice(found["Pillow"](), 2))
    for name, levels in (("DALI", 2), ("torchvision", 4)):
        if name in found:
            for got, expected in zip(islice(found[name](), 2), wanted, strict=True):
                worst = (got.int() - expected.int()).abs().max()
                assert worst <= levels, (name, worst)


def seconds(source: Iterator[Any], steps: int) -> float:
    for _ in range(WARM):
        next(source)
    began = time.perf_counter()
    for _ in range(steps):
        next(source)
    return time.perf_counter() - began


def peak_mib(base: Path, case: tuple[int, int, int], name: str) -> float:
    """Of a process and those that it starts, pages that they share counted once, less what imports take."""
    command = [sys.executable, "-m", "benchmarks.bench_data", str(base), *map(str, case), name]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(output.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def timed(base: Path) -> Callable[[tuple[int, int, int]], dict[str, Any]]:
    done: dict[tuple[int, int, int], dict[str, Any]] = {}

    def of(case: tuple[int, int, int]) -> dict[str, Any]:
        if case not in done:
            files, batch_size, steps = of_case(base, case)
            found = loaders(files, batch_size)
            if find_spec("torchvision") is None:
                del found["torchvision"]
            assert_equal(found)
            times: dict[str, list[float]] = {name: [] for name in found}
            names, rng = list(found), Random(0)
            for _ in range(ROUNDS):
                rng.shuffle(names)
                for name in names:
                    times[name].append(seconds(found[name](), steps))
            done[case] = {"times": times, "images": batch_size * steps}
        return done[case]

    return of


@pytest.mark.skipif(dali.why_not(CPU) is not None, reason=str(dali.why_not(CPU)))
@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("name", ["Pillow", "torchvision", "DALI", "DALI, decoding alone"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_loaders(case: tuple[int, int, int], name: str, benchmark: Any, base: Path, timed: Any) -> None:
    found = timed(case)
    if name not in found["times"]:
        pytest.skip("torchvision is not installed")
    benchmark.group = "JPEGs of {}x{} to {}, {} threads or processes".format(*case, WORKERS)
    benchmark.name = name
    medians = {key: median(values) for key, values in found["times"].items()}
    benchmark.extra_info.update(
        images_per_second=round(found["images"] / medians[name]),
        ratio_to_pillow=round(medians["Pillow"] / medians[name], 2),
        of_decoding_alone=round(medians["DALI, decoding alone"] / medians[name], 2),
        peak_mib=round(peak_mib(base, case, name)),
    )
    measuring.show(benchmark, found["times"][name])


def resident_mib() -> float:
    """Of this process and its children: each page is shared out among those that have it."""
    children = Path("/proc/self/task").glob("*/children")
    pids = ["self", *(pid for path in children for pid in path.read_text().split())]
    text = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(line.split()[1]) for part in text for line in part.splitlines() if line.startswith("Pss:")) / 1024


def main(base: str, width: str, height: str, size: str, name: str) -> None:
    """Print what a loader adds to the memory of its process, in MiB."""
    files, batch_size, steps = of_case(Path(base), (int(width), int(height), int(size)))
    before = resident_mib()
    source = loaders(files, batch_size)[name]()
    peak = 0.0
    for _ in range(WARM + steps):
        next(source)
        peak = max(peak, resident_mib())
    print(peak - before)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""NVIDIA DALI beside torch's loader: the same pictures, batches and names of faults; and its graph for a GPU."""

import io
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from idgan_fast.config.settings import Config, ImagesConfig
from idgan_fast.data import IndexBatches, batches, choose_loader, dali, open_data
from idgan_fast.data.background import in_background
from idgan_fast.data.headers import plain_size
from idgan_fast.data.images import ImageFiles
from idgan_fast.errors import UserError
from tests.common import error_of
from tests.data.test_images import UNCACHED, noise, put, smooth, solid

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(dali.why_not(CPU) is not None, reason=str(dali.why_not(CPU)))

RGB = Image.fromarray(smooth(91, 70))
GRAY = RGB.convert("L")


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def transparent() -> Image.Image:
    image = RGB.convert("RGBA")
    image.putalpha(Image.fromarray(noise(91, 70, 1)))
    return image


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.asarray(GRAY).astype(np.uint16) * 257)


def with_clear_color() -> Image.Image:
    image = RGB.convert("P")
    image.info["transparency"] = 3
    return image


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""


def text(keyword: str, value: str) -> PngInfo:
    info = PngInfo()
    info.add_itxt(keyword, value) if keyword.startswith("XML") else info.add_text(keyword, value)
    return info


# name of the file: the picture, how it is saved, whether DALI decodes it itself
KINDS: dict[str, tuple[Image.Image, dict[str, Any], bool]] = {
    "rgb.jpg": (RGB, {"quality": 90}, True),
    "444.jpg": (RGB, {"subsampling": 0}, True),
    "progressive.jpeg": (RGB, {"progressive": True}, True),
    "gray.jpg": (GRAY, {}, True),
    "cmyk.jpg": (RGB.convert("CMYK"), {}, False),
    "rgb.png": (RGB, {}, True),
    "gray.png": (GRAY, {}, True),
    "palette.png": (RGB.convert("P"), {}, False),
    "clear color.png": (with_clear_color(), {"transparency": 3}, False),
    "transparent.png": (transparent(), {}, False),
    "gray and alpha.png": (RGB.convert("LA"), {}, False),
    "bit.png": (RGB.convert("1"), {}, False),
    "16 bits.png": (sixteen_bits(), {}, False),
    "gamma.png": (RGB, {"gamma": 0.3}, True),
    "lossy.webp": (RGB, {"quality": 80}, True),
    "lossless.webp": (RGB, {"lossless": True}, False),
    "transparent.webp": (transparent(), {}, False),
    "rgb.bmp": (RGB, {}, False),
    "upright.jpg": (RGB, {"exif": turned(1)}, True),
    **{f"turned {o}.jpg": (RGB, {"exif": turned(o)}, False) for o in range(2, 9)},
    **{f"turned {o}.png": (RGB, {"exif": turned(o)}, False) for o in (1, 2, 5, 6)},
    "turned by xmp.jpg": (RGB, {"xmp": XMP}, False),
    "commented.png": (RGB, {"pnginfo": text("Software", "a camera")}, True),
    "turned by xmp.png": (RGB, {"pnginfo": text("XML:com.adobe.xmp", XMP.decode())}, False),
    "profile.png": (RGB, {"pnginfo": text("Raw profile type exif", "exif 8 0000")}, False),
}


def files(path: Path, size: int = 64, **changes: Any) -> ImageFiles:
    return ImageFiles(path, size, replace(UNCACHED, **changes))


def by_dali(
    dataset: ImageFiles, batch_size: int, count: int, start: int = 0, seed: int = 0, **how: Any
) -> list[Tensor]:
    source = dali.batches(dataset, batch_size, seed, start, 2, CPU, **how)
    found = list(islice(source, count))
    source.close()
    return found


def by_torch(
    dataset: ImageFiles, batch_size: int, count: int, start: int = 0, seed: int = 0, **how: Any
) -> list[Tensor]:
    return list(islice(batches(dataset, batch_size, seed, start, 0, **how), count))


def assert_near(got: list[Tensor], wanted: list[Tensor], levels: int = 2) -> None:
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype == torch.uint8
        assert a.shape == b.shape
        worst = int((a.int() - b.int()).abs().max())
        assert worst <= levels


def numbered(folder: Path, count: int, *, fmt: str = "png") -> list[int]:
    """Pictures of one gray level each, by which they are known."""
    for i in range(count):
        solid(folder, f"{i:03}.{fmt}", 5 * i)
    return [5 * i for i in range(count)]


def levels(batch: Tensor) -> list[int]:
    return batch[:, 0, 32, 32].tolist()


# ---- the same pictures


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_pillows_picture(tmp_path: Path, name: str, channels: int) -> None:
    image, options, own = KINDS[name]
    data = put(tmp_path, name, image, **options).read_bytes()
    assert plain_size(data) == ((91, 70) if own else None)
    dataset = files(tmp_path, channels=channels)
    assert_near(by_dali(dataset, 2, 1), by_torch(dataset, 2, 1), 3 if channels == 1 else 2)
    assert dataset.skipped == {}


@pytest.mark.parametrize("settings", [{}, {"framing": "squash"}, {"crop": 40}, {"crop": 1000}, {"crop": 33}], ids=str)
@pytest.mark.parametrize("shape", [(91, 70), (70, 91), (64, 64), (65, 64), (30, 41), (300, 501)], ids=str)
def test_framing(tmp_path: Path, shape: tuple[int, int], settings: dict[str, Any]) -> None:
    put(tmp_path, "a.png", smooth(*shape))
    put(tmp_path, "b.jpg", smooth(*shape), exif=turned(6))
    dataset = files(tmp_path, **settings)
    assert_near(by_dali(dataset, 2, 1), by_torch(dataset, 2, 1))


def test_1024(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", smooth(1024, 1024))
    put(tmp_path, "b.jpg", smooth(1200, 1030))
    for size in (1024, 256):
        assert_near(by_dali(files(tmp_path, size), 2, 1), by_torch(files(tmp_path, size), 2, 1))


@pytest.mark.parametrize("kind", ["zip", "tar", "shards"])
def test_archives(tmp_path: Path, kind: str) -> None:
    for i in range(5):
        put(tmp_path / "folder", f"{i}.jpg", smooth(80 + i, 70))
    path = tmp_path / f"pictures.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in (tmp_path / "folder").iterdir():
                archive.write(file, file.name)
            archive.writestr("dataset.json", '{"labels": null}')
    else:
        shards = [path] if kind == "tar" else [path / "0.tar", path / "1.tar"]
        shards[0].parent.mkdir(exist_ok=True)
        for number, shard in enumerate(shards):
            with tarfile.open(shard, "w") as archive:
                for file in sorted((tmp_path / "folder").iterdir())[number :: len(shards)]:
                    archive.add(file, file.name)
    dataset = files(path)
    assert_near(by_dali(dataset, 3, 5), by_torch(dataset, 3, 5))
    assert dataset.skipped == {}
    assert len(dataset) == 5


# ---- the same batches


def test_order_and_resumption(tmp_path: Path) -> None:
    numbered(tmp_path, 11)
    dataset = files(tmp_path)
    unbroken = by_dali(dataset, 4, 9, seed=3)
    assert_near(unbroken, by_torch(dataset, 4, 9, seed=3), 0)
    for start in (1, 2, 5):
        assert_near(by_dali(dataset, 4, 9 - start, start, seed=3), unbroken[start:], 0)
    seen = [level for batch in unbroken for level in levels(batch)]
    for epoch in (seen[:11], seen[11:22], seen[22:33]):
        assert sorted(epoch) == [5 * i for i in range(11)]
    assert any(not torch.equal(a, b) for a, b in zip(by_dali(dataset, 4, 3, seed=4), unbroken, strict=False))


@pytest.mark.parametrize(("world", "batch_size", "length"), [(1, 3, 10), (2, 2, 9), (3, 4, 7), (4, 1, 13)])
def test_ranks_share_an_epoch(world: int, batch_size: int, length: int) -> None:
    alone = islice(IndexBatches(length, batch_size * world, 5, start=2), 20)
    ranks = [islice(IndexBatches(length, batch_size, 5, 2, rank, world), 20) for rank in range(world)]
    together = [list(chain(*parts)) for parts in zip(*ranks, strict=True)]
    assert together == list(alone)
    one_by_one = [islice(IndexBatches(length, 1, 5, 0, rank, world), length) for rank in range(world)]
    assert Counter(chain(*chain(*one_by_one))) == dict.fromkeys(range(length), world)  # `world` epochs over all ranks


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_of_the_world(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank must be from 0 to 1 for world 2, got {rank}"):
        IndexBatches(5, 1, 0, 0, rank, 2)


def test_ranks_get_the_pictures_of_their_indices(tmp_path: Path) -> None:
    numbered(tmp_path, 6)
    dataset = files(tmp_path)
    for rank in (0, 1):
        how = {"rank": rank, "world": 2}
        assert_near(by_dali(dataset, 2, 4, 1, **how), by_torch(dataset, 2, 4, 1, **how), 0)


# ---- faults


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def packed_oddly(path: Path) -> None:
    """Its header names a compression that there is not: Pillow does not look at it, DALI does."""
    data = bytearray(path.read_bytes())
    data[26] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def tall(path: Path, lost: int) -> None:
    """The end is missing, far below the crop."""
    put(path.parent, path.name, smooth(80, 218))
    path.write_bytes(path.read_bytes()[:-lost])


def flipped(path: Path, mode: str) -> None:
    """A byte in the middle is another one."""
    Image.fromarray(noise(80, 70)).convert(mode).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


FAULTS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "below the crop": ("jpg", lambda path: tall(path, 2)),
    "far below the crop": ("jpg", lambda path: tall(path, 60)),
    **{f"flipped {mode}": ("png", partial(flipped, mode=mode)) for mode in ("RGB", "L", "RGBA", "P")},
    "cut off": ("jpg", cut),
    "last bytes missing": ("jpg", lambda path: cut(path, 0.98)),
    "cut off png": ("png", cut),
    "header alone": ("jpg", lambda path: path.write_bytes(path.read_bytes()[:200])),
    "text": ("jpg", lambda path: path.write_text("no picture at all " * 9)),
    "empty": ("png", lambda path: path.write_bytes(b"")),
    "gone": ("png", Path.unlink),
    "small": ("png", lambda path: Image.fromarray(noise(20, 90)).save(path)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_middle_is_skipped_and_named(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fmt, spoil = FAULTS[name]
    for i in range(12):
        put(tmp_path, f"{i:03}.{fmt}", smooth(80 + i, 70))
    first, second = (files(tmp_path, min_side=30) for _ in range(2))
    spoil(tmp_path / f"007.{fmt}")
    got, wanted = by_dali(first, 4, 9), by_torch(second, 4, 9)
    assert_near(got, wanted)
    assert first.skipped == second.skipped
    assert list(first.skipped) == [f"007.{fmt}"]


def test_several_faults_and_a_good_picture_that_dali_refuses(tmp_path: Path) -> None:
    for i in range(12):
        put(tmp_path, f"{i:03}.png", noise(70, 70, seed=i))
    dataset, other = files(tmp_path), files(tmp_path)
    cut(tmp_path / "002.png")
    cut(tmp_path / "003.png")
    (tmp_path / "011.png").write_bytes(b"")
    packed_oddly(tmp_path / "005.png")
    got, wanted = by_dali(dataset, 4, 10), by_torch(other, 4, 10)
    assert dataset.skipped == other.skipped
    assert sorted(dataset.skipped) == ["002.png", "003.png", "011.png"]
    assert_near(got, wanted)


def test_the_one_that_dali_refuses_alone_goes_to_pillow(tmp_path: Path) -> None:
    for i in range(9):
        put(tmp_path, f"{i}.png", noise(70, 70, seed=i))
    packed_oddly(tmp_path / "5.png")
    dataset = files(tmp_path)
    loader = dali.Loader(dataset, IndexBatches(9, 4, 0), 1, CPU)
    assert_near([batch for batch, _ in islice(loader, 6)], by_torch(dataset, 4, 6))
    assert loader.by_pillow == {"5.png"}


def test_resuming_behind_a_fault(tmp_path: Path) -> None:
    numbered(tmp_path, 12)
    cut(tmp_path / "004.png")
    unbroken = by_dali(files(tmp_path), 4, 8)
    for start in (1, 3):
        assert_near(by_dali(files(tmp_path), 4, 8 - start, start), unbroken[start:], 0)


def test_nothing_but_faults(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path, f"{i}.jpg", noise(seed=i))
        cut(tmp_path / f"{i}.jpg")
    text = error_of(lambda: by_dali(files(tmp_path), 4, 1))
    assert text.startswith(f"data: none of the 3 pictures in {tmp_path} can be used: ")


def test_a_failure_that_no_picture_explains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered(tmp_path, 3)

    def fail(*_: Any) -> Any:
        raise RuntimeError("no room\nfor anything")

    monkeypatch.setattr(dali, "resize", fail)
    text = error_of(lambda: by_dali(files(tmp_path), 2, 1))
    assert text == "data: DALI stopped (no room for anything); --loader torch goes on without it"


# ---- the graph of a GPU, on the CPU


@pytest.mark.parametrize("settings", [{}, {"framing": "squash"}, {"crop": 40}, {"channels": 1}], ids=str)
def test_the_graph_gives_the_loaders_pictures(tmp_path: Path, settings: dict[str, Any]) -> None:
    for i, (width, height) in enumerate([(64, 64), (91, 70), (70, 91), (30, 41)]):
        put(tmp_path, f"{i}.jpg", smooth(width, height))
    dataset = files(tmp_path, **settings)
    order = IndexBatches(len(dataset), 8, 0)
    loader, feed = dali.Loader(dataset, order, 1, CPU), dali.Feed(dataset, order, set(), {})
    got, wanted = list(islice(loader._by_graph(feed, None, "cpu"), 3)), by_dali(dataset, 8, 3)
    assert_near(got, wanted, 2)
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in [*got, *wanted])


@pytest.mark.parametrize("framing", ["crop", "squash"])
def test_the_graph_for_device_0(framing: Any) -> None:
    """Every operator's name, device and arguments are checked as the graph is put together. Without a driver DALI 2.4
    refuses to serialize it."""
    from nvidia.dali import Pipeline, fn

    pipe = Pipeline(8, 2, 0)
    with pipe:
        found = dali.graph(fn.external_source(name="encoded"), ImagesConfig(framing=framing), 256, "gpu")
        pipe.set_outputs(found)
    assert found.device == "gpu"
    if torch.cuda.is_available():
        assert b"mixed" in pipe.serialize()
    else:
        with pytest.raises(
            RuntimeError, match="You are trying to create a GPU DALI pipeline while CUDA is not available"
        ):
            pipe.serialize()


# ---- which loader


def test_auto_takes_dali_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config()
    assert choose_loader(config, CPU) == ("dali", "it is installed")
    assert choose_loader(replace(config, loader="torch"), CPU) == ("torch", "as asked")
    assert choose_loader(replace(config, loader="dali"), CPU) == ("dali", "as asked")
    assert choose_loader(config, torch.device("mps"))[0] == "torch"
    for error, reason in (
        (ModuleNotFoundError("No module named 'nvidia'", name="nvidia.dali"), "it is not installed: pip install "),
        (ImportError("libx.so: cannot open shared object file"), "it cannot be imported (libx.so: cannot open shared"),
    ):

        def fail(_: str, error: ImportError = error) -> None:
            raise error

        monkeypatch.setattr(dali, "import_module", fail)
        name, why = choose_loader(config, CPU)
        assert name == "torch"
        assert why.startswith(f"not dali, since {reason}")
        text = error_of(lambda: choose_loader(replace(config, loader="dali"), CPU))
        assert text.startswith(f"--loader dali: {reason}")


def test_who_asks_for_dali_gets_it_for_small_sets_too(tmp_path: Path) -> None:
    numbered(tmp_path, 3)
    config = Config(data=tmp_path)
    assert open_data(config, 64).cached
    assert not open_data(replace(config, loader="dali"), 64).cached
    text = error_of(lambda: open_data(Config(dataset="dsprites", loader="dali"), 64))
    assert text == "--loader dali: dSprites are drawn, not decoded; leave --loader out"


# ---- the thread


def test_what_a_thread_raises_is_raised_here() -> None:
    def items() -> Any:
        yield from range(3)
        raise UserError("enough")

    source = in_background(items(), 2)
    assert list(islice(source, 3)) == [0, 1, 2]
    with pytest.raises(UserError, match="enough"):
        next(source)


def test_the_thread_ends_with_its_reader(tmp_path: Path) -> None:
    numbered(tmp_path, 5)
    before = threading.active_count()
    source = dali.batches(files(tmp_path), 2, 0, 0, 1, CPU)
    next(source)
    assert threading.active_count() == before + 1
    del source
    assert threading.active_count() == before


def test_a_process_may_end_in_the_middle(tmp_path: Path) -> None:
    numbered(tmp_path, 5)
    code = (
        "import sys, torch; from pathlib import Path; from idgan_fast.config.settings import ImagesConfig\n"
        "from idgan_fast.data import dali; from idgan_fast.data.images import ImageFiles\n"
        "dataset = ImageFiles(Path(sys.argv[1]), 64, ImagesConfig(cache_gib=0.0))\n"
        "source = dali.batches(dataset, 2, 0, 0, 1, torch.device('cpu')); print(next(source).shape)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "torch.Size([2, 3, 64, 64])\n"), run.stderr


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF1234WEBPVP8 ", b"\xff\xd8\xff" * 99]
)
def test_headers_that_end_early_say_nothing(data: bytes) -> None:
    assert plain_size(data) is None


def test_no_header_makes_it_fail() -> None:
    rng = np.random.default_rng(0)
    for fmt in ("JPEG", "PNG", "WEBP"):
        file = io.BytesIO()
        RGB.save(file, fmt)
        whole = file.getvalue()
        for _ in range(300):
            data = bytearray(whole[: rng.integers(0, 400)])
            for at in rng.integers(0, max(len(data), 1), 5):
                data[at : at + 1] = bytes([rng.integers(256)])
            plain_size(bytes(data))

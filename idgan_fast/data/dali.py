"""Batches of pictures by NVIDIA DALI: decoded and framed while the step before runs, on a GPU or on CPU threads.

The order is that of `IndexBatches`, the bytes come from `Source` and faults are named as `ImageFiles` names them, so
that a run may change between this and torch's loader: the same pictures in the same batches, to within rounding.

    GPU   one graph: nvJPEG, crop, Lanczos, layout and, for pictures in float, flip, [-1, 1] and noise
    CPU   DALI decodes on its threads; torch's Lanczos, far faster than DALI's there and nearer to Pillow's, resizes
          the batch before meanwhile, in a thread of ours
    both  kinds that DALI decodes otherwise than Pillow (headers.py) are decoded by Pillow and handed on as PPM

DALI gives up a whole pipeline for one damaged picture. It is then found, named and left out, and a new pipeline goes on
with the same batch.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data.background import in_background
from idgan_fast.data.headers import plain_size
from idgan_fast.data.images import ImageFiles, prepared, require_size, square, unreadable
from idgan_fast.data.order import IndexBatches
from idgan_fast.data.pixels import to_signed
from idgan_fast.errors import UserError

PREFETCHED = 2  # batches that are ready, or being made, beside the one in use
TYPES = {torch.uint8: "UINT8", torch.float16: "FLOAT16", torch.float32: "FLOAT"}


def why_not(device: torch.device) -> str | None:
    """Why DALI cannot load pictures here; None if it can."""
    try:
        import_module("nvidia.dali")
    except ImportError as error:
        if (error.name or "").split(".")[0] == "nvidia":
            return "it is not installed: pip install 'idgan-fast[dali]', or [dali-cuda12] for CUDA 12"
        return f"it cannot be imported ({error})"
    if device.type not in ("cpu", "cuda"):
        return f"it has decoders for cpu and cuda, the device is {device.type}"
    return None


# ---- the graph


def decoded(encoded: Any, images: ImagesConfig, device: str) -> Any:
    """Encoded pictures -> uint8 [H, W, C] as they are in the file. device: "cpu" or "gpu".

    As a whole, although DALI can decode a crop alone: then it would not see damage beyond it.
    """
    from nvidia.dali import fn, types

    kind = types.GRAY if images.channels == 1 else types.RGB
    how: dict[str, Any] = {"output_type": kind, "adjust_orientation": False}
    if device == "gpu":
        how.update(device="mixed", jpeg_fancy_upsampling=True)  # as the CPU's decoder and Pillow do
    return fn.decoders.image(encoded, **how)


def graph(
    encoded: Any,
    mirror: Any | None,
    images: ImagesConfig,
    size: int,
    device: str,
    dtype: torch.dtype = torch.uint8,
    channels_last: bool = False,
    seed: int = 0,
) -> Any:
    """Encoded pictures -> uint8 pictures of size x size, or float16 and float32 ones as the discriminator sees them.

    Those are flipped where `mirror`, an int32 a picture or None, is 1, in [-1, 1], with U[0, 1/128) noise
    (images.dequantise). The layout is [C, H, W], or [H, W, C] with channels_last. device: "cpu" or "gpu".
    """
    from nvidia.dali import fn, math, types

    x = decoded(encoded, images, device)
    if images.framing == "crop":
        shape = fn.peek_image_shape(encoded, dtype=types.INT32, adjust_orientation=False)
        top, left, side = square(shape[0], shape[1], images.crop, math.min)
        x = fn.slice(x, fn.stack(top, left), fn.stack(side, side), axes=[0, 1])
    x = fn.resize(x, size=[size, size], interp_type=types.INTERP_LANCZOS3, antialias=True)
    layout = "HWC" if channels_last else "CHW"
    if dtype == torch.uint8:
        return fn.crop_mirror_normalize(x, mean=0.0, std=1.0, dtype=types.UINT8, output_layout=layout)
    flip = {} if mirror is None else {"mirror": mirror}
    x = fn.crop_mirror_normalize(x, mean=127.5, std=127.5, dtype=types.FLOAT, output_layout=layout, **flip)
    if images.dequantise:
        x = x + fn.random.uniform(x, range=[0.0, 1 / 128], seed=seed)
    return fn.cast(x, dtype=getattr(types, TYPES[dtype]))


# ---- what goes in


def stream(seed: int, position: int, rank: int) -> int:
    """The seed of a batch's own random numbers."""
    return ((seed * 1_000_003 + position) * 65_537 + rank) % 2**63


class Fed(NamedTuple):
    """A batch that was given to the pipeline."""

    names: list[str]
    encoded: list[np.ndarray]
    mirror: list[np.ndarray]
    rng: torch.Generator  # for the batch's other random numbers


class Feed:
    """The encoded pictures of batch after batch, from `position` on: those that DALI decodes as Pillow does."""

    def __init__(self, dataset: ImageFiles, order: IndexBatches, by_pillow: set[str], skipped: dict[str, str]) -> None:
        self.dataset, self.by_pillow, self.skipped = dataset, by_pillow, skipped
        self.position, self.seed, self.rank = order.start, order.seed, order.rank
        self.fed: dict[int, Fed] = {}  # batches that have not come out yet, by their number
        self._order = iter(order)

    def __call__(self) -> Fed:
        pictures = [self.dataset.this_or_next(i, self._encoded, self.skipped) for i in next(self._order)]
        rng = torch.Generator().manual_seed(stream(self.seed, self.position, self.rank))
        mirror = torch.randint(2, (len(pictures),), generator=rng, dtype=torch.int32)
        names, encoded = zip(*pictures, strict=True)
        fed = Fed(list(names), list(encoded), list(mirror[:, None].numpy()), rng)
        self.fed[self.position] = fed
        self.position += 1
        return fed

    def _encoded(self, name: str) -> np.ndarray:
        data, images = self.dataset.source.read(name), self.dataset.config
        size = plain_size(data)
        if size is None or name in self.by_pillow or size[0] * size[1] > (Image.MAX_IMAGE_PIXELS or 0):
            data = _as_ppm(data, images)
        else:
            require_size(size, images)
        return np.frombuffer(data, np.uint8)


def _as_ppm(data: bytes, images: ImagesConfig) -> bytes:
    """Any picture that Pillow reads, upright, in grey or RGB. Raises TooSmall."""
    with Image.open(BytesIO(data)) as image:
        picture = prepared(image, images)
    kind = b"P5" if images.channels == 1 else b"P6"
    return b"%s %d %d 255\n" % (kind, *picture.size) + picture.tobytes()


# ---- what comes out


class Loader:
    """Endless batches [N, C, size, size] and the pictures that were skipped for the first time on the way."""

    def __init__(
        self,
        dataset: ImageFiles,
        order: IndexBatches,
        threads: int,
        device: torch.device,
        dtype: torch.dtype,
        channels_last: bool,
    ) -> None:
        self.dataset, self.order, self.threads, self.device = dataset, order, threads, device
        self.dtype, self.channels_last = dtype, channels_last
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.by_pillow: set[str] = set()
        self.skipped = dict(dataset.skipped)

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, str]]]:
        done, known = self.order.start, set(self.skipped)
        while True:
            order = self.order.from_batch(done)
            feed = Feed(self.dataset, order, self.by_pillow, self.skipped)
            try:
                for batch in self._run(feed):
                    del feed.fed[done]
                    done += 1
                    new = {name: self.skipped[name] for name in self.skipped.keys() - known}
                    known |= new.keys()
                    yield batch, new
            except RuntimeError as error:
                self._find_fault(feed, error)

    def _run(self, feed: Feed) -> Iterator[Tensor]:
        if self.device.type == "cpu":
            return self._resized_by_torch(feed)
        return self._by_graph(feed, self.device.index, "gpu")

    def _pipeline(self, device_id: int | None, build: Callable[[Any, Any], Any], feed: Feed, mirrors: bool) -> Any:
        from nvidia.dali import Pipeline, fn

        # Not dynamic: then pictures are copied before their memory is used again.
        pipe = Pipeline(
            self.order.batch_size, self.threads, device_id, prefetch_queue_depth=PREFETCHED, exec_dynamic=False
        )
        with pipe:
            if mirrors:
                source = fn.external_source(lambda: feed()[1:3], num_outputs=2, batch=True)
            else:
                source = fn.external_source(lambda: feed().encoded, batch=True), None
            pipe.set_outputs(build(*source))
        pipe.build()
        return pipe

    def _resized_by_torch(self, feed: Feed) -> Iterator[Tensor]:
        images = self.dataset.config
        pipe = self._pipeline(None, lambda encoded, _: decoded(encoded, images, "cpu"), feed, mirrors=False)
        position = feed.position
        while True:
            (pictures,) = pipe.run()
            groups = [(places, self._framed(same)) for places, same in by_shape(pictures)]
            batch = groups[0][1]
            if len(groups) > 1:
                batch = batch.new_empty((len(pictures), *batch.shape[1:]))
                for places, framed in groups:
                    batch[places] = framed
            yield self._finished(batch, feed.fed[position])
            position += 1

    def _framed(self, pictures: np.ndarray) -> Tensor:
        """uint8 [N, H, W, C] -> [N, C, size, size]. Copied by numpy: torch would wake threads that then wait busily."""
        images = self.dataset.config
        if images.framing == "crop":
            top, left, side = square(pictures.shape[1], pictures.shape[2], images.crop)
            pictures = pictures[:, top : top + side, left : left + side]
        return resized(torch.from_numpy(pictures.copy()), self.dataset.size)

    def _finished(self, batch: Tensor, fed: Fed) -> Tensor:
        """As `graph` leaves it."""
        if self.dtype != torch.uint8:
            images = self.dataset.config
            flip = torch.from_numpy(np.concatenate(fed.mirror)).bool() if images.flip else None
            noise = torch.rand(batch.shape, generator=fed.rng) if images.dequantise else None
            batch = to_signed(batch, self.device, flip, noise).to(self.dtype)
        return batch.contiguous(memory_format=self._layout)

    def _by_graph(self, feed: Feed, device_id: int | None, device: str) -> Iterator[Tensor]:
        from nvidia.dali.plugin.pytorch import DALIGenericIterator

        images = self.dataset.config
        seed = stream(self.order.seed, feed.position, self.order.rank) % 2**31
        rest = (images, self.dataset.size, device, self.dtype, self.channels_last, seed)
        mirrors = images.flip and self.dtype != torch.uint8
        pipe = self._pipeline(device_id, lambda encoded, mirror: graph(encoded, mirror, *rest), feed, mirrors)
        for (batch,) in DALIGenericIterator([pipe], ["pictures"], auto_reset=False):
            pictures = batch["pictures"]
            yield pictures.permute(0, 3, 1, 2) if self.channels_last else pictures

    def _find_fault(self, feed: Feed, error: RuntimeError) -> None:
        """Names the pictures of the batches under way that Pillow cannot read either. If there are none, Pillow decodes
        those that DALI refuses alone, or if it refuses none, all of them."""
        if "out of memory" in str(error).lower():
            raise error
        names = sorted({name for fed in feed.fed.values() for name in fed.names} - self.by_pillow)
        faults = {name: reason for name in names if (reason := self._fault(name)) is not None}
        self.skipped.update(faults)
        if not faults and not names:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"data: DALI stopped ({reason}); --loader torch goes on without it") from error
        if not faults:
            self.by_pillow.update([name for name in names if self._refused(name)] or names)

    def _refused(self, name: str) -> bool:
        """Whether DALI's CPU decoder refuses a picture."""
        from nvidia.dali import Pipeline, fn

        pipe = Pipeline(1, 1, None, prefetch_queue_depth=1)
        try:
            data = np.frombuffer(self.dataset.source.read(name), np.uint8)
            with pipe:
                pipe.set_outputs(decoded(fn.external_source(lambda: [data], batch=True), self.dataset.config, "cpu"))
            pipe.build()
            pipe.run()
        except Exception:  # of DALI, or of a file that is gone
            return True
        return False

    def _fault(self, name: str) -> str | None:
        try:
            with Image.open(BytesIO(self.dataset.source.read(name))) as image:
                image.load()
        except Exception as error:  # as above
            return unreadable(error)
        return None


def by_shape(pictures: Any) -> Iterator[tuple[Any, np.ndarray]]:
    """Where pictures of equal shape are in a list of DALI's, and these as uint8 [N, H, W, C]."""
    if pictures.is_dense_tensor():
        yield slice(None), np.asarray(pictures.as_tensor())
        return
    found: dict[tuple[int, ...], list[int]] = {}
    views = [np.asarray(pictures[i]) for i in range(len(pictures))]
    for i, view in enumerate(views):
        found.setdefault(view.shape, []).append(i)
    for places in found.values():
        yield places, np.stack([views[i] for i in places])


def resized(pictures: Tensor, size: int) -> Tensor:
    """uint8 [N, H, W, C] -> [N, C, size, size]; Lanczos with antialiasing, within a level of Pillow's if square.

    Bytes are rounded and clipped after each axis, and Pillow takes the columns of tall pictures first: there the finest
    detail may differ more. One call for many: torch computes Lanczos' weights anew in each.
    """
    x = pictures.permute(0, 3, 1, 2)
    if x.shape[2:] == (size, size):
        return x
    return F.interpolate(x, size=(size, size), mode="lanczos", antialias=True)


def batches(
    dataset: ImageFiles,
    batch_size: int,
    seed: int,
    start: int,
    threads: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    dtype: torch.dtype = torch.uint8,
    channels_last: bool = False,
) -> Iterator[Tensor]:
    """Endless batches [N, C, size, size] on the device, from batch number `start` on; `data.batches` by DALI.

    threads: of DALI, on the CPU. rank, world: as in `IndexBatches`. dtype: uint8, or float32 and float16 as the
    discriminator sees pictures: flipped (images.flip), in [-1, 1], with noise (images.dequantise). Pictures and flips
    are a pure function of (seed, start, rank, world); on a GPU the noise depends on where the loader was started.
    `dataset.skipped` is kept up to date. Raises UserError where no picture is left or DALI fails.
    """
    if device.type == "cuda" and device.index is None:  # here: another thread has a current device of its own
        device = torch.device("cuda", torch.cuda.current_device())
    order = IndexBatches(len(dataset), batch_size, seed, start, rank, world)
    loader = Loader(dataset, order, threads, device, dtype, channels_last)
    for batch, skipped in in_background(iter(loader), PREFETCHED):
        dataset.skipped.update(skipped)
        yield batch

"""Batches of images by NVIDIA DALI: decoded and framed while the step before runs, on a GPU or on CPU threads.

The order is that of `IndexBatches`, the bytes come from `Source` and faults are named as `ImageFiles` names them, so
that a run may change between this and torch's loader: the same images in the same batches, to within rounding.

    GPU   one graph: nvJPEG, crop, Lanczos
    CPU   DALI decodes on its threads; torch's Lanczos, far faster than DALI's there and nearer to Pillow's, resizes
          the batch before meanwhile, in a thread of ours
    both  kinds that DALI decodes otherwise than Pillow (headers.py) are decoded by Pillow and handed on as PPM

DALI gives up a whole pipeline for one damaged image. The image is then found, named and left out, and a new pipeline
continues with the same batch.
"""

from collections.abc import Callable, Generator, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from idgan_fast.config.settings import ImagesConfig
from idgan_fast.data.background import in_background
from idgan_fast.data.faults import Unusable, try_to_read
from idgan_fast.data.headers import plain_size
from idgan_fast.data.images import ImageFiles, prepare, require_pixels, require_side, square
from idgan_fast.data.images import decode as decode_by_pillow
from idgan_fast.data.order import IndexBatches
from idgan_fast.data.quiet import drop_complaints
from idgan_fast.errors import UserError, out_of_memory

PREFETCHED = 2  # batches that are ready, or being made, beside the one in use


def why_not(device: torch.device) -> str | None:
    """Why DALI cannot load images here; None if it can."""
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


def decode(encoded: Any, images: ImagesConfig, device: str) -> Any:
    """Encoded images -> uint8 [H, W, C] as they are in the file. device: "cpu" or "gpu".

    They are decoded as a whole, although DALI can decode a crop alone: then it would not see damage beyond it. Gray is
    made of the colors, as Pillow makes it: a JPEG's own brightness is another one where a color was clipped.
    """
    from nvidia.dali import fn, types

    how: dict[str, Any] = {"output_type": types.RGB, "adjust_orientation": False}
    if device == "gpu":
        how.update(device="mixed", jpeg_fancy_upsampling=True)  # as the CPU's decoder and Pillow do
    colors = fn.decoders.image(encoded, **how)
    if images.channels == 3:
        return colors
    return fn.color_space_conversion(colors, image_type=types.RGB, output_type=types.GRAY)


def graph(encoded: Any, images: ImagesConfig, size: int, device: str) -> Any:
    """Encoded images -> uint8 [size, size, C]. device: "cpu" or "gpu"."""
    from nvidia.dali import fn, math, types

    x = decode(encoded, images, device)
    if images.framing == "crop":
        shape = fn.peek_image_shape(encoded, dtype=types.INT32, adjust_orientation=False)
        top, left, side = square(shape[0], shape[1], images.crop, math.min)
        x = fn.slice(x, fn.stack(top, left), fn.stack(side, side), axes=[0, 1])
    return fn.resize(x, size=[size, size], interp_type=types.INTERP_LANCZOS3, antialias=True)


# ---- what goes in


class Feed:
    """The encoded images of batch after batch, from `order.start` on; those that DALI reads otherwise come as PPM."""

    def __init__(self, dataset: ImageFiles, order: IndexBatches, by_pillow: set[str], skipped: dict[str, str]) -> None:
        self.dataset, self.by_pillow, self.skipped = dataset, by_pillow, skipped
        self.position = order.start
        self.names: dict[int, tuple[str, ...]] = {}  # of the images in each batch that has not come out yet
        self._order = iter(order)

    def __call__(self) -> list[np.ndarray]:
        images = [self.dataset.this_or_next(i, self._encoded, self.skipped) for i in next(self._order)]
        self.names[self.position], encoded = zip(*images, strict=True)
        self.position += 1
        return list(encoded)

    def _encoded(self, name: str) -> np.ndarray:
        data, images = self.dataset.read(name), self.dataset.config
        size = plain_size(data)
        if size is None or name in self.by_pillow:
            data = _as_ppm(data, images)
        else:
            require_pixels(size, images)
            require_side(size, images)
        return np.frombuffer(data, np.uint8)


def _as_ppm(data: bytes, images: ImagesConfig) -> bytes:
    """Any image that Pillow reads, upright, in gray or RGB. Raises Unusable."""
    image = prepare(decode_by_pillow(data, images), images)
    kind = b"P5" if images.channels == 1 else b"P6"
    return b"%s %d %d 255\n" % (kind, *image.size) + image.tobytes()


# ---- what comes out


class Loader:
    """Endless uint8 batches [N, C, size, size] in channels_last, each with the images first skipped on the way."""

    def __init__(self, dataset: ImageFiles, order: IndexBatches, threads: int, device: torch.device) -> None:
        self.dataset, self.order, self.threads, self.device = dataset, order, threads, device
        self.by_pillow: set[str] = set()
        self.skipped = dict(dataset.skipped)

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, str]]]:
        drop_complaints()
        done, known, on_cpu = self.order.start, set(self.skipped), self.device.type == "cpu"
        while True:
            feed = Feed(self.dataset, self.order.from_batch(done), self.by_pillow, self.skipped)
            try:
                source = self._resized_by_torch(feed) if on_cpu else self._by_graph(feed, self.device.index, "gpu")
                for batch in source:
                    del feed.names[done]
                    done += 1
                    new = {name: self.skipped[name] for name in self.skipped.keys() - known}
                    known |= new.keys()
                    yield batch, new
            except RuntimeError as error:
                self._find_fault(feed, error)

    def _pipeline(self, feed: Feed, device_id: int | None, build: Callable[[Any], Any]) -> Any:
        from nvidia.dali import Pipeline, fn

        # Not dynamic: then images are copied before their memory is used again.
        pipe = Pipeline(
            self.order.batch_size, self.threads, device_id, prefetch_queue_depth=PREFETCHED, exec_dynamic=False
        )
        with pipe:
            pipe.set_outputs(build(fn.external_source(feed, batch=True)))
        pipe.build()
        return pipe

    def _resized_by_torch(self, feed: Feed) -> Iterator[Tensor]:
        images = self.dataset.config
        pipe = self._pipeline(feed, None, lambda encoded: decode(encoded, images, "cpu"))
        while True:
            (decoded,) = pipe.run()
            groups = [(places, self._frame(same)) for places, same in by_shape(decoded)]
            batch = groups[0][1]
            if len(groups) > 1:
                batch = batch.new_empty((len(decoded), *batch.shape[1:]))
                for places, framed in groups:
                    batch[places] = framed
            yield batch.contiguous(memory_format=torch.channels_last)

    def _frame(self, images: np.ndarray) -> Tensor:
        """uint8 [N, H, W, C] -> [N, C, size, size]. Copied by numpy: torch would wake threads that then wait busily."""
        config = self.dataset.config
        if config.framing == "crop":
            top, left, side = square(images.shape[1], images.shape[2], config.crop)
            images = images[:, top : top + side, left : left + side]
        return resize(torch.from_numpy(images.copy()), self.dataset.size)

    def _by_graph(self, feed: Feed, device_id: int | None, device: str) -> Iterator[Tensor]:
        from nvidia.dali.plugin.pytorch import DALIGenericIterator

        images, size = self.dataset.config, self.dataset.size
        pipe = self._pipeline(feed, device_id, lambda encoded: graph(encoded, images, size, device))
        for (batch,) in DALIGenericIterator([pipe], ["images"], auto_reset=False):
            yield batch["images"].permute(0, 3, 1, 2)

    def _find_fault(self, feed: Feed, error: RuntimeError) -> None:
        """Skip the images of the batches under way that Pillow cannot read either. If there are none, let Pillow decode
        those that DALI refuses alone, or all of them if it refuses none. Raises UserError if nothing is left to try."""
        if out_of_memory(error) is not None:
            raise error
        names = sorted({name for names in feed.names.values() for name in names} - self.by_pillow)
        faults = {name: reason for name in names if (reason := self._fault(name)) is not None}
        self.skipped.update(faults)
        if not faults and not names:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"data: DALI stopped ({reason}); --loader torch goes on without it") from error
        if not faults:
            self.by_pillow.update([name for name in names if self._refused(name)] or names)

    def _refused(self, name: str) -> bool:
        """Whether DALI's CPU decoder refuses an image."""
        from nvidia.dali import Pipeline, fn

        pipe = Pipeline(1, 1, None, prefetch_queue_depth=1)
        try:
            data = np.frombuffer(self.dataset.read(name), np.uint8)
            with pipe:
                pipe.set_outputs(decode(fn.external_source(lambda: [data], batch=True), self.dataset.config, "cpu"))
            pipe.build()
            pipe.run()
        except Exception:  # of DALI, or of a file that is gone
            return True
        return False

    def _fault(self, name: str) -> str | None:
        """Why Pillow cannot read an image; None if it can. Raises UserError."""
        dataset = self.dataset
        try:
            try_to_read(lambda name: decode_by_pillow(dataset.read(name), dataset.config), name, dataset.path)
        except Unusable as error:
            return str(error)
        return None


def by_shape(images: Any) -> Iterator[tuple[Any, np.ndarray]]:
    """Groups of images of equal shape in a list of DALI's: their places in it, and uint8 [N, H, W, C]."""
    if images.is_dense_tensor():
        yield slice(None), np.asarray(images.as_tensor())
        return
    groups: dict[tuple[int, ...], list[int]] = {}
    views = [np.asarray(images[i]) for i in range(len(images))]
    for i, view in enumerate(views):
        groups.setdefault(view.shape, []).append(i)
    for places in groups.values():
        yield places, np.stack([views[i] for i in places])


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 [N, H, W, C] -> [N, C, size, size]; Lanczos with antialiasing, within a level of Pillow's if square.

    Bytes are rounded and clipped after each axis, and Pillow takes the columns of tall images first: there the finest
    detail may differ more. One call serves many images, since each call computes Lanczos' weights anew.
    """
    x = images.permute(0, 3, 1, 2)
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
    *,
    rank: int = 0,
    world: int = 1,
) -> Generator[Tensor, None, None]:
    """`data.batches` by DALI: endless uint8 batches [N, C, size, size] in channels_last on the device.

    start: the number of the first batch. threads: of DALI, on the CPU. rank, world: as in `IndexBatches`.
    `dataset.skipped` is kept up to date. Raises UserError where no image is left or DALI fails.
    """
    if device.type == "cuda" and device.index is None:  # here: another thread has a current device of its own
        device = torch.device("cuda", torch.cuda.current_device())
    order = IndexBatches(len(dataset), batch_size, seed, start, rank, world)
    loader = Loader(dataset, order, threads, device)
    for batch, skipped in in_background(iter(loader), PREFETCHED):
        dataset.skipped.update(skipped)
        yield batch

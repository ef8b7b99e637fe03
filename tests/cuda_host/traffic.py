"""What the CUDA kernels move, counted on the CPU: `python -m tests.cuda_host.traffic` prints the tables of
docs/performance.md.

Sectors of 32 bytes that the blocks of a launch touch, for each block once, over those of the images that have to be
moved once; what a block reads again is in its first-level cache. Of images of 1 MB and more; the launchers plan for 132
multiprocessors. The tests take one sample of the four, and a quarter of the multiprocessors: as much for each of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from idgan_fast.ops.layer import styled_epilogue
from tests.cuda_host.host import Host

LAYOUTS = {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
FILTER = torch.outer(*[torch.tensor([1.0, 3.0, 3.0, 1.0])] * 2) / 64
LEAKY = (0.2, 2**0.5, 256.0)
SAMPLES = 4
LARGE = 0.1  # of the largest buffer: smaller ones are vectors, sums and noise


@dataclass
class Counted:
    """Of one call: sectors moved and compulsory, and the narrowest access to an image."""

    name: str
    layout: str
    dtype: str
    moved: int
    compulsory: int
    narrowest: int
    race: str

    @property
    def ratio(self) -> float:
        return self.moved / self.compulsory


def counted(name: str, layout: str, dtype: str, call: Any, samples: int = SAMPLES) -> Counted:
    """call: of an operator of `Host`. Compulsory: every image that it is given or gives, once."""
    kernels = Host("random", mode="counted", num_sms=132 * samples // SAMPLES)
    call(kernels)
    buffers = kernels.traffic["buffers"]
    largest = max(buffer["bytes"] for buffer in buffers.values())
    images = {n: b for n, b in buffers.items() if b["bytes"] > LARGE * largest}
    moved = sum(b[way]["sectors"] for b in images.values() for way in ("read", "write"))
    compulsory = sum(-(-b["bytes"] // 32) for n, b in images.items() if not n.startswith("scratch"))
    widths = [int(w) for b in images.values() for way in ("read", "write") for w in b[way]["accesses"]]
    return Counted(name, layout, dtype, moved, compulsory, min(widths), kernels.traffic["race"])


def image(layout: str, dtype: str, *shape: int) -> Tensor:
    return torch.randn(shape).to(DTYPES[dtype]).contiguous(memory_format=LAYOUTS[layout])


def image_sectors(dtype: str, samples: int = SAMPLES) -> int:
    """Of an image of `epilogue`: I, and A."""
    return samples * 64 * 64 * 64 * DTYPES[dtype].itemsize // 32


def bias_act(layout: str, dtype: str) -> Iterator[Counted]:
    x, b = image(layout, dtype, 2, 64, 96, 96), torch.randn(64)
    yield counted("bias_act forward", layout, dtype, lambda k: k.bias_lrelu_fwd(x, b, 1, *LEAKY))
    yield counted("bias_act backward", layout, dtype, lambda k: k.bias_lrelu_bwd(x, x, 1, *LEAKY, True))


def upfirdn2d(layout: str, dtype: str, samples: int = SAMPLES) -> Iterator[Counted]:
    for name, shape, up, down, padding in (
        ("upfirdn2d, 64x64", (samples, 64, 64, 64), 1, 1, [2, 1, 2, 1]),
        ("upfirdn2d, 65x65 to 64x64", (samples, 64, 65, 65), 1, 1, [1, 1, 1, 1]),
        ("upfirdn2d, up to 128x128", (samples, 32, 64, 64), 2, 1, [2, 1, 2, 1]),
        ("upfirdn2d, down to 64x64", (max(samples // 2, 1), 32, 128, 128), 1, 2, [1, 1, 1, 1]),
    ):
        x, numbers = image(layout, dtype, *shape), ([up] * 2, [down] * 2, padding, False, 1.0)
        yield counted(name, layout, dtype, lambda k, x=x, a=numbers: k.upfirdn2d(x, FILTER, *a), samples)


def epilogue(layout: str, dtype: str, filtered: bool, samples: int = SAMPLES) -> Iterator[Counted]:
    """The kernels of a layer of 64 channels at 64x64: what they move of I and A, which are of one size here."""
    y = image(layout, dtype, samples, 64, *[65 if filtered else 64] * 2)
    f, padding = (FILTER, [1, 1, 1, 1]) if filtered else (None, [0] * 4)
    vectors, noise = [torch.rand(samples, 64) + 0.5 for _ in range(2)], torch.randn(samples, 1, 64, 64)

    def one(name: str, call: Any) -> Counted:
        return counted(name, layout, dtype, call, samples)

    what = "filter and epilogue" if filtered else "epilogue"
    for next_styles in (None, vectors[1]):
        tensors = (f, vectors[0], noise, torch.tensor(0.3), torch.randn(64), next_styles)
        numbers = (padding, 4.0, *LEAKY)
        name = what if next_styles is None else f"{what}, next style"
        out = styled_epilogue.forward_reference([y], *tensors, *numbers)
        want = [1, 0, 1, 1, int(next_styles is not None)]
        yield one(f"{name}: forward", lambda k, a=(*tensors, *numbers): k.styled_epilogue_fwd([y], *a))
        arguments = (out, [y], out, *tensors, *numbers, want)
        yield one(f"{name}: backward", lambda k, a=arguments: k.styled_epilogue_bwd(*a))
    if not filtered:
        style = (None, vectors[0], None, None, None, None, padding, 1.0, 1.0, 1.0, None)
        yield one("style before: forward", lambda k: k.styled_epilogue_fwd([y], *style))
        arguments = (y, [y], y, *style, [1, 0, 0, 0, 0])
        yield one("style before: backward", lambda k: k.styled_epilogue_bwd(*arguments))


def of_layer(layout: str, dtype: str) -> Iterator[Counted]:
    yield from epilogue(layout, dtype, False)
    yield from epilogue(layout, dtype, True)


def show(title: str, of_column: Callable[[str, str], Iterator[Counted]], number: Callable[[Counted], float]) -> None:
    """A row for each call, a column for each layout and dtype."""
    columns = list(product(LAYOUTS, DTYPES))
    rows: dict[str, list[str]] = {}
    for column in columns:
        for one in of_column(*column):
            rows.setdefault(one.name, []).append(f"{number(one):.3f}")
    print(f"| {title} | " + " | ".join(" ".join(column) for column in columns) + " |")
    print("|---|" + "---|" * len(columns))
    print(*(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()), sep="\n", end="\n\n")


if __name__ == "__main__":
    show("sectors moved over compulsory", bias_act, lambda one: one.ratio)
    show("sectors moved over compulsory", upfirdn2d, lambda one: one.ratio)
    show("images of 64x64 moved", of_layer, lambda one: one.moved / image_sectors(one.dtype))

"""The images that a run draws: reconstructions, samples, traversals of the code, loss curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from idgan_fast.data import to_unit
from idgan_fast.evaluation.budget import Budget
from idgan_fast.evaluation.codes import Codes, generate
from idgan_fast.files import atomically
from idgan_fast.training.gan import GANStage
from idgan_fast.training.vae import VAEStage

LABEL_WIDTH = 62
STEPS = 9  # values of c in a traversal
REACH = 2.0  # from -REACH to REACH standard deviations of the prior


def grid(images: Tensor, columns: int, gap: int = 2) -> Image.Image:
    """Images [N, C, S, S] in [0, 1] (C = 1 or 3) -> one image with all of them, row by row."""
    images = images.float().clamp(0, 1)
    pixels = images.mul(255).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    side, rows = pixels.shape[1], -(-len(pixels) // columns)
    sheet = torch.full((rows * (side + gap) - gap, columns * (side + gap) - gap, 3), 96, dtype=torch.uint8)
    for index, image in enumerate(pixels):
        top, left = index // columns * (side + gap), index % columns * (side + gap)
        sheet[top : top + side, left : left + side] = image
    return Image.fromarray(sheet.numpy())


def label_rows(image: Image.Image, labels: Sequence[str]) -> Image.Image:
    """The image with one label in front of each of its rows."""
    labeled = Image.new("RGB", (image.width + LABEL_WIDTH, image.height), (255, 255, 255))
    labeled.paste(image, (LABEL_WIDTH, 0))
    draw = ImageDraw.Draw(labeled)
    height = image.height / len(labels)
    for row, label in enumerate(labels):
        draw.multiline_text((4, round((row + 0.5) * height) - 12), label, fill=(0, 0, 0))
    return labeled


@torch.no_grad()
def reconstructions(stage: VAEStage, images: Tensor) -> Image.Image:
    """Rows of uint8 images [N, C, 64, 64] above rows of their reconstructions."""
    x = to_unit(images, stage.device)
    mean, _ = stage.vae.encoder(x)
    again = torch.sigmoid(stage.vae.decoder(mean))
    pairs = [half for pair in zip(x.split(8), again.split(8), strict=True) for half in pair]
    return grid(torch.cat(pairs).cpu(), 8)


def samples(stage: GANStage, codes: Codes, count: int = 64, *, budget: Budget) -> Image.Image:
    """G's average on `count` codes from the source that `gan.sample_code` names; the same codes and s every time.

    A quarter of the budget is for it, which pays for 16 images at the least.
    """
    rng = torch.Generator().manual_seed(0)
    if stage.config.sample_code == "posterior":
        c = codes.sample(count, rng)
    else:
        c = torch.randn(count, stage.c_dim, generator=rng)
    s = torch.randn(len(c), stage.config.s_dim, generator=rng)
    return grid(generate(stage, s, c, "drawing samples", budget=budget, least=16, share=1 / 4), 8)


def _vary(codes: Codes, base: int, dims: Sequence[int], values: Tensor) -> Tensor:
    """The base image's mean code, with each value in each of the dimensions: [len(dims) * len(values), d]."""
    c = codes.mean[base].repeat(len(dims), len(values), 1)
    for row, dim in enumerate(dims):
        c[row, :, dim] = values
    return c.flatten(0, 1)


def by_kl(codes: Codes) -> list[int]:
    """The code dimensions, the most informative first."""
    return codes.kl.argsort(descending=True).tolist()


def traversal(stage: GANStage, codes: Codes, base: int = 0, *, budget: Budget) -> Image.Image:
    """A row for each code dimension, ordered by KL, from -2 to 2 along it; s and the other dimensions stay.

    A quarter of the budget is for it, which pays for the first 3 rows at the least.
    """
    dims = by_kl(codes)
    dims = dims[: budget.affordable(len(dims) * STEPS, least=3 * STEPS, share=1 / 4) // STEPS]
    c = _vary(codes, base, dims, torch.linspace(-REACH, REACH, STEPS))
    s = torch.randn(1, stage.config.s_dim, generator=torch.Generator().manual_seed(0)).expand(len(c), -1)
    kl = codes.kl.tolist()
    labels = [f"c{dim}\n{kl[dim]:.2f} nats" for dim in dims]
    return label_rows(grid(generate(stage, s, c, "drawing a traversal", budget=budget), STEPS), labels)


def traversal_frames(
    stage: GANStage, codes: Codes, bases: int = 6, most: int = 6, frames: int = 13, *, budget: Budget
) -> list[Image.Image]:
    """There and back along each active dimension (rows, `most` at the most), for several images (columns).

    A third of the budget is for it, which pays for one column at the least.
    """
    dims = by_kl(codes)[: min(max(int(codes.active.sum()), 1), most)]
    column = len(dims) * frames
    bases = min(bases, len(codes.mean))
    bases = budget.affordable(bases * column, least=column, share=1 / 3) // column
    rng = torch.Generator().manual_seed(0)
    s = torch.randn(bases, 1, stage.config.s_dim, generator=rng)
    values = torch.linspace(-REACH, REACH, frames)
    c = torch.stack([_vary(codes, base, dims, values) for base in range(bases)])  # [bases, dims * frames, d]
    s = s.expand(-1, c.shape[1], -1)
    images = generate(stage, s.flatten(0, 1), c.flatten(0, 1), "drawing traversals", budget=budget)
    images = images.view(bases, len(dims), frames, *images.shape[1:]).permute(2, 1, 0, 3, 4, 5)
    there = [grid(frame.flatten(0, 1), bases) for frame in images]
    return there + there[-2:0:-1]


def save_gif(path: Path, frames: Sequence[Image.Image], milliseconds: int = 90) -> None:
    with atomically(path) as file:
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


def save_png(path: Path, image: Image.Image) -> None:
    with atomically(path) as file:
        image.save(file, "PNG")


def curves(rows: Sequence[dict[str, Any]]) -> Figure:
    """Every scalar of stats.jsonl against the iteration, one panel each."""
    series: dict[tuple[str, str], tuple[list[int], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name in ("iteration", "images_per_second", "waited_for_data") or not isinstance(value, int | float):
                continue
            xs, ys = series.setdefault((row["stage"], name), ([], []))
            xs.append(row["iteration"])
            ys.append(value)
    columns = 4
    height = max(-(-len(series) // columns), 1)
    figure = Figure(figsize=(3.4 * columns, 2.3 * height), layout="constrained")
    for index, ((stage, name), (xs, ys)) in enumerate(sorted(series.items(), key=lambda item: item[0][0] != "vae")):
        axes = figure.add_subplot(height, columns, index + 1)
        axes.plot(
            xs, ys, linewidth=1, marker="." if len(xs) < 3 else "", color="tab:blue" if stage == "vae" else "tab:red"
        )
        axes.set_title(f"{stage}: {name}", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    return figure

"""The images that show how far a stage is, drawn while it trains."""

from collections.abc import Callable

import torch
from torch import Tensor

from idgan_fast.evaluation import drawing
from idgan_fast.evaluation.budget import Budget
from idgan_fast.evaluation.codes import READ_BACK, Codes, affordable, read_back
from idgan_fast.run.folder import RunFolder
from idgan_fast.run.messages import UNREAD
from idgan_fast.training.gan import GANStage
from idgan_fast.training.vae import VAEStage

COLLAPSED_R2 = 0.1  # G's images tell nothing of c below it


def draw_reconstructions(folder: RunFolder, stage: VAEStage, iteration: int, images: Tensor) -> dict[str, str]:
    """Draw images uint8 [N, C, 64, 64] and their reconstructions. Nothing goes to the console."""
    path = folder.image_path("reconstructions", stage.name, iteration)
    drawing.save_png(path, drawing.reconstructions(stage, images))
    return {}


def draw_samples(
    folder: RunFolder, stage: GANStage, iteration: int, codes: Codes, *, budget: Budget, say: Callable[[str], None]
) -> dict[str, str]:
    """Draw samples and a traversal, and log how well c is read back from new images.

    Returns the mean R² over the active dimensions for the console, and says so where it is near 0 at the end.
    """
    samples = drawing.samples(stage, codes, budget=budget)
    drawing.save_png(folder.image_path("samples", stage.name, iteration), samples)
    traversal = drawing.traversal(stage, codes, budget=budget)
    drawing.save_png(folder.image_path("traversals", stage.name, iteration), traversal)
    rng = torch.Generator().manual_seed(0)
    count = max(affordable(READ_BACK // 8, stage.images.size), 32)
    r2, _ = read_back(stage, codes.sample(count, rng), rng, budget=budget, least=32, share=1 / 2)
    active = codes.active.numpy()
    mean = float(r2[active].mean()) if active.any() else None
    folder.log(stage.name, iteration, {"r2": mean, "r2_per_dim": r2.tolist()})
    if mean is None:
        return {}
    if mean < COLLAPSED_R2 and iteration == stage.iters:
        say(UNREAD)
    return {"r2": f"{mean:.2f}"}

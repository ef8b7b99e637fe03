"""A run's checkpoints, which are written atomically and loaded weights-only."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from idgan_fast.errors import UserError, shown
from idgan_fast.files import write_bytes
from idgan_fast.models.weights_file import read_weights

FORMAT = 2
KEEP = 2  # the newest checkpoints that stay, so that a damaged one never costs a run
STAGES = ("vae", "gan")


def save(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state`, which `Trainer._save` makes, as STAGE-ITERATION.pt; drop all but the newest. Returns its path.

    The last checkpoint of stage 1 stays: other generators can start from its encoder. Raises UserError on a full disk.
    """
    buffer = BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    path = folder / f"{state['stage']}-{state['iteration']:08d}.pt"
    write_bytes(path, buffer.getbuffer())
    paths = newest_first(folder)
    stage_1 = [old for old in paths if old.name.startswith("vae-")]
    for old in paths[KEEP:]:
        if old not in stage_1[:1]:
            old.unlink()
    return path


def newest_first(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, the furthest first."""
    places = []
    for path in folder.glob("*.pt"):
        match = re.fullmatch(r"(vae|gan)-(\d+)\.pt", path.name)
        if match:
            places.append((STAGES.index(match[1]), int(match[2]), path))
    return [path for _, _, path in sorted(places, reverse=True)]


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint of this project onto the CPU. Raises UserError with a line on what is wrong with the file."""
    state = read_weights(path)
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(f"checkpoint: {path} is not one of idgan-fast; the public code's load by load_public")
    if type(state["format"]) is not int or state["format"] != FORMAT:
        raise UserError(f"checkpoint: {path} has format {shown(state['format'])}, this version reads {FORMAT}")
    return state

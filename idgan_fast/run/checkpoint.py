"""Checkpoints of a run: written atomically, loaded weights-only."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from idgan_fast.errors import UserError
from idgan_fast.files import write_bytes
from idgan_fast.models.weights_file import read_weights

FORMAT = 2
KEEP = 2  # the newest checkpoints that stay, so that a damaged one never costs a run
STAGES = ("vae", "gan")


def save(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state` (see Trainer._save) as STAGE-ITERATION.pt into `folder`; drop all but the newest.

    The last one of stage 1 stays: other generators can start from its encoder.
    """
    buffer = BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    path = folder / f"{state['stage']}-{state['iteration']:08d}.pt"
    write_bytes(path, buffer.getbuffer())
    kept = newest_first(folder)
    stage_1 = [old for old in kept if old.name.startswith("vae-")]
    for old in kept[KEEP:]:
        if old not in stage_1[:1]:
            old.unlink()
    return path


def newest_first(folder: Path) -> list[Path]:
    """The run's checkpoints, furthest first."""
    found = []
    for path in folder.glob("*.pt"):
        match = re.fullmatch(r"(vae|gan)-(\d+)\.pt", path.name)
        if match:
            found.append((STAGES.index(match[1]), int(match[2]), path))
    return [path for _, _, path in sorted(found, reverse=True)]


def load(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, on the CPU. Raises UserError with one line that says what is wrong with the file."""
    state = read_weights(path)
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(f"checkpoint: {path} is not one of idgan-fast; the public code's load by load_public")
    if state["format"] != FORMAT:
        raise UserError(f"checkpoint: {path} has format {state['format']}, this version reads {FORMAT}")
    return state

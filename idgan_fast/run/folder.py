"""A run's folder: its settings, its statistics, and the places of everything else."""

import json
import math
import shutil
import time
from pathlib import Path
from typing import IO, Any

from torch.utils.tensorboard import SummaryWriter

from idgan_fast.config.settings import Config, to_yaml
from idgan_fast.errors import UserError
from idgan_fast.files import Locked, lock, remove_partial, write_bytes
from idgan_fast.run.checkpoint import STAGES

IMAGES = {"samples": "gan", "traversals": "gan", "reconstructions": "vae"}  # the stage that draws each kind


class RunFolder:
    """config.yaml, stats.jsonl, tensorboard/, checkpoints/, three folders of pictures, report.html, summary.json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._stats = path / "stats.jsonl"
        self._writers: dict[str, SummaryWriter] = {}
        self._lock_file: IO[str] | None = None

    def lock(self) -> None:
        """Take the folder, which must exist, for this process. Raises UserError if another process has it."""
        if self._lock_file is None:
            try:
                self._lock_file = lock(self.path / ".lock")
            except Locked as error:
                raise UserError(
                    f"--out: {error} is training into {self.path}; wait for its end, or give another folder"
                ) from error

    def prepare(self, config: Config) -> None:
        """Make the folders, take them for this process, and write config.yaml. Raises UserError as `lock` does."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock()
        for name in ("checkpoints", *IMAGES):
            (self.path / name).mkdir(exist_ok=True)
        remove_partial(self.path)
        write_bytes(self.path / "config.yaml", to_yaml(config).encode())

    def set_aside(self) -> Path | None:
        """Rename an existing run out of the way. Returns its new path; None where there is no run."""
        if not any((self.path / name).exists() for name in ("config.yaml", "checkpoints")):
            return None
        self.lock()
        number = 1
        while (old := self.path.with_name(f"{self.path.name}-old{number}")).exists():
            number += 1
        self.path.rename(old)
        self.unlock()
        return old

    def unlock(self) -> None:
        """Let other processes have the folder."""
        if self._lock_file is not None:
            self._lock_file.close()
        self._lock_file = None

    def image_path(self, kind: str, stage: str, iteration: int) -> Path:
        """Return the path of a picture of that kind after so many iterations."""
        return self.path / kind / f"{stage}-{iteration:07d}.png"

    def is_shown(self, stage: str, iteration: int) -> bool:
        """Whether all that the stage draws and measures after so many iterations is there."""
        images = [self.image_path(kind, by, iteration) for kind, by in IMAGES.items() if by == stage]
        measured = stage != "gan" or any("r2" in row and row["iteration"] == iteration for row in self.stats())
        return measured and all(path.exists() for path in images)

    def newest_image(self, kind: str, stage: str) -> Path | None:
        """Return the path of the last picture of that kind; None where there is none."""
        paths = sorted((self.path / kind).glob(f"{stage}-*.png"))
        return paths[-1] if paths else None

    def log(self, stage: str, iteration: int, values: dict[str, Any]) -> None:
        """Write a line of stats.jsonl and, for the numbers in it, TensorBoard. What is not finite becomes null."""
        values = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
        with open(self._stats, "a") as file:
            file.write(json.dumps({"stage": stage, "iteration": iteration, **values}) + "\n")
        writer = self._writer(stage)
        for name, value in values.items():
            if isinstance(value, int | float):
                writer.add_scalar(f"{stage}/{name}", value, iteration)

    def _writer(self, stage: str, purge_step: int | None = None) -> SummaryWriter:
        if stage not in self._writers:
            place = self.path / "tensorboard" / stage
            _put_first(place)
            self._writers[stage] = SummaryWriter(str(place), purge_step=purge_step)
        return self._writers[stage]

    def rewind(self, stage: str = STAGES[0], iteration: int = 0) -> None:
        """Remove statistics and pictures after `iteration` of `stage`, which a resumed run makes again."""
        here = (STAGES.index(stage), iteration)
        rows = [row for row in self.stats() if (STAGES.index(row["stage"]), row["iteration"]) <= here]
        write_bytes(self._stats, "".join(json.dumps(row) + "\n" for row in rows).encode())
        for path in (path for kind in IMAGES for path in (self.path / kind).glob("*-*.png")):
            name, _, number = path.stem.partition("-")
            drawn_by_a_run = name in STAGES and number.isdecimal()
            if drawn_by_a_run and (STAGES.index(name), int(number)) > here:
                path.unlink()
        for later in STAGES[STAGES.index(stage) + 1 :]:
            shutil.rmtree(self.path / "tensorboard" / later, ignore_errors=True)
        self._writer(stage, purge_step=iteration + 1)

    def stats(self) -> list[dict[str, Any]]:
        """Read the lines of stats.jsonl, but for one that a crash cut short, or that something else wrote."""
        if not self._stats.exists():
            return []
        rows = []
        for line in self._stats.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and row.get("stage") in STAGES and isinstance(row.get("iteration"), int):
                rows.append(row)
        return rows

    def close(self) -> None:
        """Write out what TensorBoard still holds, and unlock the folder."""
        for writer in self._writers.values():
            writer.close()
        self.unlock()


def _put_first(place: Path) -> None:
    """Rename the event files in a folder where the next one's name would not come last.

    TensorBoard reads files in the order of their names, which begin with the second: after a clock was set back, or
    within the same second, what a resumed run writes would be read before what it goes on from, and be dropped.
    """
    start, now = "events.out.tfevents.", f"{int(time.time()):010d}"
    paths = sorted(place.glob(start + "*"))
    if any(path.name.removeprefix(start).split(".")[0] >= now for path in paths):
        for number, path in enumerate(paths):
            rest = path.name.removeprefix(start).partition(".")[2]
            path.rename(path.with_name(f"{start}{number:010d}.{rest}"))

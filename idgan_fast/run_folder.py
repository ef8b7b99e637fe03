"""A run's folder: settings, statistics and where everything else goes."""

import json
import math
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from idgan_fast.checkpoint import STAGES, write_atomically
from idgan_fast.config import Config, to_yaml


class RunFolder:
    """config.yaml, stats.jsonl, tensorboard/, checkpoints/, three folders of pictures, report.html, summary.json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._stats = path / "stats.jsonl"
        self._writers: dict[str, SummaryWriter] = {}

    def prepare(self, config: Config) -> None:
        for name in ("checkpoints", "samples", "traversals", "reconstructions"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "config.yaml", to_yaml(config).encode())

    def set_aside(self) -> Path | None:
        """Rename an existing run out of the way; where it is now."""
        if not any((self.path / name).exists() for name in ("config.yaml", "checkpoints")):
            return None
        number = 1
        while (old := self.path.with_name(f"{self.path.name}-old{number}")).exists():
            number += 1
        self.path.rename(old)
        return old

    def picture(self, kind: str, stage: str, iteration: int) -> Path:
        return self.path / kind / f"{stage}-{iteration:07d}.png"

    def newest_picture(self, kind: str, stage: str) -> Path | None:
        found = sorted((self.path / kind).glob(f"{stage}-*.png"))
        return found[-1] if found else None

    def log(self, stage: str, iteration: int, values: dict[str, Any]) -> None:
        """One line of stats.jsonl and, for the numbers in it, TensorBoard. What is not finite becomes null."""
        values = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
        with open(self._stats, "a") as file:
            file.write(json.dumps({"stage": stage, "iteration": iteration, **values}) + "\n")
        writer = self._writer(stage)
        for name, value in values.items():
            if isinstance(value, int | float):
                writer.add_scalar(f"{stage}/{name}", value, iteration)

    def _writer(self, stage: str, purge_step: int | None = None) -> SummaryWriter:
        if stage not in self._writers:
            self._writers[stage] = SummaryWriter(str(self.path / "tensorboard" / stage), purge_step=purge_step)
        return self._writers[stage]

    def rewind(self, stage: str = STAGES[0], iteration: int = 0) -> None:
        """Forget statistics after `iteration` of `stage`: a resumed run writes them again."""
        here = (STAGES.index(stage), iteration)
        kept = [row for row in self.stats() if (STAGES.index(row["stage"]), row["iteration"]) <= here]
        write_atomically(self._stats, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._writer(stage, purge_step=iteration + 1)

    def stats(self) -> list[dict[str, Any]]:
        """The lines so far; one cut short by a crash is left out."""
        if not self._stats.exists():
            return []
        rows = []
        for line in self._stats.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

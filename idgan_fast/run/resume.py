"""Where a run starts: afresh, or from a checkpoint whose settings agree."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idgan_fast.config.fields import settings_of
from idgan_fast.config.settings import Config, flatten, to_yaml
from idgan_fast.errors import UserError
from idgan_fast.models.weights_file import Damaged
from idgan_fast.run import checkpoint
from idgan_fast.run.folder import RunFolder


@dataclass(frozen=True)
class Resumed:
    """A checkpoint and where it stands."""

    path: Path
    state: dict[str, Any]

    @property
    def stage(self) -> str:
        return self.state["stage"]

    @property
    def iteration(self) -> int:
        return self.state["iteration"]

    @property
    def resolved_settings(self) -> dict[str, Any]:
        """The record of the run that wrote it, as `ResolvedSettings.record` made it."""
        return self.state["choices"]


def default_folder(config: Config) -> Path:
    """runs/PRESET-seedSEED, or the first of -2, -3, ... that holds no finished run of other settings."""
    first = Path("runs") / f"{config.preset}-seed{config.seed}"
    for number in itertools.count(1):
        path = first if number == 1 else first.with_name(f"{first.name}-{number}")
        if not (path / "summary.json").exists() or (path / "config.yaml").read_text() == to_yaml(config):
            return path
    raise AssertionError("itertools.count ended")


def find(config: Config, say: Callable[[str], None]) -> tuple[RunFolder, Resumed | None]:
    """The run's folder and the checkpoint to go on from, as --resume has it. Raises UserError."""
    folder = RunFolder(config.out or default_folder(config))
    if config.resume == "never":
        old = folder.set_aside()
        if old is not None:
            say(f"the run that was in {folder.path} is now in {old}")
        return folder, None
    there = checkpoint.newest_first(folder.checkpoints)
    if config.resume == "auto":
        newest = _newest_readable(there, folder, say)
        if newest is None:
            return folder, None
        resumed = newest
    else:
        path = Path(config.resume)
        resumed = Resumed(path, checkpoint.load(path))
        if there and there[0].resolve() != path.resolve():
            raise UserError(f"resume: {folder.path} has gone further, to {there[0].name}; give another --out")
    say(f"resuming from {resumed.path} ({resumed.stage} iteration {resumed.iteration})")
    _require_agreement(resumed, config, say)
    return folder, resumed


def _newest_readable(paths: list[Path], folder: RunFolder, say: Callable[[str], None]) -> Resumed | None:
    """Damaged files are passed over, and renamed once an older one has been read."""
    damaged: list[Path] = []
    for path in paths:
        try:
            state = checkpoint.load(path)
        except Damaged as error:
            damaged.append(path)
            say(f"{error}; trying the one before")
            continue
        for old in damaged:
            old.rename(old.with_suffix(".damaged"))
        return Resumed(path, state)
    if damaged:
        raise UserError(f"no checkpoint in {folder.checkpoints} can be read; --resume never starts anew")
    return None


def _require_agreement(resumed: Resumed, config: Config, say: Callable[[str], None]) -> None:
    """Raise UserError unless the run that wrote the checkpoint had the same settings, or ones that may change."""
    before, now = resumed.state["config"], flatten(config)
    on_resume = {key: carried.on_resume for key, _, carried in settings_of(config)}
    free = {key for key, rule in on_resume.items() if rule == "free"} | _extendable(config, resumed)
    # A setting that the checkpoint does not know is newer than it, and had the default's effect.
    changed = [key for key in now if key not in free and key in before and before[key] != now[key]]
    refused = [key for key in changed if on_resume[key] != "remedy"]
    if refused:
        key, more = refused[0], f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise UserError(
            f"resume: {key} was {before[key]} in {resumed.path} and is {now[key]} now{more}; take the old settings "
            f"with --config {resumed.path.parent.parent / 'config.yaml'}, another --out, or --resume never"
        )
    for key in changed:
        say(f"from here on {key} is {now[key]}, it was {before[key]}")


def _extendable(config: Config, resumed: Resumed) -> set[str]:
    """Settings that nothing done so far depends on: more iterations; after stage 1 alone, all of stage 2's."""
    if resumed.stage == "gan":
        return {"gan.iters"}
    keys = {key for key, _, carried in settings_of(config) if key.startswith("gan.") or carried.on_resume == "stage 2"}
    scheduled = config.vae.beta_start is not None or config.vae.lr_decay + config.vae.lr_warmup > 0
    return keys if scheduled else keys | {"vae.iters"}


def require_same_data(resumed: Resumed | None, fingerprint: str, config: Config) -> None:
    """Raise UserError unless a run goes on with the images that it began with; a finished stage 1 may meet others."""
    if resumed is None or resumed.state["data"] == fingerprint:
        return
    if resumed.stage == "gan" or resumed.iteration < config.vae.iters:
        raise UserError(
            f"resume: the pictures are not those that {resumed.path} was trained on; bring them back, or take "
            "another --out"
        )

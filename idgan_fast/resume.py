"""Where a run starts: afresh, or from a checkpoint whose settings agree."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idgan_fast import checkpoint
from idgan_fast.config import Config, flatten
from idgan_fast.errors import UserError
from idgan_fast.run_folder import RunFolder

# Settings that a resumed run may change: they say how a run is kept, not what it computes.
FREE = {
    "out",
    "device",
    "resume",
    "config",
    "workers",
    "log_every",
    "picture_every",
    "save_every",
    "images.cache_gib",
}


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
    def choices(self) -> dict[str, Any]:
        return self.state["choices"]


def find(config: Config, say: Callable[[str], None]) -> tuple[RunFolder, Resumed | None]:
    """The run's folder and the checkpoint to go on from, as --resume has it. Raises UserError."""
    assert config.out is not None
    folder = RunFolder(config.out)
    if config.resume == "never":
        old = folder.set_aside()
        if old is not None:
            say(f"the run that was in {config.out} is now in {old}")
        return folder, None
    there = checkpoint.newest_first(folder.checkpoints)
    if config.resume == "auto":
        newest = _newest_readable(there, config, say)
        if newest is None:
            return folder, None
        resumed = newest
    else:
        path = Path(config.resume)
        resumed = _agreeing(Resumed(path, checkpoint.load(path)), config)
        if there and there[0].resolve() != path.resolve():
            raise UserError(f"resume: {config.out} has gone further, to {there[0].name}; give another --out")
    say(f"resuming from {resumed.path} ({resumed.stage} iteration {resumed.iteration})")
    return folder, resumed


def _newest_readable(paths: list[Path], config: Config, say: Callable[[str], None]) -> Resumed | None:
    for path in paths:
        try:
            state = checkpoint.load(path)
        except UserError as error:
            aside = path.rename(path.with_suffix(".damaged"))
            say(f"{error}; it is now {aside.name}, trying the one before")
            continue
        return _agreeing(Resumed(path, state), config)
    if paths:
        raise UserError(f"no checkpoint in {paths[0].parent} can be read; --resume never starts anew")
    return None


def _agreeing(resumed: Resumed, config: Config) -> Resumed:
    """`resumed`, if the run that wrote it had the same settings, or ones that may change."""
    before, now = resumed.state["config"], flatten(config)
    free = FREE | _extendable(config, resumed)
    changed = [key for key in now if key not in free and before.get(key) != now[key]]
    if changed:
        key = changed[0]
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UserError(
            f"resume: {key} was {before.get(key)} in {resumed.path} and is {now[key]} now{more}; take the old "
            f"settings with --config {resumed.path.parent.parent / 'config.yaml'}, another --out, or --resume never"
        )
    return resumed


def _extendable(config: Config, resumed: Resumed) -> set[str]:
    """Settings that nothing done so far depends on: more iterations; after stage 1 alone, all of stage 2's."""
    if resumed.stage == "gan":
        return {"gan.iters"}
    keys = {key for key in flatten(config) if key.startswith("gan.")}
    keys |= {"preset", "images.size", "images.flip", "images.dequantise"}
    scheduled = config.vae.beta_start is not None or config.vae.lr_decay + config.vae.lr_warmup > 0
    return keys if scheduled else keys | {"vae.iters"}

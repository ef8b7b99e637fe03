"""Where a run starts: afresh, or from a checkpoint whose settings and images agree."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from idgan_fast.config.arguments import LARGEST_WHOLE
from idgan_fast.config.fields import settings_of
from idgan_fast.config.settings import Config, flatten, to_yaml
from idgan_fast.data.fingerprint import agrees
from idgan_fast.errors import UserError, shortened, shown
from idgan_fast.models.weights_file import Damaged
from idgan_fast.run.checkpoint import STAGES, load, newest_first
from idgan_fast.run.folder import RunFolder

PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint to go on from. Raises UserError where an entry is missing or is not what a run writes there."""

    path: Path
    state: dict[str, Any]

    def __post_init__(self) -> None:
        self._require("stage", "one of vae, gan", lambda value: isinstance(value, str) and value in STAGES)
        self._require("iteration", "a whole number", lambda value: type(value) is int and 0 <= value <= LARGEST_WHOLE)
        self._require("seconds", "a number", lambda value: type(value) in (int, float) and 0 <= value < math.inf)
        self._require("data", "some text", lambda value: isinstance(value, str))
        for key in ("config", "choices"):
            self._require(key, "a mapping of names to plain values", _is_plain)
        self._require("choices", "a mapping with a device and a precision", _has_device_and_precision)
        for stage in STAGES[: STAGES.index(self.stage) + 1]:
            self._require(stage, "a stage's state", lambda value: isinstance(value, dict))

    def _require(self, key: str, wanted: str, holds: Callable[[Any], bool]) -> None:
        if key not in self.state:
            raise UserError(f"checkpoint: {self.path} lacks {key}; take another")
        if not holds(self.state[key]):
            value = self.state[key]
            came = shown(value) if isinstance(value, PLAIN) else f"a {type(value).__name__}"
            raise UserError(f"checkpoint: {key} in {self.path} must be {wanted}, got {came}; take another")

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


def _is_plain(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(entry, PLAIN) for key, entry in value.items()
    )


def _has_device_and_precision(choices: dict[str, Any]) -> bool:
    try:
        torch.device(choices["device"])
    except (KeyError, TypeError, RuntimeError):
        return False
    return choices.get("amp", "off") in ("bf16", "fp16", "off")


@contextlib.contextmanager
def restoring(checkpoint: Checkpoint, stage: str) -> Iterator[None]:
    """Turn what a stage's `load_state_dict` raises for a wrong entry into a UserError that names the file."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        path, reason = checkpoint.path, shortened(reason, 300)
        raise UserError(f"checkpoint: the state of {stage} in {path} does not fit: {reason}; take another") from error


def default_folder(config: Config) -> Path:
    """Return runs/PRESET-seedSEED, or the first of -2, -3, ... that holds no finished run of other settings."""
    first = Path("runs") / f"{config.preset}-seed{config.seed}"
    for number in itertools.count(1):
        path = first if number == 1 else first.with_name(f"{first.name}-{number}")
        if not (path / "summary.json").exists() or (path / "config.yaml").read_text() == to_yaml(config):
            return path
    raise AssertionError("itertools.count ended")


def find(config: Config, say: Callable[[str], None]) -> tuple[RunFolder, Checkpoint | None]:
    """Find the run's folder and the checkpoint to go on from, as --resume has it. say: is told of both, line by line.

    Raises UserError where the checkpoint or the settings do not allow it.
    """
    folder = RunFolder(config.out or default_folder(config))
    if config.data is not None and Path(config.data).resolve() in (path := folder.path.resolve(), *path.parents):
        raise UserError(
            f"--out: {folder.path} lies in --data {config.data}, where the run's own pictures would become data; "
            "give a folder outside of it"
        )
    try:
        return folder, _find(folder, config, say)
    except BaseException:
        folder.unlock()
        raise


def _find(folder: RunFolder, config: Config, say: Callable[[str], None]) -> Checkpoint | None:
    if config.resume == "never":
        old = folder.set_aside()
        if old is not None:
            say(f"the run that was in {folder.path} is now in {old}")
        return None
    if folder.checkpoints.exists():
        folder.lock()  # before anything in it is renamed
    paths = newest_first(folder.checkpoints)
    if config.resume == "auto":
        newest = _newest_readable(paths, folder, say)
        if newest is None:
            return None
        checkpoint = newest
    else:
        path = Path(config.resume)
        checkpoint = Checkpoint(path, load(path))
        if paths and paths[0].resolve() != path.resolve():
            raise UserError(f"resume: {folder.path} has gone further, to {paths[0].name}; give another --out")
    say(f"resuming from {checkpoint.path} ({checkpoint.stage} iteration {checkpoint.iteration})")
    _require_agreement(checkpoint, config, say)
    return checkpoint


def _newest_readable(paths: list[Path], folder: RunFolder, say: Callable[[str], None]) -> Checkpoint | None:
    """Load the newest checkpoint that is whole. Damaged ones are renamed once an older one has been read.

    Raises UserError where all are damaged: a run never starts anew by itself.
    """
    damaged_paths: list[Path] = []
    for path in paths:
        try:
            state = load(path)
        except Damaged as error:
            damaged_paths.append(path)
            say(f"{error}; trying the one before")
            continue
        for old in damaged_paths:
            old.rename(old.with_suffix(".damaged"))
        return Checkpoint(path, state)
    if damaged_paths:
        raise UserError(f"no checkpoint in {folder.checkpoints} can be read; --resume never starts anew")
    return None


def _require_agreement(checkpoint: Checkpoint, config: Config, say: Callable[[str], None]) -> None:
    """Raise UserError unless the run that wrote the checkpoint had the same settings, or ones that may change."""
    old, new = checkpoint.state["config"], flatten(config)
    on_resume = {key: traits.on_resume for key, _, traits in settings_of(config)}
    free = {key for key, rule in on_resume.items() if rule == "free"} | _extendable(config, checkpoint)
    # A setting that the checkpoint does not know is newer than it, and had the default's effect.
    changes = [key for key in new if key not in free and key in old and old[key] != new[key]]
    refusals = [key for key in changes if on_resume[key] != "remedy"]
    if refusals:
        key, more = refusals[0], f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
        raise UserError(
            f"resume: {key} was {old[key]} in {checkpoint.path} and is {new[key]} now{more}; take the old settings "
            f"with --config {checkpoint.path.parent.parent / 'config.yaml'}, another --out, or --resume never"
        )
    for key in changes:
        say(f"from here on {key} is {new[key]}, it was {old[key]}")


def _extendable(config: Config, checkpoint: Checkpoint) -> set[str]:
    """Return the settings that nothing done so far depends on: more iterations; within stage 1, all of stage 2's."""
    if checkpoint.stage == "gan":
        return {"gan.iters"}
    keys = {key for key, _, traits in settings_of(config) if key.startswith("gan.") or traits.on_resume == "stage 2"}
    scheduled = config.vae.beta_start is not None or config.vae.lr_decay + config.vae.lr_warmup > 0
    return keys if scheduled else keys | {"vae.iters"}


def require_same_data(checkpoint: Checkpoint | None, fingerprint: str, config: Config) -> None:
    """Raise UserError unless a run goes on with the images that it began with; a finished stage 1 may meet others."""
    if checkpoint is None or agrees(checkpoint.state["data"], fingerprint):
        return
    if checkpoint.stage == "gan" or checkpoint.iteration < config.vae.iters:
        raise UserError(
            f"resume: the pictures are not those that {checkpoint.path} was trained on; bring them back, or take "
            "another --out"
        )

"""One run: both stages from where they stand, and the report."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from idgan_fast import __version__, startup
from idgan_fast.config.settings import Config, flatten
from idgan_fast.data import Dataset, batches, dali, open_data
from idgan_fast.data.fingerprint import describe_change
from idgan_fast.data.images import ImageFiles
from idgan_fast.errors import UserError
from idgan_fast.evaluation.budget import Budget
from idgan_fast.evaluation.codes import Codes, read_codes, summarize
from idgan_fast.models.vae import IMAGE_SIZE
from idgan_fast.run import checkpoint, messages, report
from idgan_fast.run.console import Console, TaskProgress
from idgan_fast.run.resolved_settings import resolve, steps_of
from idgan_fast.run.resume import find, require_same_data, restoring
from idgan_fast.run.signals import StopSignal
from idgan_fast.run.stage_images import draw_reconstructions, draw_samples
from idgan_fast.training.gan import GANStage
from idgan_fast.training.precision import pick_device, use_tf32
from idgan_fast.training.stage import Stage
from idgan_fast.training.step_compiler import StepCompiler, mark_warm
from idgan_fast.training.vae import VAEStage

ENCODED = 2048  # real images whose codes are read
ENCODED_WITH_FACTORS = 10_000  # where factors are known: MIG's usual number
RECONSTRUCTED = 32  # real images that are shown beside their reconstructions
LOG_SECONDS = 30.0  # slow runs log and save by the clock too
SAVE_SECONDS = 600.0
MEASURED_SHARE = 0.1  # of the training's time, which measuring and drawing may take
MEASURED_SECONDS = 60.0  # at the end of a run, where the share is less

Draw = Callable[[int], dict[str, str]]
"""Draws what shows a stage after so many iterations; returns texts for the console by name."""


class Stopped(Exception):
    """A signal ended the run early; its checkpoint is written."""


class Trainer:
    """One run: its settings, its folder, its place in the two stages."""

    def __init__(self, config: Config, console: Console, stop: StopSignal) -> None:
        self.config, self.console, self.stop = config, console, stop
        self.device = pick_device(config.device)
        use_tf32(config.tf32)
        self.folder, self.checkpoint = find(config, console.line)
        self.previous = self.checkpoint.resolved_settings if self.checkpoint else {}
        self.resolved = resolve(config, self.device, self.previous)
        self.precision = self.resolved.precision
        self.step_compiler = StepCompiler(self.resolved.compiled, self.device, console.line)
        self.fingerprint = ""  # of the data
        self.completed_stages: dict[str, Any] = {}  # their states, for the checkpoints of later ones
        self.last_good = self.checkpoint.path if self.checkpoint else None
        self._start_time = time.monotonic() - (self.checkpoint.state["seconds"] if self.checkpoint else 0.0)
        self._log_time = self._save_time = self._draw_time = time.monotonic()
        self._collapse_said = False

    def run(self) -> None:
        """Train what is left of both stages and write the report. Raises UserError, and Stopped after a signal."""
        config = self.config
        self.folder.prepare(config)
        self._say(messages.beginning(config, self.folder.path, self.resolved, self.previous))
        if self.checkpoint:
            self.folder.rewind(self.checkpoint.stage, self.checkpoint.iteration)
        else:
            self.folder.rewind()  # what a run without a checkpoint left

        small = open_data(config, IMAGE_SIZE)
        self._say(messages.data(small, config, self.resolved, self.previous))
        self._say(messages.left_out(small, config))
        self.fingerprint = small.fingerprint
        require_same_data(self.checkpoint, self.fingerprint, config)
        torch.manual_seed(config.seed)
        vae_stage = VAEStage(config, small.channels, self.device, self.precision, self.step_compiler)
        images = small[torch.randint(len(small), (RECONSTRUCTED,), generator=torch.Generator().manual_seed(0))]
        self._train(vae_stage, small, lambda done: draw_reconstructions(self.folder, vae_stage, done, images))
        codes = self._read_codes(small, vae_stage)

        large = self._open_large(small)
        torch.manual_seed(config.seed + 1)
        gan_stage = GANStage(config, small.channels, self.device, self.precision, vae_stage.vae, self.step_compiler)
        say = self.console.line

        def draw(done: int) -> dict[str, str]:
            since, self._draw_time = self._draw_time, time.monotonic()
            budget = self._budget(self._draw_time - since, MEASURED_SECONDS / 4)
            return draw_samples(self.folder, gan_stage, done, codes, budget=budget, say=say)

        self._train(gan_stage, large, draw)
        if self.step_compiler.complete():
            mark_warm(steps_of(config, self.device, self.precision))
        self._finish(gan_stage, codes, small.skipped | large.skipped)

    def _open_large(self, small: Dataset) -> Dataset:
        """The images of stage 2; those of stage 1 where the size is the same."""
        if self.config.images.size == IMAGE_SIZE:
            return small
        large = open_data(self.config, self.config.images.size)
        if small.cached and not large.cached:
            self._say(messages.data(large, self.config, self.resolved, self.previous))
        return large

    def _read_codes(self, dataset: Dataset, stage: VAEStage) -> Codes:
        """The codes of real images, once stage 1 is done."""
        count = ENCODED_WITH_FACTORS if self.config.dataset == "dsprites" else ENCODED
        codes = read_codes(
            dataset,
            stage.vae.encoder,
            count,
            self.device,
            budget=self._budget(self._seconds() / 4, MEASURED_SECONDS / 4),
        )
        if not codes.active.any():
            self._say_collapsed()
        return codes

    def _finish(self, stage: GANStage, codes: Codes, skipped: dict[str, str]) -> None:
        """Measure, write the report, and say how it went."""
        budget = self._budget(self._seconds() / 2, MEASURED_SECONDS / 2)
        summary = summarize(stage, codes, budget=budget)
        seconds = self._seconds()
        page = report.write(
            self.folder,
            self.config,
            resolved=self.resolved.record(),
            summary=summary,
            codes=codes,
            stage=stage,
            seconds=seconds,
            skipped=skipped,
            budget=budget,
        )
        self._say(messages.end(summary, skipped, seconds))
        self.console.line(f"report: {page}")

    def _seconds(self) -> float:
        """The time that the run has taken, with what came before it was resumed."""
        return time.monotonic() - self._start_time

    def _budget(self, trained: float, least: float) -> Budget:
        """What measuring and drawing may take after so many seconds of training."""
        return Budget(max(MEASURED_SHARE * trained, least), self._tell)

    def _tell(self, what: str, done: int, total: int) -> None:
        """Show how far a measurement is. Raises Stopped after a signal: the next start measures anew."""
        if self.stop and done < total:
            raise Stopped(f"stopped while {what}, saved in {self.last_good}")
        self.console.aside(what, done, total)

    # ---- one stage

    def _train(self, stage: Stage, dataset: Dataset, draw: Draw) -> None:
        """The iterations of a stage that are still to do."""
        start = self._restore(stage)
        if start and self._shows_after(stage, start) and not self.folder.is_shown(stage.name, start):
            draw(start)
        if start < stage.iters:
            batches = self._batches(dataset, stage.batch_size, self._seed(stage), start)
            display = self.console.stage(stage.name, start=start, total=stage.iters, batch_size=stage.batch_size)
            with contextlib.closing(batches) as source, display as progress:
                self._iterate(stage, start, source, draw, progress)
        self.completed_stages[stage.name] = stage.state_dict()
        changed = dataset.changed()
        if changed:
            self.console.line(describe_change(changed))

    def _restore(self, stage: Stage) -> int:
        """Load the stage from the checkpoint, if there is one; the iteration to go on with."""
        if self.checkpoint is None or stage.name not in self.checkpoint.state:
            return 0
        state = self.checkpoint.state[stage.name]
        start = self.checkpoint.iteration if stage.name == self.checkpoint.stage else stage.iters
        with restoring(self.checkpoint, stage.name):
            stage.load_state_dict(state)
            if torch.device(self.previous["device"]).type == self.device.type:
                stage.rng.set_state(state["rng"])
            else:
                stage.rng.manual_seed(self._seed(stage) + 1_000_003 * start)
        return start

    def _shows_after(self, stage: Stage, done: int) -> bool:
        """Whether pictures are due after so many iterations."""
        return done == stage.iters or done % self.config.picture_every == 0

    def _seed(self, stage: Stage) -> int:
        return 2 * self.config.seed + checkpoint.STAGES.index(stage.name)

    def _batches(self, dataset: Dataset, batch_size: int, seed: int, start: int) -> Generator[Tensor, None, None]:
        workers = startup.usable_cores() if self.config.workers is None else self.config.workers
        if self.resolved.loader == "dali" and isinstance(dataset, ImageFiles) and not dataset.cached:
            return dali.batches(dataset, batch_size, seed, start, max(workers, 1), self.device)
        return batches(dataset, batch_size, seed, start, workers, pin_memory=self.device.type == "cuda")

    def _iterate(self, stage: Stage, start: int, source: Iterator[Tensor], draw: Draw, progress: TaskProgress) -> None:
        """The training loop, from `start` iterations done to all of them."""
        config = self.config
        metrics: dict[str, Tensor] = {}
        texts: dict[str, str] = {}
        wait = 0.0  # for data since the last line of stats.jsonl, in seconds
        for done in range(start + 1, stage.iters + 1):
            request_time = time.monotonic()
            try:
                batch = next(source)
            except UserError:
                if metrics:
                    self._save(stage, done - 1, metrics)
                raise
            wait += time.monotonic() - request_time
            metrics = stage.step(batch, done - 1)
            now = time.monotonic()
            stopping = bool(self.stop)  # read once: a signal may come at any time
            last = done == stage.iters or stopping
            if last or done % config.log_every == 0 or now - self._log_time > LOG_SECONDS:
                texts |= self._log(stage, done, metrics, progress.images_per_second(done), wait)
                self._log_time, wait = now, 0.0
                progress.update(done, texts)
            else:
                progress.update(done)
            if last or done % config.save_every == 0 or now - self._save_time > SAVE_SECONDS:
                self._save(stage, done, metrics)
                self._save_time = now
            if self._shows_after(stage, done):
                texts |= draw(done)
            if stopping:
                raise Stopped(f"stopped at {stage.name} iteration {done}, saved in {self.last_good}")

    def _log(
        self, stage: Stage, done: int, metrics: dict[str, Tensor], images_per_second: float, wait: float
    ) -> dict[str, str]:
        """Write a line of stats.jsonl. Returns its numbers as texts for the console."""
        self._require_finite(stage, done, metrics)
        values = stage.log_values(metrics, done - 1)
        if stage.collapsed(values, done - 1):
            self._say_collapsed()
        share = wait / max(time.monotonic() - self._log_time, 1e-9)
        clock = {"images_per_second": round(images_per_second, 1), "waited_for_data": round(share, 4)}
        self.folder.log(stage.name, done, values | clock)
        return {name: f"{value:.3g}" for name, value in values.items() if not isinstance(value, list)}

    def _save(self, stage: Stage, done: int, metrics: dict[str, Tensor]) -> None:
        """Write a checkpoint, unless a metric or a weight is not finite: then raise UserError."""
        self._require_finite(stage, done, metrics | stage.weights())
        state = {
            "version": __version__,
            "data": self.fingerprint,
            "config": flatten(self.config),
            "choices": self.resolved.record(),
            "stage": stage.name,
            "iteration": done,
            "seconds": self._seconds(),
            **self.completed_stages,
            stage.name: stage.state_dict(),
        }
        self.last_good = checkpoint.save(self.folder.checkpoints, state)

    def _require_finite(self, stage: Stage, done: int, values: dict[str, Tensor]) -> None:
        if self.precision.name == "fp16":
            values = {name: value for name, value in values.items() if name not in stage.may_overflow}
        finite = torch.stack([value.isfinite().all() for value in values.values()])
        if not finite.all():
            name = next(name for name, good in zip(values, finite.tolist(), strict=True) if not good)
            good = f"the last good checkpoint is {self.last_good}" if self.last_good else "no checkpoint was due yet"
            raise UserError(
                f"{stage.name} iteration {done}: {name} is not finite; {good}; try a lower learning rate or --amp off"
            )

    # ---- what is said

    def _say(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.console.line(line)

    def _say_collapsed(self) -> None:
        """Once in a run."""
        if not self._collapse_said:
            self.console.line(messages.COLLAPSED)
        self._collapse_said = True

"""One run: both stages from where they stand, and the report."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from idgan_fast import __version__
from idgan_fast.config.settings import Config, flatten
from idgan_fast.data import Dataset, batches, choose_loader, dali, in_memory, open_data
from idgan_fast.data.images import ImageFiles
from idgan_fast.errors import UserError
from idgan_fast.evaluation import drawing
from idgan_fast.evaluation.codes import (
    ACTIVE_NATS,
    READ_BACK,
    Codes,
    Summary,
    affordable,
    read_back,
    read_codes,
    summarise,
)
from idgan_fast.models.vae import IMAGE_SIZE
from idgan_fast.run import checkpoint, report
from idgan_fast.run.console import Console, StageProgress, format_time
from idgan_fast.run.resolved_settings import choose_compile, choose_precision, steps_of
from idgan_fast.run.resume import find
from idgan_fast.run.signals import StopSignal
from idgan_fast.training.gan import GANStage
from idgan_fast.training.precision import pick_device, use_tf32
from idgan_fast.training.step_compiler import StepCompiler, mark_warm
from idgan_fast.training.vae import VAEStage

Stage = VAEStage | GANStage

ENCODED = 2048  # real images whose codes are read
ENCODED_WITH_FACTORS = 10_000  # where factors are known: MIG's usual number
LOG_SECONDS = 30.0  # slow runs log and save by the clock too
SAVE_SECONDS = 600.0

COLLAPSED = (
    f"collapse: no code dimension carries {ACTIVE_NATS} nats, so there is no code to distil; "
    "lower the KL's weight (--vae.beta, --vae.beta-start), or take --vae.init kaiming with a higher --vae.lr"
)
UNREAD = "collapse: G's images say nothing of c (R² near 0); raise --gan.distill-weight"


class Stopped(Exception):
    """A signal ended the run early; its checkpoint is written."""


class Trainer:
    """One run: its settings, its folder, its place in the two stages."""

    def __init__(self, config: Config, console: Console, stop: StopSignal) -> None:
        self.config, self.console, self.stop = config, console, stop
        self.device = pick_device(config.device)
        use_tf32(config.tf32)
        self.folder, self.resumed = find(config, console.line)
        before = self.resumed.choices if self.resumed else {}
        self.precision = choose_precision(config, self.device, before)
        on, self.why_compiled = choose_compile(config, self.device, self.precision, before)
        self.graphs = StepCompiler(on, self.device, console.line)
        self.loader, self.why_loader = choose_loader(config, self.device)
        self.choices = {
            "device": str(self.device),
            "amp": self.precision.name,
            "compile": "on" if on else "off",
            "loader": self.loader,
            "tf32": config.tf32,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
        }
        self.finished: dict[str, Any] = {}  # the state of stages that are done, for the checkpoints of later ones
        self.fingerprint = ""
        self.last_good = self.resumed.path if self.resumed else None
        self._began = time.monotonic() - (self.resumed.state["seconds"] if self.resumed else 0.0)
        self._logged = self._saved = time.monotonic()
        self._shown: dict[str, str] = {}
        self._collapse_said = False

    def run(self) -> None:
        config = self.config
        self.folder.prepare(config)
        self._say_beginning()
        if self.resumed:
            self.folder.rewind(self.resumed.stage, self.resumed.iteration)
        else:
            self.folder.rewind()  # what a run without a checkpoint left

        small = open_data(config, IMAGE_SIZE)
        self._say_data(small)
        self._require_same_data(small)
        torch.manual_seed(config.seed)
        vae_stage = VAEStage(config, small.channels, self.device, self.precision, self.graphs)
        self._train(vae_stage, small, self._draw_vae(small))
        count = ENCODED_WITH_FACTORS if config.dataset == "dsprites" else ENCODED
        codes = read_codes(small, vae_stage.vae.encoder, count, self.device)
        if not codes.active.any():
            self._say_collapsed()

        large = small
        if config.images.size != IMAGE_SIZE:
            large = open_data(config, config.images.size)
            if in_memory(small) and not in_memory(large):
                self._say_data(large)
        torch.manual_seed(config.seed + 1)
        gan_stage = GANStage(config, small.channels, self.device, self.precision, vae_stage.vae, self.graphs)
        self._train(gan_stage, large, self._draw_gan(codes))
        if self.graphs.complete():
            mark_warm(steps_of(config, self.device, self.precision))

        summary = summarise(gan_stage, codes)
        skipped = {**getattr(small, "skipped", {}), **getattr(large, "skipped", {})}
        seconds = time.monotonic() - self._began
        page = report.write(self.folder, config, self.choices, summary, codes, gan_stage, seconds, skipped)
        self._say_end(summary, skipped, seconds)
        self.console.line(f"report: {page}")

    def _train(self, stage: Any, dataset: Dataset, draw: Callable[[Any, int], None]) -> None:
        """The iterations of a stage that are still to do."""
        start = self._restore(stage)
        if start < stage.iters:
            source = self._batches(dataset, stage.batch_size, self._seed(stage), start)
            with self.console.stage(stage.name, start, stage.iters, stage.batch_size) as progress:
                self._iterate(stage, start, source, draw, progress)
        elif stage.iters and not self.folder.has_pictures(stage.name, stage.iters):
            draw(stage, stage.iters)
        self.finished[stage.name] = stage.state_dict()

    def _batches(self, dataset: Dataset, batch_size: int, seed: int, start: int) -> Iterator[Tensor]:
        workers = os.cpu_count() or 1 if self.config.workers is None else self.config.workers
        if self.loader == "dali" and isinstance(dataset, ImageFiles) and not dataset.cached:
            return dali.batches(dataset, batch_size, seed, start, max(workers, 1), self.device)
        return batches(dataset, batch_size, seed, start, workers, pin_memory=self.device.type == "cuda")

    def _seed(self, stage: Stage) -> int:
        return 2 * self.config.seed + checkpoint.STAGES.index(stage.name)

    def _restore(self, stage: Stage) -> int:
        """Load the stage from the checkpoint, if there is one; the iteration to go on with."""
        if self.resumed is None or stage.name not in self.resumed.state:
            return 0
        state = self.resumed.state[stage.name]
        stage.load_state_dict(state)
        start = self.resumed.iteration if stage.name == self.resumed.stage else stage.iters
        if torch.device(self.resumed.choices["device"]).type == self.device.type:
            stage.rng.set_state(state["rng"])
        else:
            stage.rng.manual_seed(self._seed(stage) + 1_000_003 * start)
        return start

    def _iterate(
        self,
        stage: Stage,
        start: int,
        source: Iterator[Tensor],
        draw: Callable[[Any, int], None],
        progress: StageProgress,
    ) -> None:
        config = self.config
        metrics: dict[str, Tensor] = {}
        self._waited = 0.0
        for done in range(start + 1, stage.iters + 1):
            asked = time.monotonic()
            try:
                batch = next(source)
            except UserError:
                if metrics:
                    self._save(stage, done - 1, metrics)
                raise
            self._waited += time.monotonic() - asked
            metrics = stage.step(batch, done - 1)
            now = time.monotonic()
            stopping = bool(self.stop)  # read once: a signal may come at any time
            last = done == stage.iters or stopping
            if last or done % config.log_every == 0 or now - self._logged > LOG_SECONDS:
                self._log(stage, done, metrics, progress)
                self._logged, self._waited = now, 0.0
                progress.update(done, self._shown)
            else:
                progress.update(done)
            if last or done % config.save_every == 0 or now - self._saved > SAVE_SECONDS:
                self._save(stage, done, metrics)
                self._saved = now
            if done == stage.iters or done % config.picture_every == 0:
                draw(stage, done)
            if stopping:
                raise Stopped(f"stopped at {stage.name} iteration {done}, saved in {self.last_good}")

    def _log(self, stage: Stage, done: int, metrics: dict[str, Tensor], progress: StageProgress) -> None:
        self._require_finite(stage, done, metrics)
        values: dict[str, Any] = {name: value.tolist() for name, value in metrics.items()}
        if "kl_per_dim" in values:
            values["active"] = sum(kl > ACTIVE_NATS for kl in values["kl_per_dim"])
            settled = self.config.vae.beta_reach if self.config.vae.beta_start is not None else 0.1
            if values["active"] == 0 and done > settled * stage.iters:
                self._say_collapsed()
        values |= stage.schedule(done - 1)
        shown = {name: f"{value:.3g}" for name, value in values.items() if not isinstance(value, list)}
        self._shown = self._shown | shown if stage.name == "gan" and "g" in self._shown else shown
        waited = self._waited / max(time.monotonic() - self._logged, 1e-9)
        clock = {"images_per_second": round(progress.images_per_second(done), 1), "waited_for_data": round(waited, 4)}
        self.folder.log(stage.name, done, values | clock)

    def _save(self, stage: Stage, done: int, metrics: dict[str, Tensor]) -> None:
        self._require_finite(stage, done, metrics | stage.weights())
        state = {
            "version": __version__,
            "data": self.fingerprint,
            "config": flatten(self.config),
            "choices": self.choices,
            "stage": stage.name,
            "iteration": done,
            "seconds": time.monotonic() - self._began,
            **self.finished,
            stage.name: stage.state_dict(),
        }
        self.last_good = checkpoint.save(self.folder.checkpoints, state)

    def _require_finite(self, stage: Stage, done: int, values: dict[str, Tensor]) -> None:
        if self.precision.name == "fp16":  # an overflow of the scaled gradient: the loss scale skips the update
            values = {name: value for name, value in values.items() if name != "r1" and not name.startswith("path_")}
        finite = torch.stack([value.isfinite().all() for value in values.values()])
        if not finite.all():
            name = next(name for name, good in zip(values, finite.tolist(), strict=True) if not good)
            good = f"the last good checkpoint is {self.last_good}" if self.last_good else "no checkpoint was due yet"
            raise UserError(
                f"{stage.name} iteration {done}: {name} is not finite; {good}; try a lower learning rate or --amp off"
            )

    def _draw_vae(self, dataset: Dataset) -> Callable[[VAEStage, int], None]:
        indices = torch.randint(len(dataset), (32,), generator=torch.Generator().manual_seed(0))
        images = dataset[indices]

        def draw(stage: VAEStage, done: int) -> None:
            path = self.folder.picture("reconstructions", stage.name, done)
            drawing.reconstructions(stage, images).save(path)

        return draw

    def _draw_gan(self, codes: Codes) -> Callable[[GANStage, int], None]:
        active, config = codes.active.numpy(), self.config

        def draw(stage: GANStage, done: int) -> None:
            drawing.samples(stage, codes).save(self.folder.picture("samples", stage.name, done))
            drawing.traversal(stage, codes).save(self.folder.picture("traversals", stage.name, done))
            rng = torch.Generator().manual_seed(0)
            count = max(affordable(READ_BACK // 8, config.images.size), 32)
            r2 = read_back(stage, codes.sample(count, rng), rng)
            mean = float(r2[active].mean()) if active.any() else None
            self.folder.log(stage.name, done, {"r2": mean, "r2_per_dim": r2.tolist()})
            if mean is not None:
                self._shown["r2"] = f"{mean:.2f}"
                if mean < 0.1 and done == stage.iters:
                    self.console.line(UNREAD)

        return draw

    def _say_beginning(self) -> None:
        config, say = self.config, self.console.line
        say(f"idgan-fast {__version__}: preset {config.preset}, seed {config.seed}, into {self.folder.path}")
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        amp = "" if config.amp == "off" else f"; amp {self.precision.name}: {self.precision.reason}"
        compiled = f"; compile {self.choices['compile']}: {self.why_compiled}" if self.graphs.on else ""
        say(f"device {self.device}{threads}{amp}{compiled}")
        before = self.resumed.choices if self.resumed else self.choices
        for name in ("device", "threads", "torch", "compile", "tf32"):
            if before.get(name) != self.choices[name]:
                say(f"{name} was {before.get(name)}: the numbers from here on are not those of an unbroken run")

    def _say_data(self, dataset: Dataset) -> None:
        say, images = self.console.line, self.config.images
        say(f"data: {len(dataset):,} {dataset.name}{'' if in_memory(dataset) else self._by_loader()}")
        skipped = getattr(dataset, "skipped", {})
        for path, reason in list(skipped.items())[:1]:
            say(f"skipped {len(skipped)} of them, such as {path}: {reason}")
        shorter = getattr(dataset, "shorter_side", None)
        if images.framing == "crop" and images.crop is not None and shorter and images.crop < shorter / 2:
            say(
                f"the first picture's shorter side is {shorter} pixels, and --images.crop {images.crop} keeps only the "
                "middle; --images.crop None keeps all of it"
            )

    def _by_loader(self) -> str:
        before = self.resumed.choices.get("loader", "torch") if self.resumed else self.loader
        other = "" if before == self.loader else f"; {before} before: pictures differ by rounding"
        return f", loader {self.loader}: {self.why_loader}{other}"

    def _require_same_data(self, dataset: Dataset) -> None:
        """A run goes on with the pictures that it began with; a finished stage 1 may meet others."""
        self.fingerprint = dataset.fingerprint
        if self.resumed is None:
            return
        unfinished = self.resumed.stage == "gan" or self.resumed.iteration < self.config.vae.iters
        if unfinished and self.resumed.state["data"] != self.fingerprint:
            raise UserError(
                f"resume: the pictures are not those that {self.resumed.path} was trained on; bring them back, or take "
                "another --out"
            )

    def _say_collapsed(self) -> None:
        if not self._collapse_said:
            self.console.line(COLLAPSED)
        self._collapse_said = True

    def _say_end(self, summary: Summary, skipped: dict[str, str], seconds: float) -> None:
        say = self.console.line
        if skipped:
            names = ", ".join(list(skipped)[:3]) + (", ..." if len(skipped) > 3 else "")
            say(f"skipped {len(skipped)} pictures ({names}); the report has the reasons")
        r2 = {source: summary.mean_r2(source) for source in ("posterior", "prior")}
        read = "".join(f", R² of c from the {source} {value:.2f}" for source, value in r2.items() if value is not None)
        gap = "" if summary.mig is None else f", MIG {summary.mig:.2f}"
        say(f"done in {format_time(seconds)}: {len(summary.active)} active code dimensions{read}{gap}")

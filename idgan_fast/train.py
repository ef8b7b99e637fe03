"""The main job: `python -m idgan_fast.train`. Parse, build, run the two stages, write the report."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from idgan_fast import __version__, arguments, checkpoint, pictures, report
from idgan_fast.config import Config, flatten
from idgan_fast.console import Console, StageProgress, format_time
from idgan_fast.data import Dataset, batches, open_data
from idgan_fast.errors import UserError, disk_full
from idgan_fast.evaluate import ACTIVE_NATS, Codes, Summary, read_back, read_codes, summarise
from idgan_fast.models.vae import IMAGE_SIZE
from idgan_fast.precision import Precision, choose
from idgan_fast.resume import find
from idgan_fast.signals import StopSignal
from idgan_fast.stages.gan import GANStage
from idgan_fast.stages.vae import VAEStage

Stage = VAEStage | GANStage

ENCODED = 2048  # real images whose codes are read
COLLAPSED = (
    f"collapse: no code dimension carries {ACTIVE_NATS} nats, so there is no code to distil; "
    "lower --vae.beta-start and --vae.beta, or take --vae.init kaiming with a higher --vae.lr"
)
UNREAD = "collapse: G's images say nothing of c (R² near 0); raise --gan.distill-weight"


class Stopped(Exception):
    """A signal ended the run early; its checkpoint is written."""


def pick_device(name: str) -> torch.device:
    """auto: the best there is. Raises UserError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


class Trainer:
    """One run: its settings, its folder, its place in the two stages."""

    def __init__(self, config: Config, console: Console, stop: StopSignal) -> None:
        self.config, self.console, self.stop = config, console, stop
        self.device = pick_device(config.device)
        self.folder, self.resumed = find(config, console.line)
        self.precision = self._precision()
        self.choices = {
            "device": str(self.device),
            "amp": self.precision.name,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
        }
        self.finished: dict[str, Any] = {}  # the state of stages that are done, for the checkpoints of later ones
        self.last_good = self.resumed.path if self.resumed else None
        self._began = time.monotonic() - (self.resumed.state["seconds"] if self.resumed else 0.0)
        self._shown: dict[str, str] = {}

    def _precision(self) -> Precision:
        """What --amp comes to; what auto chose once stays for the whole run."""
        chosen = self.resumed.choices["amp"] if self.resumed and self.config.amp == "auto" else None
        return Precision(chosen, self.device.type, "as before") if chosen else choose(self.config.amp, self.device)

    def run(self) -> None:
        config = self.config
        self.folder.prepare(config)
        self._say_beginning()
        if self.resumed:
            self.folder.rewind(self.resumed.stage, self.resumed.iteration)
        else:
            self.folder.rewind()  # what a run without a checkpoint left

        small = open_data(config, IMAGE_SIZE)
        torch.manual_seed(config.seed)
        vae_stage = VAEStage(config, small.channels, self.device, self.precision)
        self._train(vae_stage, small, self._draw_vae(small))
        codes = read_codes(small, vae_stage.vae.encoder, ENCODED, self.device)
        if not codes.active.any():
            self.console.line(COLLAPSED)

        large = small if config.images.size == IMAGE_SIZE else open_data(config, config.images.size)
        torch.manual_seed(config.seed + 1)
        gan_stage = GANStage(config, small.channels, self.device, self.precision, vae_stage.vae)
        self._train(gan_stage, large, self._draw_gan(codes))

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
            seed = 2 * self.config.seed + checkpoint.STAGES.index(stage.name)
            source = batches(dataset, stage.batch_size, seed, start, self.config.workers)
            with self.console.stage(stage.name, start, stage.iters, stage.batch_size) as progress:
                self._iterate(stage, start, source, draw, progress)
        self.finished[stage.name] = stage.state_dict()

    def _restore(self, stage: Stage) -> int:
        """Load the stage from the checkpoint, if there is one; the iteration to go on with."""
        if self.resumed is None or stage.name not in self.resumed.state:
            return 0
        stage.load_state_dict(self.resumed.state[stage.name])
        return self.resumed.iteration if stage.name == self.resumed.stage else stage.iters

    def _iterate(
        self,
        stage: Stage,
        start: int,
        source: Iterator[Tensor],
        draw: Callable[[Any, int], None],
        progress: StageProgress,
    ) -> None:
        config = self.config
        for done in range(start + 1, stage.iters + 1):
            metrics = stage.step(next(source), done - 1)
            stopping = bool(self.stop)  # read once: a signal may come at any time
            last = done == stage.iters or stopping
            if last or done % config.log_every == 0:
                self._log(stage, done, metrics, progress)
                progress.update(done, self._shown)
            else:
                progress.update(done)
            if done == stage.iters or done % config.picture_every == 0:
                draw(stage, done)
            if last or done % config.save_every == 0:
                self._save(stage, done, metrics)
            if stopping:
                raise Stopped(f"stopped at {stage.name} iteration {done}, saved in {self.last_good}")

    def _log(self, stage: Stage, done: int, metrics: dict[str, Tensor], progress: StageProgress) -> None:
        self._require_finite(stage, done, metrics)
        values: dict[str, Any] = {name: value.tolist() for name, value in metrics.items()}
        if "kl_per_dim" in values:
            values["active"] = sum(kl > ACTIVE_NATS for kl in values["kl_per_dim"])
        values |= stage.schedule(done - 1)
        shown = {name: f"{value:.3g}" for name, value in values.items() if not isinstance(value, list)}
        self._shown = self._shown | shown if stage.name == "gan" and "g" in self._shown else shown
        self.folder.log(stage.name, done, values | {"images_per_second": round(progress.images_per_second(done), 1)})

    def _save(self, stage: Stage, done: int, metrics: dict[str, Tensor]) -> None:
        self._require_finite(stage, done, metrics | stage.weights())
        state = {
            "version": __version__,
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
        if self.precision.name == "fp16":  # an overflow of the scaled gradient: the scaler skips the update
            values = {name: value for name, value in values.items() if name != "r1"}
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
            pictures.reconstructions(stage, images).save(path)

        return draw

    def _draw_gan(self, codes: Codes) -> Callable[[GANStage, int], None]:
        active = codes.active.numpy()

        def draw(stage: GANStage, done: int) -> None:
            pictures.samples(stage, codes).save(self.folder.picture("samples", stage.name, done))
            pictures.traversal(stage, codes).save(self.folder.picture("traversals", stage.name, done))
            rng = torch.Generator().manual_seed(0)
            r2 = read_back(stage, codes.sample(ENCODED // 8, rng), rng)
            mean = float(r2[active].mean()) if active.any() else None
            self.folder.log(stage.name, done, {"r2": mean, "r2_per_dim": r2.tolist()})
            if mean is not None:
                self._shown["r2"] = f"{mean:.2f}"
                if mean < 0.1 and done == stage.iters:
                    self.console.line(UNREAD)

        return draw

    def _say_beginning(self) -> None:
        config = self.config
        self.console.line(f"idgan-fast {__version__}: preset {config.preset}, seed {config.seed}, into {config.out}")
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        amp = "" if config.amp == "off" else f"; amp {self.precision.name}: {self.precision.reason}"
        self.console.line(f"device {self.device}{threads}{amp}")

    def _say_end(self, summary: Summary, skipped: dict[str, str], seconds: float) -> None:
        say = self.console.line
        if skipped:
            names = ", ".join(list(skipped)[:3]) + (", ..." if len(skipped) > 3 else "")
            say(f"{len(skipped)} pictures were skipped ({names}); the report has the reasons")
        r2 = {source: summary.mean_r2(source) for source in ("posterior", "prior")}
        read = "".join(f", R² of c from the {source} {value:.2f}" for source, value in r2.items() if value is not None)
        gap = "" if summary.mig is None else f", MIG {summary.mig:.2f}"
        say(f"done in {format_time(seconds)}: {len(summary.active)} active code dimensions{read}{gap}")


def main(argv: Sequence[str] | None = None, prog: str = "python -m idgan_fast.train") -> int:
    """Run the command; the exit status. What the user can mend is one line on standard error."""
    try:
        config = arguments.parse(sys.argv[1:] if argv is None else argv, prog)
        console = Console()
        with StopSignal() as stop:
            try:
                Trainer(config, console, stop).run()
            except Stopped as stopped:
                assert stop.received is not None
                console.line(f"{stop.received.name}: {stopped}; the same command goes on from there")
                return 128 + stop.received
        return 0
    except UserError as error:
        line = str(error)
    except torch.OutOfMemoryError as error:
        line = f"out of memory: {str(error).splitlines()[0]}; try a smaller --batch-size or --gan.width"
    except OSError as error:
        if not disk_full(error):
            raise
        line = f"disk full: {error.filename or 'the run folder'}; free some space, the same command goes on"
    print(f"error: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

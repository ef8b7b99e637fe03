"""What a person is told in the course of a run, line by line; numbers while it goes on are the console's."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from idgan_fast import __version__, startup
from idgan_fast.config.settings import Config
from idgan_fast.data import Dataset
from idgan_fast.data.images import ImageFiles
from idgan_fast.evaluation.codes import Summary
from idgan_fast.run.console import format_time
from idgan_fast.run.resolved_settings import ResolvedSettings
from idgan_fast.training.losses import ACTIVE_NATS

COLLAPSED = (
    f"collapse: no code dimension carries {ACTIVE_NATS} nats, so there is no code to distil; "
    "lower the KL's weight (--vae.beta, --vae.beta-start), or take --vae.init kaiming with a higher --vae.lr"
)
UNREAD = "collapse: G's images say nothing of c (R² near 0); raise --gan.distill-weight"


def beginning(config: Config, folder: Path, resolved: ResolvedSettings, previous: Mapping[str, Any]) -> Iterator[str]:
    """The run, its device, and what differs from `previous`, the record of the run that is resumed, if there is one."""
    yield f"idgan-fast {__version__}: preset {config.preset}, seed {config.seed}, into {folder}"
    threads = f", {startup.threads(torch.get_num_threads())}" if resolved.device.type == "cpu" else ""
    precision, now = resolved.precision, resolved.record()
    amp = "" if config.amp == "off" else f"; amp {precision.name}: {precision.reason}"
    compiled = f"; compile on: {resolved.why_compiled}" if resolved.compiled else ""
    yield f"device {resolved.device}{threads}{amp}{compiled}"
    for stage, iters in (("vae", config.vae.iters), ("gan", config.gan.iters)):
        if not iters:
            yield f"--{stage}.iters 0: this stage is not trained"
    for name in ("device", "threads", "torch", "compile", "tf32") if previous else ():
        if previous.get(name) != now[name]:
            yield f"{name} was {previous.get(name)}: the numbers from here on are not those of an unbroken run"


def data(dataset: Dataset, config: Config, resolved: ResolvedSettings, previous: Mapping[str, Any]) -> Iterator[str]:
    """The images, who decodes them, and what is lost of them."""
    yield f"data: {len(dataset):,} {dataset.name}{'' if dataset.cached else _decoded_by(resolved, previous)}"
    for path, reason in sorted(dataset.skipped.items())[:1]:
        yield f"skipped {len(dataset.skipped)} of them, such as {path}: {reason}"
    images, shorter = config.images, dataset.shorter_side
    if images.framing == "crop" and images.crop is not None and shorter and images.crop < shorter / 2:
        yield (
            f"the first picture's shorter side is {shorter} pixels, and --images.crop {images.crop} keeps only the "
            "middle; --images.crop None keeps all of it"
        )


def left_out(dataset: Dataset, config: Config) -> Iterator[str]:
    """What lies beside the images or is damaged, and what the settings ask of too few images."""
    if isinstance(dataset, ImageFiles):
        yield from dataset.source.remarks
    for name, size in (("vae", config.vae.batch_size), ("gan", config.gan.batch_size)):
        if size > len(dataset):
            yield f"--{name}.batch-size {size} is above the {len(dataset):,} pictures: a batch has some more than once"


def _decoded_by(resolved: ResolvedSettings, previous: Mapping[str, Any]) -> str:
    loader_before = previous.get("loader", "torch") if previous else resolved.loader
    other = "" if loader_before == resolved.loader else f"; {loader_before} before: pictures differ by rounding"
    return f", loader {resolved.loader}: {resolved.why_loader}{other}"


def end(summary: Summary, skipped: Mapping[str, str], seconds: float) -> Iterator[str]:
    """What was left out, and the run in numbers."""
    if skipped:
        names = ", ".join(sorted(skipped)[:3]) + (", ..." if len(skipped) > 3 else "")
        yield f"skipped {len(skipped)} pictures ({names}); the report has the reasons"
    r2 = {source: summary.mean_r2(source) for source in ("posterior", "prior")}
    read = "".join(f", R² of c from the {source} {value:.2f}" for source, value in r2.items() if value is not None)
    gap = "" if summary.mig is None else f", MIG {summary.mig:.2f}"
    yield f"done in {format_time(seconds)}: {len(summary.active)} active code dimensions{read}{gap}"

"""report.html, one self-contained page with a run's pictures, numbers and departures from the paper.

summary.json beside it has the numbers for programs.
"""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from idgan_fast import __version__
from idgan_fast.config.presets import departures
from idgan_fast.config.settings import Config, to_yaml
from idgan_fast.data.dsprites import FACTORS
from idgan_fast.errors import printable
from idgan_fast.evaluation import drawing
from idgan_fast.evaluation.budget import Budget
from idgan_fast.evaluation.codes import Codes, Summary
from idgan_fast.files import atomically, write_bytes
from idgan_fast.run.console import format_time
from idgan_fast.run.folder import RunFolder
from idgan_fast.training.gan import GANStage
from idgan_fast.training.losses import ACTIVE_NATS

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2em auto; padding: 0 1em; color: #1b1f24 }
h1 { font-size: 1.6em; margin-bottom: 0 } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #d0d7de }
p.note, figcaption { color: #57606a; font-size: .9em } figure { margin: 1em 0 } img { max-width: 100% }
table { border-collapse: collapse } td, th { padding: .2em .7em; border: 1px solid #d0d7de; text-align: right }
th { background: #f6f8fa } td:first-child, th:first-child { text-align: left }
.numbers { display: flex; flex-wrap: wrap; gap: 1em } .numbers div { background: #f6f8fa; padding: .6em 1em }
.numbers b { display: block; font-size: 1.4em } pre { background: #f6f8fa; padding: 1em; overflow: auto }
"""


def _text(value: Any) -> str:
    """Return a value as text of a page, whatever a name from outside holds."""
    return html.escape(printable(str(value)))


def embed(path: Path | None, caption: str) -> str:
    """Return a figure with the image file itself in it; nothing where there is no file."""
    if path is None or not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    kind = path.suffix.lstrip(".")
    text = _text(caption)
    return f'<figure><img src="data:image/{kind};base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table of cells as they are, with a shade that grows with the value behind each float in [0, 1]."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            shade = f' style="background: rgba(9, 105, 218, {0.6 * min(max(value, 0), 1):.2f})"'
            return f"<td{shade}>{value:.2f}</td>"
        return f"<td>{_text(value)}</td>"

    header = "".join(f"<th>{_text(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    return f"<table><tr>{header}</tr>{body}</table>"


def _numbers(summary: Summary, seconds: float) -> str:
    numbers = {
        "active code dimensions": f"{len(summary.active)} of {len(summary.kl)}",
        "R² of c, from the posterior": _number(summary.mean_r2("posterior")),
        "R² of c, from the prior": _number(summary.mean_r2("prior")),
        **({} if summary.mig is None else {"MIG": _number(summary.mig)}),
        "time": format_time(seconds),
    }
    boxes = "".join(f"<div><b>{value}</b>{name}</div>" for name, value in numbers.items())
    return f'<div class="numbers">{boxes}</div>'


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _code_table(summary: Summary) -> str:
    order = np.argsort(summary.kl)[::-1]
    rows = [
        [f"c{i}", f"{summary.kl[i]:.2f}", max(summary.r2_posterior[i], 0.0), max(summary.r2_prior[i], 0.0)]
        for i in order
    ]
    return table(["dimension", "KL (nats)", "R² (posterior)", "R² (prior)"], rows)


def _factor_table(summary: Summary) -> str:
    if summary.correlation is None:
        return ""
    order = list(np.argsort(summary.kl)[::-1])
    rows = [[name, *(float(row[i]) for i in order)] for name, row in zip(FACTORS, summary.correlation, strict=True)]
    return (
        "<h2>Factors and codes</h2>"
        + table(["|correlation|", *(f"c{i}" for i in order)], rows)
        + f'<p class="note">Of the true factors with the encoder\'s means. Mutual information gap (MIG, 20 bins, '
        f"{summary.encoded} pictures): {_number(summary.mig)}. Shape and orientation are not monotone, so correlation "
        "says little of them.</p>"
    )


def _departures(config: Config) -> str:
    rows = departures(config)
    if not rows:
        return "<p>None: every setting is that of the public code.</p>"
    return table(["setting", "paper", "this run"], [[key, f"{paper}", f"{ours}"] for key, paper, ours in rows])


def _skipped(skipped: Mapping[str, str]) -> str:
    if not skipped:
        return ""
    rows = sorted(skipped.items())  # threads read the images
    more = f"<p>and {len(rows) - 50} more</p>" if len(rows) > 50 else ""
    return f"<h2>{len(rows)} pictures skipped</h2>" + table(["picture", "reason"], rows[:50]) + more


def write(
    folder: RunFolder,
    config: Config,
    *,
    resolved: Mapping[str, Any],
    summary: Summary,
    codes: Codes,
    stage: GANStage,
    seconds: float,
    skipped: Mapping[str, str],
    budget: Budget,
) -> Path:
    """Draw the traversals and the curves, and write summary.json and the page. Returns the page's path.

    resolved: `ResolvedSettings.record`. seconds: of the whole run. skipped: by path, why an image was left out.
    """
    gif, curves = folder.path / "traversals" / "gan.gif", folder.path / "curves.png"
    drawing.save_gif(gif, drawing.traversal_frames(stage, codes, budget=budget))
    with atomically(curves) as file:
        drawing.curves(folder.stats()).savefig(file, dpi=110, format="png")
    machine = ", ".join(f"{name} {value}" for name, value in resolved.items())
    title = f"ID-GAN: {config.preset}, seed {config.seed}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>",
        f"<h1>{title}</h1><p class=note>idgan-fast {__version__}; {_text(machine)}</p>",
        _numbers(summary, seconds),
        f'<p class="note">A dimension is active above {ACTIVE_NATS} nats, by the codes of {summary.encoded} pictures. '
        "R² says how well the frozen encoder reads c back from G(s, c), over the active dimensions, with fresh s, on "
        f"{summary.read_back[0]} generated pictures (posterior) and {summary.read_back[1]} (prior).</p>",
        "<h2>Samples</h2>",
        embed(folder.newest_image("samples", "gan"), f"G(s, c), c from the {config.gan.sample_code}"),
        "<h2>Traversals of the code</h2>",
        embed(gif, "Rows: the active dimensions (6 at the most), from -2 to 2 and back; columns: several pictures"),
        embed(folder.newest_image("traversals", "gan"), "One picture; rows: code dimensions, ordered by KL"),
        "<h2>The code</h2>",
        _code_table(summary),
        _factor_table(summary),
        "<h2>Stage 1: reconstructions</h2>",
        embed(folder.newest_image("reconstructions", "vae"), "Rows of real pictures above their reconstructions"),
        "<h2>Curves</h2>",
        embed(curves, "Everything in stats.jsonl"),
        "<h2>Departures from the paper</h2>",
        _departures(config),
        _skipped(skipped),
        f"<h2>Settings</h2><details><summary>config.yaml</summary><pre>{html.escape(to_yaml(config))}</pre></details>",
    ]
    numbers = {**asdict(summary), "seconds": round(seconds), "skipped": len(skipped)}
    write_bytes(folder.path / "summary.json", json.dumps(numbers, indent=1).encode())
    page = folder.path / "report.html"
    write_bytes(page, "\n".join(part for part in parts if part).encode())
    return page

"""Checkpoints of the right format whose entries are missing or wrong: one line that names the entry and the file."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from idgan_fast.config.arguments import parse
from idgan_fast.config.settings import flatten
from idgan_fast.models.weights_file import Damaged, read_weights
from idgan_fast.run.checkpoint import FORMAT, load, save
from idgan_fast.run.resume import Checkpoint, find, restoring
from idgan_fast.training.precision import Precision
from idgan_fast.training.vae import VAEStage
from tests.common import error_of

CONFIG = parse(["--vae.width", "4", "--gan.no-warm-start"])


def whole() -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": "0",
        "data": "rendered",
        "config": flatten(CONFIG),
        "choices": {"device": "cpu", "amp": "off", "tf32": None},
        "stage": "gan",
        "iteration": 3,
        "seconds": 1.5,
        "vae": {},
        "gan": {},
    }


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    """The line with which a run refuses a checkpoint, by --resume auto and by its path."""

    def refuse(state: dict[str, Any]) -> str:
        path = tmp_path / "run" / "checkpoints" / "gan-00000003.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)
        auto = parse(["--out", str(tmp_path / "run")])
        by_path = parse(["--out", str(tmp_path / "other"), "--resume", str(path)])
        line = error_of(lambda: find(auto, lambda line: None))
        assert error_of(lambda: find(by_path, lambda line: None)) == line
        assert str(path) in line
        assert path.exists()
        return line

    return refuse


def test_the_whole_one_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(whole(), path)
    assert Checkpoint(path, load(path)).iteration == 3


@pytest.mark.parametrize("key", sorted(whole().keys() - {"format", "version"}))
def test_every_entry_is_needed(key: str, refusal: Callable[[dict[str, Any]], str]) -> None:
    state = whole()
    del state[key]
    assert f"lacks {key};" in refusal(state)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stage", "encoder"),
        ("stage", 3),
        ("stage", ["vae"]),
        ("iteration", -1),
        ("iteration", 1.5),
        ("iteration", True),
        ("iteration", 10**400),
        ("iteration", torch.tensor(3)),
        ("seconds", "long"),
        ("seconds", float("nan")),
        ("data", 3),
        ("config", [1, 2]),
        ("config", {"seed": torch.zeros(2)}),
        ("config", {3: "seed"}),
        ("choices", "cpu"),
        ("choices", {}),
        ("choices", {"device": "a toaster"}),
        ("choices", {"device": "cpu", "amp": "fp8"}),
        ("vae", torch.zeros(3)),
        ("gan", None),
    ],
)
def test_entries_of_a_wrong_type(key: str, value: object, refusal: Callable[[dict[str, Any]], str]) -> None:
    line = refusal({**whole(), key: value})
    assert f"checkpoint: {key} in " in line
    assert "must be" in line
    assert len(line) < 600


def break_weights(state: dict[str, Any]) -> None:
    state["vae"]["encoder.layer.0.weight"] = torch.zeros(3)


@pytest.mark.parametrize(
    "harm",
    [
        lambda state: state.pop("optimizer"),
        lambda state: state.update(vae=3),
        lambda state: state["vae"].clear(),
        lambda state: state["vae"].popitem(),
        lambda state: state["optimizer"].clear(),
        lambda state: state.update(rng=torch.zeros(3)),
        lambda state: state.update(rng="random"),
        lambda state: state.pop("rng"),
        break_weights,
    ],
)
def test_the_state_of_a_stage(harm: Callable[[dict[str, Any]], object]) -> None:
    stage = VAEStage(CONFIG, 1, torch.device("cpu"), Precision("off", "cpu", ""))
    state = stage.state_dict()
    state = {**state, "vae": dict(state["vae"])}
    harm(state)
    checkpoint = Checkpoint(Path("run/gan-3.pt"), whole())

    def restore() -> None:
        with restoring(checkpoint, "vae"):
            stage.load_state_dict(state)
            stage.rng.set_state(state["rng"])

    assert error_of(restore).startswith("checkpoint: the state of vae in run/gan-3.pt does not fit: ")


def test_an_entry_that_says_it_is_larger_than_it_is(tmp_path: Path) -> None:
    """No memory is taken by what a file claims."""
    path = save(tmp_path, {"stage": "vae", "iteration": 1, "vae": {"w": torch.zeros(100)}})
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, start + 24, 2**31)  # the size of the first entry, once it is unpacked
    path.write_bytes(content)
    with pytest.raises(Damaged, match="not as large as it says"):
        read_weights(path)


def test_a_packed_checkpoint_is_not_unpacked(tmp_path: Path) -> None:
    path, packed = save(tmp_path, {"stage": "vae", "iteration": 1, "vae": {}}), tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    with pytest.raises(Damaged):
        read_weights(packed)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes")]
)
def test_too_little_memory_says_nothing_against_a_checkpoint(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not renamed to .damaged, and the run does not go back to an older one."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    paths = [run / "checkpoints" / f"gan-{n:08d}.pt" for n in (2, 3)]
    for path in paths:
        torch.save(whole(), path)

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", refuse)
    text = error_of(lambda: find(parse(["--out", str(run)]), lambda line: None))
    assert text.startswith(f"checkpoint: no memory to read {paths[1]}")
    assert all(path.exists() for path in paths)

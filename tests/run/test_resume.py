"""Where a run starts: afresh, or from a checkpoint."""

import dataclasses
import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from idgan_fast.config.arguments import parse
from idgan_fast.config.fields import settings_of
from idgan_fast.config.settings import Config, flatten, to_yaml
from idgan_fast.run import checkpoint, resume
from idgan_fast.run.checkpoint import load, save
from tests.common import assert_equal, error_of, state_at


class Run:
    """A run's folder with checkpoints, and what `find` says of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = self.settings()
        self.said: list[str] = []

    def settings(self, *argv: str) -> Config:
        return parse(["--preset", "dsprites", "--out", str(self.path), *argv])

    def save(self, stage: str, iteration: int, config: Config | None = None) -> Path:
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        config = self.config if config is None else config
        more = {
            "config": flatten(config),
            "choices": {"amp": "off", "device": "cpu"},
            "seconds": 1.5,
            "data": "pictures",
        }
        if stage == "gan":
            more["vae"] = {}
        return save(self.path / "checkpoints", state_at(stage, iteration, **more))

    def find(self, *argv: str) -> resume.Checkpoint | None:
        folder, resumed = resume.find(self.settings(*argv), self.said.append)
        assert folder.path == self.settings(*argv).out
        return resumed

    def refused(self, *argv: str) -> str:
        return error_of(lambda: self.find(*argv))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def raising(error: Exception) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def cut(path: Path) -> bytes:
    """Truncate the file; what is left."""
    content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    return content


def test_a_new_folder_starts_afresh(run: Run) -> None:
    for value in ("auto", "never"):
        assert run.find("--resume", value) is None
    assert run.said == []


def test_auto_takes_the_newest(run: Run) -> None:
    run.save("vae", 900)
    newest = run.save("gan", 5)
    resumed = run.find()
    assert resumed is not None
    assert (resumed.path, resumed.stage, resumed.iteration) == (newest, "gan", 5)
    assert resumed.resolved_settings == {"amp": "off", "device": "cpu"}
    assert_equal(resumed.state, load(newest))
    assert len(run.said) == 1
    assert str(newest) in run.said[0]
    assert "gan iteration 5" in run.said[0]


def test_auto_goes_back_to_the_one_before_a_damaged_one_and_says_so(run: Run) -> None:
    good = run.save("vae", 5)
    damaged = run.save("vae", 6)
    left = cut(damaged)
    resumed = run.find()
    assert resumed is not None
    assert (resumed.path, resumed.iteration) == (good, 5)
    assert str(damaged) in run.said[0]
    assert "damaged" in run.said[0]
    assert "the one before" in run.said[0]
    assert str(good) in run.said[1]
    assert all("\n" not in line for line in run.said)
    assert damaged.with_suffix(".damaged").read_bytes() == left


def test_auto_never_starts_anew_over_damaged_checkpoints(run: Run) -> None:
    kept = {path: cut(path) for path in (run.save("vae", 5), run.save("vae", 6))}
    text = run.refused()
    assert str(run.path / "checkpoints") in text
    assert len(run.said) == 2
    assert str(run.path / "checkpoints") in run.refused()  # the second time too
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.parametrize("why", ["newer format", "input/output error"])
def test_what_is_not_damaged_is_not_passed_over(run: Run, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {path: path.read_bytes() for path in (run.save("vae", 5), run.save("vae", 6))}
    if why == "newer format":
        monkeypatch.setattr(checkpoint, "FORMAT", 0)
    else:
        monkeypatch.setattr(Path, "read_bytes", raising(OSError(errno.EIO, "Input/output error")))
    assert "vae-00000006.pt" in run.refused()
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_path_is_taken(run: Run, tmp_path: Path) -> None:
    older = run.save("vae", 5)
    resumed = run.find("--resume", str(older))
    assert resumed is not None
    assert (resumed.path, resumed.iteration) == (older, 5)


def test_an_older_path_in_a_folder_that_went_further_is_refused(run: Run) -> None:
    """Its new checkpoints would lie behind those that are there."""
    older = run.save("vae", 5)
    run.save("gan", 6)
    assert "gan-00000006.pt" in run.refused("--resume", str(older))


def test_a_path_in_another_folder(run: Run, tmp_path: Path) -> None:
    path = run.save("vae", 5)
    resumed = run.find("--resume", str(path), "--out", str(tmp_path / "elsewhere"))
    assert resumed is not None
    assert resumed.path == path


def test_a_path_that_is_damaged_or_missing_is_refused(run: Run) -> None:
    run.save("vae", 5)
    damaged = run.save("vae", 6)
    cut(damaged)
    missing = run.path / "checkpoints" / "vae-00000007.pt"
    for path in (damaged, missing, run.path):
        text = run.refused("--resume", str(path))
        assert str(path) in text


@pytest.mark.parametrize(
    ("argv", "key", "before", "now"),
    [
        ("--vae.beta 4.5", "vae.beta", "8.0", "4.5"),
        ("--seed 7", "seed", "0", "7"),
        ("--gan.distill-weight 0.5", "gan.distill_weight", "0.0001", "0.5"),
        ("--gan.width 5", "gan.width", "32", "5"),
        ("--vae.c-dim 6", "vae.c_dim", "10", "6"),
    ],
)
@pytest.mark.parametrize("form", ["auto", "path"])
def test_other_settings_are_named(run: Run, argv: str, key: str, before: str, now: str, form: str) -> None:
    path = run.save("gan", 5)
    extra = ["--resume", str(path)] if form == "path" else []
    text = run.refused(*argv.split(), *extra)
    assert key in text
    assert f"was {before}" in text
    assert f"is {now}" in text
    assert str(path) in text
    assert str(run.path / "config.yaml") in text
    assert "more)" not in text


def test_further_differences_are_counted(run: Run) -> None:
    run.save("gan", 5)
    assert "(and 2 more)" in run.refused("--vae.beta", "4.5", "--seed", "7", "--gan.width", "8")


@pytest.mark.parametrize("argv", ["--vae.beta 4.5", "--vae.c-dim 6", "--seed 7"])
def test_stage_1_holds_on_to_its_own_settings(run: Run, argv: str) -> None:
    run.save("vae", 5)
    key = argv.split()[0].removeprefix("--").replace("-", "_")
    assert key in run.refused(*argv.split())


@pytest.mark.parametrize(
    "argv",
    ["--gan.distill-weight 0.5", "--gan.width 5", "--gan.model resnet --gan.s-dim 8"],
)
def test_after_stage_1_alone_all_of_stage_2_may_change(run: Run, argv: str) -> None:
    run.save("vae", 5)
    assert run.find(*argv.split()) is not None
    run.save("gan", 5)
    changed = [flag.removeprefix("--").replace("-", "_") for flag in argv.split()[::2]]
    text = run.refused(*argv.split())
    assert any(f"{key} was" in text for key in changed)


@pytest.mark.parametrize("argv", ["--gan.lr-g 1e-5", "--gan.lr-d 1e-5", "--gan.batch-size 5", "--amp bf16"])
@pytest.mark.parametrize("stage", ["vae", "gan"])
def test_what_a_stuck_run_needs_may_change_and_is_said(run: Run, stage: str, argv: str) -> None:
    run.save(stage, 5)
    assert run.find(*argv.split()) is not None
    key = argv.split()[0].removeprefix("--").replace("-", "_")
    if stage == "gan" or key == "amp":
        assert run.said[-1].startswith(f"from here on {key} is ")


def test_a_setting_that_the_checkpoint_does_not_know_is_no_difference(run: Run) -> None:
    path = run.save("gan", 5)
    state = load(path)
    del state["config"]["vae.lr_warmup"]
    torch.save(state, path)
    assert run.find() is not None


def test_settings_of_how_a_run_is_kept_may_change(run: Run, tmp_path: Path) -> None:
    path = run.save("vae", 5)
    record = tmp_path / "record.yaml"
    record.write_text(to_yaml(run.config))
    free = "--save-every 1 --log-every 2 --picture-every 3 --workers 0 --device cpu --images.cache-gib 1 --gan.iters 9"
    for flag in (*zip(free.split()[::2], free.split()[1::2], strict=True), ("--config", str(record))):
        assert run.find(*flag) is not None
    assert run.find(*free.split(), "--config", str(record)) is not None
    moved = tmp_path / "moved"
    run.path.rename(moved)
    resumed = run.find("--out", str(moved))
    assert resumed is not None
    assert resumed.path == moved / "checkpoints" / path.name


@pytest.mark.parametrize("before", ["auto", "dali"])
def test_another_loader_may_go_on(run: Run, before: str) -> None:
    """Both give the same pictures, and the error for a loader that cannot be used says to take the other."""
    config = run.settings("--preset", "celeba-64", "--data", "faces.zip", "--loader", before)
    for stage in ("vae", "gan"):
        run.save(stage, 5, config)
        resumed = run.find("--preset", "celeba-64", "--data", "faces.zip", "--loader", "torch")
        assert resumed is not None
        assert resumed.stage == stage


def test_every_setting_is_refused_said_or_taken_as_its_field_has_it(run: Run) -> None:
    for key, _, traits in settings_of(run.config):
        path = run.save("gan", 5)
        state = load(path)
        state["config"][key] = "another value"
        torch.save(state, path)
        run.said.clear()
        if traits.on_resume in ("fixed", "stage 2") and key != "gan.iters":
            said = error_of(lambda: resume.find(run.config, run.said.append))
            assert said.startswith(f"resume: {key} was another value in")
            continue
        assert resume.find(run.config, run.said.append)[1] is not None
        lines = [line for line in run.said if line.startswith(f"from here on {key} is ")]
        assert len(lines) == (traits.on_resume == "remedy"), key


def test_the_stage_that_is_running_may_be_made_longer(run: Run) -> None:
    run.save("vae", 5)
    assert run.find("--vae.iters", "600000", "--gan.iters", "400000") is not None
    run.save("gan", 5)
    assert run.find("--gan.iters", "400000") is not None
    assert "vae.iters" in run.refused("--vae.iters", "600000")


@pytest.mark.parametrize("changes", [{"beta_start": 60.0}, {"lr_decay": 0.2}])
def test_a_scheduled_stage_may_not(run: Run, changes: dict[str, float]) -> None:
    scheduled = dataclasses.replace(run.config, vae=dataclasses.replace(run.config.vae, **changes))
    run.save("vae", 5, scheduled)
    longer = dataclasses.replace(scheduled, vae=dataclasses.replace(scheduled.vae, iters=600_000))
    assert resume.find(scheduled, run.said.append)[1] is not None
    assert "vae.iters" in error_of(lambda: resume.find(longer, run.said.append))


def test_never_moves_the_old_run_aside(run: Run) -> None:
    for number in (1, 2):
        path = run.save("vae", number)
        (run.path / "stats.jsonl").write_text(f"line {number}\n")
        content = path.read_bytes()
        assert run.find("--resume", "never", "--seed", "7") is None
        old = run.path.with_name(f"run-old{number}")
        assert not run.path.exists()
        assert (old / "checkpoints" / path.name).read_bytes() == content
        assert (old / "stats.jsonl").read_text() == f"line {number}\n"
        assert str(old) in run.said[-1]
    assert load(run.path.with_name("run-old1") / "checkpoints" / "vae-00000001.pt")["iteration"] == 1


def test_never_moves_damaged_checkpoints_aside_too(run: Run) -> None:
    cut(run.save("vae", 1))
    assert run.find("--resume", "never") is None
    assert (run.path.with_name("run-old1") / "checkpoints" / "vae-00000001.pt").exists()


def test_the_default_folder_is_the_first_without_a_finished_run_of_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So every command has its own, and the same command finds its own again."""
    monkeypatch.chdir(tmp_path)

    def folder(*argv: str) -> str:
        return resume.default_folder(parse(["--preset", "dsprites", "--seed", "4", *argv])).as_posix()

    def leave(path: str, finished: bool, *argv: str) -> None:
        Path(path).mkdir(parents=True)
        (Path(path) / "config.yaml").write_text(to_yaml(parse(["--preset", "dsprites", "--seed", "4", *argv])))
        if finished:
            (Path(path) / "summary.json").write_text("{}")

    assert folder() == folder("--amp") == "runs/dsprites-seed4"
    leave("runs/dsprites-seed4", True)
    assert folder() == "runs/dsprites-seed4"
    assert folder("--amp") == folder("--vae.beta", "3") == "runs/dsprites-seed4-2"
    leave("runs/dsprites-seed4-2", False, "--amp")
    assert folder("--amp") == folder("--vae.beta", "3") == "runs/dsprites-seed4-2"
    (tmp_path / "runs/dsprites-seed4-2/summary.json").write_text("{}")
    assert folder("--amp") == "runs/dsprites-seed4-2"
    assert folder("--vae.beta", "3") == "runs/dsprites-seed4-3"

"""The command line, the presets and the YAML record of a run."""

import dataclasses
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from idgan_fast import train
from idgan_fast.config.arguments import expand_bare_amp, parse
from idgan_fast.config.presets import PAPER, PRESETS, departures
from idgan_fast.config.settings import Config, flatten, to_yaml
from idgan_fast.errors import UserError

NAMES = [
    *("dsprites", "dsprites-quick", "images-quick"),
    *("celeba-64", "celeba-256", "chairs-64", "cars-64", "celebahq-1024"),
    *("stylegan2-64", "stylegan2-256", "stylegan2-1024"),
]
UNRECORDED = {"out", "resume", "config", "batch_size"}


def data_for(preset: str) -> list[str]:
    return ["--preset", preset] if preset.startswith("dsprites") else ["--preset", preset, "--data", "faces.zip"]


def error_of(*argv: str) -> str:
    """The text of the UserError of a command line: one line."""
    with pytest.raises(UserError) as caught:
        parse(argv)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    """Writes text to a YAML file; its path."""

    def write(text: str) -> str:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return str(path)

    return write


# ---- flags


def test_nothing_given_renders_dsprites() -> None:
    config = parse([])
    assert (config.preset, config.data, config.dataset) == ("dsprites-quick", None, "dsprites")
    assert (config.seed, config.device, config.amp, config.resume) == (0, "auto", "off", "auto")
    assert config.out is None


def test_every_flag_of_the_command_line() -> None:
    argv = "--preset celeba-64 --data faces --out here --vae.iters 11 --gan.iters 12 --vae.beta 1.5 --batch-size 7"
    argv += " --gan.distill-weight 0.25 --seed 3 --device cuda:1 --amp fp16 --resume never"
    config = parse(argv.split())
    assert (config.preset, config.data, config.out) == ("celeba-64", Path("faces"), Path("here"))
    assert (config.vae.iters, config.gan.iters) == (11, 12)
    assert (config.vae.beta, config.gan.distill_weight) == (1.5, 0.25)
    assert (config.vae.batch_size, config.gan.batch_size) == (7, 7)
    assert (config.seed, config.device, config.amp, config.resume) == (3, "cuda:1", "fp16", "never")


def test_flags_with_an_equals_sign() -> None:
    config = parse(["--preset=dsprites", "--vae.beta=2", "--amp=bf16", "--out=here"])
    assert (config.preset, config.vae.beta, config.amp, config.out) == ("dsprites", 2.0, "bf16", Path("here"))


def test_switches() -> None:
    assert parse([]).gan.warm_start
    assert not parse(["--gan.no-warm-start"]).gan.warm_start
    assert not parse([*data_for("celeba-64"), "--images.no-flip"]).images.flip


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse([]).seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("argv", "amp"),
    [
        ("", "off"),
        ("--amp", "auto"),
        ("--amp auto", "auto"),
        ("--amp bf16", "bf16"),
        ("--amp fp16", "fp16"),
        ("--amp off", "off"),
        ("--amp=fp16", "fp16"),
        ("--amp --seed 1", "auto"),
        ("--seed 1 --amp", "auto"),
        ("--amp --gan.no-warm-start --seed 1", "auto"),
        ("--amp bf16 --seed 1", "bf16"),
    ],
)
def test_amp(argv: str, amp: str) -> None:
    config = parse(argv.split())
    assert config.amp == amp
    assert config.seed == ("--seed" in argv)


def test_only_a_bare_amp_is_expanded() -> None:
    argv = ["--seed", "-1", "--amp", "--out", "--amp.d", "--data", "amp"]
    assert expand_bare_amp(argv) == ["--seed", "-1", "--amp", "auto", "--out", "--amp.d", "--data", "amp"]
    assert expand_bare_amp(["--amp", "off"]) == ["--amp", "off"]


def test_a_wrong_amp_ends_with_its_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, UserError)) as caught:
        parse(["--amp", "fp8"])
    shown = "".join(capsys.readouterr()) + str(caught.value)
    assert all(name in shown for name in ("fp8", "auto", "bf16", "fp16", "off"))


def test_batch_size_sets_both_stages() -> None:
    config = parse(["--batch-size", "5"])
    assert (config.vae.batch_size, config.gan.batch_size) == (5, 5)
    config = parse(["--gan.batch-size", "5"])
    assert (config.vae.batch_size, config.gan.batch_size) == (16, 5)


def test_a_resume_path() -> None:
    assert parse(["--resume", "runs/a/checkpoints/gan-5.pt"]).resume == "runs/a/checkpoints/gan-5.pt"


def test_help_shows_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    named = "preset data out vae.iters gan.iters vae.beta gan.distill-weight batch-size seed device amp resume config"
    for flag in named.split():
        assert f"--{flag}" in shown


# ---- what is refused


def test_a_wrong_preset_names_the_nearest() -> None:
    text = error_of("--preset", "celeba64")
    assert "celeba64" in text
    assert "did you mean celeba-64?" in text


def test_a_strange_preset_lists_all() -> None:
    text = error_of("--preset", "zzz")
    assert all(name in text for name in NAMES)


@pytest.mark.parametrize(
    ("argv", "wrong", "right"),
    [
        ("--vae.betta 3", "--vae.betta", "--vae.beta?"),
        ("--vae.betta=3", "--vae.betta", "--vae.beta?"),
        ("--sed 1", "--sed", "--seed?"),
        ("--batchsize 4", "--batchsize", "--batch-size?"),
        ("--gan.distil-weight 0", "--gan.distil-weight", "--gan.distill-weight?"),
        ("--seed 1 --ou here", "--ou", "--out?"),
    ],
)
def test_a_wrong_flag_names_the_nearest(argv: str, wrong: str, right: str) -> None:
    text = error_of(*argv.split())
    assert wrong in text
    assert f"did you mean {right}" in text


def test_a_stray_word_is_refused() -> None:
    assert "faces.zip" in error_of("faces.zip")


@pytest.mark.parametrize("preset", NAMES[2:])
def test_picture_presets_need_data(preset: str) -> None:
    text = error_of("--preset", preset)
    assert "--data" in text
    assert preset in text
    assert "folder" in text


@pytest.mark.parametrize("preset", NAMES[:2])
def test_dsprites_takes_its_public_file_or_nothing(preset: str) -> None:
    assert parse(["--preset", preset, "--data", "d/dsprites.npz"]).data == Path("d/dsprites.npz")
    text = error_of("--preset", preset, "--data", "faces.zip")
    assert "--data" in text
    assert "faces.zip" in text
    assert ".npz" in text
    assert "images-quick" in text


@pytest.mark.parametrize("size", [64, 128, 256, 512, 1024])
def test_sizes(size: int) -> None:
    assert parse([*data_for("celeba-64"), "--images.size", str(size)]).images.size == size


@pytest.mark.parametrize("size", [0, -64, 32, 96, 100, 2048])
def test_other_sizes_are_refused(size: int) -> None:
    text = error_of(*data_for("celeba-64"), "--images.size", str(size))
    assert "--images.size" in text
    assert str(size) in text
    assert "1024" in text


@pytest.mark.parametrize("flag", ["--vae.iters", "--gan.iters"])
def test_iterations_may_be_zero_but_not_negative(flag: str) -> None:
    assert flatten(parse([flag, "0"]))[flag[2:]] == 0
    text = error_of(flag, "-1")
    assert flag in text
    assert "-1" in text


@pytest.mark.parametrize(
    "flag",
    [
        "--vae.batch-size",
        "--gan.batch-size",
        "--save-every",
        "--log-every",
        "--picture-every",
        "--gan.r1-every",
        "--vae.c-dim",
        "--vae.width",
    ],
)
def test_counts_are_at_least_one(flag: str) -> None:
    for value in ("0", "-3"):
        text = error_of("--gan.no-warm-start", flag, value)
        assert flag in text
        assert value in text


def test_a_batch_size_of_zero_is_refused() -> None:
    assert "batch-size" in error_of("--batch-size", "0")


def test_the_dsprites_networks_work_at_64_only() -> None:
    text = error_of(*data_for("celeba-64"), "--gan.model", "dsprites", "--images.size", "128")
    assert "--gan.model dsprites" in text
    assert "resnet" in text
    assert "--gan.bottleneck" in error_of(*data_for("celeba-64"), "--gan.model", "dsprites", "--gan.bottleneck")


@pytest.mark.parametrize("argv", ["--gan.width 8", "--vae.width 8", "--gan.model resnet"])
def test_a_warm_start_needs_equal_networks(argv: str) -> None:
    assert "--gan.warm-start" in error_of(*argv.split())


# ---- YAML


def test_preset_then_file_then_flags(file: Callable[[str], str]) -> None:
    path = file("preset: dsprites\nseed: 5\nvae:\n  beta: 3\n  iters: 70\ngan:\n  iters: 80\n")
    config = parse(["--config", path, "--vae.iters", "90", "--seed", "6"])
    assert config.preset == "dsprites"
    assert (config.vae.beta, config.vae.iters, config.gan.iters, config.seed) == (3.0, 90, 80, 6)
    assert config.vae.lr == PRESETS["dsprites"].vae.lr != PRESETS["dsprites-quick"].vae.lr


def test_a_preset_flag_goes_before_the_files(file: Callable[[str], str]) -> None:
    path = file("preset: dsprites\nvae:\n  beta: 3.5\n")
    for argv in (["--config", path, "--preset", "dsprites-quick"], ["--preset=dsprites-quick", f"--config={path}"]):
        config = parse(argv)
        assert config.preset == "dsprites-quick"
        assert config.vae == dataclasses.replace(PRESETS["dsprites-quick"].vae, beta=3.5)
        assert config.gan == PRESETS["dsprites-quick"].gan


def test_a_file_without_a_preset_changes_the_default_one(file: Callable[[str], str]) -> None:
    config = parse(["--config", file("seed: 2\n")])
    assert (config.preset, config.seed) == ("dsprites-quick", 2)


def test_an_empty_file_changes_nothing(file: Callable[[str], str]) -> None:
    config = parse(["--config", file("# nothing\n")])
    assert dataclasses.replace(config, config=None) == parse([])


def test_a_file_can_name_the_data(file: Callable[[str], str]) -> None:
    config = parse(["--config", file("preset: cars-64\ndata: cars.zip\n")])
    assert config.data == Path("cars.zip")
    assert parse(["--config", file("preset: cars-64\ndata: cars.zip\n"), "--data", "x"]).data == Path("x")


@pytest.mark.parametrize("preset", NAMES)
@pytest.mark.parametrize(
    "changes",
    [
        "",
        "--seed 9 --vae.lr 1e-5 --vae.beta 1e10 --amp --batch-size 3 --device cpu --workers 0 --log-every 7",
        "--amp off --vae.beta-start 2.5 --gan.sample-code prior --images.crop 120 --gan.ema 0 --images.cache-gib 0.1",
    ],
)
def test_the_record_of_a_run_gives_its_settings_back(file: Callable[[str], str], preset: str, changes: str) -> None:
    config = parse([*data_for(preset), *changes.split()])
    again = parse(["--config", file(to_yaml(config))])
    ours, theirs = flatten(config), flatten(again)
    assert {k: v for k, v in theirs.items() if k != "config"} == {k: v for k, v in ours.items() if k != "config"}
    assert dataclasses.replace(again, config=None) == config


def test_the_record_is_plain_nested_yaml() -> None:
    config = parse(["--out", "here", "--resume", "never", "--batch-size", "4"])
    record = yaml.safe_load(to_yaml(config))
    assert record["vae"]["batch_size"] == record["gan"]["batch_size"] == 4
    assert record["amp"] == "off"
    assert not UNRECORDED & set(record)
    recorded = {f"{g}.{k}" for g in ("images", "vae", "gan") for k in record[g] if k != "stylegan2"}
    recorded |= {f"gan.stylegan2.{k}" for k in record["gan"]["stylegan2"]}
    recorded |= {key for key in record if key not in ("images", "vae", "gan")}
    assert recorded == set(flatten(config)) - UNRECORDED


@pytest.mark.parametrize(
    ("text", "wrong", "right"),
    [
        ("sede: 1\n", "sede", "did you mean seed?"),
        ("vea:\n  beta: 1\n", "vea", "did you mean vae?"),
        ("vae:\n  betta: 1\n", "vae.betta", "did you mean beta?"),
        ("gan:\n  distil_weight: 1\n", "gan.distil_weight", "did you mean distill_weight?"),
        ("images:\n  channel: 1\n", "images.channel", "did you mean channels?"),
        ("batch-size: 4\n", "batch-size", "did you mean batch_size?"),
        ("vae:\n  qqqqqq: 1\n", "vae.qqqqqq", "c_dim"),
        ("3: 4\n", "3", "seed"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(
    file: Callable[[str], str], text: str, wrong: str, right: str
) -> None:
    message = error_of("--config", file(text))
    assert wrong in message
    assert right in message


@pytest.mark.parametrize(
    ("text", "key", "wanted", "got"),
    [
        ("seed: one\n", "seed", "whole number", "'one'"),
        ("seed: true\n", "seed", "whole number", "True"),
        ("seed: 1.5\n", "seed", "whole number", "1.5"),
        ("data: 5\n", "data", "path", "5"),
        ("device: 0\n", "device", "text", "0"),
        ("amp: fp8\n", "amp", "bf16", "'fp8'"),
        ("vae:\n  beta: strong\n", "vae.beta", "number", "'strong'"),
        ("vae:\n  iters: null\n", "vae.iters", "whole number", "None"),
        ("vae:\n  reconstruction: mse\n", "vae.reconstruction", "bernoulli, gaussian", "'mse'"),
        ("images:\n  channels: 2\n", "images.channels", "1, 3", "2"),
        ("images:\n  channels: true\n", "images.channels", "1, 3", "True"),
        ("images:\n  flip: 1\n", "images.flip", "true or false", "1"),
        ("images:\n  crop: [1, 2]\n", "images.crop", "whole number or None", "[1, 2]"),
        ("vae: 3\n", "vae", "mapping", "3"),
        ("vae:\n", "vae", "mapping", "None"),
    ],
)
def test_wrong_types_are_refused(file: Callable[[str], str], text: str, key: str, wanted: str, got: str) -> None:
    message = error_of("--config", file(text))
    assert message.startswith(f"config: {key} must be")
    assert wanted in message
    assert message.endswith(f"got {got}")


def test_a_whole_number_serves_as_a_float(file: Callable[[str], str]) -> None:
    beta = parse(["--config", file("vae:\n  beta: 4\n  beta_start: 9\n")]).vae
    assert (beta.beta, beta.beta_start) == (4.0, 9.0)
    assert type(beta.beta) is float


def test_nothing_where_nothing_is_allowed(file: Callable[[str], str]) -> None:
    config = parse(["--config", file("vae:\n  beta_start: null\nimages:\n  crop: ~\n")])
    assert config.vae.beta_start is config.images.crop is None


def test_a_wrong_preset_in_a_file(file: Callable[[str], str]) -> None:
    assert "did you mean celeba-64?" in error_of("--config", file("preset: celeb-64\n"))


def test_a_files_settings_are_checked_too(file: Callable[[str], str]) -> None:
    assert "-3" in error_of("--config", file("vae:\n  iters: -3\n"))
    assert "96" in error_of("--config", file("preset: cars-64\ndata: x\nimages:\n  size: 96\n"))


@pytest.mark.parametrize(
    "text", ["a: [1\n b", "- seed\n- 1\n", "just words\n", "seed: !!python/object/apply:os.getcwd []\n", "? [a]\n: 4\n"]
)
def test_a_file_that_is_no_mapping(file: Callable[[str], str], text: str) -> None:
    path = file(text)
    message = error_of("--config", path)
    assert path in message
    assert message.startswith("--config")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(bytes(range(256)))
    assert str(path) in error_of("--config", str(path))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        assert str(path) in error_of("--config", str(path))


# ---- presets


def test_the_presets() -> None:
    assert list(PRESETS) == NAMES
    assert all(config.preset == name for name, config in PRESETS.items())
    assert all(isinstance(config, Config) for config in PRESETS.values())


@pytest.mark.parametrize(
    ("preset", "iters", "reconstruction", "c_dim", "beta", "s_dim", "width", "r1", "distill", "batch"),
    [
        ("dsprites", 500_000, "bernoulli", 10, 8.0, 0, 32, 10, 1e-4, 64),
        ("celeba-64", 1_000_000, "gaussian", 20, 6.4, 256, 64, 10, 1e-3, 64),
        ("celeba-256", 1_000_000, "gaussian", 20, 6.4, 256, 64, 10, 1e-3, 24),
        ("chairs-64", 1_000_000, "gaussian", 20, 10.0, 256, 64, 1000, 1e-4, 64),
        ("cars-64", 1_000_000, "gaussian", 20, 5.0, 256, 64, 10, 1e-3, 64),
        ("celebahq-1024", 1_000_000, "gaussian", 20, 6.4, 256, 16, 10, 1e-4, 1),
    ],
)
def test_named_presets_hold_the_public_constants(
    preset: str,
    iters: int,
    reconstruction: str,
    c_dim: int,
    beta: float,
    s_dim: int,
    width: int,
    r1: float,
    distill: float,
    batch: int,
) -> None:
    config = parse(data_for(preset))
    vae, gan = config.vae, config.gan
    assert (vae.iters, vae.reconstruction, vae.c_dim, vae.beta) == (iters, reconstruction, c_dim, beta)
    assert (vae.batch_size, vae.lr, vae.init, vae.beta_start, vae.lr_decay) == (64, 1e-4, "normal", None, 0.0)
    assert (gan.s_dim, gan.width, gan.max_width, gan.r1_weight, gan.r1_every) == (s_dim, width, 512, r1, 1)
    assert (gan.distill_weight, gan.batch_size, gan.iters, gan.ema) == (distill, batch, 300_000, 0.999)
    assert gan.lr_g == (1e-3 if preset == "dsprites" else 1e-4)
    assert gan.lr_d == 1e-4
    assert not gan.warm_start
    assert config.amp == "off"


def test_the_presets_pictures() -> None:
    framing = {name: PRESETS[name].images for name in NAMES}
    assert {name: images.size for name, images in framing.items() if images.size != 64} == {
        "celeba-256": 256,
        "celebahq-1024": 1024,
        "stylegan2-256": 256,
        "stylegan2-1024": 1024,
    }
    assert framing["celeba-64"].crop == framing["celeba-256"].crop == 160
    assert framing["chairs-64"].crop == 450
    assert (framing["cars-64"].framing, framing["cars-64"].min_side) == ("squash", 64)
    for name in ("dsprites", "dsprites-quick"):
        assert (framing[name].channels, framing[name].flip, framing[name].dequantise) == (1, False, False)
    for name in NAMES[2:]:
        assert (framing[name].channels, framing[name].flip, framing[name].dequantise) == (3, True, True)


def test_departures_from_the_paper_are_told() -> None:
    assert departures(parse(data_for("celeba-64"))) == []
    assert [row[0] for row in departures(parse(["--preset", "dsprites"]))] == ["data"]
    assert departures(parse(["--preset", "dsprites", "--data", "d.npz"])) == []
    assert departures(parse([*data_for("cars-64"), "--vae.beta", "4"])) == [("vae.beta", 5.0, 4.0)]
    quick = {row[0] for row in departures(parse([]))}
    assert {"vae.iters", "gan.iters", "vae.lr", "gan.warm_start"} <= quick
    assert PAPER["dsprites-quick"] == PRESETS["dsprites"]
    assert PAPER["images-quick"] == PRESETS["celeba-64"]
    assert ("images.crop", 160, None) in departures(parse(data_for("images-quick")))


# ---- the command


@pytest.mark.parametrize("argv", [["--preset", "celeba64"], ["--vae.betta", "3"], ["--config", "/nowhere.yaml"]])
def test_the_command_ends_with_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(argv) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1


def settings(tmp_path: Path, text: str) -> str:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return str(path)


def test_amp_off_in_yaml(tmp_path: Path) -> None:
    assert parse(["--config", settings(tmp_path, "amp: off\n")]).amp == "off"


def test_an_exponent_without_a_point_in_yaml(tmp_path: Path) -> None:
    assert parse(["--config", settings(tmp_path, "vae:\n  lr: 1e-4\n")]).vae.lr == 1e-4


def test_flags_win_over_a_files_batch_size(tmp_path: Path) -> None:
    config = parse(["--config", settings(tmp_path, "batch_size: 8\n"), "--vae.batch-size", "16"])
    assert config.vae.batch_size == 16


def test_the_last_preset_flag_wins_whole() -> None:
    config = parse(["--preset", "dsprites-quick", "--preset", "dsprites"])
    assert config == parse(["--preset", config.preset])


@pytest.mark.parametrize(
    "argv",
    [
        "--workers -1",
        "--preset celeba-64 --data x --gan.s-dim -1",
        "--preset celeba-64 --data x --images.crop 0",
        "--seed 99999999999999999999",
        "--vae.beta nan",
        "--vae.lr -1",
    ],
)
def test_values_that_cannot_work_are_refused(argv: str) -> None:
    error_of(*argv.split())


def test_a_float_is_no_channel_count(tmp_path: Path) -> None:
    error_of("--config", settings(tmp_path, "images:\n  channels: 1.0\n"))


def test_the_hidden_flag_does_not_suggest_itself() -> None:
    assert "did you mean --dataset?" not in error_of("--dataset", "images")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--amp fp8", "invalid choice 'fp8' for argument '--amp'"),
        ("--seed x", "--seed: must be a whole number, got 'x'"),
        ("--seed", "Missing value for argument '--seed'"),
        ("--resume --seed 1", "Missing value for argument '--resume'"),
    ],
)
def test_wrong_values_are_one_line(argv: str, expected: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of either kind: the parser draws its box differently."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    text = error_of(*argv.split())
    assert text.startswith(expected)
    assert "--help" in text
    assert not set(text) & set("╭│─")

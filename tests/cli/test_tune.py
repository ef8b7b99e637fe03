"""The command line of `idgan-fast tune` where it cannot run."""

import pytest

from idgan_fast.tools.tune import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "stylegan2-256"], "error: tune: it measures on a GPU, and torch sees none"),
        (["--preset", "celeba-64"], "error: --preset: celeba-64 has no modulated layers to tune"),
        (["--preset", "stylegan2-25"], "error: --preset: no model of 'stylegan2-25'; did you mean stylegan2-256?"),
        (["--preset", "stylegan2-256", "--dtype", "fp8"], "error: --dtype: no type 'fp8'; known: fp16, bf16, tf32"),
        (
            ["--preset", "stylegan2-256", "--batch", "0"],
            "error: argument --batch: must be a whole number from 1 to 1048576, got '0'",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1

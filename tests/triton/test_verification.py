"""Kernel verification: a kernel that disagrees with the reference is not chosen, the others are; here interpreted."""

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from idgan_fast.ops import _dispatch
from idgan_fast.ops._dispatch import triton_kernels
from idgan_fast.ops._registry import CUSTOM_OPS
from idgan_fast.ops.validation import verification

NAMES = ("bias_lrelu_fwd", "bias_lrelu_bwd")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(verification, "SHAPES", verification.SHAPES[1:])
    for op in CUSTOM_OPS.values():
        if op.sample_shape is not None:
            monkeypatch.setattr(op, "sample_shape", (1, 5, 17, 9))
    verification.verdicts.cache_clear()
    yield
    verification.verdicts.cache_clear()


@pytest.mark.parametrize("name", sorted(triton_kernels()))
def test_kernels_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "DTYPES", (torch.float32,))
    monkeypatch.setattr(verification, "LAYOUTS", (torch.channels_last,))
    assert verification.check(CUSTOM_OPS[name], triton_kernels()[name], "cpu") is None


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(triton_kernels()))
def test_kernels_agree_in_every_dtype_and_layout(name: str) -> None:
    assert verification.check(CUSTOM_OPS[name], triton_kernels()[name], "cpu") is None


@pytest.mark.parametrize("name", sorted(triton_kernels()))
def test_a_kernel_that_is_wrong_in_one_number_is_seen(name: str) -> None:
    def spoiled(result: Any) -> Any:
        if isinstance(result, (tuple, list)):
            return type(result)([spoiled(result[0]), *result[1:]])
        result.view(-1)[-1:].mul_(1.1).add_(0.05) if result.is_contiguous() else result.mul_(1.05)
        return result

    found = verification.check(CUSTOM_OPS[name], lambda *a: spoiled(triton_kernels()[name](*a)), "cpu")
    assert found is not None
    assert "off by" in found


def test_codes_may_differ_within_rounding_of_a_kink_alone() -> None:
    low = CUSTOM_OPS["filtered_lrelu_fwd"]

    def with_other_codes(share: float) -> Any:
        def spoiled(*arguments: Any) -> Any:
            y, codes = low.reference(*arguments)
            changed = torch.zeros(codes.numel(), dtype=torch.bool)
            changed[: int(share * codes.numel())] = True
            return y, torch.where(changed.view_as(codes), codes ^ 1, codes)

        return spoiled

    assert "of its signs" in str(verification.check(low, with_other_codes(0.01), "cpu"))


def test_nan_a_wrong_shape_and_an_error_are_seen() -> None:
    low, kernel = CUSTOM_OPS["bias_lrelu_fwd"], triton_kernels()["bias_lrelu_fwd"]
    assert "off by nan" in str(verification.check(low, lambda *a: kernel(*a) * torch.nan, "cpu"))
    assert "shape" in str(verification.check(low, lambda *a: kernel(*a)[:, 1:], "cpu"))

    def broken(*_: Any) -> None:
        raise RuntimeError("no\nPTX for this GPU")

    assert verification.check(low, broken, "cpu") == "RuntimeError in torch.float32: PTX for this GPU"


def test_auto_takes_only_what_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def checked(backend: str, device: str) -> verification.Verdicts:
        calls.append(backend)
        return dict.fromkeys(triton_kernels()) | {"upfirdn2d": "result 0 is off by 1.0e-01"}

    monkeypatch.setattr(verification, "checked_apart", checked)
    monkeypatch.setattr(verification, "identity", lambda backend, device: backend)
    choice = lambda names: _dispatch._choose("f", names, "cuda", "auto", "auto")  # noqa: E731
    with pytest.warns(RuntimeWarning, match=r"^triton kernels set aside.*upfirdn2d: result 0 is off by") as caught:
        assert choice(NAMES) == "triton"
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # plain torch on a GPU
        assert choice(("upfirdn2d",)) == "reference"
        assert choice(("styled_epilogue_fwd", "upfirdn2d")) == "reference"
    assert _dispatch._choose("f", ("upfirdn2d",), "cuda", "triton", "auto") == "triton", "asked for by name"
    kept = json.loads(verification.verdicts_file().read_text())
    assert set(kept) == {"triton"}
    verification.verdicts.cache_clear()  # as in another process
    with pytest.warns(RuntimeWarning, match="upfirdn2d"):
        assert choice(NAMES) == "triton"
    assert calls == ["triton"], "the second process reads the file"


def test_a_verdict_is_for_one_gpu_driver_and_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stands in for torch but the name of the GPU: what is asked for the driver must be there."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    first = json.loads(verification.identity("triton", "cuda"))
    assert first[:2] == ["triton", "GPU"]
    assert first[2] == verification.driver_version()
    assert first[3] == torch.__version__
    monkeypatch.setattr(verification, "driver_version", lambda: "another")
    assert json.loads(verification.identity("triton", "cuda"))[2] == "another"
    assert json.loads(verification.identity("triton", "cpu"))[:3] == ["triton", "CPU", None]


def test_a_kernel_that_ends_the_process_is_set_aside_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = tmp_path / "python"
    child.write_text(
        "#!/bin/sh\nshift 4\nfor name; do\n"
        '[ "$name" = weight_square_sum ] && { echo "illegal memory access" >&2; exit 3; }\n'
        'echo "{\\"$name\\": null}"\ndone\n'
    )
    child.chmod(0o755)
    monkeypatch.setattr(verification.sys, "executable", str(child))
    found = verification.checked_apart("triton", "cpu")
    assert found.pop("weight_square_sum") == "ended the process with status 3: illegal memory access"
    assert found == dict.fromkeys(sorted(triton_kernels().keys() - {"weight_square_sum"}))


def test_the_process_of_the_check_itself() -> None:
    run = verification.subprocess.run(
        [verification.sys.executable, "-m", verification.__name__, "triton", "cpu", "bias_lrelu_fwd"],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert json.loads(run.stdout) == {"bias_lrelu_fwd": None}, run.stderr

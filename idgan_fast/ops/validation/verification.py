"""Which GPU kernels `auto` may choose: those that agree with the reference on this GPU, under this driver.

On the first use of a backend on a GPU every one of its kernels runs on small inputs, forward and backward (gradients of
higher order are made of these), and is compared with its reference in float64 on the CPU. That happens in a process of
its own, so that a kernel which brings the GPU's context down takes nothing with it. The verdicts are kept in a file, by
GPU, driver, torch, triton and the kernels' own text. A kernel that fails is set aside with one warning.
"""

import ctypes
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

import idgan_fast.kernels
from idgan_fast.files import cache_file, digest, read_json, write_json
from idgan_fast.ops._dispatch import triton_kernels, why_not
from idgan_fast.ops._registry import CUSTOM_OPS, CustomOp

SECONDS = 300  # for all kernels of a backend, their compilation included
# Allowed error relative to max abs(result), by its dtype: one rounding, fp32 accumulation.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}
SIGNS = 1e-4  # share of a sign mask that may differ: of values within rounding of a kink
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
SHAPES = ((2, 64, 33, 40), (1, 5, 7, 9))  # several tiles of a kernel, and less than one
Verdicts = dict[str, str | None]  # operator -> None if it agrees, else what was wrong


def refused(backend: str, names: tuple[str, ...], device: str) -> str | None:
    """Why `auto` may not choose this backend for these custom ops; None if it may."""
    reasons = verdicts(backend, device)
    wrong = [f"{name} ({reasons[name]})" for name in names if reasons.get(name, "not checked") is not None]
    return f"set aside since they disagree with the reference on this GPU: {', '.join(wrong)}" if wrong else None


@cache
def verdicts(backend: str, device: str) -> Verdicts:
    """Of all kernels of a backend, from the file or by a check of a few seconds. Warns once of those that failed."""
    path, key = verdicts_file(), identity(backend, device)
    by_machine = read_json(path)
    if key not in by_machine:
        by_machine = {**read_json(path), key: checked_apart(backend, device)}
        _keep(path, by_machine)
    wrong = {name: reason for name, reason in by_machine[key].items() if reason is not None}
    if wrong:
        listed = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
        warnings.warn(
            f"{backend} kernels set aside, since they disagree with the reference on this GPU: {listed}. "
            f"Remove {path} to check them again",
            RuntimeWarning,
            stacklevel=2,
        )
    return by_machine[key]


def verdicts_file() -> Path:
    return cache_file("verification.json")


def identity(backend: str, device: str) -> str:
    """All that a verdict depends on."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    driver = torch.version.hip or driver_version() if device == "cuda" else None
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = None
    package = Path(__file__).parents[2]
    kernels = Path(idgan_fast.kernels.__path__[0]) if backend == "triton" else package
    text = digest(kernels.glob("*.py" if backend == "triton" else "_cuda*"))
    return json.dumps([backend, name, driver, torch.__version__, triton, text])


def driver_version() -> str:
    """Of NVIDIA's kernel module; else the version of CUDA that the driver is for."""
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        pass
    number = ctypes.c_int()
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return "unknown"
    return f"CUDA {number.value}"


def _keep(path: Path, by_machine: dict[str, Verdicts]) -> None:
    """Without a place to write, each process checks for itself."""
    try:
        write_json(path, by_machine)
    except OSError as error:
        warnings.warn(f"{path}: cannot keep which kernels agree here: {error}", RuntimeWarning, stacklevel=3)


def checked_apart(backend: str, device: str) -> Verdicts:
    """`check` in a process of its own; a kernel that ends the process fails, and the others go on in another one."""
    todo = [name for name in sorted(CUSTOM_OPS) if why_not(backend, (name,), device) is None]
    reasons: Verdicts = {}
    while todo:
        command = [sys.executable, "-m", "idgan_fast.ops.validation.verification", backend, device, *todo]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=_environment())
            lines, end = run.stdout.splitlines(), f"ended the process with status {run.returncode}: {_last(run.stderr)}"
        except subprocess.TimeoutExpired as error:
            lines, end = _text(error.stdout).splitlines(), f"took more than {SECONDS} seconds"
        for line in lines:
            if line.startswith("{"):
                reasons.update(json.loads(line))
        left = [name for name in todo if name not in reasons]
        if left:
            reasons[left[0]] = end
        todo = left[1:]
    return reasons


def _environment() -> dict[str, str]:
    """The child checks on this process's current GPU."""
    gpu = torch.cuda.current_device() if torch.cuda.is_available() else 0
    return {**os.environ, "IDGAN_FAST_ADMISSION_GPU": str(gpu)}


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"


def _text(output: str | bytes | None) -> str:
    return output.decode() if isinstance(output, bytes) else output or ""


def check(op: CustomOp, kernel: Callable[..., Any], device: str) -> str | None:
    """What is wrong with a kernel: compared with its reference on every sample, dtype and layout; None if nothing."""
    for dtype, layout in product(DTYPES, LAYOUTS):
        tolerances = {False: TOLERANCE[dtype]}
        if op.roundings > 1 and dtype == torch.float32:
            tolerances[True] = TOLERANCE[torch.float16]  # TF32 has as many digits
        for arguments, (tf32, of_products) in product(samples_of(op, dtype, layout), tolerances.items()):
            try:
                with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
                    got = _tensors(kernel(*_moved(arguments, lambda t: t.to(device))))
            except Exception as error:  # a kernel may fail in any way, to compile too
                return f"{type(error).__name__} in {dtype}: {_last(str(error))}"
            exact = _tensors(op.reference(*_moved(arguments, _exact)))
            for i, (ours, truth) in enumerate(zip(got, exact, strict=True)):
                if ours.shape != truth.shape:
                    return f"result {i} has shape {tuple(ours.shape)} in {dtype}, wanted {tuple(truth.shape)}"
                if ours.dtype == torch.uint8:
                    share = (ours.cpu() != truth).double().mean().item() if truth.numel() else 0.0
                    if share > SIGNS:
                        return f"result {i} differs in {share:.1e} of its signs in {dtype}"
                elif truth.numel():
                    scale = truth.abs().max().clamp_min(1)
                    off = ((ours.cpu().double() - truth).abs().max() / scale).item()
                    if not off <= (TOLERANCE[ours.dtype] if op.roundings == 1 else op.roundings * of_products):
                        return f"result {i} is off by {off:.1e} of its largest value in {dtype}"
    return None


def samples_of(op: CustomOp, dtype: torch.dtype, layout: torch.memory_format) -> Iterator[tuple[Any, ...]]:
    """Arguments of a custom op, drawn at random, on the CPU; images in `dtype` and `layout`."""
    larger = () if op.sample_shape is None else (op.sample_shape,)
    for shape in (*SHAPES, *larger) if dtype == torch.float16 else SHAPES:
        yield from op.samples(torch.randn(shape).to(dtype).contiguous(memory_format=layout))


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def _moved(arguments: Any, move: Callable[[Tensor], Tensor]) -> Any:
    return tree_map_only(Tensor, move, arguments)


def _exact(t: Tensor) -> Tensor:
    return t.double() if t.is_floating_point() else t


def kernels(backend: str) -> Mapping[str, Callable[..., Any]]:
    if backend == "triton":
        return triton_kernels()
    return {name: getattr(torch.ops.idgan_fast, name) for name in CUSTOM_OPS}


def main(backend: str, device: str, names: list[str]) -> Iterator[Verdicts]:
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("IDGAN_FAST_ADMISSION_GPU", "0")))
    torch.manual_seed(0)
    for name in names:
        yield {name: check(CUSTOM_OPS[name], kernels(backend)[name], device)}


if __name__ == "__main__":
    for verdict in main(sys.argv[1], sys.argv[2], sys.argv[3:]):
        print(json.dumps(verdict), flush=True)

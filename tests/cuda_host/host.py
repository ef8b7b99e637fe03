"""The CUDA kernels of csrc/cuda, compiled by g++ and run on CPU tensors.

`library(mode)` builds tests/cuda_host/kernels.cpp once and loads it: "plain", "sanitized" (AddressSanitizer and UBSan,
for a process that has libasan loaded) or "counted" (every access to memory calls counted.cpp). `Host` has the low-level
operators as `torch.ops.idgan_fast` has them.
"""

import ctypes
import hashlib
import json
import math
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "csrc/cuda"
BUILD = HERE.parents[1] / "build/cuda_host"
# Without unique symbols: else all libraries of a process share their static variables.
FLAGS = ["-std=c++20", "-fno-gnu-unique", "-g1", "-fPIC", "-w", f"-I{HERE}", f"-I{SOURCES}"]
MODES = {
    "plain": ["-O1"],
    "sanitized": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"],
    "counted": ["-O1", "-fsanitize=thread"],
}
MODE = os.environ.get("CUDA_HOST_MODE", "plain")  # of the tests that name none
ORDERS = ("forward", "reverse", "random")
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
PASSES = ("forward", "backward of y", "backward", "second")
ACTS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")


@cache
def headers() -> Path | None:
    """CUDA's headers: of a toolkit, or those that Triton brings; None if neither is there."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
    folders = [toolkit]
    try:
        import triton

        folders.append(Path(triton.__file__).parent / "backends/nvidia/include")
    except ImportError:
        pass
    return next((folder for folder in folders if (folder / "crt/host_defines.h").exists()), None)


def missing() -> str | None:
    if shutil.which("g++") is None:
        return "needs g++"
    return None if headers() is not None else "needs CUDA's headers: a toolkit, or pip install triton"


def built(source: Path, mode: str) -> Path:
    """The shared library of a source; made anew where that, the kernels, a header or the flags changed."""
    command = ["g++", *FLAGS, *MODES[mode], "-isystem", str(headers())]
    text = hashlib.sha256(" ".join(command).encode())
    for path in sorted([source, *HERE.glob("*.h"), *HERE.glob("counted.cpp"), *SOURCES.glob("*.cuh")]):
        text.update(path.read_bytes())
    target = BUILD / f"{source.stem}-{mode}-{text.hexdigest()[:16]}.so"
    if target.exists():
        return target
    BUILD.mkdir(parents=True, exist_ok=True)
    for old in BUILD.glob(f"{source.stem}-{mode}-*.so"):
        old.unlink()
    partial = target.with_suffix(f".{os.getpid()}")
    if mode != "counted":
        _run([*command, "-shared", str(source), "-o", str(partial)])
    else:  # the counting itself is not counted, and the sanitizer's runtime is not linked
        objects = [str(partial) + end for end in (".kernels.o", ".counted.o")]
        _run([*command, "-c", str(source), "-o", objects[0]])
        plain = [flag for flag in command if flag != "-fsanitize=thread"]
        _run([*plain, "-c", str(HERE / "counted.cpp"), "-o", objects[1]])
        _run(["g++", "-shared", *objects, "-o", str(partial)])
        for one in objects:
            Path(one).unlink()
    partial.rename(target)
    return target


def _run(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{run.stderr[:4000]}")


@cache
def library(mode: str = "plain", source: str = "kernels.cpp") -> ctypes.CDLL:
    found = ctypes.CDLL(str(built(HERE / source, mode)))
    if source == "kernels.cpp":
        found.bias_act.restype = ctypes.c_char_p
        found.bias_act_table.restype = ctypes.c_longlong
    if mode == "counted":
        found.count_end.restype = ctypes.c_char_p
        found.count_watch.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
    return found


def counted(found: ctypes.CDLL, buffers: dict[str, Tensor], call: Any) -> dict[str, Any]:
    """What counted.cpp says of a call into a library of its mode: sectors and widths of each buffer, and a race."""
    found.count_begin()
    for name, t in buffers.items():
        found.count_watch(name.encode(), t.data_ptr(), t.numel() * t.element_size())
    call()
    return json.loads(found.count_end())


class BiasActCall(ctypes.Structure):
    """csrc/cuda/bias_act_launch.cuh"""

    _fields_ = (
        *[(name, ctypes.c_int) for name in ("dtype", "act", "which")],
        ("in_", ctypes.c_void_p * 3),
        ("out", ctypes.c_void_p * 2),
        *[(name, ctypes.c_void_p) for name in ("b", "ddb", "table", "sums")],
        *[(name, ctypes.c_int64) for name in ("outer", "channels", "inner")],
        *[(name, ctypes.c_double) for name in ("alpha", "gain", "clamp")],
        ("processors", ctypes.c_int),
    )


def between_nan(like: Tensor, fill: Tensor | None = None) -> Tensor:
    """A tensor of the shape, type and layout of a dense one, between NaN; full of NaN unless filled.

    Under the sanitizers it has an allocation of its own, which they watch.
    """
    if MODE == "sanitized":
        new = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).fill_(math.nan)
        return new if fill is None else new.copy_(fill)
    offset = 64  # bytes: aligned as torch's own
    count = offset // like.element_size()
    storage = torch.full((like.numel() + 2 * count,), math.nan, dtype=like.dtype)
    at = (-storage.data_ptr() % 16) // like.element_size()
    new = storage.as_strided(like.shape, like.stride(), count + at) if like.numel() else like.clone()
    return new if fill is None else new.copy_(fill)


def dense(x: Tensor) -> Tensor:
    last = x.ndim == 4 and x.shape[1] > 1 and x.shape[2] * x.shape[3] > 1 and x.stride(1) == 1
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def sizes(x: Tensor, dim: int) -> tuple[int, int, int]:
    """outer, channels, inner in the order of the memory."""
    order = (0, 2, 3, 1) if not x.is_contiguous() else range(x.ndim)
    shape = [x.shape[i] for i in order]
    at = list(order).index(dim)
    return prod(shape[:at]), shape[at], prod(shape[at + 1 :])


@dataclass
class Host:
    """order: of threads between barriers. processors: of the device that the launcher plans for."""

    order: str = "forward"
    seed: int = 0
    processors: int = 4
    mode: str = MODE
    traffic: Any = None  # of the last call, in the mode "counted"

    def bias_lrelu_fwd(self, x: Tensor, b: Tensor | None, dim: int, *numbers: Any) -> Tensor:
        return self._bias_act("forward", (x,), b, None, dim, "lrelu", *numbers)[0]

    def bias_act_fwd(self, x: Tensor, b: Tensor | None, dim: int, *numbers: Any) -> Tensor:
        return self._bias_act("forward", (x,), b, None, dim, *numbers)[0]

    def bias_lrelu_bwd(self, dy: Tensor, y: Tensor, dim: int, *numbers: Any) -> tuple[Tensor, ...]:
        return self._bias_act("backward of y", (dy, y), None, None, dim, "lrelu", *numbers)

    def bias_act_bwd(self, dy: Tensor, x: Tensor, b: Tensor | None, dim: int, *numbers: Any) -> tuple[Tensor, ...]:
        return self._bias_act("backward", (dy, x), b, None, dim, *numbers)

    def bias_act_bwd2(
        self, ddx: Tensor, ddb: Tensor | None, dy: Tensor, x: Tensor, b: Tensor | None, dim: int, *numbers: Any
    ) -> tuple[Tensor, ...]:
        return self._bias_act("second", (ddx, dy, x), b, ddb, dim, *numbers)

    def _bias_act(
        self, which: str, given: tuple[Tensor, ...], b: Tensor | None, ddb: Tensor | None, dim: int, act: str,
        alpha: float, gain: float, clamp: float | None, want_sums: bool = False,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Results and sums. All tensors lie between NaN, in the layout of the last one given."""
        x = dense(given[-1])
        arrays = [between_nan(x, t) for t in given]
        vectors = [None if t is None else between_nan(t.contiguous(), t) for t in (b, ddb)]
        results = [between_nan(x) for _ in range(2 if which == "second" else 1)]
        wide = torch.promote_types(x.dtype, torch.float32)
        sums = between_nan(torch.empty(x.shape[dim] if want_sums else 0, dtype=wide))
        if not x.numel():
            return *results, sums.zero_()
        outer, channels, inner = sizes(x, dim)
        call = BiasActCall(
            dtype=DTYPES[x.dtype], act=ACTS.index(act), which=PASSES.index(which), outer=outer, channels=channels,
            inner=inner, alpha=alpha, gain=gain, clamp=math.nan if clamp is None else clamp, processors=self.processors,
        )  # fmt: skip
        call.in_[:], call.out[:] = _pointers(arrays, 3), _pointers(results, 2)
        call.b, call.ddb = _pointers(vectors, 2)
        found = library(self.mode)
        if want_sums:
            table = between_nan(torch.empty(found.bias_act_table(ctypes.byref(call)), dtype=wide))
            call.table, call.sums = table.data_ptr(), sums.data_ptr()
        found.set_order(ORDERS.index(self.order), self.seed)

        def run() -> None:
            error = found.bias_act(ctypes.byref(call))
            if error is not None:
                raise RuntimeError(error.decode())

        if self.mode == "counted":
            names = {"forward": "x", "backward of y": "dy y", "backward": "dy x", "second": "ddx dy x"}[which].split()
            outs = {"forward": "y", "second": "to_dy to_x"}.get(which, "dx").split()
            self.traffic = counted(found, dict(zip([*names, *outs], [*arrays, *results], strict=True)), run)
        else:
            run()
        return *results, sums


def _pointers(tensors: list[Any], count: int) -> list[int | None]:
    return [None if t is None else t.data_ptr() for t in tensors] + [None] * (count - len(tensors))

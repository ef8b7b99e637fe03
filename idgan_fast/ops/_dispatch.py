"""Which backend runs an operator: chosen in Python, passed down as a string, never looked up again in a backward pass.

native     `torch.ops.idgan_fast.<name>`: compiled C++ or CUDA kernels under the schemas registered here
triton     `torch.ops.idgan_fast_triton.<name>`: Triton kernels under the same schemas
reference  plain torch, called directly, so that torch.compile sees through it
"""

import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

import torch

from idgan_fast.ops._libraries import load_cpu, load_cuda
from idgan_fast.ops._tensors import no_autocast

BACKENDS = ("native", "triton", "reference")
# What other libraries call them: "cuda" is their fast path with its own fall-back, "ref" their plain one.
IMPLS = {"auto": "auto", "cuda": "auto", "ref": "reference", **{name: name for name in BACKENDS}}

_from_environment: str = os.environ.get("IDGAN_FAST_BACKEND", "auto")
_requested: ContextVar[str] = ContextVar("idgan_fast_backend", default=_from_environment)
_log = logging.getLogger("idgan_fast.ops")
_library = torch.library.Library("idgan_fast", "DEF")
_triton_library = torch.library.Library("idgan_fast_triton", "DEF")


_no_cpu_library = load_cpu()
_no_cuda_library = load_cuda()


class BackendError(RuntimeError):
    """A backend was asked for by name and cannot run. One line, with the reason."""


custom_ops: dict[str, "CustomOp"] = {}


class CustomOp:
    """A registered operator `torch.ops.idgan_fast.<name>`, opaque to torch.compile, and its plain torch twin.

    The twin is the registered operator's kernel wherever nothing faster is compiled, and its fake kernel, so that
    shapes, dtypes and strides of every kernel have one definition.
    roundings: how many numbers are rounded to the images' dtype, one after the other, on the way to a result; of an
    operator with more than one its matrix products also take TF32, where torch's convolutions do.
    """

    def __init__(self, name: str, schema: str, reference: Callable[..., Any], roundings: int = 1) -> None:
        self.name, self.schema, self.reference, self.roundings = name, schema, reference, roundings
        custom_ops[name] = self
        _library.define(name + schema)
        _library.impl(name, reference, "CompositeExplicitAutograd")
        torch.library.register_fake(f"idgan_fast::{name}", reference, lib=_library)

    def __call__(self, backend: str, *args: Any) -> Any:
        if backend == "reference":
            return self.reference(*args)
        namespace = torch.ops.idgan_fast if backend == "native" else torch.ops.idgan_fast_triton
        return getattr(namespace, self.name).default(*args)


@cache
def _triton_operators() -> frozenset[str]:
    """Registers the Triton kernels under the schemas and fake kernels of their twins; returns their names."""
    from idgan_fast.kernels.operators import OPERATORS  # imports triton

    for name, function in OPERATORS.items():
        low = custom_ops[name]
        _triton_library.define(name + low.schema)
        for key in ("CUDA", "CPU"):
            _triton_library.impl(name, function, key)
        torch.library.register_fake(f"idgan_fast_triton::{name}", low.reference, lib=_triton_library)
    return frozenset(OPERATORS)


def _interpreting() -> bool:
    """Whether Triton interprets its kernels, on the CPU: for tests, thousands of times slower."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache
def why_not(backend: str, names: tuple[str, ...], device: str) -> str | None:
    """Why a backend cannot run these low-level operators on a device type; None if it can."""
    if backend == "reference":
        return None
    if backend == "native":
        key = {"cpu": "CPU", "cuda": "CUDA"}.get(device)
        if key is None:
            return f"it has kernels for cpu and cuda, the tensor is on {device}"
        missing = [n for n in names if not torch._C._dispatch_has_kernel_for_dispatch_key(f"idgan_fast::{n}", key)]
        no_library = _no_cpu_library if device == "cpu" else _no_cuda_library
        if missing and no_library is not None:
            return no_library
        return f"no compiled {device} kernel of {', '.join(missing)} in this installation" if missing else None
    if device == "cpu" and not _interpreting():
        return "it has kernels for GPUs, the tensor is on cpu"
    if find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    missing = [name for name in names if name not in _triton_operators()]
    return f"no Triton kernel of {', '.join(missing)} in this installation" if missing else None


Verifier = Callable[[str, tuple[str, ...], str], str | None]
_verifier: Verifier | None = None


def verify_gpu_kernels_by(verifier: Verifier) -> None:
    """Sets what says why `auto` may not take a backend's kernels on a device type; None where it may."""
    global _verifier
    _verifier = verifier


def refused(backend: str, names: tuple[str, ...], device: str) -> str | None:
    """Why a backend that can run is not to be chosen: on a GPU its kernels must have agreed with the reference."""
    if device != "cuda" or backend == "reference" or _verifier is None:
        return None
    return _verifier(backend, names, device)


@cache
def _warn_of_plain_torch(function: str) -> None:
    warnings.warn(
        f"{function}: runs as plain torch, slowly, since no fast backend can run on this GPU; "
        "`idgan-fast doctor` says why, ops.backend('reference') asks for it without this warning",
        RuntimeWarning,
        stacklevel=2,
    )


@torch.compiler.assume_constant_result
def _choose(function: str, names: tuple[str, ...], device: str, impl: str, requested: str) -> str:
    wanted = IMPLS.get(impl)
    if wanted is None:
        raise ValueError(f"{function}: impl must be one of {', '.join(IMPLS)}, got {impl!r}")
    if wanted == "auto":
        wanted = requested
    if wanted == "auto":
        for backend in BACKENDS:
            if backend == "triton" and device == "cpu":
                continue  # interpreted: only where it is asked for by name
            reason = why_not(backend, names, device) or refused(backend, names, device)
            if reason is None:
                if backend == "reference" and device == "cuda":
                    _warn_of_plain_torch(function)
                return backend
            _log.debug("%s: not %s: %s", function, backend, reason)
    if wanted not in BACKENDS:
        raise ValueError(f"IDGAN_FAST_BACKEND: must be one of auto, {', '.join(BACKENDS)}, got {wanted!r}")
    reason = why_not(wanted, names, device)
    if reason is not None:
        raise BackendError(f"{function}: the {wanted} backend was asked for and cannot run: {reason}")
    return wanted


def choose(
    function: str, operators: tuple[CustomOp, ...], device: torch.device, impl: str, fusible: bool = False
) -> str:
    """The backend for one call: `impl` if it names one, else `backend(...)` or IDGAN_FAST_BACKEND, else the fastest.

    fusible: of operators that torch.compile makes as fast on a CPU as the kernels are (docs/performance.md), and
    fuses with what stands around them: within a compiled graph they run as plain torch there.
    """
    requested = _requested.get()
    if fusible and device.type == "cpu" and requested == "auto" and torch.compiler.is_compiling():
        requested = "reference"
    return _choose(function, tuple([op.name for op in operators]), device.type, impl, requested)


@torch.compiler.assume_constant_result
def _usable(backend: str, names: tuple[str, ...], device: str, by_name: bool) -> bool:
    return why_not(backend, names, device) is None and (by_name or refused(backend, names, device) is None)


def usable(backend: str, operators: tuple[CustomOp, ...], device: torch.device, impl: str) -> bool:
    """Whether a backend, chosen for a function, may also run these operators of its own.

    Where the backend was asked for by name it need not have agreed with the reference.
    """
    by_name = backend in (IMPLS.get(impl), _requested.get())
    return _usable(backend, tuple([op.name for op in operators]), device.type, by_name)


def automatic(impl: str) -> bool:
    """Whether a call names no backend, nor does what stands around it."""
    return IMPLS.get(impl) == "auto" == _requested.get()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Within the block, every operator whose `impl` is "auto" runs on this backend, or raises BackendError.

    name: native, triton, reference, or auto (the fastest that can run). Holds for the current thread or task.
    """
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"backend: name must be one of auto, {', '.join(BACKENDS)}, got {name!r}")
    token = _requested.set(name)
    try:
        yield
    finally:
        _requested.reset(token)


def function(cls: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`cls.apply` as one node for torch.compile, which then differentiates it with torch's own autograd.

    Without it dynamo rewrites the Function into a higher-order operator, and drops, without an error, the part of a
    second derivative that flows through the Function's output (torch 2.14; tests/ops/test_compile.py has the case).
    """
    apply = cls.apply

    def call(*args: Any) -> Any:
        return apply(*args)

    return torch.compiler.allow_in_graph(call)


def without_autocast(method: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a Function's forward or backward with autocast off: dtypes were settled before `apply`."""

    def call(*args: Any) -> Any:
        device = next(arg for arg in args if isinstance(arg, torch.Tensor)).device.type
        with no_autocast(device):
            return method(*args)

    call.__signature__ = inspect.signature(call)  # type: ignore[attr-defined]  # torch asks for it at every apply
    return call

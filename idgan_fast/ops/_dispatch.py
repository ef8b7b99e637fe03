"""Which backend runs an operator: chosen in Python, passed down as a string, never looked up again in a backward pass.

native     `torch.ops.idgan_fast.<name>`: compiled C++ or CUDA kernels under the schemas registered here
triton     `torch.ops.idgan_fast_triton.<name>`: Triton kernels under the same schemas
reference  plain torch, called directly, so that torch.compile sees through it
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any

import torch

from idgan_fast.ops._errors import ArgumentValueError, BackendError
from idgan_fast.ops._libraries import load_cpu, load_cuda
from idgan_fast.ops._registry import CUSTOM_OPS, OPERATORS, Operator
from idgan_fast.ops._transforms import transforming

BACKENDS = ("native", "triton", "reference")
# What other libraries call them: "cuda" is their fast path with its own fall-back, "ref" their plain one.
IMPLS = {"auto": "auto", "cuda": "auto", "ref": "reference", **{name: name for name in BACKENDS}}

_from_environment: str = os.environ.get("IDGAN_FAST_BACKEND", "auto")
_requested: ContextVar[str] = ContextVar("idgan_fast_backend", default=_from_environment)
_log = logging.getLogger("idgan_fast.ops")
_triton_library = torch.library.Library("idgan_fast_triton", "DEF")
_no_cpu_library = load_cpu()
_no_cuda_library = load_cuda()


@cache
def triton_kernels() -> dict[str, Callable[..., Any]]:
    """{custom op: its Triton kernel's launcher}: the functions in idgan_fast.kernels that bear a custom op's name.

    Registers them under the schemas and fake kernels of their references. Needs triton.
    """
    from idgan_fast import kernels

    launchers: dict[str, Callable[..., Any]] = {}
    for info in iter_modules(kernels.__path__):
        if not info.name.startswith("_"):
            module = import_module(f"{kernels.__name__}.{info.name}")
            launchers |= {name: value for name, value in vars(module).items() if name in CUSTOM_OPS and callable(value)}
    for name, function in launchers.items():
        op = CUSTOM_OPS[name]
        _triton_library.define(name + op.schema)
        for key in ("CUDA", "CPU"):
            _triton_library.impl(name, function, key)
        torch.library.register_fake(f"idgan_fast_triton::{name}", op.reference, lib=_triton_library)
    return launchers


def _interpreting() -> bool:
    """Whether Triton interprets its kernels, on the CPU: for tests, thousands of times slower."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache
def why_not(backend: str, names: tuple[str, ...], device: str) -> str | None:
    """Why a backend cannot run these custom ops on a device type; None if it can."""
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
    missing = [name for name in names if name not in triton_kernels()]
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
def _warn_of_plain_torch(operator: str) -> None:
    warnings.warn(
        f"{operator}: runs as plain torch, slowly, since no fast backend can run on this GPU; "
        "`idgan-fast doctor` says why, ops.backend('reference') asks for it without this warning",
        RuntimeWarning,
        stacklevel=2,
    )


@torch.compiler.assume_constant_result
def _choose(operator: str, names: tuple[str, ...], device: str, impl: str, requested: str) -> str:
    wanted = IMPLS.get(impl)
    if wanted is None:
        raise ArgumentValueError(f"impl must be one of {', '.join(IMPLS)}, got {impl!r}")
    if wanted == "auto":
        wanted = requested
    if wanted == "auto":
        for backend in BACKENDS:
            if backend == "triton" and device == "cpu":
                continue  # interpreted: only where it is asked for by name
            reason = why_not(backend, names, device) or refused(backend, names, device)
            if reason is None:
                if backend == "reference" and device == "cuda":
                    _warn_of_plain_torch(operator)
                return backend
            _log.debug("%s: not %s: %s", operator, backend, reason)
    if wanted not in BACKENDS:
        raise ValueError(f"IDGAN_FAST_BACKEND: must be one of auto, {', '.join(BACKENDS)}, got {wanted!r}")
    reason = why_not(wanted, names, device)
    if reason is not None:
        raise BackendError(f"the {wanted} backend was asked for and cannot run: {reason}")
    return wanted


def choose(operator: Operator, device: torch.device, impl: str, *, fusible: bool = False) -> str:
    """The backend for one call: `impl` if it names one, else `backend(...)` or IDGAN_FAST_BACKEND, else the fastest.

    fusible: of operators that torch.compile makes as fast on a CPU as the kernels are (docs/performance.md), and
    fuses with what stands around them: within a compiled graph they run as plain torch there.
    Under vmap and in forward mode it is the reference whatever was asked for, since no kernel has rules for these.
    """
    requested = _requested.get()
    if fusible and device.type == "cpu" and requested == "auto" and torch.compiler.is_compiling():
        requested = "reference"
    chosen = _choose(operator.name, operator.names, device.type, impl, requested)
    return "reference" if transforming() else chosen


def requested() -> str:
    """What `backend(...)` or IDGAN_FAST_BACKEND asks for."""
    return _requested.get()


def chosen(operator: Operator, device: str, impl: str, requested: str) -> str:
    """`choose`, in eager mode and without transforms, for a caller that knows what is requested."""
    return _choose(operator.name, operator.names, device, impl, requested)


def check_impl(impl: str) -> None:
    """Refuses an unknown `impl` where no backend has to be chosen."""
    _choose("", (), "cpu", impl, "reference")


@torch.compiler.assume_constant_result
def _usable(backend: str, names: tuple[str, ...], device: str, by_name: bool) -> bool:
    return why_not(backend, names, device) is None and (by_name or refused(backend, names, device) is None)


def usable(backend: str, operator: Operator, device: torch.device, impl: str) -> bool:
    """Whether a backend, chosen for one operator, may also run this one.

    Where the backend was asked for by name it need not have agreed with the reference.
    """
    by_name = backend in (IMPLS.get(impl), _requested.get())
    return _usable(backend, operator.names, device.type, by_name)


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


def available(device: str = "cpu") -> dict[str, dict[str, str | None]]:
    """{operator: {backend: None if it can run on the device type, else the reason}}, fastest backend first.

    Operators with kernels of their own; the others are made of these and of torch's convolutions. On a GPU a backend
    whose kernels disagree with the reference there counts as one that cannot run.
    """
    return {
        operator.name: {
            backend: why_not(backend, operator.names, device) or refused(backend, operator.names, device)
            for backend in BACKENDS
        }
        for operator in OPERATORS.values()
        if operator.custom_ops
    }


def libraries() -> dict[str, str | None]:
    """{device type: None if the compiled kernels for it are loaded, else the reason}."""
    return {"cpu": _no_cpu_library, "cuda": _no_cuda_library}

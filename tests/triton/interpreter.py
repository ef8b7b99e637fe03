"""Triton's interpreter with right bfloat16, fused multiply-adds that round once, checked addresses, and faster.

It holds bfloat16 as 16-bit integers, multiplies them as integers in a matrix product, and rounds to them towards zero.
Half of its time goes into patching the language anew at every call of a function within a kernel. An access that no
mask hides must lie within one of the tensors that the kernel was launched with.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

NUMPY = {tl.float16: np.float16, tl.float32: np.float32, tl.float64: np.float64}


def widened(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(values: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16, ties to even."""
    numbers = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    return numbers.bfloat16().view(torch.int16).numpy().view(np.uint16)


class Bounds:
    """The memory of the tensors of the present launch: first bytes, and the first byte behind each."""

    def __init__(self) -> None:
        self.starts, self.ends = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def launched_with(self, arguments: Iterable[Any]) -> None:
        tensors = [t for t in arguments if isinstance(t, torch.Tensor) and t.numel()]
        spans = sorted((t.data_ptr(), t.data_ptr() + _span(t)) for t in tensors)
        self.starts = np.array([start for start, _ in spans], np.int64)
        self.ends = np.maximum.accumulate(np.array([end for _, end in spans], np.int64)) if spans else self.starts

    def check(self, pointers: Any, mask: Any, what: str) -> None:
        addresses = np.broadcast_to(pointers.data, mask.data.shape)[mask.data.astype(bool)].astype(np.int64)
        if not addresses.size:
            return
        at = np.searchsorted(self.starts, addresses, "right") - 1
        size = pointers.get_element_ty().primitive_bitwidth // 8
        if (at < 0).any() or (addresses + size > self.ends[at]).any():
            raise IndexError(f"{what} outside of every tensor of the launch")


def _span(t: torch.Tensor) -> int:
    return t.element_size() * (1 + sum(step * (size - 1) for step, size in zip(t.stride(), t.shape, strict=True)))


@contextmanager
def repaired(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    whole: Any = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    scope = interpreter._patch_lang(whole)
    monkeypatch.setattr(interpreter, "_patch_lang", lambda _: interpreter._LangPatchScope())
    builder: Any = InterpreterBuilder
    bounds, executor = Bounds(), interpreter.GridExecutor
    arguments, load, store = executor._init_args_hst, builder.create_masked_load, builder.create_masked_store
    cast, convert, dot = builder.cast_impl, builder.create_fp_to_fp, builder.create_dot

    def of_bfloat16(src: Any, target: Any) -> Any:
        """The conversion from or to bfloat16; None if it is another one."""
        source, target = src.dtype.scalar, target.scalar
        if source == target or tl.bfloat16 not in (source, target):
            return None
        values = widened(src.data) if source == tl.bfloat16 else src.data
        data = rounded(values) if target == tl.bfloat16 else values.astype(NUMPY[target])
        return TensorHandle(data, target)

    def cast_impl(self: Any, src: Any, target: Any) -> Any:
        got = of_bfloat16(src, target)
        return cast(self, src, target) if got is None else got

    def create_fp_to_fp(self: Any, src: Any, target: Any, rounding_mode: Any) -> Any:
        got = of_bfloat16(src, target)
        return convert(self, src, target, rounding_mode) if got is None else got

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (TensorHandle(widened(t.data), tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b))
        return dot(self, a, b, *rest)

    def create_fma(self: Any, a: Any, b: Any, c: Any) -> Any:
        exact = a.data.astype(np.float64) * b.data.astype(np.float64) + c.data
        return TensorHandle(exact.astype(a.data.dtype), a.dtype.scalar)

    def init_args(self: Any, args: Any, kwargs: Any) -> Any:
        found = arguments(self, args, kwargs)
        bounds.launched_with([*found[0], *found[1].values()])
        return found

    def create_masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        bounds.check(pointers, mask, "a load")
        return load(self, pointers, mask, *rest)

    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        bounds.check(pointers, mask, "a store")
        return store(self, pointers, value, mask, *rest)

    monkeypatch.setattr(executor, "_init_args_hst", init_args)
    monkeypatch.setattr(builder, "create_masked_load", create_masked_load)
    monkeypatch.setattr(builder, "create_masked_store", create_masked_store)
    monkeypatch.setattr(builder, "create_fma", create_fma)
    monkeypatch.setattr(builder, "cast_impl", cast_impl)
    monkeypatch.setattr(builder, "create_fp_to_fp", create_fp_to_fp)
    monkeypatch.setattr(builder, "create_dot", create_dot)
    yield
    scope.restore()

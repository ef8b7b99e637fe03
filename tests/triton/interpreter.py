"""Triton's interpreter with right bfloat16, fused multiply-adds that round once, and faster.

It holds these numbers as 16-bit integers, multiplies them as integers in a matrix product, and rounds to them towards
zero. Half of its time goes into patching the language anew at every call of a function within a kernel.
"""

from collections.abc import Iterator
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


@contextmanager
def repaired(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    whole: Any = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    scope = interpreter._patch_lang(whole)
    monkeypatch.setattr(interpreter, "_patch_lang", lambda _: interpreter._LangPatchScope())
    builder: Any = InterpreterBuilder
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

    monkeypatch.setattr(builder, "create_fma", create_fma)
    monkeypatch.setattr(builder, "cast_impl", cast_impl)
    monkeypatch.setattr(builder, "create_fp_to_fp", create_fp_to_fp)
    monkeypatch.setattr(builder, "create_dot", create_dot)
    yield
    scope.restore()

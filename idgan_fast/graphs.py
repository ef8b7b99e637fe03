"""A step as one graph: torch.compile without breaks, and on a GPU a CUDA graph around what it compiled.

A step is a function of tensors of fixed shapes that draws no random numbers and reads no number that changes from one
iteration to the next but through a tensor. So one graph serves a whole run.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._inductor.runtime.cache_dir_utils import cache_dir
from torch.utils import _pytree as pytree

EAGER_CALLS = 2  # before a CUDA graph is recorded: allocations and libraries settle
LONG = 20_000  # iterations on a CPU that pay for compiling

Step = Callable[..., Any]


def whether_to_compile(wanted: str, device: torch.device, iters: int, steps: str) -> tuple[bool, str]:
    """--compile auto, on or off -> whether, and why. iters: of the longer stage. steps: see `mark_warm`."""
    if wanted != "auto":
        return wanted == "on", "as asked"
    if device.type == "cuda":
        return True, "on a GPU it pays"
    if device.type != "cpu" or shutil.which(os.environ.get("CXX", "c++")) is None:
        return False, "no compiler for this device"
    if _marker(steps).exists():
        return True, "these steps were compiled here before"
    if iters >= LONG:
        return True, f"a run of {LONG} iterations or more pays for it"
    return False, "the run is short"


def mark_warm(steps: str) -> None:
    """Note beside the compiler's cache that it holds a run's steps. steps: all that decides what they are."""
    marker = _marker(steps)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _marker(steps: str) -> Path:
    key = hashlib.sha256(f"{torch.__version__} {steps}".encode()).hexdigest()[:16]
    return Path(cache_dir()) / f"idgan-fast-{key}"


class Graphs:
    """Makes steps; `on` says whether they are compiled. `seconds`: how long each one's first call took, by name."""

    def __init__(self, on: bool, device: torch.device, backend: str | Callable = "inductor") -> None:
        self.on, self.device, self.backend = on, device, backend
        self.seconds: dict[str, float] = {}
        self._told: set[str] = set()

    def compiled(self) -> list[tuple[str, float]]:
        """Steps that were compiled since the last call of this, and their seconds."""
        new = [(name, seconds) for name, seconds in self.seconds.items() if name not in self._told]
        self._told.update(name for name, _ in new)
        return new

    def step(self, name: str, function: Step) -> Step:
        """The function itself, or its compiled form. Every argument is a tensor, or a list or dictionary of tensors."""
        if not self.on:
            return function
        compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=self.backend)

        def call(*args: Any) -> Any:
            began = time.perf_counter()
            # so that torch.autograd.grad is part of the graph, the second derivative of R1 included
            with torch._dynamo.config.patch(trace_autograd_ops=True):
                out = compiled(*args)
            self.seconds.setdefault(name, time.perf_counter() - began)
            return out

        return CUDAGraph(call) if self.device.type == "cuda" else call


class CUDAGraph:
    """Records a function of tensors on its third call and replays it from then on; not yet run on a GPU.

    What the function changes in place (weights, optimiser state, averages) must keep its storage. Inputs are copied
    into tensors of the graph's own, results out of them, so that neither is overwritten by the next call.
    """

    def __init__(self, function: Step) -> None:
        self.function, self.calls = function, 0
        self.stream = torch.cuda.Stream()
        self.graph = torch.cuda.CUDAGraph()
        self.inputs: list[Any] = []
        self.outputs: Any = None

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls <= EAGER_CALLS:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                out = self.function(*args)
            torch.cuda.current_stream().wait_stream(self.stream)
            return out
        if self.outputs is None:
            self.inputs = pytree.tree_map_only(Tensor, torch.clone, list(args))
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.outputs = self.function(*self.inputs)
        else:
            for mine, given in zip(pytree.tree_leaves(self.inputs), pytree.tree_leaves(list(args)), strict=True):
                mine.copy_(given, non_blocking=True)
        self.graph.replay()
        return pytree.tree_map_only(Tensor, torch.clone, self.outputs)

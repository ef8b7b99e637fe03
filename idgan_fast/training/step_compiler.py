"""A step as one graph: torch.compile without breaks, and on a GPU a CUDA graph around what it compiled.

A step is a function of tensors of fixed shapes. It makes no random numbers, and every number that changes from one
iteration to the next reaches it in a tensor. So one graph serves a whole run.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from idgan_fast import __version__

EAGER_CALLS = 2  # before a CUDA graph is recorded: allocations and libraries settle
LONG = 20_000  # iterations on a CPU that pay for compiling

Step = Callable[..., Any]


def cannot_compile(device: torch.device) -> str | None:
    """Why torch.compile cannot work for a device here, in a few words; None if it can."""
    if device.type not in ("cpu", "cuda"):
        return f"it serves CPUs and CUDA GPUs, this is {device.type}"
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        return f"it needs a C++ compiler, and there is no {compiler}"
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "it needs triton: pip install triton"
        if torch.cuda.get_device_capability(device) < (7, 0):
            return "Triton needs a GPU from Volta on"
    return None


def whether_to_compile(device: torch.device, iters: int, steps: str) -> tuple[bool, str]:
    """What --compile auto comes to, and why. iters: of the longer stage. steps: see `mark_warm`."""
    reason = cannot_compile(device)
    if reason is not None:
        return False, reason
    if device.type == "cuda":
        return True, "on a GPU it pays"
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
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # takes a second and a half to import

    key = hashlib.sha256(f"{__version__} {torch.__version__} {steps}".encode()).hexdigest()[:16]
    return Path(cache_dir()) / f"idgan-fast-{key}"


class StepCompiler:
    """Makes steps; `on` says whether they are compiled. `say` gets a line on what is compiled and how long it took.

    `seconds`: how long each step's first call took, by name.
    """

    def __init__(
        self,
        on: bool,
        device: torch.device,
        say: Callable[[str], None] = lambda line: None,
        backend: str | Callable = "inductor",
    ) -> None:
        self.on, self.device, self.say, self.backend = on, device, say, backend
        self.seconds: dict[str, float] = {}
        self.names: list[str] = []
        self._shared: tuple[Any, Any] | None = None  # stream and memory pool of the CUDA graphs

    def complete(self) -> bool:
        """Whether every step that was made has been compiled."""
        return self.on and set(self.names) == set(self.seconds)

    def step(self, name: str, function: Step) -> Step:
        """The function itself, or its compiled form. Every argument is a tensor or a tree of tensors."""
        if not self.on:
            return function
        self.names.append(name)
        compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=self.backend)

        def call(*args: Any) -> Any:
            first = name not in self.seconds
            if first:
                self.say(f"compiling the step {name}, which can take minutes")
            began = time.perf_counter()
            # so that torch.autograd.grad is part of the graph, the second derivative of R1 included
            with torch._dynamo.config.patch(trace_autograd_ops=True):
                out = compiled(*args)
            if first:
                self.seconds[name] = time.perf_counter() - began
                self.say(f"compiled the step {name} in {self.seconds[name]:.0f} s")
            return out

        if self.device.type != "cuda":
            return call
        if self._shared is None:
            self._shared = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        return CUDAGraph(call, *self._shared)


class CUDAGraph:
    """Records a function of tensors on its third call and replays it from then on; not yet run on a GPU.

    What the function changes in place (weights, optimizer state, averages) must keep its storage. Inputs are copied
    into tensors of the graph's own, results out of them right after the replay: so graphs of one stream may share a
    memory pool, and take as much as the largest of them. Raises ValueError for a call of other shapes or dtypes.
    """

    def __init__(self, function: Step, stream: Any, pool: Any) -> None:
        self.function, self.stream, self.pool, self.calls = function, stream, pool, 0
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
            # thread_local: a loader's thread may pin memory meanwhile
            with torch.cuda.graph(self.graph, self.pool, self.stream, capture_error_mode="thread_local"):
                self.outputs = self.function(*self.inputs)
        else:
            self._copy_inputs(list(args))
        self.graph.replay()
        return pytree.tree_map_only(Tensor, torch.clone, self.outputs)

    def _copy_inputs(self, args: list[Any]) -> None:
        for own, new in zip(pytree.tree_leaves(self.inputs), pytree.tree_leaves(args), strict=True):
            if not isinstance(own, Tensor):
                continue
            if (own.shape, own.dtype) != (new.shape, new.dtype):
                raise ValueError(
                    f"CUDAGraph: wanted {own.dtype} {list(own.shape)}, as in the call that was recorded, got "
                    f"{new.dtype} {list(new.shape)}"
                )
            own.copy_(new, non_blocking=True)

"""`idgan-fast memory`: predict the peak memory of a training run without holding it.

The stages of `idgan-fast train` are built of torch's fake tensors, which have shapes and strides and no numbers, and
run their own steps. A mode adds up the storages that are alive, and what the CPU's kernels hold while they run by the
rules of `scratch`. What is counted is tensors: not Python, not torch's libraries, not the images in the cache.

    persisting   what stays between the steps: weights, optimizer state, average of G, teacher, in stage 2 also all
                 of stage 1, which the checkpoints need
    step         the most that is alive during an update besides, its batch and its inputs included
    peak         the most that is alive at once

The steps are those without compilation, whose graphs plan their memory in their own way. With a GPU the tensors on it
are counted, without what its libraries hold for themselves; not yet run on a GPU.

usage: idgan-fast memory --preset NAME [--json] [any option of idgan-fast train; --data is not needed]
"""

import json
import sys
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from idgan_fast.config import arguments
from idgan_fast.config.settings import Config
from idgan_fast.errors import UserError, out_of_memory, print_error
from idgan_fast.models.vae import IMAGE_SIZE
from idgan_fast.training.gan import GANStage
from idgan_fast.training.precision import Precision, choose, pick_device
from idgan_fast.training.step_compiler import StepCompiler
from idgan_fast.training.vae import VAEStage

TOTAL = "all that persists"
aten = torch.ops.aten
_CASTING = (aten.sum, aten.mean, aten.linalg_vector_norm)


def scratch(func: Any, args: Sequence[Any], out: Any) -> int:
    """Bytes that an operator's CPU kernel holds for a while beside its inputs and outputs, where we know them.

    Convolution   torch copies images and weights that are not in the one format it chose; oneDNN holds the weight in
                  its own layout, for the weight's gradient that gradient in two layouts, and in the half types one
                  sample's x and dy for each thread, in pairs of pixels, channels filled up to 16
    pointwise     inputs of another floating dtype are cast as a whole, and so are those of a sum in a wider type
    mse_loss      the square of each number, twice
    ours          an image that is dense neither in channels_last nor without it is copied; Winograd's convolution holds
                  the weight at 16 points, channels out filled up to 32
    """
    packet = func.overloadpacket
    if packet is aten.convolution:
        return args[1].nbytes + _copies(args[:2], args[:2])
    if packet is aten.convolution_backward:
        dy, x, weight = args[:3]
        copies = _copies(args[:3], (x, weight))
        if not args[-1][1]:
            return copies + weight.nbytes
        numbers = sum(-(-t.shape[1] // 16) * 16 * t.shape[2:].numel() for t in (x, dy))
        paired = torch.get_num_threads() * numbers * 2 if weight.itemsize == 2 else 0
        return copies + 2 * weight.nbytes + paired
    if packet is aten.mse_loss:
        return 2 * args[0].nbytes
    if packet in _CASTING:
        return args[0].numel() * out.itemsize if args[0].itemsize < out.itemsize else 0
    tensors = [t for t in args if torch.is_tensor(t) and t.ndim > 0 and t.is_floating_point()]
    if packet is torch.ops.idgan_fast.winograd_conv2d:
        x, weight = args
        points = 16 * weight.shape[1] * -(-weight.shape[0] // 32) * 32 * weight.itemsize
        return points + (0 if x.is_contiguous(memory_format=torch.channels_last) else x.nbytes)
    if func.namespace == "idgan_fast":
        return sum(_copies([t], [t]) for t in tensors if t.ndim == 4)
    if tensors and torch.Tag.pointwise in func.tags:
        wide = max(t.itemsize for t in tensors)
        return sum(t.numel() * wide for t in tensors if t.itemsize < wide)
    return 0


def _copies(tensors: Sequence[Tensor], deciding: Sequence[Tensor]) -> int:
    """Bytes of the tensors that are not dense in the format which the deciding ones have."""
    last = any(t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous() for t in deciding)
    chosen = torch.channels_last if last else torch.contiguous_format
    return sum(t.nbytes for t in tensors if not t.is_contiguous(memory_format=chosen))


class Fake(FakeTensorMode):
    """torch's, with which modules can be moved (no weak reference to a new tensor) and copied (it stays one mode)."""

    def __init__(self) -> None:
        super().__init__()
        self.fake_tensor_converter.set_tensor_memo = lambda *_: None  # type: ignore[method-assign]

    def __deepcopy__(self, memo: Any) -> "Fake":
        return self


class Alive(TorchDispatchMode):
    """Adds up the storages on a kind of device that operators made in its block: `now` and `peak` in bytes."""

    def __init__(self, device_type: str = "cpu") -> None:
        super().__init__()
        self.device_type, self.now, self.peak = device_type, 0, 0
        self._sizes: dict[int, int] = {}  # by the address of the storage

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.prim.device.default and hasattr(args[0], "fake_device"):
            return args[0].fake_device  # three calls in four
        out = func(*args, **(kwargs or {}))
        for tensor in filter(torch.is_tensor, pytree.tree_leaves(out)):
            self._see(tensor)
        if self.device_type == "cpu":
            self.peak = max(self.peak, self.now + scratch(func, args, out))
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes and tensor.device.type == self.device_type:
            self._sizes[key] = storage.nbytes()
            weakref.finalize(storage, self._died, key).atexit = False
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)

    def _died(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class Steps(StepCompiler):
    """Steps as they are, each with its own peak in bytes: `peaks`, by name."""

    def __init__(self, alive: Alive, device: torch.device) -> None:
        super().__init__(False, device)
        self.alive, self.peaks = alive, dict[str, int]()

    def step(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            alive, before = self.alive, self.alive.peak
            alive.peak = alive.now
            out = function(*args)
            self.peaks[name] = max(self.peaks.get(name, 0), alive.peak)
            alive.peak = max(alive.peak, before)
            return out

        return call


def bytes_of(*owners: Any) -> int:
    """Bytes of the storages of modules, or of tensors in lists and dictionaries, each counted once."""
    modules = [(*m.parameters(), *m.buffers()) for m in owners if isinstance(m, nn.Module)]
    storages = [t.untyped_storage() for t in filter(torch.is_tensor, pytree.tree_leaves([modules, owners]))]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def persisting(vae: VAEStage, gan: GANStage | None = None) -> dict[str, int]:
    """Bytes that stay between the steps of stage 1, or of stage 2, by what they are."""
    if gan is None:
        return {"weights": bytes_of(vae.vae), "optimizer state": bytes_of(vae.optimizer.state)}
    return {
        "stage 1": sum(persisting(vae).values()),
        "weights": bytes_of(gan.generator, gan.discriminator),
        "optimizer state": bytes_of(gan.optimizer_g.state, gan.optimizer_d.state),
        "average of G": bytes_of(gan.average),
        "teacher": bytes_of(gan.teacher),
    }


def predict(config: Config, device: torch.device, precision: Precision) -> dict[str, dict[str, Any]]:
    """For each stage its batch size and, in bytes, what persists, the peak of each step on top of it, and the peak."""
    alive = Alive(device.type)
    steps, channels = Steps(alive, device), config.images.channels
    stages: dict[str, dict[str, Any]] = {}

    def run(stage: VAEStage | GANStage, size: int, at: Sequence[int], kept: dict[str, int]) -> None:
        alive.peak = before = alive.now
        kept["other"] = before - sum(kept.values())
        steps.peaks = {}
        batch = torch.zeros(stage.batch_size, channels, size, size, dtype=torch.uint8)
        for iteration in at:
            stage.step(batch, iteration)
        peaks = {name: peak - before for name, peak in steps.peaks.items()}
        stages[stage.name] = {"batch_size": stage.batch_size, "persisting": kept, "steps": peaks, "peak": alive.peak}

    with warnings.catch_warnings(), Fake(), alive:
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")  # by copy.deepcopy
        vae = VAEStage(config, channels, device, precision, steps)
        run(vae, IMAGE_SIZE, [0], persisting(vae))
        gan = GANStage(config, channels, device, precision, vae.vae, steps)
        both = config.gan.r1_weight > 0 and config.gan.r1_every > 1  # D's update with R1 and that without it
        run(gan, config.images.size, [0, 1] if both else [0], persisting(vae, gan))
    return stages


def format_bytes(size: int) -> str:
    """Bytes in MiB, from 1 GiB on in GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def show(stages: dict[str, dict[str, Any]], title: str) -> None:
    """Print a table with a column for each stage."""
    table = Table("", box=None, title=title, title_justify="left")
    for number, stage in enumerate(stages.values(), 1):
        table.add_column(f"stage {number}, batch {stage['batch_size']}", justify="right")
    columns = []
    for stage in stages.values():
        kept, peaks = stage["persisting"], {f"step {name}": size for name, size in stage["steps"].items()}
        columns.append({**kept, TOTAL: sum(kept.values()), **peaks, "peak": stage["peak"]})
    steps = [name for column in columns for name in column if name.startswith("step ")]
    for name in (*stages["gan"]["persisting"], TOTAL, *steps, "peak"):
        cells = [format_bytes(column[name]) if name in column else "" for column in columns]
        table.add_row(name, *cells, style="bold" if name in (TOTAL, "peak") else None)
    Console(highlight=False).print(table, "Predicted: steps on top of what persists, not compiled.", sep="\n")


def main(argv: Sequence[str] | None = None, prog: str = "idgan-fast memory") -> int:
    """Run the command; the exit status. What the user can mend is one line on standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or "-h" in words or "--help" in words:
        print(__doc__)
        return 0
    try:
        options = [argument for argument in words if argument != "--json"]
        config = arguments.parse(options, prog, needs_data=False)
        no_gpu = config.device.startswith("cuda") and not torch.cuda.is_available()
        device = torch.device("cpu") if no_gpu else pick_device(config.device)
        precision = choose(config.amp, device)
        stages = predict(config, device, precision)
    except UserError as error:
        print_error(str(error))
        return 2
    except (RuntimeError, MemoryError) as error:
        memory = out_of_memory(error)
        if memory is None:
            raise
        print_error(f"out of memory: {memory}, for weights alone; the run needs more")
        return 2
    if no_gpu:
        print("no CUDA device here: the prediction is for the CPU's steps", file=sys.stderr)
    peak = max(stage["peak"] for stage in stages.values())
    if "--json" in words:
        run = {"preset": config.preset, "device": str(device), "amp": precision.name}
        print(json.dumps({**run, "stages": stages, "peak": peak}, indent=2))
    else:
        show(stages, f"{config.preset}, {device}, amp {precision.name}: {format_bytes(peak)}")
    return 0

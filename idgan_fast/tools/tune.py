"""`idgan-fast tune`: measures tiles and forms of a preset's modulated layers on this GPU, and keeps the fastest.

For every shape the tile of each kernel is improved step by step, one of its numbers at a time, from the one in the
table; a tile that does not compile, or gives another result, is passed over. Then the layer's forms are measured,
forward and backward, with torch's convolution among them. Later runs of the same batch size find what was kept, by GPU,
Triton and the kernels' text, and measure nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from idgan_fast import ops
from idgan_fast.config.settings import MOST_IMAGES
from idgan_fast.errors import UserError, print_error
from idgan_fast.files import read_json, write_json
from idgan_fast.ops.layer.conv_plan import COMPOSITE, SAME, TORCH, TRANSPOSED, layer_key
from idgan_fast.ops.layer.epilogue import Epilogue
from idgan_fast.ops.layer.styled_layer import OPERATOR
from idgan_fast.tools.costs.layer import Layer
from idgan_fast.tools.options import Parser, whole_number
from idgan_fast.tools.roofline import layers_of, parse

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32}
# Numbers of a tile that are varied one at a time, each with its neighbors: powers of two within these bounds.
DOUBLED = {"BLOCK_M": (16, 256), "BLOCK_O": (16, 256), "BLOCK_N": (16, 256), "BLOCK_K": (16, 128), "num_warps": (2, 16)}
COUNTED = {"num_stages": (1, 5)}
SAME_RESULT = 2e-2  # of the largest value: the order of the sums differs, and with it the last digits of a half type

CROWDED = 128  # numbers of the result in a thread's registers; more spill, and take long to compile

Tile = dict[str, Any]
Clock = Callable[[Callable[[], Any]], float]


class Job(NamedTuple):
    """A kernel on the operands of a layer. shape: of idgan_fast.kernels.styled_layer_tiles."""

    shape: Any
    call: Callable[[], Tensor]


def on_gpu(call: Callable[[], Any]) -> float:
    """Seconds, the median of many runs with the cache cleared."""
    from triton.testing import do_bench

    return do_bench(call, warmup=5, rep=40, return_mode="median") / 1e3


def neighbors(tile: Tile) -> Iterator[Tile]:
    for name, (least, most) in DOUBLED.items():
        if name in tile:
            yield from ({**tile, name: v} for v in (tile[name] // 2, tile[name] * 2) if least <= v <= most)
    for name, (least, most) in COUNTED.items():
        yield from ({**tile, name: v} for v in (tile[name] - 1, tile[name] + 1) if least <= v <= most)


def numbers_per_thread(tile: Tile) -> float:
    """How many numbers of the result a thread holds in registers."""
    return tile["BLOCK_M"] * tile.get("BLOCK_O", tile.get("BLOCK_N")) * tile.get("PHASES", 1) / (32 * tile["num_warps"])


def improve(job: Job, device: torch.device, seconds: Clock) -> tuple[Tile, float, float]:
    """The fastest tile found, its time, and that of the table's tile. Leaves it in force for this process."""
    from idgan_fast.kernels.styled_layer_measurements import measurements
    from idgan_fast.kernels.styled_layer_tiles import default_tile

    tiles, key = measurements(device), job.shape.key
    best = tiles[key] = default_tile(job.shape, device)
    wanted = job.call()
    least = before = seconds(job.call)
    tried, improving = [best], True
    while improving:
        improving = False
        for tile in neighbors(best):
            if tile in tried or numbers_per_thread(tile) > CROWDED:
                continue
            tried.append(tile)
            tiles[key] = tile
            taken = _measured(job, wanted, seconds)
            if taken is not None and taken < 0.98 * least:
                best, least, improving = tile, taken, True
                break
    tiles[key] = best
    return best, least, before


def _measured(job: Job, wanted: Tensor, seconds: Clock) -> float | None:
    """Seconds of a kernel with the tile in force; None where it does not compile or run, or gives another result."""
    try:
        got = job.call()
        difference = (got.float() - wanted.float()).abs().max()
        if not difference <= SAME_RESULT * wanted.float().abs().max():
            return None
        return seconds(job.call)
    except Exception:  # whatever the compiler or the driver raises for a tile that does not fit
        return None


class Operands(NamedTuple):
    """The operands of `ops.styled_conv2d`, and what its kernels take besides."""

    x: Tensor
    weight: Tensor
    styles: Tensor
    noise: Tensor
    bias: Tensor
    f: Tensor
    up: int


def operands(layer: Layer, dtype: torch.dtype, device: torch.device) -> Operands:
    rng = torch.Generator(device).manual_seed(0)
    up, k = layer.size_out // layer.size_in, 1 if layer.kind == "to-RGB" else 3

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, device=device)

    x = normal(layer.n, layer.c_in, layer.size_in, layer.size_in).to(dtype, memory_format=torch.channels_last)
    weight = normal(layer.c_out, layer.c_in, k, k) / (k * k * layer.c_in) ** 0.5
    weight = weight.to(dtype, memory_format=torch.channels_last)  # as layers hand it on
    noise = normal(layer.n, 1, layer.size_out, layer.size_out)
    f = ops.setup_filter((1, 3, 3, 1), device)
    return Operands(x, weight, normal(layer.n, layer.c_in), noise, normal(layer.c_out), f, up)


def jobs_of(tensors: Operands) -> list[Job]:
    """The kernels of a layer in all of its forms."""
    from idgan_fast.kernels import styled_layer_conv, styled_layer_weight_grad
    from idgan_fast.kernels.styled_layer import composite_weight

    x, weight, styles, noise, bias, f, up = tensors
    scale = styles.new_ones(x.shape[0], weight.shape[0])
    whole = Epilogue(scale=scale, noise=noise, b=bias, slope=0.2, gain=1.4)
    jobs = []
    for form in (SAME,) if up == 1 else (COMPOSITE, TRANSPOSED):
        form_weight, epilogue = weight, whole
        if form == COMPOSITE:
            form_weight = composite_weight(weight, f, padding=(1, 1, 1, 1), fir_gain=4.0)
        elif form == TRANSPOSED:
            epilogue = Epilogue()

        def forward(w: Tensor = form_weight, e: Epilogue = epilogue, form: str = form) -> Tensor:
            return styled_layer_conv.conv_forward(x, w, styles, e, form=form)[0]

        jobs.append(Job(styled_layer_conv.forward_shape(x, form_weight, form=form, styled=True), forward))
    form, k = SAME if up == 1 else TRANSPOSED, weight.shape[2]
    size = [s if up == 1 else 2 * s + 1 for s in x.shape[2:]]
    dy = torch.randn(x.shape[0], weight.shape[0], *size, device=x.device)
    dy = dy.to(x.dtype, memory_format=torch.channels_last)

    def input_grad() -> Tensor:
        return styled_layer_conv.conv_input_grad(dy, weight, styles, x, form=form, want_styles=True)[0]

    jobs.append(Job(styled_layer_conv.input_grad_shape(dy, x, form=form, k=k), input_grad))
    if x.dtype != torch.float32:  # which is torch's
        shape = styled_layer_weight_grad.weight_grad_shape(dy, x, k=k, form=form)
        jobs.append(Job(shape, lambda: styled_layer_weight_grad.conv_weight_grad(dy, x, styles, k=k, form=form)))
    return jobs


def fastest_form(tensors: Operands, seconds: Clock) -> dict[str, float]:
    """{form: seconds of the layer forward and backward}; leaves the fastest in force for this process."""
    from idgan_fast.kernels.styled_layer_measurements import measurements

    forms = measurements(tensors.x.device)
    x, weight, styles, noise, bias, f, up = tensors
    c_in, height, width = x.shape[1:]
    key = layer_key(c_in, weight.shape[0], height, width, weight.shape[2], up, x.dtype)
    x, weight, styles, bias = leaves = [t.detach().requires_grad_() for t in (x, weight, styles, bias)]
    strength = torch.tensor(0.5, device=x.device)

    def step() -> None:
        options: Any = {"up": up, "resample_filter": f, "clamp": 256.0, "impl": "triton"}
        y = ops.styled_conv2d(x, weight, styles, noise, strength, bias, **options)
        torch.autograd.grad(y, leaves, torch.ones_like(y))

    times = {}
    for form in (TORCH, SAME) if up == 1 else (TORCH, COMPOSITE, TRANSPOSED):
        forms[key] = form
        times[form] = seconds(step)
    forms[key] = min(times, key=lambda form: times[form])
    return times


def tune(layers: Sequence[Layer], dtype: torch.dtype, device: torch.device, seconds: Clock, console: Console) -> None:
    """Measures every shape once, and keeps the results after each layer. Raises OSError where they cannot be kept."""
    from idgan_fast.kernels.styled_layer_measurements import identity, measurements, tiles_file

    done: set[str] = set()
    for number, layer in enumerate(layers, 1):
        tensors = operands(layer, dtype, device)
        console.print(
            f"[{number}/{len(layers)}] {layer.name}: {layer.n} x {layer.c_in} -> {layer.c_out}, "
            f"{layer.size_in} -> {layer.size_out}",
            highlight=False,
        )
        for job in jobs_of(tensors):
            if job.shape.key not in done:
                done.add(job.shape.key)
                best, least, before = improve(job, device, seconds)
                text = " ".join(f"{name.removeprefix('BLOCK_').removeprefix('num_')}={v}" for name, v in best.items())
                ratio = f"{before / least:.2f} times the table's"
                console.print(f"    {job.shape.key}: {least * 1e6:.1f} µs, {ratio}: {text}", highlight=False)
        times = fastest_form(tensors, seconds)
        listed = ", ".join(f"{form} {taken * 1e6:.1f}" for form, taken in sorted(times.items(), key=lambda i: i[1]))
        console.print(f"    forward and backward, µs: {listed}", highlight=False)
        path = tiles_file()
        write_json(path, {**read_json(path), identity(device): measurements(device)})


def modulated_layers(preset: str, n: int, dtype: str) -> list[Layer]:
    """The layers of a preset that the kernels have a form of. Raises UserError where there is none."""
    layers = [layer for layer in layers_of(preset, n, dtype) if layer.kind.startswith(("styled conv", "to-RGB"))]
    if not layers:
        raise UserError(f"--preset: {preset} has no modulated layers to tune: take stylegan2-256 or stylegan2-1024")
    return layers


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; the exit status. What the user can mend is one line on standard error."""
    parser = Parser(prog, __doc__)
    parser.add_argument("--preset", required=True, metavar="NAME", help="stylegan2-256 or stylegan2-1024")
    parser.add_argument("--dtype", default="fp16", metavar="TYPE", help="fp16 (default), bf16, tf32")
    sizes = whole_number(1, MOST_IMAGES)
    parser.add_argument("--batch", type=sizes, metavar="N", help="of your run; by default 8, at 1024x1024 4")
    try:
        preset, dtype, n = parse(parser.parse(argv), DTYPES)
        layers = modulated_layers(preset, n, dtype)
        _check_gpu()
        from idgan_fast.kernels.styled_layer_measurements import tiles_file

        device = torch.device("cuda", torch.cuda.current_device())
        console = Console(markup=False, emoji=False)
        tune(layers, DTYPES[dtype], device, on_gpu, console)
        console.print(f"kept in {tiles_file()}, for {torch.cuda.get_device_name(device)}", highlight=False)
    except UserError as error:
        print_error(str(error))
        return 2
    except OSError as error:
        print_error(f"cannot keep the measurements: {error}")
        return 2
    return 0


def _check_gpu() -> None:
    if not torch.cuda.is_available():
        raise UserError("tune: it measures on a GPU, and torch sees none: `idgan-fast doctor` shows what is there")
    reason = ops.available("cuda")["styled_layer"]["triton"]
    if reason is not None:
        names = ", ".join(low.name for low in OPERATOR.custom_ops)
        raise UserError(f"tune: the Triton kernels of {names} cannot be used on this GPU: {reason}")

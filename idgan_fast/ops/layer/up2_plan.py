"""Which form of a StyleGAN2 layer with up=2 a GPU should take: a rule from shapes and two rates, no measurement.

The layer is a 3x3 transposed convolution of stride 2 of x [N, I, H, W], then the 4-tap FIR filter, then its epilogue
(demodulation, noise, bias, leaky ReLU, clamp). A kernel takes max(flops / peak, bytes / bandwidth); the kernels of a
form follow each other, so their times add up. A multiply-add is 2 flops. Launches, caches and partly filled waves are
left out. The two forms:

two kernels   transposed convolution as its four phases: 2 * 9 * I * O flops an input pixel; reads x, weight and
              styles, writes the intermediate image [N, O, 2H + 1, 2W + 1].
              FIR and epilogue: reads that, noise, bias and coefficients, writes [N, O, 2H, 2W].
composite     weight and filter composed into four phases of 3x3 taps (4 times the size of the weight): reads the
              weight, writes the phases.
              Convolution with all of the epilogue: 2 * 36 * I * O flops an input pixel, 4 times the arithmetic;
              reads x, phases, styles, noise, bias and coefficients, writes [N, O, 2H, 2W].

The composite form saves writing and reading the intermediate image, 2A of 3A + I for an output of size A, and pays in
arithmetic proportional to I: it wins where channels are few. The FIR filter's own arithmetic, at most 8 flops a byte on
the vector units, is hidden behind its bytes on every device here. Source of the layer: arXiv 1912.04958, section 2 and
appendix B.
"""

from collections.abc import Iterable
from typing import NamedTuple

TAPS = 9  # of the weight, 3x3
COMPOSITE_TAPS = 36  # four output phases of 3x3


class Kernel(NamedTuple):
    """One launch: what it multiplies and what it moves to and from memory."""

    name: str
    flops: int
    """Of convolutions and matrix products; a multiply-add is 2."""
    bytes: int


def seconds(kernels: Iterable[Kernel], peak: float, bandwidth: float) -> float:
    """Predicted time of kernels that follow each other; peak in flops/s, bandwidth in bytes/s."""
    return sum(max(kernel.flops / peak, kernel.bytes / bandwidth) for kernel in kernels)


def two_kernels(n: int, c_in: int, c_out: int, height: int, width: int, element: int) -> tuple[Kernel, ...]:
    """Transposed convolution, then FIR and epilogue. height, width: of the input; element: bytes of a number."""
    x, weight = n * c_in * height * width, TAPS * c_in * c_out
    between = n * c_out * (2 * height + 1) * (2 * width + 1)
    flops = 2 * TAPS * n * height * width * c_in * c_out
    return (
        Kernel("transposed convolution", flops, element * (x + weight + n * c_in + between)),
        Kernel("FIR and epilogue", 0, element * (between + _epilogue(n, c_out, height, width))),
    )


def composite(n: int, c_in: int, c_out: int, height: int, width: int, element: int) -> tuple[Kernel, ...]:
    """The weight is composed, and one convolution with it."""
    x, weight = n * c_in * height * width, TAPS * c_in * c_out
    phases = COMPOSITE_TAPS * c_in * c_out
    flops = 2 * COMPOSITE_TAPS * n * height * width * c_in * c_out
    moved = x + phases + n * c_in + _epilogue(n, c_out, height, width)
    compose = Kernel("compose", 0, element * (weight + phases))
    return compose, Kernel("composite convolution", flops, element * moved)


def _epilogue(n: int, c_out: int, height: int, width: int) -> int:
    """Numbers that an epilogue reads and writes beside the convolution's result: noise, bias, coefficients, output."""
    return n * 4 * height * width + c_out + n * c_out + n * c_out * 4 * height * width


def composite_is_faster(
    n: int,
    c_in: int,
    c_out: int,
    height: int,
    width: int,
    element: int,
    *,
    peak: float,
    bandwidth: float,
) -> bool:
    """The rule: is the composite form predicted to take less time than two kernels?

    n, c_in, c_out, height, width: of the input [n, c_in, height, width] and the channels of the output.
    element: bytes of a number. peak: flops/s of the multiplying units at that type. bandwidth: bytes/s.
    Raises ValueError, one line, when a size or a rate is not positive.
    """
    sizes = {"n": n, "c_in": c_in, "c_out": c_out, "height": height, "width": width, "element": element}
    for name, value in {**sizes, "peak": peak, "bandwidth": bandwidth}.items():
        if not value > 0:
            raise ValueError(f"composite_is_faster: {name} must be positive, got {value}")
    one = seconds(composite(n, c_in, c_out, height, width, element), peak, bandwidth)
    return one < seconds(two_kernels(n, c_in, c_out, height, width, element), peak, bandwidth)

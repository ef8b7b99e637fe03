"""Which backend can run which operator here, and why not."""

from idgan_fast.ops import _dispatch
from idgan_fast.ops._dispatch import BACKENDS, CustomOp, refused, why_not
from idgan_fast.ops.bias_act import LOW_LEVEL as BIAS_ACT
from idgan_fast.ops.bias_lrelu import LOW_LEVEL as BIAS_LRELU
from idgan_fast.ops.filtered_lrelu import LOW_LEVEL as FILTERED_LRELU
from idgan_fast.ops.styled_epilogue import LOW_LEVEL as STYLED_EPILOGUE
from idgan_fast.ops.styled_layer import LOW_LEVEL as STYLED_LAYER
from idgan_fast.ops.upfirdn2d import LOW_LEVEL as UPFIRDN2D
from idgan_fast.ops.weight_square_sum import LOW_LEVEL as WEIGHT_SQUARE_SUM
from idgan_fast.ops.winograd_conv2d import LOW_LEVEL as WINOGRAD_CONV2D

# The operators with kernels of their own; the others are made of these and of torch's convolutions. bias_lrelu is
# bias_act of linear, relu and lrelu; weight_square_sum is a part of demodulation; styled_layer is a whole layer, its
# convolution included; winograd_conv2d is a convolution, which only the CPU needs one for.
KERNELS: dict[str, tuple[CustomOp, ...]] = {
    "bias_lrelu": BIAS_LRELU,
    "bias_act": BIAS_ACT,
    "weight_square_sum": WEIGHT_SQUARE_SUM,
    "upfirdn2d": UPFIRDN2D,
    "styled_epilogue": STYLED_EPILOGUE,
    "styled_layer": STYLED_LAYER,
    "filtered_lrelu": FILTERED_LRELU,
    "winograd_conv2d": WINOGRAD_CONV2D,
}


def available(device: str = "cpu") -> dict[str, dict[str, str | None]]:
    """{operator: {backend: None if it can run on the device type, else the reason}}, fastest backend first.

    On a GPU a backend whose kernels disagree with the reference there counts as one that cannot run.
    """

    def reason(backend: str, lows: tuple[CustomOp, ...]) -> str | None:
        names = tuple([low.name for low in lows])
        return why_not(backend, names, device) or refused(backend, names, device)

    return {operator: {backend: reason(backend, lows) for backend in BACKENDS} for operator, lows in KERNELS.items()}


def libraries() -> dict[str, str | None]:
    """{device type: None if the compiled kernels for it are loaded, else the reason}."""
    return {"cpu": _dispatch._no_cpu_library, "cuda": _dispatch._no_cuda_library}

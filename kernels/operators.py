"""The low-level operators that have Triton kernels: what torch.ops.idgan_fast_triton.<name> runs."""

from collections.abc import Callable
from typing import Any

from idgan_fast.kernels.bias_act import bias_act_bwd, bias_act_bwd2, bias_act_fwd, bias_lrelu_bwd, bias_lrelu_fwd
from idgan_fast.kernels.filtered_lrelu import filtered_lrelu_fwd, filtered_lrelu_linear
from idgan_fast.kernels.styled_epilogue import styled_epilogue_bwd, styled_epilogue_fwd
from idgan_fast.kernels.styled_layer import styled_layer_bwd, styled_layer_fwd
from idgan_fast.kernels.upfirdn2d import upfirdn2d
from idgan_fast.kernels.weight_square_sum import weight_square_sum

OPERATORS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        bias_lrelu_fwd,
        bias_lrelu_bwd,
        bias_act_fwd,
        bias_act_bwd,
        bias_act_bwd2,
        weight_square_sum,
        upfirdn2d,
        styled_epilogue_fwd,
        styled_epilogue_bwd,
        styled_layer_fwd,
        styled_layer_bwd,
        filtered_lrelu_fwd,
        filtered_lrelu_linear,
    )
}

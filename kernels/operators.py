"""The low-level operators that have Triton kernels: what torch.ops.idgan_fast_triton.<name> runs."""

from collections.abc import Callable
from typing import Any

from idgan_fast.kernels import bias_act

OPERATORS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (bias_act.bias_lrelu_fwd, bias_act.bias_lrelu_bwd, bias_act.bias_act_fwd, bias_act.bias_act_bwd)
}

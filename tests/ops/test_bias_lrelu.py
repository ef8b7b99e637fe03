"""bias_lrelu, the custom ops of bias_act's piecewise linear activations; tests/ops/test_bias_act.py has its values."""

import torch

from tests.ops import checks, fuzz


@checks.memory_formats_and_dtypes
def test_opcheck(layout: torch.memory_format, dtype: torch.dtype) -> None:
    x, b = checks.small_image(layout, dtype), torch.randn(3)
    for slope, clamp in ((0.2, 0.5), (0.0, None), (1.0, 0.5)):
        checks.opcheck("bias_lrelu_fwd", x, b, 1, slope, 1.4, clamp)
        checks.opcheck("bias_lrelu_fwd", x, None, 1, slope, -1.4, clamp)
        for want_db in (True, False):
            checks.opcheck("bias_lrelu_bwd", x, x, 1, slope, 1.4, clamp, want_db)


@checks.compiled
@checks.every_dtype
def test_kernels(dtype: torch.dtype) -> None:
    fuzz.check_bias_lrelu(checks.NATIVE, dtype, 150)

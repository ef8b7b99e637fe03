"""styled_epilogue, the custom ops after a layer's convolution. The styled layers' tests have values and gradients."""

import pytest
import torch

from idgan_fast.ops.layer import styled_epilogue
from tests.ops import checks, fuzz


@checks.memory_formats_and_dtypes
def test_opcheck(layout: torch.memory_format, dtype: torch.dtype) -> None:
    x = checks.small_image(layout, dtype)
    styles, b, noise, strength = torch.randn(2, 3), torch.randn(3), torch.randn(1, 1, 5, 4), torch.randn(())
    for f, padding in ((None, [0, 0, 0, 0]), (torch.rand(4, 4), [2, 1, 2, 1])):
        for tensors in ((styles, noise, strength, b, styles), (None, noise, None, None, None), (None,) * 5):
            want = [int(t is not None) for t in tensors]
            numbers = (padding, 1.5, 0.2, 1.4, 0.5)
            for y in ((x,), styled_epilogue.phases(x, 4)) if tensors[0] is not None else ((x,),):
                checks.opcheck("styled_epilogue_fwd", y, f, *tensors, *numbers)
                checks.opcheck("styled_epilogue_bwd", x, y, x, f, *tensors, *numbers, want)


@checks.compiled
@checks.every_dtype
def test_kernels(dtype: torch.dtype) -> None:
    fuzz.check_styled_epilogue(checks.NATIVE, dtype, 200)


@checks.compiled
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_kernels_keep_infinities_to_their_pixels(layout: torch.memory_format) -> None:
    """Lanes without a pixel must not multiply an infinity by zero."""
    numbers = ([0, 0, 0, 0], 1.0, 0.2, 1.0, 256.0)
    for shape in ((1, 1, 3, 3), (2, 3, 5, 7)):
        y = torch.rand(shape) + 1
        ones, inf = torch.ones(shape[:2]), torch.full(shape[:2], torch.inf)
        noise = torch.rand(1, 1, *shape[2:])
        for tensors in (
            (None, inf, None, None, None, ones),
            (None, None, noise, torch.tensor(torch.inf), None, ones),
            (None, None, None, None, inf[0], ones),
        ):
            z = styled_epilogue.forward_reference([y], *tensors, *numbers)
            want = [int(t is not None) for t in tensors[1:]]
            image, out = (t.contiguous(memory_format=layout) for t in (y, z))
            arguments = (torch.ones_like(out), [image], out, *tensors, *numbers, want)
            got = checks.NATIVE.styled_epilogue_bwd(*arguments)
            wanted = styled_epilogue.backward_reference(*arguments)
            for a, b in zip((*got[0], *got[1:]), (*wanted[0], *wanted[1:]), strict=True):
                assert torch.allclose(a, b, equal_nan=True), (shape, tensors)

"""Tensors of several dtypes: a result has the dtype of x and loses no digits that were put in, or one line says so."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from idgan_fast import ops
from idgan_fast.ops import modules
from idgan_fast.ops._registry import OPERATORS
from idgan_fast.ops.validation import numerics
from tests.ops import checks, errors
from tests.ops.checks import F64

ONE_DTYPE = ("conv2d_resample", "fma", "winograd_conv2d")  # as torch's own convolution and addcmul
# The cases of chained_styled_conv2d multiply x by its styles, and so promote it, before the operator sees it.
MIXED = [name for name in OPERATORS if name not in (*ONE_DTYPE, "chained_styled_conv2d")]
every_case = checks.cases_of(*MIXED)


def tensors_of(name: str, x: torch.dtype, others: torch.dtype) -> tuple[Callable[..., Tensor], list[Tensor]]:
    one = checks.case(name, size=4, channels=3)
    first, *rest = numerics.sample(one, F64, "NCHW")
    return one.ours, [first.to(x), *(t.to(others) for t in rest)]


@checks.every_backend
@every_case
@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_float64_images_beside_lower_types_lose_no_digits(name: str, low: torch.dtype) -> None:
    function, tensors = tensors_of(name, F64, low)
    y = function(*tensors)
    assert y.dtype == F64
    torch.testing.assert_close(y, function(*[t.double() for t in tensors]), rtol=1e-12, atol=1e-12)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_float64_beside_other_images_is_refused(name: str, dtype: torch.dtype) -> None:
    """Each tensor in turn; scalars may be float64, of which torch's own promotion takes no notice."""
    function, tensors = tensors_of(name, dtype, dtype)
    for i, t in enumerate(tensors[1:], 1):
        mixed = [*tensors[:i], t.double(), *tensors[i + 1 :]]
        if t.ndim == 0:
            assert function(*mixed).dtype == dtype
            continue
        with pytest.raises(TypeError, match=r"^\w+: \w+ must not be more precise than x, got torch.float64") as caught:
            function(*mixed)
        assert str(dtype) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["weight", "styles", "noise", "bias", "next_styles"])
def test_float64_in_a_chain_is_refused(name: str) -> None:
    right = {"weight": torch.ones(2, 3, 1, 1), "styles": torch.ones(1, 3), "noise": torch.ones(4, 4)}
    right |= {"bias": torch.ones(2), "next_styles": torch.ones(1, 2)}
    errors.refused(
        ops.chained_styled_conv2d, {"x": torch.ones(1, 3, 4, 4), **right}, {name: right[name].double()}, name
    )


@pytest.mark.parametrize("autocast", [False, True])
def test_convolutions_of_two_dtypes_are_refused(autocast: bool) -> None:
    x, w = torch.ones(1, 3, 4, 4), torch.ones(2, 3, 3, 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for one, other in ((x.double(), w), (x, w.double())):
            with pytest.raises(TypeError, match=r"^conv2d_resample: x and w must have one dtype, got .*float.*cast"):
                ops.conv2d_resample(one, other, padding=1)


@checks.every_backend
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_filters_of_half_types_equal_those_of_float32(half: torch.dtype) -> None:
    x, w, f = torch.randn(1, 3, 5, 6), torch.randn(2, 3, 3, 3), torch.tensor([1.0, 2.0, 3.0, 0.5])
    for operator in (
        lambda f: ops.upfirdn2d(x, f, 2, 1, 2),
        lambda f: ops.filtered_lrelu(x, f, f, up=2, down=2, padding=3),
        lambda f: ops.conv2d_resample(x, w, f, up=2, padding=1, flip_filter=True),
        lambda f: ops.conv2d_resample(x, w, f, down=2, padding=1),
        lambda f: ops.modulated_conv2d(x, w, torch.ones(1, 3), up=2, padding=1, resample_filter=f),
        lambda f: ops.styled_conv2d(x, w, torch.ones(1, 3), up=2, resample_filter=f),
    ):
        assert torch.equal(operator(f.to(half)), operator(f))


def made() -> list[nn.Module]:
    taps = (1.0, 2.0, 1.1)  # which no half type has
    return [
        modules.Upsample(taps),
        modules.Downsample(taps),
        modules.Blur(taps, (1, 1)),
        modules.FusedLeakyReLU(3),
        modules.ModulatedConv2d(3, 4, 3, 5, blur_kernel=taps),
        modules.ModulatedConv2d(3, 4, 3, 5, upsample=True, blur_kernel=taps),
        modules.ModulatedConv2d(3, 4, 3, 5, downsample=True, blur_kernel=taps),
    ]


@checks.every_backend
@pytest.mark.parametrize("index", range(7))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, F64], ids=str)
def test_modules_can_be_cast(index: int, dtype: torch.dtype) -> None:
    """The result is that of the same numbers in float64, and the filter comes back from a cast as it was."""
    x, style = torch.randn(2, 3, 6, 6).to(dtype), torch.randn(2, 5).to(dtype)
    module = made()[index]
    arguments = [x, style] if isinstance(module, modules.ModulatedConv2d) else [x]
    filters = {name: buffer.clone() for name, buffer in module.named_buffers()}
    y = module.to(dtype)(*arguments)
    wanted = module.double()(*[t.double() for t in arguments])
    assert y.dtype == dtype
    assert (y.double() - wanted).abs().max() <= checks.TOLERANCES[dtype] * wanted.abs().max()
    for name, buffer in module.to(dtype).float().named_buffers():
        assert torch.equal(buffer, filters[name])


def test_a_module_in_float32_loses_no_digits_of_float64_images() -> None:
    module = modules.ModulatedConv2d(3, 4, 3, 5, upsample=True)
    x, style = torch.randn(2, 3, 4, 4, dtype=F64), torch.randn(2, 5)
    y = module(x, style)
    torch.testing.assert_close(y, module.double()(x, style.double()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["bias", "weight", "styles", "noise", "noise_strength", "next_styles", "b", "w"])
def test_a_tensor_on_another_device_is_refused(name: str) -> None:
    """Whose memory a kernel would read otherwise."""
    x, vector = torch.randn(2, 3, 4, 4), torch.randn(2, 3)
    tensors = {"weight": torch.randn(3, 3, 3, 3), "styles": vector, "noise": torch.randn(4, 4), "bias": torch.randn(3)}
    tensors |= {"noise_strength": torch.tensor(0.5), "next_styles": vector}
    if name in tensors:
        tensors[name] = tensors[name].to("meta")
    calls: dict[str, Callable[[], Tensor]] = {
        "b": lambda: ops.bias_act(x, torch.randn(3, device="meta"), act="lrelu"),
        "w": lambda: ops.conv2d_resample(x, torch.randn(3, 3, 3, 3, device="meta")),
    }
    with pytest.raises(ValueError, match=rf"{name} must be on the device of x, cpu, got meta: move one of them"):
        calls.get(name, lambda: ops.styled_conv2d(x, **tensors))()

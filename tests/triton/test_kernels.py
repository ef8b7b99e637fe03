"""The Triton kernels against the plain twins, interpreted: random shapes, layouts and options."""

import pytest
import torch
import triton
import triton.language as tl

from idgan_fast.kernels import _fir, bias_act_tiles
from idgan_fast.ops._dispatch import triton_kernels
from idgan_fast.ops.bias_act import activation_funcs
from tests.ops import fuzz
from tests.triton.conftest import counts

triton_kernels()
KERNELS = torch.ops.idgan_fast_triton
pytestmark = pytest.mark.usefixtures("small_images_between_nan")


@pytest.fixture(params=["long", pytest.param("short", marks=pytest.mark.slow)])
def strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight output rows of a program, as large images have it, or one, as small ones."""
    if request.param == "long":
        monkeypatch.setattr(_fir, "PROGRAMS", 0)


@pytest.mark.parametrize(("dtype", "count"), counts(40, float32=12, bfloat16=4, float64=2))
def test_bias_lrelu(dtype: torch.dtype, count: int) -> None:
    fuzz.check_bias_lrelu(KERNELS, dtype, count)


def test_several_programs_across_a_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias_act_tiles, "TILE", 128)
    fuzz.check_bias_lrelu(KERNELS, torch.float32, 6)


@pytest.mark.parametrize(("dtype", "count"), counts(6, float32=4))
@pytest.mark.parametrize("act", activation_funcs)
def test_bias_act(act: str, dtype: torch.dtype, count: int) -> None:
    fuzz.check_bias_act(KERNELS, act, dtype, count)


@pytest.mark.parametrize(("dtype", "count"), counts(20, float32=8, bfloat16=2))
def test_weight_square_sum(dtype: torch.dtype, count: int) -> None:
    fuzz.check_weight_square_sum(KERNELS, dtype, count)


@pytest.mark.parametrize(("dtype", "count"), counts(24, float32=12, float16=3, float64=2))
def test_upfirdn2d(dtype: torch.dtype, count: int, strips: None) -> None:
    fuzz.check_upfirdn2d(KERNELS, dtype, count)


@pytest.mark.parametrize(("dtype", "count"), counts(24, float32=10, float16=3, float64=2))
def test_styled_epilogue(dtype: torch.dtype, count: int, strips: None) -> None:
    fuzz.check_styled_epilogue(KERNELS, dtype, count)


@pytest.mark.parametrize("taps", [3, 7])
def test_gradients_of_a_filter_that_leaves_one_pixel(taps: int) -> None:
    """A single pixel tells no memory format: that of y holds."""
    y = torch.randn(1, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    f, padding = torch.randn(3, 3) if taps == 3 else torch.randn(taps), [(taps - 3) // 2] * 4
    layer = (f, torch.randn(1, 2), None, None, None, None, padding, 1.5, 0.2, 1.4, None)
    out = torch.ops.idgan_fast.styled_epilogue_fwd([y], *layer)
    assert out.shape == (1, 2, 1, 1)
    arguments = (torch.randn_like(out), [y], out, *layer, [1, 0, 0, 0, 0])
    got, wanted = (k.styled_epilogue_bwd(*arguments)[:2] for k in (KERNELS, torch.ops.idgan_fast))
    fuzz.assert_same(got[0][0], wanted[0][0], 1e-5, taps)
    fuzz.assert_same(got[1], wanted[1], 1e-5, taps)


def test_the_first_column_beyond_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of the end of a tensor of 2^31 + 4096 elements: their first column is not negative."""

    @triton.jit
    def origin_kernel(at, columns, column_blocks, LONG_ROWS: tl.constexpr):
        _, _, column, _ = bias_act_tiles.tile_origin(1, columns, column_blocks, 1, 1, 1, 4096, LONG_ROWS)
        tl.store(at, column.to(tl.int64))

    at, columns = torch.zeros(1, dtype=torch.int64), 2**31 + 4096
    blocks = columns // 4096
    monkeypatch.setattr(tl, "program_id", lambda axis, **_: tl.full((), blocks - 1, tl.int32))
    assert bias_act_tiles.tiles_of(torch.empty(columns, device="meta"), None).constants["LONG_ROWS"]
    origin_kernel[(1,)](at, columns, blocks, True)
    assert at.item() == columns - 4096


def test_vectors_may_have_holes() -> None:
    x, b = torch.randn(2, 6, 3, 4), torch.randn(6, 2)[:, 0]
    for vector in (b, b[:1].expand(6)):
        wanted = torch.ops.idgan_fast.bias_lrelu_fwd(x, vector.contiguous(), 1, 0.2, 1.4, None)
        torch.testing.assert_close(KERNELS.bias_lrelu_fwd(x, vector, 1, 0.2, 1.4, None), wanted)
        layer = (vector.expand(2, 6), None, None, vector, None, [0] * 4, 1.0, 0.2, 1.4, None)
        wanted = torch.ops.idgan_fast.styled_epilogue_fwd([x], None, *layer)
        torch.testing.assert_close(KERNELS.styled_epilogue_fwd([x], None, *layer), wanted)

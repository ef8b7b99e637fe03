"""The Triton kernels of bias_act against the reference, interpreted."""

import pytest
import torch
import triton
import triton.language as tl

from idgan_fast.kernels import bias_act_tiles
from idgan_fast.ops.activations import activation_funcs
from tests.ops import fuzz
from tests.triton.conftest import counts, kernels


@pytest.mark.usefixtures("small_images_between_nan")
@pytest.mark.parametrize(("dtype", "count"), counts(6, float32=4))
@pytest.mark.parametrize("act", activation_funcs)
def test_random_cases(act: str, dtype: torch.dtype, count: int) -> None:
    fuzz.check_bias_act(kernels(), act, dtype, count)


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

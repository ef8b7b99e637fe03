"""Which input pixel meets which tap, sizes beyond 2^31 elements, and the packing of two-bit codes."""

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from idgan_fast import ops
from idgan_fast.ops._resampling import adjoint_padding, output_size
from idgan_fast.ops.filtered_lrelu import packed, slopes


def meetings(size: int, taps: int, up: int, down: int, pad: tuple[int, int], flip: bool) -> set[tuple[int, int, int]]:
    """All (output pixel, input pixel, tap) along one axis, from the definition: stuff, pad, filter, decimate."""
    stuffed: list[int | None] = [j // up if j % up == 0 else None for j in range(size * up)]
    before = [None] * max(pad[0], 0) + stuffed[max(-pad[0], 0) :]
    row = before[: len(before) - max(-pad[1], 0)] + [None] * max(pad[1], 0)
    found = set()
    for o, start in enumerate(range(0, len(row) - taps + 1, down)):
        for t in range(taps):
            pixel = row[start + t]
            if pixel is not None:
                found.add((o, pixel, t if flip else taps - 1 - t))
    return found


CONFIGURATIONS = [
    configuration
    for configuration in product(range(1, 6), range(1, 5), (1, 2, 3), (1, 2, 3), (-2, 0, 1, 4), (-1, 0, 3))
    if configuration[0] * configuration[2] + configuration[4] + configuration[5] >= configuration[1]
    and configuration[0] * configuration[2] + min(configuration[4:]) > 0
]


def test_the_adjoint_meets_the_same_pixels_and_taps() -> None:
    assert len(CONFIGURATIONS) > 1000
    for size, taps, up, down, before, after in CONFIGURATIONS:
        f = torch.ones(taps, taps)
        shape, ups, downs, pads = (1, 1, size, size), (up, up), (down, down), (before, after, before, after)
        out = output_size(shape, f, ups, downs, pads)
        assert out == (((size * up + before + after - taps) // down + 1,) * 2)
        back = adjoint_padding((size, size), out, f, ups, downs, pads)
        assert output_size((1, 1, *out), f, downs, ups, back) == (size, size)
        forward = meetings(size, taps, up, down, (before, after), flip=False)
        adjoint = meetings(out[0], taps, down, up, back[:2], flip=True)
        assert {(i, o, t) for o, i, t in forward} == adjoint


def big(*shape: int) -> Tensor:
    x = torch.empty(shape, dtype=torch.bfloat16, device="meta")
    assert x.numel() > 2**31
    return x


def test_shapes_beyond_two_to_the_31_elements() -> None:
    x, f = big(3, 1024, 1024, 1024), torch.ones(4, 4, device="meta")
    w, s = torch.empty(16, 1024, 3, 3, device="meta"), torch.empty(3, 1024, device="meta")
    assert ops.bias_act(x, torch.empty(1024, device="meta"), act="lrelu").shape == x.shape
    assert ops.upsample2d(x, f).shape == (3, 1024, 2048, 2048)
    assert ops.downsample2d(x, f).shape == (3, 1024, 512, 512)
    assert ops.filtered_lrelu(x, f, f, up=2, down=2, padding=3).shape == (3, 1024, 1024, 1024)
    assert ops.styled_conv2d(x, w, s, up=2).shape == (3, 16, 2048, 2048)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(ops.upsample2d(x, f).sum(), x)
    assert gradient.shape == x.shape


def available_gib() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable")), 0.0)


@pytest.mark.slow
@pytest.mark.skipif(available_gib() < 19, reason="needs 19 GiB of free memory")
def test_bias_act_of_more_than_two_to_the_31_elements() -> None:
    row, b = torch.randn(2**15).bfloat16(), torch.randn(2**16 + 1).bfloat16()
    x = row.expand(1, len(b), -1)
    assert x.numel() > 2**31
    y = ops.bias_act(x, b, act="lrelu", clamp=2)
    for channel in (0, 1, 2**15, 2**16 - 1, 2**16):
        wanted = ops.bias_act(row[None, None], b[channel : channel + 1], act="lrelu", clamp=2)
        assert torch.equal(y[0, channel], wanted[0, 0])
    assert y.isfinite().all()


@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("width", range(1, 10))
def test_codes_come_back_as_slopes(width: int, clamp: float | None) -> None:
    u = torch.randn(2, 3, 4, width, dtype=torch.float64)
    z = torch.where(u > 0, u, 0.2 * u) * 1.5
    codes = packed(u, z, clamp)
    assert codes.shape == (2, 3, 4, (width + 3) // 4)
    wanted = torch.where(u > 0, 1.5, 0.3).to(u.dtype)
    if clamp is not None:
        wanted[z.abs() >= clamp] = 0
        assert 0 < wanted.count_nonzero() < wanted.numel()
    torch.testing.assert_close(slopes(codes, width, 1.5, 0.2, torch.float64), wanted)

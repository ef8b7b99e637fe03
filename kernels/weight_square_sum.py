"""square_sum[o, i] = sum_k weight[o, i, k]^2, which demodulation needs.

weight: [O, I, kh, kw], contiguous or channels_last; the sums: [O, I] in float32 (float64). A program does BLOCK kernels
of one output channel, and goes through their taps: of a contiguous weight these lie side by side, so that each line of
the cache is read by one program and serves all its taps. Bytes: weight + sums. Operations: 2 a number.
Source: Karras et al., arXiv 1912.04958, equation 3.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from idgan_fast.kernels._common import acc_type, dense, is_channels_last, on_device_of
from idgan_fast.ops._tensors import accumulation

BLOCK = 256


@triton.jit
def weight_square_sum_kernel(
    weight, square_sum, inputs, taps, input_step, tap_step, ACC: tl.constexpr, BLOCK: tl.constexpr
):
    blocks = tl.cdiv(inputs, BLOCK)
    o = (tl.program_id(0) // blocks).to(tl.int64)
    i = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), ACC)
    for k in range(taps):
        w = tl.load(weight + o * inputs * taps + i * input_step + k * tap_step, mask=i < inputs, other=0.0).to(ACC)
        total += w * w
    tl.store(square_sum + o * inputs + i, total, mask=i < inputs)


def weight_square_sum(weight: Tensor) -> Tensor:
    weight = dense(weight)
    o, i, kh, kw = weight.shape
    square_sum = torch.empty((o, i), dtype=accumulation(weight.dtype), device=weight.device)
    if weight.numel() == 0:
        return square_sum.zero_()
    steps = (1, i) if is_channels_last(weight) else (kh * kw, 1)
    block = min(triton.next_power_of_2(i), BLOCK)
    with on_device_of(weight):
        weight_square_sum_kernel[(o * triton.cdiv(i, block),)](
            weight, square_sum, i, kh * kw, *steps, ACC=acc_type(weight.dtype), BLOCK=block, num_warps=1
        )
    return square_sum

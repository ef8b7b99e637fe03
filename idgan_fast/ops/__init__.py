"""The operators of StyleGAN-type networks: exact, differentiable as often as needed, one face over many backends."""

from idgan_fast.ops import conv2d_gradfix
from idgan_fast.ops._dispatch import BACKENDS, available, backend, verify_gpu_kernels_by
from idgan_fast.ops._errors import BackendError
from idgan_fast.ops.bias_act import bias_act
from idgan_fast.ops.conv2d_resample import conv2d_resample
from idgan_fast.ops.filtered_lrelu import filtered_lrelu
from idgan_fast.ops.fma import fma
from idgan_fast.ops.modulated_conv2d import modulated_conv2d
from idgan_fast.ops.modules import Blur, Downsample, FusedLeakyReLU, ModulatedConv2d, Upsample
from idgan_fast.ops.styled_conv2d import chained_styled_conv2d, styled_conv2d
from idgan_fast.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from idgan_fast.ops.validation import verification

verify_gpu_kernels_by(verification.refused)

__all__ = [
    "BACKENDS",
    "BackendError",
    "Blur",
    "Downsample",
    "FusedLeakyReLU",
    "ModulatedConv2d",
    "Upsample",
    "available",
    "backend",
    "bias_act",
    "chained_styled_conv2d",
    "conv2d_gradfix",
    "conv2d_resample",
    "downsample2d",
    "filter2d",
    "filtered_lrelu",
    "fma",
    "modulated_conv2d",
    "setup_filter",
    "styled_conv2d",
    "upfirdn2d",
    "upsample2d",
]

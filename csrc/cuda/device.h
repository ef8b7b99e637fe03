// What an operator needs of the GPU that its tensors are on. tests/cuda_host has the same for the CPU.
//
// No symbol of libtorch_cuda: the library loads with every torch of its CUDA major, GPU or not.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "../layouts.h"
#include "calls.h"

namespace idgan {

// x's device is the current one until this goes; `stream` is torch's current one there.
struct OnDevice {
  explicit OnDevice(const Tensor& x) : guard(x.get_device_index()) {
    const int device = x.get_device_index();
    stream = static_cast<CUstream_st*>(torch::stable::accelerator::getCurrentStream(device).nativeHandle());
    num_sms = count_sms(device);
  }

  torch::stable::accelerator::DeviceGuard guard;
  CUstream_st* stream;
  int num_sms;
};

// A new tensor as it is; the tests on the CPU watch it under a name that begins so.
inline Tensor fresh(Tensor t, const char*) { return t; }

}  // namespace idgan

#define REGISTER_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(idgan_fast, CUDA, m)

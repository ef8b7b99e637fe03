// csrc/cuda/device.h for the CPU: the torch-facing files register their operators for CPU tensors, in a library of the
// tests, and new tensors are full of NaN.
#pragma once

#include <limits>

#include "../../csrc/layouts.h"

extern const char* const host_library;
void host_made(const char* kind, const void* begin, size_t bytes);

namespace idgan {

struct OnDevice {
  explicit OnDevice(const Tensor&) {}

  CUstream_st* stream = nullptr;
  int num_sms = count_sms(0);
};

inline Tensor fresh(Tensor t, const char* kind) {
  if (t.numel() == 0) return t;
  host_made(kind, t.data_ptr(), t.numel() * t.element_size());
  return torch::stable::fill_(t, std::numeric_limits<double>::quiet_NaN());
}

}  // namespace idgan

#define REGISTER_OPERATORS(m) REGISTER_OPERATORS_AS(m, C10_UID)
#define REGISTER_OPERATORS_AS(m, uid)                                                            \
  static void C10_CONCATENATE(register_operators_, uid)(torch::stable::detail::StableLibrary&);  \
  static const torch::stable::detail::StableTorchLibraryInit C10_CONCATENATE(registration_, uid)( \
      torch::stable::detail::StableLibrary::Kind::IMPL, &C10_CONCATENATE(register_operators_, uid), \
      host_library, "CPU", __FILE__, __LINE__);                                                  \
  void C10_CONCATENATE(register_operators_, uid)(torch::stable::detail::StableLibrary & m)

// What the torch-facing files share: dtypes, new tensors, what is wrong with those that are given.
#pragma once

#include "../layouts.h"
#include "calls.h"
#ifdef CUDA_ON_HOST
#include "device_on_host.h"
#else
#include "device.h"
#endif

namespace idgan {

inline Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return kFloat;
    case ScalarType::Double: return kDouble;
    case ScalarType::BFloat16: return kBfloat16;
    case ScalarType::Half: return kFloat16;
    default: STD_TORCH_CHECK(false, "idgan_fast: the CUDA kernels take floating tensors"); return kFloat;
  }
}

// A new result of x's dtype.
inline Tensor empty_as(const Tensor& x, IntHeaderOnlyArrayRef size, bool last) {
  return fresh(unwritten(x, size, last), "out");
}

// A new result in the type of the arithmetic.
inline Tensor empty_acc(const Tensor& x, IntHeaderOnlyArrayRef size) {
  return fresh(torch::stable::new_empty(x, size, accumulation_type(x)), "out");
}

// `count` numbers in the type of the arithmetic, from one kernel to the next.
inline Tensor scratch(const Tensor& x, int64_t count) {
  return fresh(torch::stable::new_empty(x, {count}, accumulation_type(x)), "scratch");
}

// x in the type of the arithmetic; itself where that is its own.
inline Tensor to_acc(const Tensor& x) {
  return x.scalar_type() == accumulation_type(x) ? x : torch::stable::to(x, accumulation_type(x));
}

inline void check_given(const Tensor& t, const Tensor& x, ScalarType type, int64_t count) {
  STD_TORCH_CHECK(t.device() == x.device() && t.scalar_type() == type && t.numel() == count,
                  "idgan_fast: a kernel was given a tensor of another device, dtype or size than it takes");
}

// t, which is like x, without holes in x's layout.
inline Tensor dense_like(const Tensor& t, const Tensor& x, bool last) {
  check_given(t, x, x.scalar_type(), x.numel());
  return dense(t, last);
}

// t, `count` numbers in the type of the arithmetic, without holes.
inline std::optional<Tensor> dense_acc(const std::optional<Tensor>& t, const Tensor& x, int64_t count) {
  if (!t) return t;
  check_given(*t, x, accumulation_type(x), count);
  return dense(*t, false);
}

inline void* data_or_null(const std::optional<Tensor>& t) { return t ? t->data_ptr() : nullptr; }

}  // namespace idgan

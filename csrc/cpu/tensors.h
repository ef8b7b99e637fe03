// What the torch-facing files share: layouts, dtypes, new tensors. LibTorch's stable ABI alone.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "kernels.h"

namespace idgan {

using torch::stable::Tensor;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;

inline Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return kFloat;
    case ScalarType::Double: return kDouble;
    case ScalarType::BFloat16: return kBfloat16;
    case ScalarType::Half: return kFloat16;
    default: STD_TORCH_CHECK(false, "idgan_fast: the CPU kernels take floating tensors"); return kFloat;
  }
}

// The type in which x is computed.
inline ScalarType wide_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Whether x [N, C, H, W] has its channels side by side; as _tensors.memory_format has it.
inline bool channels_last(const Tensor& x) {
  return x.dim() == 4 && x.size(1) > 1 && x.size(2) * x.size(3) > 1 && x.stride(1) == 1;
}

inline bool dense_channels_last(const Tensor& x) {
  const int64_t c = x.size(1), h = x.size(2), w = x.size(3);
  return (w == 1 || x.stride(3) == c) && (h == 1 || x.stride(2) == w * c) &&
         (x.size(0) == 1 || x.stride(0) == h * w * c);
}

// x without holes, in the layout `last` or NCHW; x itself where it is so already.
inline Tensor dense(const Tensor& x, bool last) {
  if (last ? channels_last(x) && dense_channels_last(x) : x.is_contiguous()) return x;
  return torch::stable::contiguous(x, last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// A new tensor of x's dtype. Large ones ask for huge pages: the first touch of 4 KiB pages takes longer than a kernel.
inline Tensor empty_as(const Tensor& x, torch::headeronly::IntHeaderOnlyArrayRef size, bool last) {
  Tensor y = torch::stable::empty(size, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                                  last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
#ifdef MADV_HUGEPAGE
  const uintptr_t huge = uintptr_t(1) << 21, bytes = y.numel() * y.element_size();
  if (bytes >= 4 * huge) {
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(y.data_ptr()) + huge - 1) / huge * huge;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(y.data_ptr()) + bytes) / huge * huge;
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a hint: nothing is lost if it fails
  }
#endif
  return y;
}

// A bound as the kernels take it: NaN for none.
inline double or_none(std::optional<double> clamp) { return clamp.value_or(std::numeric_limits<double>::quiet_NaN()); }

// What of an image's geometry does not depend on the filter.
inline void of_images(Upfirdn2d& a, const Tensor& x, bool last, int64_t n, int64_t c, int64_t h, int64_t w) {
  a.dtype = dtype_of(x);
  a.images = last ? n : n * c, a.depth = a.pixel = last ? c : 1, a.rows = h, a.columns = w;
}

// The elements of t, which is widened already, repeated to `count`; without t -0, since x + -0 = x for every x.
template <class A>
std::vector<A> widened(const std::optional<Tensor>& t, int64_t count) {
  std::vector<A> values(count, A(-0.0));
  if (!t) return values;
  const Tensor source = dense(*t, false);
  const A* data = static_cast<const A*>(source.data_ptr());
  for (int64_t i = 0, n = source.numel(); n > 0 && i < count; i++) values[i] = data[i % n];
  return values;
}

// Enough units for a thread that starting it pays.
inline int64_t grain(int64_t elements_of_unit) {
  const int64_t enough = 32768;
  return elements_of_unit >= enough ? 1 : enough / (elements_of_unit > 0 ? elements_of_unit : 1);
}

}  // namespace idgan

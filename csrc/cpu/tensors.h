// What the torch-facing files share: dtypes, new tensors, small vectors, parts of threads.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <vector>

#include "../layouts.h"
#include "kernels.h"

namespace idgan {

inline Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return kFloat;
    case ScalarType::Double: return kDouble;
    case ScalarType::BFloat16: return kBfloat16;
    case ScalarType::Half: return kFloat16;
    default: STD_TORCH_CHECK(false, "idgan_fast: the CPU kernels take floating tensors"); return kFloat;
  }
}

// A new tensor of x's dtype. Large ones ask for huge pages: the first touch of 4 KiB pages takes longer than a kernel.
inline Tensor empty_as(const Tensor& x, IntHeaderOnlyArrayRef size, bool last) {
  Tensor y = unwritten(x, size, last);
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

// What of an image's geometry does not depend on the filter.
inline void of_images(Upfirdn2d& a, const Tensor& x, bool last, int64_t n, int64_t c, int64_t h, int64_t w) {
  a.dtype = dtype_of(x);
  a.images = last ? n : n * c, a.depth = a.pixel = last ? c : 1, a.rows = h, a.columns = w;
}

// The elements of t, which has the dtype A, repeated to `count`; without t -0, since x + -0 = x for every x.
template <class A>
std::vector<A> repeated(const std::optional<Tensor>& t, int64_t count) {
  std::vector<A> values(count, A(-0.0));
  if (!t) return values;
  const Tensor source = dense(*t, false);
  const A* data = static_cast<const A*>(source.data_ptr());
  for (int64_t i = 0, n = source.numel(); n > 0 && i < count; i++) values[i] = data[i % n];
  return values;
}

// Minimum number of units per thread to amortize parallel_for.
inline int64_t grain(int64_t elements_of_unit) {
  const int64_t enough = 32768;
  return elements_of_unit >= enough ? 1 : enough / (elements_of_unit > 0 ? elements_of_unit : 1);
}

// Runs a kernel on all units of `a`, of so many elements each, in parallel.
template <class Call>
void run_units(const Call& a, void (*kernel)(const Call&, int64_t begin, int64_t end), int64_t units,
               int64_t elements_of_unit) {
  torch::stable::parallel_for(0, units, grain(elements_of_unit),
                              [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
}

// Calls f with a zero of the accumulation type.
template <class F>
auto with_accumulation_type(Dtype dtype, const F& f) {
  return dtype == kDouble ? f(double()) : f(float());
}

}  // namespace idgan

#define REGISTER_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(idgan_fast, CPU, m)

// A filter as the kernels take it.
#pragma once

#include <cmath>
#include <cstdlib>

#include "tensors.h"

namespace idgan {

// Correlation taps in A, the gain included: separable ones in x and y, or all of them in x.
template <class A>
struct Taps {
  std::vector<A> x{A(1)}, y{A(1)};
  int64_t width = 1, height = 1;
  bool separable = true;

  Taps(const std::optional<Tensor>& given, bool flip, double gain) {
    if (!given) {
      x[0] = A(gain);
      return;
    }
    const Tensor f = dense(*given, false);
    const float* data = static_cast<const float*>(f.data_ptr());
    width = f.size(f.dim() - 1);
    height = f.size(0);
    const auto tap = [&](int64_t i, int64_t j) {
      const int64_t row = flip ? i : height - 1 - i, column = flip ? j : width - 1 - j;
      return double(data[row * width + column]);
    };
    x.resize(width), y.resize(height);
    if (f.dim() == 1) {
      for (int64_t j = 0; j < width; j++) {
        const double one = data[flip ? j : width - 1 - j];
        x[j] = A(one * gain), y[j] = A(one);
      }
      return;
    }
    // The outer product of two filters, if every tap is that of its row times that of its column, by the largest tap.
    int64_t pi = 0, pj = 0;
    for (int64_t i = 0; i < height; i++)
      for (int64_t j = 0; j < width; j++)
        if (std::abs(tap(i, j)) > std::abs(tap(pi, pj))) pi = i, pj = j;
    const double pivot = tap(pi, pj), rounding = sizeof(A) == sizeof(double) ? 1e-15 : 1e-7;
    for (int64_t i = 0; i < height; i++)
      for (int64_t j = 0; j < width; j++)
        separable &= std::abs(tap(i, pj) * tap(pi, j) - tap(i, j) * pivot) <= rounding * pivot * pivot;
    if (pivot == 0 || !separable) {
      separable = false;
      x.resize(width * height);
      for (int64_t i = 0; i < height; i++)
        for (int64_t j = 0; j < width; j++) x[i * width + j] = A(tap(i, j) * gain);
      return;
    }
    for (int64_t j = 0; j < width; j++) x[j] = A(tap(pi, j) * gain);
    for (int64_t i = 0; i < height; i++) y[i] = A(tap(i, pj) / pivot);
  }
};

template <class A>
inline void filter_of(Upfirdn2d& fir, const Taps<A>& taps) {
  fir.taps_x = taps.x.data(), fir.taps_y = taps.separable ? taps.y.data() : nullptr;
  fir.width = taps.width, fir.height = taps.height;
}

}  // namespace idgan

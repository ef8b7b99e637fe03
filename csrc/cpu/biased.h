// A forward and a backward pass over a biased array for torch, by a kernel of bias_lrelu.h or bias_act.h.
#pragma once

#include <tuple>

#include "tensors.h"

namespace idgan {

template <class Op>
using Kernel = void (*)(const Op&, int64_t begin, int64_t end);

// [outer, channels, inner] as x lies in memory, the bias along dim.
inline void describe(Biased& a, const Tensor& x, bool last, bool biased, int64_t dim, double gain,
                     std::optional<double> clamp) {
  a.dtype = dtype_of(x);
  a.gain = gain, a.clamp = or_none(clamp);
  const Split split(x, last, biased, dim);
  a.outer = split.outer, a.channels = split.channels, a.inner = split.inner;
}

template <class Op>
void run_units(const Op& a, Kernel<Op> kernel) {
  torch::stable::parallel_for(0, a.units(), grain(a.unit_elements()),
                              [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
}

// y from x; `a` has the operator's own numbers.
template <class Op>
Tensor biased_forward(Op a, Kernel<Op> kernel, Tensor x, const std::optional<Tensor>& b, int64_t dim, double gain,
                      std::optional<double> clamp) {
  const bool last = channels_last(x);
  x = dense(x, last);
  Tensor y = empty_as(x, x.sizes(), last);
  if (x.numel() == 0) return y;
  describe(a, x, last, b.has_value(), dim, gain, clamp);
  a.in = x.data_ptr(), a.out = y.data_ptr();
  const auto run = [&](const auto& bias) {
    a.bias = bias.data();
    run_units(a, kernel);
  };
  const int64_t count = a.inner > 1 ? a.channels : a.pattern();
  a.dtype == kDouble ? run(widened<double>(b, count)) : run(widened<float>(b, count));
  return y;
}

// db from the sums of the units, in their order.
template <class A>
void reduce(const Biased& a, const std::vector<A>& sums, A* db) {
  const int64_t pattern = a.pattern(), units = a.units();
  std::vector<double> total(a.channels, 0.0);
  for (int64_t u = 0; u < units; u++)
    for (int64_t i = 0; i < pattern; i++)
      total[a.inner > 1 ? u / a.blocks() % a.channels : i % a.channels] += sums[u * pattern + i];
  for (int64_t c = 0; c < a.channels; c++) db[c] = A(total[c]);
}

// dx, laid out as saved, and db, which is empty if it is not wanted.
template <class Op>
std::tuple<Tensor, Tensor> biased_backward(Op a, Kernel<Op> kernel, Tensor dy, Tensor saved,
                                           const std::optional<Tensor>& b, int64_t dim, double gain,
                                           std::optional<double> clamp, bool want_db) {
  const bool last = channels_last(saved);
  saved = dense(saved, last);
  dy = dense(dy, last);
  Tensor dx = empty_as(saved, saved.sizes(), last);
  const std::vector<int64_t> size{want_db ? saved.size(dim) : 0};
  Tensor db = torch::stable::new_zeros(saved, size, wide_type(saved));
  if (saved.numel() == 0) return {dx, db};
  describe(a, saved, last, b.has_value() || want_db, dim, gain, clamp);
  a.in = dy.data_ptr(), a.saved = saved.data_ptr(), a.out = dx.data_ptr();
  const auto run = [&](const auto& bias) {
    using A = typename std::decay_t<decltype(bias)>::value_type;
    std::vector<A> sums(want_db ? a.units() * a.pattern() : 0);
    a.bias = bias.data(), a.sums = want_db ? sums.data() : nullptr;
    run_units(a, kernel);
    if (want_db) reduce(a, sums, static_cast<A*>(db.data_ptr()));
  };
  const int64_t count = a.inner > 1 ? a.channels : a.pattern();
  a.dtype == kDouble ? run(widened<double>(b, count)) : run(widened<float>(b, count));
  return {dx, db};
}

}  // namespace idgan

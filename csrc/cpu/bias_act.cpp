// bias_lrelu_fwd and bias_lrelu_bwd for torch; the kernels are in bias_lrelu.h.
#include <limits>
#include <tuple>

#include "tensors.h"

namespace idgan {
namespace {

// [outer, channels, inner] as x lies in memory, the bias along dim.
BiasLrelu described(const Tensor& x, bool last, bool biased, int64_t dim, double slope, double gain,
                    std::optional<double> clamp) {
  BiasLrelu a{};
  a.dtype = dtype_of(x);
  a.slope = slope, a.gain = gain, a.clamp = clamp ? *clamp : std::numeric_limits<double>::quiet_NaN();
  a.outer = a.channels = 1, a.inner = x.numel();
  if (!biased) return a;
  std::vector<int64_t> order;
  for (int64_t d = 0; d < x.dim(); d++) order.push_back(last && d > 0 ? (d == 3 ? 1 : d + 1) : d);
  a.inner = 1;
  bool before = true;
  for (int64_t d : order) {
    if (d == dim) {
      a.channels = x.size(d), before = false;
    } else {
      (before ? a.outer : a.inner) *= x.size(d);
    }
  }
  return a;
}

Tensor bias_lrelu_fwd(Tensor x, std::optional<Tensor> b, int64_t dim, double slope, double gain,
                      std::optional<double> clamp) {
  const bool last = channels_last(x);
  x = dense(x, last);
  Tensor y = empty_as(x, x.sizes(), last);
  if (x.numel() == 0) return y;
  BiasLrelu a = described(x, last, b.has_value(), dim, slope, gain, clamp);
  a.in = x.data_ptr(), a.out = y.data_ptr();
  const int64_t count = a.inner > 1 ? a.channels : a.pattern();
  const auto run = [&](const auto& bias) {
    a.bias = bias.data();
    const auto kernel = kernels().bias_lrelu_fwd;
    torch::stable::parallel_for(0, a.units(), grain(a.unit_elements()),
                                [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
  };
  a.dtype == kDouble ? run(widened<double>(b, count)) : run(widened<float>(b, count));
  return y;
}

template <class A>
void reduce(const BiasLrelu& a, const std::vector<A>& sums, A* db) {
  const int64_t pattern = a.pattern(), units = a.units();
  std::vector<double> total(a.channels, 0.0);
  for (int64_t u = 0; u < units; u++)
    for (int64_t i = 0; i < pattern; i++)
      total[a.inner > 1 ? u / a.blocks() % a.channels : i % a.channels] += sums[u * pattern + i];
  for (int64_t c = 0; c < a.channels; c++) db[c] = A(total[c]);
}

std::tuple<Tensor, Tensor> bias_lrelu_bwd(Tensor dy, Tensor y, int64_t dim, double slope, double gain,
                                          std::optional<double> clamp, bool want_db) {
  const bool last = channels_last(y);
  y = dense(y, last);
  dy = dense(dy, last);
  Tensor dx = empty_as(y, y.sizes(), last);
  const std::vector<int64_t> size{want_db ? y.size(dim) : 0};
  Tensor db = torch::stable::new_zeros(y, size, wide_type(y));
  if (y.numel() == 0) return {dx, db};
  BiasLrelu a = described(y, last, want_db, dim, slope, gain, clamp);
  a.in = dy.data_ptr(), a.saved = y.data_ptr(), a.out = dx.data_ptr();
  const auto run = [&](auto zero) {
    using A = decltype(zero);
    std::vector<A> sums(want_db ? a.units() * a.pattern() : 0);
    a.sums = want_db ? sums.data() : nullptr;
    const auto kernel = kernels().bias_lrelu_bwd;
    torch::stable::parallel_for(0, a.units(), grain(a.unit_elements()),
                                [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
    if (want_db) reduce(a, sums, static_cast<A*>(db.data_ptr()));
  };
  a.dtype == kDouble ? run(0.0) : run(0.0f);
  return {dx, db};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(idgan_fast, CPU, m) {
  m.impl("bias_lrelu_fwd", TORCH_BOX(&bias_lrelu_fwd));
  m.impl("bias_lrelu_bwd", TORCH_BOX(&bias_lrelu_bwd));
}

}  // namespace idgan

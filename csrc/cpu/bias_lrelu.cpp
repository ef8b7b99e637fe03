// bias_lrelu_fwd and bias_lrelu_bwd for torch; the kernels are in bias_lrelu.h.
#include "biased.h"

namespace idgan {
namespace {

BiasLrelu with(double slope) {
  BiasLrelu a{};
  a.slope = slope;
  return a;
}

Tensor bias_lrelu_fwd(Tensor x, std::optional<Tensor> b, int64_t dim, double slope, double gain,
                      std::optional<double> clamp) {
  return biased_forward(with(slope), kernels().bias_lrelu_fwd, x, b, dim, gain, clamp);
}

std::tuple<Tensor, Tensor> bias_lrelu_bwd(Tensor dy, Tensor y, int64_t dim, double slope, double gain,
                                          std::optional<double> clamp, bool want_db) {
  return biased_backward(with(slope), kernels().bias_lrelu_bwd, dy, y, std::nullopt, dim, gain, clamp, want_db);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(idgan_fast, CPU, m) {
  m.impl("bias_lrelu_fwd", TORCH_BOX(&bias_lrelu_fwd));
  m.impl("bias_lrelu_bwd", TORCH_BOX(&bias_lrelu_bwd));
}

}  // namespace idgan

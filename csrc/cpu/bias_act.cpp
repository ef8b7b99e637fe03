// bias_act_fwd and bias_act_bwd for torch; the kernels are in bias_act.h.
#include <string>

#include "biased.h"

namespace idgan {
namespace {

BiasAct with(const std::string& act, double alpha) {
  const char* names[] = {"linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"};
  BiasAct a{};
  a.alpha = alpha;
  for (int i = kLinear; i <= kSwish; i++) {
    if (act != names[i]) continue;
    a.act = Activation(i);
    return a;
  }
  STD_TORCH_CHECK(false, "bias_act: no activation named ", act);
  return a;
}

Tensor bias_act_fwd(Tensor x, std::optional<Tensor> b, int64_t dim, std::string act, double alpha, double gain,
                    std::optional<double> clamp) {
  return biased_forward(with(act, alpha), kernels().bias_act_fwd, x, b, dim, gain, clamp);
}

std::tuple<Tensor, Tensor> bias_act_bwd(Tensor dy, Tensor x, std::optional<Tensor> b, int64_t dim, std::string act,
                                        double alpha, double gain, std::optional<double> clamp, bool want_db) {
  return biased_backward(with(act, alpha), kernels().bias_act_bwd, dy, x, b, dim, gain, clamp, want_db);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(idgan_fast, CPU, m) {
  m.impl("bias_act_fwd", TORCH_BOX(&bias_act_fwd));
  m.impl("bias_act_bwd", TORCH_BOX(&bias_act_bwd));
}

}  // namespace idgan

// bias_act_fwd, bias_act_bwd and bias_act_bwd2 for torch; the kernels are in bias_act.h.
#include "biased.h"

namespace idgan {
namespace {

BiasAct with(const std::string& act, double alpha) {
  BiasAct a{};
  a.act = Activation(activation_of(act)), a.alpha = alpha;
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

// to_dy and to_x, laid out as x, and to_b, which is empty if it is not wanted.
std::tuple<Tensor, Tensor, Tensor> bias_act_bwd2(Tensor ddx, std::optional<Tensor> ddb, Tensor dy, Tensor x,
                                                 std::optional<Tensor> b, int64_t dim, std::string act, double alpha,
                                                 double gain, std::optional<double> clamp, bool want_db) {
  const bool last = channels_last(x);
  x = dense(x, last), dy = dense(dy, last), ddx = dense(ddx, last);
  Tensor to_dy = empty_as(x, x.sizes(), last), to_x = empty_as(x, x.sizes(), last);
  const std::vector<int64_t> size{want_db ? x.size(dim) : 0};
  Tensor to_b = torch::stable::new_zeros(x, size, wide_type(x));
  if (x.numel() == 0) return {to_dy, to_x, to_b};
  BiasAct a = with(act, alpha);
  describe(a, x, last, b.has_value() || ddb.has_value() || want_db, dim, gain, clamp);
  a.in = dy.data_ptr(), a.saved = x.data_ptr(), a.ddx = ddx.data_ptr();
  a.out = to_x.data_ptr(), a.to_dy = to_dy.data_ptr();
  const auto run = [&](const auto& bias, const auto& ddbs) {
    using A = typename std::decay_t<decltype(bias)>::value_type;
    std::vector<A> sums(want_db ? a.units() * a.pattern() : 0);
    a.bias = bias.data(), a.ddb = ddbs.data(), a.sums = want_db ? sums.data() : nullptr;
    run_units(a, kernels().bias_act_bwd2);
    if (want_db) reduce(a, sums, static_cast<A*>(to_b.data_ptr()));
  };
  const int64_t count = a.inner > 1 ? a.channels : a.pattern();
  a.dtype == kDouble ? run(widened<double>(b, count), widened<double>(ddb, count))
                     : run(widened<float>(b, count), widened<float>(ddb, count));
  return {to_dy, to_x, to_b};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(idgan_fast, CPU, m) {
  m.impl("bias_act_fwd", TORCH_BOX(&bias_act_fwd));
  m.impl("bias_act_bwd", TORCH_BOX(&bias_act_bwd));
  m.impl("bias_act_bwd2", TORCH_BOX(&bias_act_bwd2));
}

}  // namespace idgan

// The operators bias_lrelu_* and bias_act_*, each as one pass, for both libraries. One file of each includes this and
// defines `run_pass`.
#pragma once

#include <tuple>
#include <vector>

#include "layouts.h"
#include "types.h"

namespace idgan {
namespace {

struct ActivationArguments {
  int64_t dim;  // the axis of the bias
  std::string act;
  double alpha, gain;
  std::optional<double> clamp;
};

struct PassResult {
  std::vector<Tensor> out;
  Tensor sums;  // the last output summed over all axes but `dim`; of a backward pass, empty where it is not wanted
};

// The results are laid out as the last input.
PassResult run_pass(Pass pass, std::vector<Tensor> in, const std::optional<Tensor>& b, const std::optional<Tensor>& ddb,
                    const ActivationArguments& arguments, bool want_sums);

Tensor bias_lrelu_fwd(Tensor x, std::optional<Tensor> b, int64_t dim, double slope, double gain,
                      std::optional<double> clamp) {
  // ReLU gives 0 for -inf, where a product with a slope of 0 would give NaN.
  return run_pass(kForward, {x}, b, {}, {dim, slope == 0 ? "relu" : "lrelu", slope, gain, clamp}, false).out[0];
}

std::tuple<Tensor, Tensor> bias_lrelu_bwd(Tensor dy, Tensor y, int64_t dim, double slope, double gain,
                                          std::optional<double> clamp, bool want_db) {
  const PassResult r = run_pass(kBackwardOfY, {dy, y}, {}, {}, {dim, "lrelu", slope, gain, clamp}, want_db);
  return {r.out[0], r.sums};
}

Tensor bias_act_fwd(Tensor x, std::optional<Tensor> b, int64_t dim, std::string act, double alpha, double gain,
                    std::optional<double> clamp) {
  return run_pass(kForward, {x}, b, {}, {dim, act, alpha, gain, clamp}, false).out[0];
}

std::tuple<Tensor, Tensor> bias_act_bwd(Tensor dy, Tensor x, std::optional<Tensor> b, int64_t dim, std::string act,
                                        double alpha, double gain, std::optional<double> clamp, bool want_db) {
  const PassResult r = run_pass(kBackward, {dy, x}, b, {}, {dim, act, alpha, gain, clamp}, want_db);
  return {r.out[0], r.sums};
}

std::tuple<Tensor, Tensor, Tensor> bias_act_bwd2(Tensor ddx, std::optional<Tensor> ddb, Tensor dy, Tensor x,
                                                 std::optional<Tensor> b, int64_t dim, std::string act, double alpha,
                                                 double gain, std::optional<double> clamp, bool want_db) {
  const PassResult r = run_pass(kSecond, {ddx, dy, x}, b, ddb, {dim, act, alpha, gain, clamp}, want_db);
  return {r.out[0], r.out[1], r.sums};
}

}  // namespace

REGISTER_OPERATORS(m) {
  m.impl("bias_lrelu_fwd", TORCH_BOX(&bias_lrelu_fwd));
  m.impl("bias_lrelu_bwd", TORCH_BOX(&bias_lrelu_bwd));
  m.impl("bias_act_fwd", TORCH_BOX(&bias_act_fwd));
  m.impl("bias_act_bwd", TORCH_BOX(&bias_act_bwd));
  m.impl("bias_act_bwd2", TORCH_BOX(&bias_act_bwd2));
}

}  // namespace idgan

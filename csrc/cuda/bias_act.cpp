// bias_lrelu_* and bias_act_* for torch; the kernels are in bias_act.cuh.
#include <tuple>
#include <vector>

#include "tensors.h"

namespace idgan {
namespace {

struct Activated {
  int64_t dim;
  std::string act;
  double alpha, gain;
  std::optional<double> clamp;
};

struct Passed {
  std::vector<Tensor> out;
  Tensor sums;  // of the last of them over all axes but `dim`; empty if they are not wanted
};

// A pass over `in`, all laid out as the last of them.
Passed passed(Pass pass, std::vector<Tensor> in, const std::optional<Tensor>& b, const std::optional<Tensor>& ddb,
              const Activated& how, bool want_sums) {
  const bool last = channels_last(in.back());
  const Tensor x = in.back() = dense(in.back(), last);
  BiasActCall a{};
  a.dtype = dtype_of(x), a.act = Act(activation_of(how.act)), a.pass = pass;
  a.alpha = how.alpha, a.gain = how.gain, a.clamp = or_none(how.clamp);
  const Split split(x, last, b || ddb || want_sums, how.dim);
  a.outer = split.outer, a.channels = split.channels, a.inner = split.inner;
  const std::optional<Tensor> biases = dense_wide(b, x, a.channels), of_ddb = dense_wide(ddb, x, a.channels);
  a.b = data_or_null(biases), a.ddb = data_or_null(of_ddb);
  for (size_t i = 0; i < in.size(); i++) {
    in[i] = dense_like(in[i], x, last);
    a.in[i] = in[i].data_ptr();
  }
  Passed done{{}, empty_wide(x, {want_sums ? a.channels : 0})};
  for (int i = 0; i < (pass == Pass::kSecond ? 2 : 1); i++) {
    done.out.push_back(empty_as(x, x.sizes(), last));
    a.out[i] = done.out[i].data_ptr();
  }
  if (x.numel() == 0) {
    torch::stable::zero_(done.sums);
    return done;
  }
  const OnDevice on(x);
  a.processors = on.processors;
  std::optional<Tensor> table;
  if (want_sums) {
    table = scratch(x, bias_act_table(a));
    a.table = table->data_ptr(), a.sums = done.sums.data_ptr();
  }
  bias_act(a, on.stream);
  return done;
}

std::tuple<Tensor, Tensor> result_and_sums(const Passed& done) { return {done.out[0], done.sums}; }

Tensor bias_lrelu_fwd(Tensor x, std::optional<Tensor> b, int64_t dim, double slope, double gain,
                      std::optional<double> clamp) {
  return passed(Pass::kForward, {x}, b, {}, {dim, "lrelu", slope, gain, clamp}, false).out[0];
}

std::tuple<Tensor, Tensor> bias_lrelu_bwd(Tensor dy, Tensor y, int64_t dim, double slope, double gain,
                                          std::optional<double> clamp, bool want_db) {
  const Activated how{dim, "lrelu", slope, gain, clamp};
  return result_and_sums(passed(Pass::kBackwardOfY, {dy, y}, {}, {}, how, want_db));
}

Tensor bias_act_fwd(Tensor x, std::optional<Tensor> b, int64_t dim, std::string act, double alpha, double gain,
                    std::optional<double> clamp) {
  return passed(Pass::kForward, {x}, b, {}, {dim, act, alpha, gain, clamp}, false).out[0];
}

std::tuple<Tensor, Tensor> bias_act_bwd(Tensor dy, Tensor x, std::optional<Tensor> b, int64_t dim, std::string act,
                                        double alpha, double gain, std::optional<double> clamp, bool want_db) {
  return result_and_sums(passed(Pass::kBackward, {dy, x}, b, {}, {dim, act, alpha, gain, clamp}, want_db));
}

std::tuple<Tensor, Tensor, Tensor> bias_act_bwd2(Tensor ddx, std::optional<Tensor> ddb, Tensor dy, Tensor x,
                                                 std::optional<Tensor> b, int64_t dim, std::string act, double alpha,
                                                 double gain, std::optional<double> clamp, bool want_db) {
  const Activated how{dim, act, alpha, gain, clamp};
  const Passed done = passed(Pass::kSecond, {ddx, dy, x}, b, ddb, how, want_db);
  return {done.out[0], done.out[1], done.sums};
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

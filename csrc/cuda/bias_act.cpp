// bias_lrelu_* and bias_act_* for torch; the kernels are in bias_act.cuh.
#include "tensors.h"
#include "../bias_act_operators.h"

namespace idgan {
namespace {

PassResult run_pass(Pass pass, std::vector<Tensor> in, const std::optional<Tensor>& b, const std::optional<Tensor>& ddb,
                    const ActivationArguments& arguments, bool want_sums) {
  const bool last = channels_last(in.back());
  const Tensor x = in.back() = dense(in.back(), last);
  BiasActCall a{};
  a.dtype = dtype_of(x), a.act = activation_of(arguments.act), a.pass = pass;
  a.alpha = arguments.alpha, a.gain = arguments.gain, a.clamp = or_none(arguments.clamp);
  const Split split(x, last, b || ddb || want_sums, arguments.dim);
  a.outer = split.outer, a.channels = split.channels, a.inner = split.inner;
  const std::optional<Tensor> biases = dense_acc(b, x, a.channels), of_ddb = dense_acc(ddb, x, a.channels);
  a.b = data_or_null(biases), a.ddb = data_or_null(of_ddb);
  for (size_t i = 0; i < in.size(); i++) {
    in[i] = dense_like(in[i], x, last);
    a.in[i] = in[i].data_ptr();
  }
  PassResult result{{}, empty_acc(x, {want_sums ? a.channels : 0})};
  for (int i = 0; i < (pass == kSecond ? 2 : 1); i++) {
    result.out.push_back(empty_as(x, x.sizes(), last));
    a.out[i] = result.out[i].data_ptr();
  }
  if (x.numel() == 0) {
    torch::stable::zero_(result.sums);
    return result;
  }
  const OnDevice on(x);
  a.num_sms = on.num_sms;
  std::optional<Tensor> table;
  if (want_sums) {
    table = scratch(x, bias_act_table(a));
    a.table = table->data_ptr(), a.sums = result.sums.data_ptr();
  }
  bias_act(a, on.stream);
  return result;
}

}  // namespace
}  // namespace idgan

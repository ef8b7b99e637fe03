// bias_lrelu_* and bias_act_* for torch; the kernel is in bias_act.h.
#include "tensors.h"
#include "../bias_act_operators.h"

namespace idgan {
namespace {

// The sums of a pass from those of its units, in their order.
template <class A>
void reduce(const BiasAct& a, const std::vector<A>& of_units, A* sums) {
  const int64_t pattern = a.pattern(), units = a.units();
  std::vector<double> total(a.channels, 0.0);
  for (int64_t u = 0; u < units; u++)
    for (int64_t i = 0; i < pattern; i++)
      total[a.inner > 1 ? u / a.blocks() % a.channels : i % a.channels] += of_units[u * pattern + i];
  for (int64_t c = 0; c < a.channels; c++) sums[c] = A(total[c]);
}

PassResult run_pass(Pass pass, std::vector<Tensor> in, const std::optional<Tensor>& b, const std::optional<Tensor>& ddb,
                    const ActivationArguments& arguments, bool want_sums) {
  BiasAct a{};
  const bool last = channels_last(in.back());
  for (size_t i = 0; i < in.size(); i++) {
    in[i] = dense(in[i], last);
    a.in[i] = in[i].data_ptr();
  }
  const Tensor& x = in.back();
  PassResult result;
  if (pass != kForward)
    result.sums = sums_of(x, want_sums, {want_sums ? x.size(arguments.dim) : 0}, accumulation_type(x));
  for (int i = 0; i < (pass == kSecond ? 2 : 1); i++) {
    result.out.push_back(empty_as(x, x.sizes(), last));
    a.out[i] = result.out[i].data_ptr();
  }
  if (x.numel() == 0) return result;
  a.dtype = dtype_of(x), a.act = activation_of(arguments.act), a.pass = pass;
  a.alpha = arguments.alpha, a.gain = arguments.gain, a.clamp = or_none(arguments.clamp);
  const Split split(x, last, b || ddb || want_sums, arguments.dim);
  a.outer = split.outer, a.channels = split.channels, a.inner = split.inner;
  with_accumulation_type(a.dtype, [&](auto zero) {
    using A = decltype(zero);
    const int64_t count = a.inner > 1 ? a.channels : a.pattern();
    const std::vector<A> bias = repeated<A>(b, count), ddbs = repeated<A>(ddb, pass == kSecond ? count : 0);
    std::vector<A> sums(want_sums ? a.units() * a.pattern() : 0);
    a.bias = bias.data(), a.ddb = pass == kSecond ? ddbs.data() : a.bias, a.sums = want_sums ? sums.data() : nullptr;
    run_units(a, kernels().bias_act, a.units(), a.unit_elements());
    if (want_sums) reduce(a, sums, static_cast<A*>(result.sums.data_ptr()));
  });
  return result;
}

}  // namespace
}  // namespace idgan

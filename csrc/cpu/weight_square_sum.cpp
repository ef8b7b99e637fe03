// weight_square_sum for torch; the kernel is in weight_square_sum.h.
#include "tensors.h"

namespace idgan {
namespace {

Tensor weight_square_sum(Tensor weight) {
  const bool last = channels_last(weight);
  weight = dense(weight, last);
  const int64_t o = weight.size(0), i = weight.size(1);
  Tensor square_sum = torch::stable::new_empty(weight, {o, i}, accumulation_type(weight));
  WeightSquareSum a{};
  a.dtype = dtype_of(weight);
  a.weight = weight.data_ptr(), a.out = square_sum.data_ptr();
  a.count = o * i, a.channels = i, a.taps = weight.size(2) * weight.size(3), a.channels_last = last;
  run_units(a, kernels().weight_square_sum, a.units(), a.kBlock * a.taps);
  return square_sum;
}

}  // namespace

REGISTER_OPERATORS(m) { m.impl("weight_square_sum", TORCH_BOX(&weight_square_sum)); }

}  // namespace idgan

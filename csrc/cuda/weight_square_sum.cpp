// weight_square_sum for torch; the kernels are in weight_square_sum.cuh.
#include "tensors.h"

namespace idgan {
namespace {

Tensor square_sum_of_weight(Tensor weight) {
  const bool last = channels_last(weight);
  weight = dense(weight, last);
  WeightSquareSumCall a{};
  a.outputs = weight.size(0), a.inputs = weight.size(1), a.taps = weight.size(2) * weight.size(3);
  Tensor square_sum = empty_acc(weight, {a.outputs, a.inputs});
  if (weight.numel() == 0) return torch::stable::zero_(square_sum);
  a.dtype = dtype_of(weight), a.weight = weight.data_ptr(), a.square_sum = square_sum.data_ptr(), a.channels_last = last;
  const OnDevice on(weight);
  a.num_sms = on.num_sms;
  weight_square_sum(a, on.stream);
  return square_sum;
}

}  // namespace

REGISTER_OPERATORS(m) { m.impl("weight_square_sum", TORCH_BOX(&square_sum_of_weight)); }

}  // namespace idgan

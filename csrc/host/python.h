// What the host library asks Python for: third and higher orders of gradients.
#pragma once

#include "bias_act.h"

namespace idgan::host {

// ops.bias_act._bias_act_grad2, which is differentiable.
std::tuple<Tensor, Tensor, Tensor> python_bias_act_second(const Tensor& ddx, const Tensor& ddb, const Tensor& dy,
                                                          const Tensor& x, const Tensor& b, bool want_b,
                                                          const Activation& a);

}  // namespace idgan::host

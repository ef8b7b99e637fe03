// What the host library asks Python for: the lock while arguments are read, and third and higher orders of gradients.
#pragma once

#include "bias_act.h"

namespace idgan::host {

// The GIL, released within a block.
class WithoutGil {
 public:
  WithoutGil();
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  void* state_;
};

// ops.bias_act._bias_act_grad2, which is differentiable.
std::tuple<Tensor, Tensor, Tensor> python_bias_act_second(const Tensor& ddx, const Tensor& ddb, const Tensor& dy,
                                                          const Tensor& x, const Tensor& b, bool want_b,
                                                          const Activation& a);

}  // namespace idgan::host

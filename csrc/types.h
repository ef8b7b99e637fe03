// The numbers that stand for dtypes, activations and passes in both libraries. No torch.
#pragma once

namespace idgan {

enum Dtype : int { kFloat, kDouble, kBfloat16, kFloat16 };

enum Activation : int { kLinear, kRelu, kLrelu, kTanh, kSigmoid, kElu, kSelu, kSoftplus, kSwish };

// What bias_act computes from which inputs: y from x; dx from dy and y (bias_lrelu) or from dy and x; the gradients of
// <dx, ddx> + <db, ddb> by dy and by x from ddx, dy and x.
enum Pass : int { kForward, kBackwardOfY, kBackward, kSecond };

}  // namespace idgan
